//! Rows of numbers as they are stored, read sixteen at a time and widened on the way.

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::{Rows, Scales};

use super::simd::{LANES, Simd};

/// One way to store numbers.
pub(crate) trait Format: Copy + Sync {
    /// What a row is a slice of.
    type Item: Copy + Default + Send + Sync;
    /// Items of sixteen numbers.
    type Block: Copy + Sync;
    /// Items that one number takes.
    const ITEMS: usize;
    /// Whether reading costs more than a load, so that it pays to widen a row once for many tokens.
    const WIDENS: bool;

    /// A row cut into blocks, and what is left: less than a block.
    fn blocks(row: &[Self::Item]) -> (&[Self::Block], &[Self::Item]);
    /// A block that begins with `rest` and ends with zeros.
    fn fill(rest: &[Self::Item]) -> Self::Block;
    /// The numbers of a block.
    fn load<S: Simd>(simd: S, block: &Self::Block) -> S::Vector;
}

/// Numbers in memory.
#[derive(Clone, Copy)]
pub(crate) struct Native;
/// Little-endian `f32` bytes.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// Little-endian `f16` bytes.
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// Little-endian `bf16` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

/// The first items of a block, zeros after them.
#[inline(always)]
fn padded<T: Copy + Default, const N: usize>(rest: &[T]) -> [T; N] {
    let mut block = [T::default(); N];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// A [`Format`] of `$items` items of `$item` a number, loaded by `$load`.
macro_rules! format {
    ($name:ident, $item:ty, $items:literal, $widens:literal, $load:ident) => {
        impl Format for $name {
            type Item = $item;
            type Block = [$item; $items * LANES];
            const ITEMS: usize = $items;
            const WIDENS: bool = $widens;

            #[inline(always)]
            fn blocks(row: &[Self::Item]) -> (&[Self::Block], &[Self::Item]) {
                row.as_chunks()
            }

            #[inline(always)]
            fn fill(rest: &[Self::Item]) -> Self::Block {
                padded(rest)
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, block: &Self::Block) -> S::Vector {
                simd.$load(block)
            }
        }
    };
}

format!(Native, f32, 1, false, load);
format!(F32, u8, 4, false, load_f32);
format!(F16, u8, 2, true, load_f16);
format!(Bf16, u8, 2, true, load_bf16);

/// The place of the first number that is not finite: `(row, column)`. In quantized rows that is the first number with such
/// a scale.
pub(crate) fn first_not_finite(rows: &Rows<'_>) -> Option<(usize, usize)> {
    let columns = rows.columns.max(1);
    let single = |bytes: &[u8]| first(bytes.as_chunks().0, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000);
    let brain = |bytes: &[u8]| first(bytes.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80);
    let half = |bytes: &[u8]| first(bytes.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00);
    // All bits of the exponent are set in infinities and NaNs.
    let place = match (rows.encoding, rows.encoding.group()) {
        (Encoding::F32, _) => single(rows.values),
        (Encoding::F16, _) => half(rows.values),
        (Encoding::BF16, _) => brain(rows.values),
        (_, Some(group)) => {
            let groups = columns.div_ceil(group);
            let bad = match rows.packing.scales {
                Scales::Own => brain(rows.scales),
                Scales::F32 => single(rows.scales),
                Scales::F16 => half(rows.scales),
            };
            bad.map(|i| i / groups * columns + i % groups * group)
        }
        (_, None) if rows.packing.scales == Scales::F16 => half(rows.scales).map(|row| row * columns),
        (_, None) => single(rows.scales).map(|row| row * columns),
    };
    place.map(|i| (i / columns, i % columns))
}

/// The place of the first number that is bad. Whole chunks are asked first, without a way out that would keep the
/// question from becoming vector instructions.
fn first<const N: usize>(numbers: &[[u8; N]], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const CHUNK: usize = 1 << 12;
    let chunk = numbers.chunks(CHUNK).position(|chunk| chunk.iter().fold(false, |any, &b| any | bad(b)))? * CHUNK;
    numbers[chunk..].iter().position(|&b| bad(b)).map(|i| chunk + i)
}
