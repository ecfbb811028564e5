//! The scale of one row or block of integers, and the integer nearest to a number.
//!
//! The integers run from `least` to `most`; a number `x` becomes `q` and reads back as `s·q`, rounded to f32:
//!
//! * `m = min(max|x|, P)`, where `P` is the f32 just below `f32::MAX`. From `f32::MAX` itself the scale `m / 127`
//!   would be rounded up so far that `127·s` is infinite; from `P` down no `most·s` is.
//! * Scale: `s(r) = max(round(r · (m / most)), f32::MIN_POSITIVE)`. Quotient and product are rounded to f32; `round` is
//!   the rounding to the type in which the scale is stored. So a scale is never zero, subnormal or infinite. Where all
//!   numbers are zero it is 1.
//! * Value: `q = clamp(round_half_to_even(x / s), least, most)`, with the quotient rounded to f32. Since the stored
//!   scale divides, its rounding costs range, not accuracy.
//! * [`Search::Max`] takes `s(1)`. Then nothing is clamped and `|x - s·q| ≤ s·(1/2 + most·2^-24)`; the second term is
//!   the rounding of the quotient. `least = -8` is never used, `±most` is, unless the scale was raised to the minimum.
//! * [`Search::MaxF16`] and [`Search::MseF16`] do the same with `s'(r) = f16(s(r))`, for formats that store scales in f16:
//!   the nearest number of f16, but below 2^-14, where those lie further and further apart, the next multiple of 2^-24
//!   upwards; and at most 65504 / |least|, cut to 8 bits, so that `s·q` is a number of f16, too. Numbers beyond 65504
//!   are refused, and the largest below them are clamped. A group's scale is then a number of both, bf16 and f16.
//! * [`Search::Mse`] takes the `s(r)` with the smallest `Σ (x - s·q)²` for `r` in 1, 0.40, 0.42 … 1.20, the first of
//!   equals in that order. The sum is taken in f64 with `s·q` as it reads back; a product that overflows loses.
//!
//! Sums are taken in a fixed order and all operations are those of IEEE 754: the same bits on every machine.

use crate::choice::choices;

choices! {
    /// How the scale of a row or block is found.
    Search {
        /// The largest magnitude becomes the largest value.
        Max = "max",
        /// The smallest sum of squared errors over a grid of scales; never a larger sum than that of [`Search::Max`].
        Mse = "mse",
        /// [`Search::Max`] with scales that f16 holds.
        MaxF16 = "max.f16",
        /// [`Search::Mse`] with scales that f16 holds.
        MseF16 = "mse.f16",
    }
}

impl Search {
    /// The names that a recipe may ask for: what scales are stored in is the target's affair.
    pub const IN_RECIPES: &[&str] = &["max", "mse"];

    /// The same search among scales that f16 holds.
    #[must_use]
    pub fn in_f16(self) -> Search {
        match self {
            Search::Max | Search::MaxF16 => Search::MaxF16,
            Search::Mse | Search::MseF16 => Search::MseF16,
        }
    }

    /// The same search among all scales.
    #[must_use]
    pub fn in_any(self) -> Search {
        match self {
            Search::Max | Search::MaxF16 => Search::Max,
            Search::Mse | Search::MseF16 => Search::Mse,
        }
    }
}

/// Candidates of [`Search::Mse`], in fiftieths of the scale of [`Search::Max`].
const GRID: std::ops::RangeInclusive<u8> = 20..=60;

/// The scale of `numbers`, which are finite. `round_scale` rounds to the type in which scales are stored.
pub(super) fn scale(numbers: &[f32], most: f32, least: f32, search: Search, round_scale: impl Fn(f32) -> f32) -> f32 {
    // Magnitudes compare as their bits do, and integers have a maximum that needs no order.
    let magnitude = |x: &f32| x.to_bits() & !(1 << 31);
    let largest = f32::from_bits(numbers.iter().map(magnitude).max().unwrap_or(0));
    if largest == 0.0 {
        return 1.0;
    }
    let unit = largest.min(f32::MAX.next_down()) / most;
    let exact = |r: f32| round_scale(r * unit).max(f32::MIN_POSITIVE);
    let candidate = |r: f32| if search.in_any() == search { exact(r) } else { in_f16(exact(r), least) };
    let mut best = candidate(1.0);
    if search.in_any() == Search::Mse {
        let mut smallest = error(numbers, best, most, least);
        for fiftieths in GRID {
            let scale = candidate(f32::from(fiftieths) / 50.0);
            let error = error(numbers, scale, most, least);
            if error < smallest {
                (best, smallest) = (scale, error);
            }
        }
    }
    best
}

/// The scale of f16 that stands for `scale`.
fn in_f16(scale: f32, least: f32) -> f32 {
    const NORMAL: f32 = 1.0 / 16_384.0;
    const STEP: f32 = 1.0 / 16_777_216.0;
    let largest = f32::from_bits((65_504.0 / least.abs()).to_bits() & 0xffff_0000);
    let near = if scale < NORMAL { (scale / STEP).ceil() * STEP } else { half::f16::from_f32(scale).to_f32() };
    near.min(largest)
}

