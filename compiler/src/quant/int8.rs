//! `int8.row`: one byte a number, one f32 scale a row, symmetric: a number is `s·q`.
//!
//! * Scale: `s = max|x| / 127` over the row, or the best of a grid around it: [`search`] has the formulas and the two
//!   ends, the smallest scale (`f32::MIN_POSITIVE`) and the largest numbers. A row of zeros has scale 1.
//! * Range: `q` from -127 to 127, so that `x` and `-x` are treated alike; -128 is never written.
//! * Rounding: `q = round_half_to_even(x / s)`, clamped; reading gives `s·q` rounded to f32.
//! * Layout: `values` has one byte a number in two's complement, row after row. `scales` has four bytes a row, the
//!   little-endian f32. This is qcint8 of XNNPACK as it stands.
//! * Error: with [`Search::Max`] at most `s/2` a number, and `s·127·2^-24` for the rounding of the quotient.
//!
//! Encoding what was read back gives the same values and scales with [`Search::Max`]. The one exception is a row whose
//! numbers are so small that all values are 0: it reads as zeros, whose scale is 1. With [`Search::Mse`] both may
//! change.
//!
//! The row `[31.75, -1.0, 0.125, 0.375]` has `s = 31.75 / 127 = 0.25` and quotients 127, -4, 0.5, 1.5:
//! ```text
//! scales  00 00 80 3e
//! values  7f fc 00 02
//! reads   31.75, -1.0, 0.0, 0.5
//! ```

use super::search::{self, Search};

const MOST: f32 = 127.0;
const LEAST: f32 = -127.0;

/// Appends the values and scales of `numbers`: finite, row after row, `columns` a row.
pub(super) fn encode(columns: usize, numbers: &[f32], search: Search, values: &mut Vec<u8>, scales: &mut Vec<u8>) {
    for row in numbers.chunks_exact(columns) {
        let scale = search::scale(row, MOST, LEAST, search, |s| s);
        scales.extend_from_slice(&scale.to_le_bytes());
        values.extend(row.iter().map(|&x| search::nearest(x, scale, MOST, LEAST) as i8 as u8));
    }
}

/// Appends the numbers of whole rows of `columns` values and their scales.
pub(super) fn decode(columns: usize, values: &[u8], scales: &[f32], out: &mut Vec<f32>) {
    for (row, scale) in values.chunks_exact(columns).zip(scales) {
        out.extend(row.iter().map(|&value| f32::from(value as i8) * scale));
    }
}

#[cfg(test)]
mod tests {
    use super::search::reference;
    use super::*;
    use proptest::prelude::*;

