//! Numbers to bytes and back, encoding by encoding.
//!
//! Every encoding has one file that states range, rounding and layout. This page only dispatches.

mod half;
mod scheme;

pub use scheme::{Scheme, matches};

use crate::ir::types::Encoding;

/// Appends the numbers that `bytes` hold in `encoding`. `bytes` is a whole number of rows.
pub fn decode(encoding: Encoding, bytes: &[u8], out: &mut Vec<f32>) {
    match encoding {
        Encoding::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        Encoding::F16 => half::decode_f16(bytes, out),
        Encoding::BF16 => half::decode_bf16(bytes, out),
    }
}

/// Appends the bytes of `numbers` in `encoding`.
///
/// # Errors
/// The index of the first number that is finite but has no finite value in the encoding, or is not finite at all.
pub fn encode(encoding: Encoding, numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    let finite = |x: f32| match encoding {
        Encoding::F32 => x.is_finite(),
        Encoding::F16 => half::fits_f16(x),
        Encoding::BF16 => half::fits_bf16(x),
    };
    if let Some(bad) = numbers.iter().position(|&x| !finite(x)) {
        return Err(bad);
    }
    match encoding {
        Encoding::F32 => numbers.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Encoding::F16 => half::encode_f16(numbers, out),
        Encoding::BF16 => half::encode_bf16(numbers, out),
    }
    Ok(())
}