/// The integer that `x` becomes.
///
/// Above 2^23 an f32 has no fraction, so adding 1.5·2^23 rounds to nearest, ties to even, and subtracting it leaves the
/// integer. Unlike `round_ties_even` that is no call of the C library where the processor has no such instruction. The
/// ends are integers, so clamping before rounding gives what clamping after it would.
#[inline(always)]
pub(super) fn nearest(x: f32, scale: f32, most: f32, least: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    ((x / scale).clamp(least, most) + NO_FRACTION) - NO_FRACTION
}

/// `Σ (x - s·q)²`. Eight sums, one for every eighth number, let the processor add side by side.
fn error(numbers: &[f32], scale: f32, most: f32, least: f32) -> f64 {
    let (chunks, rest) = numbers.as_chunks::<8>();
    let mut sums = [0.0; 8];
    let add = |(sum, &x): (&mut f64, &f32)| {
        let difference = f64::from(x) - f64::from(nearest(x, scale, most, least) * scale);
        *sum += difference * difference;
    };
    chunks.iter().for_each(|chunk| sums.iter_mut().zip(chunk).for_each(add));
    sums.iter_mut().zip(rest).for_each(add);
    sums.iter().sum()
}

/// The formulas above in f64 and plain loops: the slow truth for the tests of the encodings.
#[cfg(test)]
pub(super) mod reference {
    use super::Search;

    /// Scale and values of one row or block.
    pub(in crate::quant) fn block(
        numbers: &[f32],
        most: i32,
        least: i32,
        bf16: bool,
        search: Search,
    ) -> (f32, Vec<i32>) {
        let largest = numbers.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let unit = (f64::from(largest.min(f32::from_bits(0x7f7f_fffe))) / f64::from(most)) as f32;
        let mut best = (1.0, f64::INFINITY);
        let grid = if search.in_any() == Search::Max { 0..0 } else { 20..61 };
        for fiftieths in std::iter::once(50).chain(grid) {
            let r = (f64::from(fiftieths) / 50.0) as f32;
            let wide = (f64::from(r) * f64::from(unit)) as f32;
            let rounded = if bf16 { to_bf16(wide) } else { wide };
            let any = rounded.max(2f32.powi(-126));
            let stored = if search == search.in_f16() { to_f16(any, least) } else { any };
            let scale = if largest == 0.0 { 1.0 } else { stored };
            let error = error(numbers, scale, &values(numbers, scale, most, least));
            if error < best.1 {
                best = (scale, error);
            }
        }
        (best.0, values(numbers, best.0, most, least))
    }

    /// `Σ (x - s·q)²`, from first to last, with `s·q` as it reads back.
    pub(in crate::quant) fn error(numbers: &[f32], scale: f32, values: &[i32]) -> f64 {
        let back = |q: i32| f64::from((f64::from(scale) * f64::from(q)) as f32);
        numbers.iter().zip(values).map(|(&x, &q)| (f64::from(x) - back(q)) * (f64::from(x) - back(q))).sum()
    }

    fn values(numbers: &[f32], scale: f32, most: i32, least: i32) -> Vec<i32> {
        let quotient = |x: f32| f64::from((f64::from(x) / f64::from(scale)) as f32);
        numbers.iter().map(|&x| (quotient(x).round_ties_even() as i32).clamp(least, most)).collect()
    }

    /// Of the two neighbors in bf16 the nearer one, at equal distance the even one. `x` is positive.
    fn to_bf16(x: f32) -> f32 {
        let below = x.to_bits() >> 16;
        let [a, b] = [below, below + 1].map(|bits| f64::from(f32::from_bits(bits << 16)));
        let x = f64::from(x);
        if x - a < b - x || (x - a == b - x && below.is_multiple_of(2)) { a as f32 } else { b as f32 }
    }

