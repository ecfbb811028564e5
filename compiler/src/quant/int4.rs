//! `int4.row` and `int4.gN`: two values a byte, one f32 scale a row or one bf16 scale per `N` inputs; a number is
//! `s·q`.
//!
//! * Scale: `s = max|x| / 7` over the row or the block of `N`, or the best of a grid around it: [`search`] has the
//!   formulas and the two ends, the smallest scale (`f32::MIN_POSITIVE`, which bf16 holds too) and the largest numbers.
//!   A row or block of zeros has scale 1. With a group the scale is rounded to bf16 first, to nearest, ties to even,
//!   and it is the rounded scale that divides.
//! * Range: `q` from -8 to 7. [`Search::Max`] writes no -8; [`Search::Mse`] may.
//! * Rounding: `q = round_half_to_even(x / s)`, clamped; reading gives `s·q` rounded to f32.
//! * Layout: `values` has `ceil(columns / 2)` bytes a row. The low nibble holds the number of even index, the high
//!   nibble the odd one, each as `q + 8`. The last high nibble of a row of odd length is 8, the value 0. `scales` has,
//!   row after row, four bytes a row (little-endian f32) or two bytes a block (little-endian bf16); the last block of a
//!   row is shorter where `N` does not divide it. These are qcint4 and qbint4 of XNNPACK as they stand. Reading knows
//!   two variations of other formats, see [`Packing`].
//! * Error: with [`Search::Max`] at most `s/2` a number, and `s·7·2^-24` for the rounding of the quotient. A bf16 scale
//!   is off by 1/256 at most, so no quotient exceeds 7.04 and nothing is clamped.
//!
//! Encoding what was read back gives the same values and scales with [`Search::Max`]. The one exception is a row or
//! block whose numbers are so small that all values are 0: it reads as zeros, whose scale is 1. With [`Search::Mse`]
//! both may change.
//!
//! The row `[1.75, -1.0, 0.125, 0.375]` has `s = 1.75 / 7 = 0.25`, quotients 7, -4, 0.5, 1.5 and nibbles f, 4, 8, a:
//! ```text
//! scales  80 3e           with a group of 4, or 00 00 80 3e without
//! values  4f a8
//! reads   1.75, -1.0, 0.0, 0.5
//! ```

use super::Packing;
use super::search::{self, Search};
use half::bf16;

const MOST: f32 = 7.0;
const LEAST: f32 = -8.0;
/// What is added to a value to store it.
const ZERO: i8 = 8;

/// Appends the values and scales of `numbers`: finite, row after row, `columns` a row. The last block of a row is shorter
/// where `group` does not divide it.
pub(super) fn encode(
    columns: usize,
    group: Option<usize>,
    numbers: &[f32],
    search: Search,
    values: &mut Vec<u8>,
    scales: &mut Vec<u8>,
) {
    let mut nibbles = Vec::with_capacity(columns);
    for row in numbers.chunks_exact(columns) {
        nibbles.clear();
        for block in row.chunks(group.unwrap_or(columns)) {
            let scale = if group.is_some() {
                let scale = search::scale(block, MOST, LEAST, search, |s| bf16::from_f32(s).to_f32());
                scales.extend_from_slice(&bf16::from_f32(scale).to_le_bytes());
                scale
            } else {
                let scale = search::scale(block, MOST, LEAST, search, |s| s);
                scales.extend_from_slice(&scale.to_le_bytes());
                scale
            };
            nibbles.extend(block.iter().map(|&x| (search::nearest(x, scale, MOST, LEAST) as i8 + ZERO) as u8));
        }
        pack(&nibbles, values);
    }
}

/// Appends the numbers of whole rows of `columns` values and the scales of their rows or blocks.
pub(super) fn decode(
    columns: usize,
    group: Option<usize>,
    packing: Packing,
    values: &[u8],
    scales: &[f32],
    out: &mut Vec<f32>,
) {
    let start = out.len();
    let bytes = columns.div_ceil(2);
    out.resize(start + values.len() / bytes * columns, 0.0);
    let numbers = &mut out[start..];
    for (row, packed) in numbers.chunks_exact_mut(columns).zip(values.chunks_exact(bytes)) {
        unpack(packed, packing, row);
    }
    let rows = numbers.chunks_exact_mut(columns);
    let blocks = rows.flat_map(|row| row.chunks_mut(group.unwrap_or(columns)));
    blocks.zip(scales).for_each(|(block, scale)| block.iter_mut().for_each(|x| *x *= scale));
}

