//! From observed numbers to the range that levels are spread over.
//!
//! Levels lie at equal distances and one of them is 0: for a range from `low` to `high`, `scale = (high − low) /
//! (levels − 1)` and `zero = round(−low / scale)`, and what lies outside is clamped to the first or the last level.

use serde::{Deserialize, Serialize};

use super::observed::Observed;

/// How a range is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// From the smallest to the largest number.
    MinMax,
    /// What holds this percentage of the numbers, as many being left out below as above.
    Percentile(f64),
    /// What makes the expected squared error of rounding and clamping smallest.
    Mse,
}

/// A range that contains 0 and is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 2]", into = "[f64; 2]")]
pub struct Range {
    low: f32,
    high: f32,
}

/// Ranges that are narrower hold nothing but 0; their scale might not be a normal number.
const NARROWEST: f32 = 1e-30;
/// Ends that are tried on each side of 0 for the smallest error.
const TRIED: u32 = 32;

impl Range {
    /// The range from `low` to `high`, made to contain 0; from 0 to 1 when that is nothing but 0.
    #[must_use]
    pub fn around(low: f32, high: f32) -> Range {
        let (low, high) = (low.min(0.0) + 0.0, high.max(0.0) + 0.0);
        if is_nothing(low, high) { Range { low: 0.0, high: 1.0 } } else { Range { low, high } }
    }

    /// Its lower end, 0 or below.
    #[must_use]
    pub fn low(self) -> f32 {
        self.low
    }

    /// Its upper end, 0 or above.
    #[must_use]
    pub fn high(self) -> f32 {
        self.high
    }
}

/// Whether the numbers from `low` to `high`, with 0 among them, are too close together for levels.
fn is_nothing(low: f32, high: f32) -> bool {
    high.max(0.0) - low.min(0.0) < NARROWEST
}

impl From<Range> for [f64; 2] {
    fn from(range: Range) -> [f64; 2] {
        [range.low.into(), range.high.into()]
    }
}

impl TryFrom<[f64; 2]> for Range {
    type Error = String;

    fn try_from([low, high]: [f64; 2]) -> Result<Range, String> {
        // A reader of decimals may be off by a little in the f64, which the f32 does not show.
        let near = Range { low: low as f32, high: high as f32 };
        let valid = near.low.is_finite() && near.high.is_finite() && near == Range::around(near.low, near.high);
        if valid { Ok(near) } else { Err(format!("[{low}, {high}] is no range around 0")) }
    }
}

impl Method {
    /// The range it finds for so many levels, of which there are at least two.
    pub(super) fn range(self, observed: &Observed, levels: u32) -> Range {
        let whole = Range::around(observed.min(), observed.max());
        match self {
            Method::MinMax => whole,
            Method::Percentile(percent) => {
                let outside = (observed.numbers() as f64 * ((100.0 - percent) / 200.0)) as u64;
                let [low, high] = [false, true].map(|upwards| edge(observed, upwards, outside));
                Range::around(low.max(observed.min()), high.min(observed.max()))
            }
            Method::Mse if is_nothing(observed.min(), observed.max()) => whole,
            Method::Mse => narrowed(whole, |range| error(observed, range, levels)),
        }
    }
}

/// The outer edge of the bin that holds the number which `outside` others precede, seen from below or, `upwards`, from
/// above.
fn edge(observed: &Observed, upwards: bool, outside: u64) -> f32 {
    let [near, far] = if upwards { [1, 0] } else { [0, 1] }.map(|side| observed.sides()[side]);
    let (sign, width) = (if upwards { 1.0 } else { -1.0 }, observed.width());
    let outwards = near.iter().enumerate().rev().map(|(i, n)| ((i + 1) as f32 * width * sign, *n));
    let inwards = far.iter().enumerate().map(|(i, n)| (i as f32 * width * -sign, *n));
    let mut left = outside;
    for (edge, count) in outwards.chain([(0.0, observed.zeros())]).chain(inwards) {
        if count > left {
            return edge;
        }
        left -= count;
    }
    0.0
}

/// The range of smallest error among `whole` and some narrower ones: first both ends shrink alike, then each alone.
fn narrowed(whole: Range, error: impl Fn(Range) -> f64) -> Range {
    let mut best = (error(whole), whole);
    let mut attempt = |low: f32, high: f32| {
        let range = Range::around(low, high);
        let error = error(range);
        if error < best.0 {
            best = (error, range);
        }
        best.1
    };
    let part = |i: u32| i as f32 / TRIED as f32;
    let mut found = whole;
    (1..TRIED).rev().for_each(|i| found = attempt(whole.low * part(i), whole.high * part(i)));
    let low = found.low;
    (1..TRIED).rev().for_each(|i| found = attempt(low, whole.high * part(i)));
    let high = found.high;
    (1..TRIED).rev().for_each(|i| found = attempt(whole.low * part(i), high));
    found
}

/// The sum of the squared errors that levels over `range` are expected to cost, numbers being spread evenly over
/// their bins.
pub(super) fn error(observed: &Observed, range: Range, levels: u32) -> f64 {
    let last = f64::from(levels.max(2) - 1);
    let scale = (f64::from(range.high) - f64::from(range.low)) / last;
    let zero = (f64::from(-range.low) / scale + 0.5).floor().min(last);
    let width = f64::from(observed.width());
    let sides = observed.sides().into_iter().zip([zero, last - zero]);
    sides.map(|(bins, steps)| side_error(bins, width, scale, steps)).sum()
}

/// The part of numbers on one side of 0, which has `steps` levels beside 0.
fn side_error(bins: &[u64], width: f64, scale: f64, steps: f64) -> f64 {
    let (mut sum, mut from) = (0.0, (0, 0.0));
    for (i, &count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let start = if from.0 == i { from.1 } else { integral(i as f64 * width / scale, steps) };
        let end = integral((i + 1) as f64 * width / scale, steps);
        sum += count as f64 * (end - start);
        from = (i + 1, end);
    }
    sum * scale * scale * (scale / width)
}

/// The squared distance to the nearest of the whole numbers 0 to `steps`, integrated from 0 to `x`.
fn integral(x: f64, steps: f64) -> f64 {
    let nearest = ((x + 0.5).floor()).min(steps);
    let past = x - nearest;
    nearest / 12.0 + past * past * past / 3.0
}
