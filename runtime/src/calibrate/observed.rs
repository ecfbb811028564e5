//! What is known of the numbers that a node made: their ends, and a histogram.
//!
//! One pass, in any order, on any number of threads, gives the same counts: the width of a bin is a power of two that
//! the largest magnitude alone decides, bins begin at 0, and a wider bin is the sum of two narrower ones.

use rayon::prelude::*;

use super::range::{Method, Range};

/// Bins on each side of 0.
const BINS: usize = 1 << BITS;
const BITS: i32 = 11;
/// Magnitudes below 2 to this power lie in the first bin.
const SMALLEST: i32 = -100;
/// Numbers counted at a time by one thread.
const CHUNK: usize = 1 << 15;
/// Numbers from here down are not meant as such: masks, and the scores of hidden keys.
const HIDDEN: f32 = -1e29;

/// The numbers of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Smallest and largest; the wrong way round while there are none.
    ends: (f32, f32),
    numbers: u64,
    zeros: u64,
    hidden: u64,
    not_finite: u64,
    /// All magnitudes are below 2 to this power.
    exponent: i32,
    /// How many numbers lie in each bin on either side of 0, by magnitude; empty where there are none.
    below: Vec<u64>,
    above: Vec<u64>,
}

impl Default for Observed {
    fn default() -> Observed {
        Observed {
            ends: (f32::INFINITY, f32::NEG_INFINITY),
            numbers: 0,
            zeros: 0,
            hidden: 0,
            not_finite: 0,
            exponent: SMALLEST,
            below: Vec::new(),
            above: Vec::new(),
        }
    }
}

impl Observed {
    /// Adds numbers, on all cores.
    pub fn add(&mut self, values: &[f32]) {
        let chunks = values.par_chunks(CHUNK).map(Observed::count);
        let all = chunks.reduce_with(|mut a, b| {
            a.merge(b);
            a
        });
        if let Some(all) = all {
            self.merge(all);
        }
    }

    /// Adds what others were counted.
    pub fn merge(&mut self, mut other: Observed) {
        self.ends = (self.ends.0.min(other.ends.0), self.ends.1.max(other.ends.1));
        self.numbers += other.numbers;
        self.zeros += other.zeros;
        self.hidden += other.hidden;
        self.not_finite += other.not_finite;
        let exponent = self.exponent.max(other.exponent);
        self.widen(exponent);
        other.widen(exponent);
        for (to, from) in [(&mut self.below, other.below), (&mut self.above, other.above)] {
            if to.is_empty() {
                *to = from;
            } else {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }

    /// The smallest number; 0 when there is none.
    #[must_use]
    pub fn min(&self) -> f32 {
        if self.numbers > 0 { self.ends.0 + 0.0 } else { 0.0 }
    }

    /// The largest number; 0 when there is none.
    #[must_use]
    pub fn max(&self) -> f32 {
        if self.numbers > 0 { self.ends.1 + 0.0 } else { 0.0 }
    }

    /// How many numbers the range is made of.
    #[must_use]
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// How many there were at or below −1e29, where masks and the scores of hidden keys lie.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// How many were infinite or no numbers.
    #[must_use]
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// The range that `method` finds for that many levels.
    #[must_use]
    pub fn range(&self, method: Method, levels: u32) -> Range {
        method.range(self, levels)
    }

    /// How many numbers are exactly 0.
    pub(super) fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Width of a bin.
    pub(super) fn width(&self) -> f32 {
        power(self.exponent - BITS)
    }

    /// Counts below and above 0, by magnitude.
    pub(super) fn sides(&self) -> [&[u64]; 2] {
        [&self.below, &self.above]
    }

    /// Adds to an empty one. No branch in the loops that all numbers go through, so that they run several at a time.
    fn count(values: &[f32]) -> Observed {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut numbers, mut zeros, mut hidden) = (0u32, 0u32, 0u32);
        for &value in values {
            let counts = is_number(value);
            let (down, up) = if counts { (value, value) } else { (f32::INFINITY, f32::NEG_INFINITY) };
            low = if down < low { down } else { low };
            high = if up > high { up } else { high };
            numbers += u32::from(counts);
            zeros += u32::from(value == 0.0);
            hidden += u32::from((-f32::MAX..=HIDDEN).contains(&value));
        }
        let mut counted = Observed {
            ends: (low, high),
            numbers: numbers.into(),
            zeros: zeros.into(),
            hidden: hidden.into(),
            not_finite: (values.len() as u64) - u64::from(numbers) - u64::from(hidden),
            ..Observed::default()
        };
        if numbers > zeros {
            counted.exponent = exponent(low.abs().max(high.abs()));
            counted.fill(values);
        }
        counted
    }

    /// Counts the bins of numbers whose counts are known.
    fn fill(&mut self, values: &[f32]) {
        let bins_in_one = power(BITS - self.exponent);
        let mut bins = vec![0u32; 2 * BINS];
        let mut count = |value: f32| {
            // No bin knows a negative 0.
            let value = value + 0.0;
            let bin = (value.abs() * bins_in_one) as usize;
            bins[bin.min(BINS - 1) | ((value.to_bits() >> 31) as usize) << BITS] += 1;
        };
        match self.numbers as usize == values.len() {
            true => values.iter().for_each(|&value| count(value)),
            false => values.iter().filter(|value| is_number(**value)).for_each(|&value| count(value)),
        }
        bins[0] -= self.zeros as u32;
        let (above, below) = bins.split_at(BINS);
        for (side, bins) in [(&mut self.above, above), (&mut self.below, below)] {
            if bins.iter().any(|&count| count > 0) {
                *side = bins.iter().map(|&count| count.into()).collect();
            }
        }
    }

    /// Joins bins until magnitudes below 2 to the power of `exponent` have their place.
    fn widen(&mut self, exponent: i32) {
        let joined = 1usize << (exponent - self.exponent).clamp(0, BITS);
        self.exponent = exponent;
        for side in [&mut self.below, &mut self.above] {
            if joined > 1 && !side.is_empty() {
                let wide: Vec<u64> = side.chunks(joined).map(|bins| bins.iter().sum()).collect();
                side.fill(0);
                side[..wide.len()].copy_from_slice(&wide);
            }
        }
    }
}

/// Whether it is finite and not hidden.
fn is_number(value: f32) -> bool {
    value > HIDDEN && value <= f32::MAX
}

/// The smallest power of two, from [`SMALLEST`] on, that is above a finite magnitude.
fn exponent(magnitude: f32) -> i32 {
    ((magnitude.to_bits() >> 23) as i32 - 126).max(SMALLEST)
}

/// 2 to the power of `exponent`, which an f32 holds.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