/// Appends the bytes of one row of nibbles.
fn pack(nibbles: &[u8], out: &mut Vec<u8>) {
    let (pairs, last) = nibbles.as_chunks();
    out.extend(pairs.iter().map(|[low, high]| low | high << 4));
    out.extend(last.iter().map(|low| low | (ZERO as u8) << 4));
}

/// Writes the values of one row of nibbles.
fn unpack(bytes: &[u8], packing: Packing, row: &mut [f32]) {
    // In two's complement the highest bit counts -8: turned over, it counts 8 more.
    let sign = if packing.signed { ZERO as u8 } else { 0 };
    let value = |nibble: u8| f32::from((nibble ^ sign) as i8 - ZERO);
    let turned = |byte: u8| if packing.high_first { byte.rotate_left(4) } else { byte };
    let (pairs, last) = row.as_chunks_mut();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        let byte = turned(*byte);
        *pair = [value(byte & 15), value(byte >> 4)];
    }
    for (last, byte) in last.iter_mut().zip(&bytes[pairs.len()..]) {
        *last = value(turned(*byte) & 15);
    }
}

#[cfg(test)]
mod tests {
    use super::search::reference;
    use super::*;
    use proptest::prelude::*;

    /// Values by plain indexing, scales and what both read back as.
    fn encoded(
        columns: usize,
        group: Option<usize>,
        numbers: &[f32],
        search: Search,
    ) -> (Vec<i32>, Vec<f32>, Vec<f32>) {
        let (mut packed, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
        encode(columns, group, numbers, search, &mut packed, &mut scales);
        let scales = floats(group, &scales);
        decode(columns, group, Packing::default(), &packed, &scales, &mut back);
        let bytes = columns.div_ceil(2);
        assert_eq!(packed.len(), numbers.len() / columns * bytes);
        let nibble = |i: usize| packed[i / columns * bytes + i % columns / 2] >> (i % columns % 2 * 4) & 15;
        let values = (0..numbers.len()).map(|i| i32::from(nibble(i)) - 8).collect();
        (values, scales, back)
    }

    /// Scales from their bytes.
    fn floats(group: Option<usize>, bytes: &[u8]) -> Vec<f32> {
        match group {
            None => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Some(_) => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }

    #[test]
    fn worked_example() {
        for (group, bytes) in [(Some(4), &[0x80, 0x3e][..]), (None, &[0x00, 0x00, 0x80, 0x3e])] {
            let (mut values, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
            encode(4, group, &[1.75, -1.0, 0.125, 0.375], Search::Max, &mut values, &mut scales);
            assert_eq!(scales, bytes);
            assert_eq!(values, [0x4f, 0xa8]);
            decode(4, group, Packing::default(), &values, &floats(group, &scales), &mut back);
            assert_eq!(back, [1.75, -1.0, 0.0, 0.5]);
        }
    }

    #[test]
    fn every_byte_unpacks_and_packs() {
        for byte in 0..=255u8 {
            let mut row = [0.0; 2];
            unpack(&[byte.rotate_left(4)], Packing { high_first: true, ..Packing::default() }, &mut row);
            let turned = row;
            unpack(&[byte], Packing::default(), &mut row);
            assert_eq!(row, turned);
            assert_eq!(row.map(|x| x as i32), [i32::from(byte % 16) - 8, i32::from(byte / 16) - 8]);
            let mut packed = Vec::new();
            pack(&row.map(|x| (x as i32 + 8) as u8), &mut packed);
            assert_eq!(packed, [byte]);
        }
    }

    #[test]
    fn odd_rows_end_with_the_value_zero() {
        let numbers = [7.0, 1.0, -3.0, 7.0, -7.0, 0.0];
        let (mut values, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
        encode(3, None, &numbers, Search::Max, &mut values, &mut scales);
        assert_eq!(values, [0x9f, 0x85, 0x1f, 0x88]);
        decode(3, None, Packing::default(), &values, &floats(None, &scales), &mut back);
        assert_eq!(back, numbers);
        // Blocks of three in a row of six share a byte.
        let (values, scales, back) = encoded(6, Some(3), &numbers, Search::Max);
        assert_eq!((values, scales), (vec![7, 1, -3, 7, -7, 0], vec![1.0, 1.0]));
        assert_eq!(back, numbers);
    }

    #[test]
    fn blocks_have_their_own_scales() {
        let numbers = [0.0, 0.0, 7.0, -1.0, f32::MAX, f32::MIN, 1e-42, 0.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE * 0.5];
        for (columns, group) in [(10, Some(2)), (2, None)] {
            for search in [Search::Max, Search::Mse] {
                let (values, scales, back) = encoded(columns, group, &numbers, search);
                assert_eq!((scales[0], scales[3], scales[4]), (1.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE));
                assert_eq!((&values[..2], &values[6..]), (&[0, 0][..], &[0, 0, 1, 0][..]));
                assert!(back.iter().all(|x| x.is_finite()));
                assert!(back[4] >= f32::MAX * 0.98 && back[5] <= f32::MIN * 0.98);
            }
            let (values, scales, _) = encoded(columns, group, &numbers, Search::Max);
            assert_eq!((&values[2..6], scales[1]), (&[7, -1, 7, -7][..], 1.0));
        }
    }

    #[test]
    fn the_first_of_equal_scales_is_taken() {
        // r = 0.88 is as good as r = 1.16, which gives 1.078125.
        let (values, scales, _) = encoded(2, Some(2), &[-6.5, -3.25], Search::Mse);
        assert_eq!((values, scales), (vec![-8, -4], vec![0.81640625]));
    }

    proptest! {
        #[test]
        fn max_is_the_reference(numbers in reference::rows(96)) {
            for (columns, group) in [(96, None), (3, None), (1, None), (96, Some(32)), (32, Some(8)), (48, Some(3))] {
                for search in [Search::Max, Search::MaxF16] {
                    let (values, scales, _) = encoded(columns, group, &numbers, search);
                    let size = group.unwrap_or(columns);
                    for (i, block) in numbers.chunks(size).enumerate() {
                        let (scale, expected) = reference::block(block, 7, -8, group.is_some(), search);
                        prop_assert_eq!((scales[i], &values[i * size..][..size]), (scale, &expected[..]));
                    }
                }
            }
        }

        #[test]
        fn mse_is_as_good_as_the_reference(numbers in reference::rows(32)) {
            for (group, search) in [(None, Search::Mse), (Some(32), Search::Mse), (None, Search::MseF16)] {
                let (values, scales, _) = encoded(32, group, &numbers, search);
                let (scale, best) = reference::block(&numbers, 7, -8, group.is_some(), search);
                if scales[0] == scale {
                    prop_assert_eq!(&values, &best);
                }
                // Sums of another order may prefer another of two scales that are equally good.
                let error = |scale: f32, values: &[i32]| reference::error(&numbers, scale, values);
                prop_assert!(error(scales[0], &values) <= error(scale, &best) * (1.0 + 1e-12));
                let max = if search == Search::Mse { Search::Max } else { Search::MaxF16 };
                let (max, max_scales, _) = encoded(32, group, &numbers, max);
                prop_assert!(error(scales[0], &values) <= error(max_scales[0], &max) * (1.0 + 1e-12));
            }
        }

        #[test]
        fn scales_are_normal_and_errors_bounded(numbers in reference::rows(24)) {
            let max = [(None, Search::Max), (Some(8), Search::Max)];
            for (group, search) in max.into_iter().chain([(None, Search::Mse), (Some(8), Search::Mse)]) {
                let (values, scales, back) = encoded(24, group, &numbers, search);
                prop_assert!(scales.iter().all(|s| s.is_normal() && *s > 0.0));
                prop_assert!(back.iter().all(|x| x.is_finite()));
                for (i, (&x, &q)) in numbers.iter().zip(&values).enumerate() {
                    let s = f64::from(scales[i / group.unwrap_or(24)]);
                    let bound = s * (0.5 + 7.0 / 16_777_216.0);
                    let clamped = search == Search::Mse && (q == 7 || q == -8);
                    prop_assert!(clamped || (f64::from(x) - s * f64::from(q)).abs() <= bound, "{} {} {}", x, s, q);
                    prop_assert!(q > -8 || search == Search::Mse);
                }
            }
        }

        #[test]
        fn encoding_what_was_read_keeps_it(numbers in reference::rows(9)) {
            for group in [None, Some(9)] {
                let (values, scales, back) = encoded(9, group, &numbers, Search::Max);
                let all_zero = values.iter().all(|&q| q == 0);
                let scales = if all_zero { vec![1.0] } else { scales };
                prop_assert_eq!((values, scales, back.clone()), encoded(9, group, &back, Search::Max));
            }
        }
    }
}