    /// The scale among all numbers of f16, one after another.
    fn to_f16(x: f32, least: i32) -> f32 {
        let all = (1..0x7c00u16).map(|bits| {
            let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 1023));
            if exponent == 0 { fraction * 2f64.powi(-24) } else { (1024.0 + fraction) * 2f64.powi(exponent - 25) }
        });
        let x = f64::from(x).min(65_504.0);
        let tiny = x < 2f64.powi(-14);
        let nearest = match tiny {
            true => all.clone().find(|s| *s >= x),
            false => all
                .clone()
                .enumerate()
                .min_by(|(i, a), (j, b)| {
                    // The first of f16 is 1, so every second is even.
                    (x - a).abs().total_cmp(&(x - b).abs()).then((i % 2 == 0).cmp(&(j % 2 == 0)))
                })
                .map(|(_, s)| s),
        };
        let eight_bits = |s: &f64| f64::from(f32::from_bits((*s as f32).to_bits() & 0xffff_0000)) == *s;
        let largest = all.filter(eight_bits).rfind(|s| s * f64::from(-least) <= 65_504.0);
        nearest.unwrap().min(largest.unwrap()) as f32
    }

    /// Rows that hurt, each with `columns` numbers: usual weights, ties, extremes, zeros, subnormals.
    pub(in crate::quant) fn rows(columns: usize) -> impl proptest::strategy::Strategy<Value = Vec<f32>> {
        use proptest::{num::f32 as kind, prelude::*};
        let number = prop_oneof![
            4 => -3.0f32..3.0,
            1 => (-64i8..=64).prop_map(|n| f32::from(n) / 8.0),
            1 => Just(0.0),
        ];
        let wild = prop_oneof![
            kind::POSITIVE | kind::NEGATIVE | kind::NORMAL | kind::SUBNORMAL | kind::ZERO,
            Just(f32::MAX),
            Just(f32::MIN),
            Just(f32::MIN_POSITIVE),
            (0u32..2000).prop_map(|n| f32::from_bits(f32::MAX.to_bits() - n)),
        ];
        let tiny = (0u32..9 << 23, any::<bool>())
            .prop_map(|(bits, negative)| f32::from_bits(bits | u32::from(negative) << 31));
        let row = |number: BoxedStrategy<f32>| prop::collection::vec(number, columns);
        prop_oneof![
            6 => row(number.boxed()),
            2 => row(wild.boxed()),
            1 => row(tiny.boxed()),
            1 => Just(vec![0.0; columns]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_the_even_of_two_and_stays_in_range() {
        for (x, q) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (-2.5, -2.0), (0.49999997, 0.0)] {
            assert_eq!(nearest(x, 1.0, 127.0, -127.0), q, "{x}");
            assert_eq!(nearest(x * 0.125, 0.125, 127.0, -127.0), q, "{x}");
        }
        for (x, q) in [(7.4, 7.0), (7.5, 7.0), (1e30, 7.0), (-7.5, -8.0), (-8.5, -8.0), (f32::MIN, -8.0)] {
            assert_eq!(nearest(x, 1.0, 7.0, -8.0), q, "{x}");
        }
    }

    #[test]
    fn search_uses_what_is_below_minus_most() {
        // Scale 1 would be exact: r = 7/8. Of the grid 0.88 is nearest to it.
        let numbers = [-8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(scale(&numbers, 7.0, -8.0, Search::Max, |s| s), 8.0 / 7.0);
        let found = scale(&numbers, 7.0, -8.0, Search::Mse, |s| s);
        assert_eq!(found, 0.88 * (8.0 / 7.0));
        assert_eq!(nearest(-8.0, found, 7.0, -8.0), -8.0);
    }

    #[test]
    fn search_reaches_both_ends_of_its_grid() {
        for (r, highest) in [(0.4, 7u8), (1.2, 5)] {
            let mut numbers: Vec<f32> = (0..1000).map(|i| r * f32::from(i as u8 % (highest + 1))).collect();
            numbers.push(7.0);
            assert_eq!(scale(&numbers, 7.0, -8.0, Search::Mse, |s| s), r);
        }
    }

    #[test]
    fn the_largest_numbers_read_back_finite() {
        for below in 0..100_000 {
            let x = f32::from_bits(f32::MAX.to_bits() - below);
            for (most, least) in [(127.0, -127.0), (7.0, -8.0)] {
                let exact = scale(&[x], most, least, Search::Max, |s| s);
                let half = scale(&[x], most, least, Search::Max, |s| half::bf16::from_f32(s).to_f32());
                assert!((most * exact).is_finite() && (most * half).is_finite(), "{x} {most}");
            }
        }
    }

    #[test]
    fn a_scale_comes_back_from_its_largest_number() {
        for most in [127.0, 7.0] {
            for fraction in 0..1 << 23 {
                let scale = f32::from_bits(1.0f32.to_bits() | fraction) / most;
                assert_eq!(most * scale / most, scale);
            }
        }
    }

    #[test]
    fn scales_of_f16_are_numbers_of_f16_and_bf16() {
        let bf16 = |s: f32| half::bf16::from_f32(s).to_f32();
        let exact = |s: f32| half::f16::from_f32(s).to_f32() == s && s > 0.0;
        for bits in (0..0x7f80u32).map(|bits| bits << 16 | 0x5a5a) {
            let x = f32::from_bits(bits);
            for (most, least) in [(127.0, -127.0), (7.0, -8.0)] {
                let row = scale(&[x], most, least, Search::MaxF16, |s| s);
                let group = scale(&[x], most, least, Search::MaxF16, bf16);
                assert!(exact(row) && exact(group) && bf16(group) == group, "{x}");
                assert!(row * least >= -65_504.0 && group * least >= -65_504.0, "{x}");
            }
        }
    }

    #[test]
    fn no_numbers_have_scale_one() {
        assert_eq!(scale(&[], 7.0, -8.0, Search::Mse, |s| s), 1.0);
        assert_eq!(scale(&[0.0, -0.0], 7.0, -8.0, Search::Max, |s| s), 1.0);
    }
}
