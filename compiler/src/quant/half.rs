//! The two 16-bit floats, both little-endian, both rounded to nearest, ties to the even last bit.
//!
//! * `f16` (IEEE 754 binary16): 1 sign, 5 exponent, 10 fraction bits. Largest finite value 65504; numbers of magnitude
//!   65520 and more do not fit. Below 2^-14 the fraction loses bits; from 2^-25 down everything becomes 0.
//! * `bf16`: the upper half of an `f32`: 1 sign, 8 exponent, 7 fraction bits. Range of `f32`.
//!
//! ```
//! use diffulex_compiler::{ir::types::Encoding, quant};
//! let mut row = quant::Encoded::default();
//! quant::encode(Encoding::F16, quant::Search::Max, 4, &[1.0, -2.0, 0.1, 65504.0], &mut row).unwrap();
//! assert_eq!(row.values, [0x00, 0x3c, 0x00, 0xc0, 0x66, 0x2e, 0xff, 0x7b]);
//! let mut back = Vec::new();
//! row.rows(Encoding::F16, 4).decode(&mut back);
//! assert_eq!(back, [1.0, -2.0, 0.099975586, 65504.0]);
//! assert_eq!(quant::encode(Encoding::F16, quant::Search::Max, 2, &[0.0, 65520.0], &mut row), Err(1));
//! ```

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Appends the values of little-endian `f16` bytes.
pub(super) fn decode_f16(bytes: &[u8], out: &mut Vec<f32>) {
    let start = out.len();
    let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
    out.resize(start + halves.len(), 0.0);
    halves.convert_to_f32_slice(&mut out[start..]);
}

/// Appends the values of little-endian `bf16` bytes.
pub(super) fn decode_bf16(bytes: &[u8], out: &mut Vec<f32>) {
    let widen = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    out.extend(bytes.as_chunks::<2>().0.iter().map(widen));
}

/// Appends little-endian `f16` bytes.
pub(super) fn encode_f16(numbers: &[f32], out: &mut Vec<u8>) {
    let mut halves = vec![f16::ZERO; numbers.len()];
    halves.convert_from_f32_slice(numbers);
    halves.iter().for_each(|h| out.extend_from_slice(&h.to_le_bytes()));
}

/// Appends little-endian `bf16` bytes.
pub(super) fn encode_bf16(numbers: &[f32], out: &mut Vec<u8>) {
    numbers.iter().for_each(|&x| out.extend_from_slice(&bf16::from_f32(x).to_le_bytes()));
}

/// The number of `f16` that is nearest to `x`; infinite where that is too large.
pub fn in_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Whether `x` is finite and stays so as `f16`.
pub(super) fn fits_f16(x: f32) -> bool {
    x.abs() < 65520.0
}

/// Whether `x` is finite and stays so as `bf16`.
pub(super) fn fits_bf16(x: f32) -> bool {
    bf16::from_f32(x).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds to the nearest representable value by trying all of them: the slow truth beside the conversions above.
    fn nearest(x: f32, all: impl Iterator<Item = (u16, f32)>) -> u16 {
        let distance = |v: f32| (f64::from(v) - f64::from(x)).abs();
        let better = |a: (u16, f32), b: (u16, f32)| match distance(a.1).total_cmp(&distance(b.1)) {
            std::cmp::Ordering::Less => a,
            std::cmp::Ordering::Greater => b,
            std::cmp::Ordering::Equal => {
                if a.0.is_multiple_of(2) {
                    a
                } else {
                    b
                }
            }
        };
        all.filter(|v| v.1.is_finite() && v.1.is_sign_positive() == x.is_sign_positive()).reduce(better).unwrap().0
    }

    #[test]
    fn f16_rounds_to_nearest_ties_to_even() {
        for x in [0.1f32, -3.3333, 65519.9, 6e-8, 2.98e-8, 2.99e-8, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e-5] {
            let expected = nearest(x, (0..=u16::MAX).map(|b| (b, f16::from_bits(b).to_f32())));
            let mut bytes = Vec::new();
            encode_f16(&[x], &mut bytes);
            assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), expected, "{x}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_ties_to_even() {
        for x in [0.1f32, -3.3333, 1e38, 1e-39, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0] {
            let expected = nearest(x, (0..=u16::MAX).map(|b| (b, bf16::from_bits(b).to_f32())));
            let mut bytes = Vec::new();
            encode_bf16(&[x], &mut bytes);
            assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), expected, "{x}");
        }
    }

    #[test]
    fn every_half_survives_the_round_trip() {
        let finite = |b: u16| f16::from_bits(b).is_finite();
        let bytes: Vec<u8> = (0..=u16::MAX).filter(|&b| finite(b)).flat_map(u16::to_le_bytes).collect();
        let (mut numbers, mut back) = (Vec::new(), Vec::new());
        decode_f16(&bytes, &mut numbers);
        encode_f16(&numbers, &mut back);
        assert_eq!(bytes, back);
    }

    #[test]
    fn what_does_not_fit_is_found() {
        assert!(fits_f16(65519.0) && !fits_f16(65520.0) && !fits_f16(f32::NAN) && !fits_f16(f32::INFINITY));
        assert!(fits_bf16(3.3e38) && !fits_bf16(f32::MAX) && !fits_bf16(f32::NAN));
    }
}
