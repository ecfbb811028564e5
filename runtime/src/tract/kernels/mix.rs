//! Weighted sums of rows: the second half of attention, on one core.

use super::rows::{Format, Native};
use super::simd::{Kernel, LANES, Simd};

/// Weighted sums of value rows: `out[m] = Σ weights[m][j] · values[j]`, `j` ascending.
pub(crate) struct Mix<'a> {
    /// `[M, count]`.
    pub(crate) weights: &'a [f32],
    /// Value rows in all.
    pub(crate) count: usize,
    /// The rows, in pieces.
    pub(crate) values: &'a [&'a [f32]],
    /// Width of a row, at least 1.
    pub(crate) d: usize,
    /// `[M, d]`.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Mix { weights, count, values, d, out } = self;
        let m = out.len() / d;
        let tiles = m.div_ceil(S::TOKENS);
        let mut first = 0;
        for i in 0..tiles {
            let end = (i + 1) * m / tiles;
            let (weights, out) = (&weights[first * count..end * count], &mut out[first * d..end * d]);
            match end - first {
                1 => columns::<S, 1>(simd, weights, count, values, d, out),
                2 => columns::<S, 2>(simd, weights, count, values, d, out),
                3 if S::TOKENS >= 3 => columns::<S, 3>(simd, weights, count, values, d, out),
                4 if S::TOKENS >= 4 => columns::<S, 4>(simd, weights, count, values, d, out),
                5 if S::TOKENS >= 5 => columns::<S, 5>(simd, weights, count, values, d, out),
                _ if S::TOKENS >= 6 => columns::<S, 6>(simd, weights, count, values, d, out),
                _ => unreachable!("a tile has at most S::TOKENS rows"),
            }
            first = end;
        }
    }
}

/// All columns of `M` rows: as many vectors at a time as the registers hold, the rest of the row one by one.
#[inline(always)]
fn columns<S: Simd, const M: usize>(
    simd: S,
    weights: &[f32],
    count: usize,
    values: &[&[f32]],
    d: usize,
    out: &mut [f32],
) {
    let mut at = 0;
    if S::ROWS >= 4 {
        while at + 4 * LANES <= d {
            mixed::<S, M, 4>(simd, weights, count, values, d, at, out);
            at += 4 * LANES;
        }
    }
    while at + 2 * LANES <= d {
        mixed::<S, M, 2>(simd, weights, count, values, d, at, out);
        at += 2 * LANES;
    }
    while at < d {
        mixed::<S, M, 1>(simd, weights, count, values, d, at, out);
        at += LANES;
    }
}

/// Columns `at..at + C · 16` of `M` rows, all sums in registers; the last 16 may be fewer.
#[inline(always)]
fn mixed<S: Simd, const M: usize, const C: usize>(
    simd: S,
    weights: &[f32],
    count: usize,
    values: &[&[f32]],
    d: usize,
    at: usize,
    out: &mut [f32],
) {
    let mut sums = [[simd.splat(0.0); C]; M];
    let width = (d - at).min(C * LANES);
    let mut first = 0;
    for values in values {
        let len = values.len() / d;
        let weights: [&[f32]; M] = std::array::from_fn(|m| &weights[m * count + first..][..len]);
        for (j, row) in values.chunks_exact(d).enumerate() {
            let (whole, rest) = row[at..at + width].as_chunks::<LANES>();
            let value: [S::Vector; C] = std::array::from_fn(|c| match whole.get(c) {
                Some(block) => simd.load(block),
                None => simd.load(&Native::fill(rest)),
            });
            for m in 0..M {
                let weight = simd.splat(weights[m][j]);
                for c in 0..C {
                    sums[m][c] = simd.fma(weight, value[c], sums[m][c]);
                }
            }
        }
        first += len;
    }
    for m in 0..M {
        let row = &mut out[m * d + at..][..width];
        for (c, part) in row.chunks_mut(LANES).enumerate() {
            let mut block = [0.0; LANES];
            simd.store(sums[m][c], &mut block);
            part.copy_from_slice(&block[..part.len()]);
        }
    }
}