    /// Values, scales and what they read back as.
    fn encoded(columns: usize, numbers: &[f32], search: Search) -> (Vec<i32>, Vec<f32>, Vec<f32>) {
        let (mut values, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
        encode(columns, numbers, search, &mut values, &mut scales);
        let scales: Vec<f32> = scales.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        decode(columns, &values, &scales, &mut back);
        (values.iter().map(|&v| i32::from(v as i8)).collect(), scales, back)
    }

    #[test]
    fn worked_example() {
        let (mut values, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
        encode(4, &[31.75, -1.0, 0.125, 0.375], Search::Max, &mut values, &mut scales);
        assert_eq!(scales, [0x00, 0x00, 0x80, 0x3e]);
        assert_eq!(values, [0x7f, 0xfc, 0x00, 0x02]);
        decode(4, &values, &[0.25], &mut back);
        assert_eq!(back, [31.75, -1.0, 0.0, 0.5]);
    }

    #[test]
    fn every_value_survives() {
        let numbers: Vec<f32> = (-127i8..=127).map(|q| f32::from(q) * 0.375).collect();
        let (values, scales, back) = encoded(255, &numbers, Search::Max);
        assert_eq!(values, (-127..=127).collect::<Vec<_>>());
        assert_eq!((scales, back), (vec![0.375], numbers));
    }

    #[test]
    fn rows_have_their_own_scales() {
        let numbers =
            [0.0, 0.0, 127.0, -1.0, f32::MAX, f32::MIN, 1e-42, 0.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE * 0.5];
        for search in [Search::Max, Search::Mse] {
            let (values, scales, back) = encoded(2, &numbers, search);
            assert_eq!((scales[0], scales[3], scales[4]), (1.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE));
            // Half the smallest scale is a tie and becomes 0.
            assert_eq!((&values[..2], &values[6..]), (&[0, 0][..], &[0, 0, 1, 0][..]));
            assert!(back.iter().all(|x| x.is_finite()));
            assert!(back[4] >= f32::MAX * 0.99 && back[5] == -back[4]);
        }
        let (values, scales, _) = encoded(2, &numbers, Search::Max);
        assert_eq!((&values[2..6], scales[1]), (&[127, -1, 127, -127][..], 1.0));
    }

    #[test]
    fn minus_128_is_never_written() {
        // Nearly all numbers ask for r = 0.98, at which the first has the quotient -129.6.
        let numbers: Vec<f32> = (0..2000).map(|i| if i == 0 { -127.0 } else { 0.98 * (i % 128) as f32 }).collect();
        let (values, scales, _) = encoded(2000, &numbers, Search::Mse);
        assert_eq!((values[0], &values[1..128], scales[0]), (-127, &(1..=127).collect::<Vec<_>>()[..], 0.98));
    }

    proptest! {
        #[test]
        fn max_is_the_reference(numbers in reference::rows(72)) {
            for columns in [72, 8, 3, 1] {
                for search in [Search::Max, Search::MaxF16] {
                    let (values, scales, _) = encoded(columns, &numbers, search);
                    for (i, row) in numbers.chunks(columns).enumerate() {
                        let (scale, expected) = reference::block(row, 127, -127, false, search);
                        prop_assert_eq!((scales[i], &values[i * columns..][..columns]), (scale, &expected[..]));
                    }
                }
            }
        }

        #[test]
        fn mse_is_as_good_as_the_reference(numbers in reference::rows(37)) {
            let (values, scales, _) = encoded(37, &numbers, Search::Mse);
            let (scale, best) = reference::block(&numbers, 127, -127, false, Search::Mse);
            if scales[0] == scale {
                prop_assert_eq!(&values, &best);
            }
            // Sums of another order may prefer another of two scales that are equally good.
            let error = |scale: f32, values: &[i32]| reference::error(&numbers, scale, values);
            prop_assert!(error(scales[0], &values) <= error(scale, &best) * (1.0 + 1e-12));
            let (max, max_scales, _) = encoded(37, &numbers, Search::Max);
            prop_assert!(error(scales[0], &values) <= error(max_scales[0], &max) * (1.0 + 1e-12));
        }

        #[test]
        fn scales_are_normal_and_errors_bounded(numbers in reference::rows(24)) {
            for search in [Search::Max, Search::Mse] {
                let (values, scales, back) = encoded(8, &numbers, search);
                prop_assert!(scales.iter().all(|s| s.is_normal() && *s > 0.0));
                prop_assert!(back.iter().all(|x| x.is_finite()));
                for (i, (&x, &q)) in numbers.iter().zip(&values).enumerate() {
                    let s = f64::from(scales[i / 8]);
                    let bound = s * (0.5 + 127.0 / 16_777_216.0);
                    let clamped = search == Search::Mse && q.abs() == 127;
                    prop_assert!(clamped || (f64::from(x) - s * f64::from(q)).abs() <= bound, "{} {} {}", x, s, q);
                }
            }
        }

        #[test]
        fn encoding_what_was_read_keeps_it(numbers in reference::rows(9)) {
            let (values, scales, back) = encoded(9, &numbers, Search::Max);
            let all_zero = values.iter().all(|&q| q == 0);
            let scales = if all_zero { vec![1.0] } else { scales };
            prop_assert_eq!((values, scales, back.clone()), encoded(9, &back, Search::Max));
        }
    }
}
