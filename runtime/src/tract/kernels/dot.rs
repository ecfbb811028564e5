//! `x · wᵀ`: the dot products of some tokens with some rows, on one core.
//!
//! A tile holds the sums of `S::ROWS` rows for up to `S::TOKENS` tokens in registers, so that each number loaded is
//! used several times; rows stay where they lie. Rows stored in 16 bits are widened in registers for a few tokens,
//! and once into a buffer for many; widening is exact, so both give the same bits.

use super::rows::{Format, Native};
use super::simd::{Kernel, LANES, Simd};

/// Dot products of every token of `x` with every row of `w`.
pub(crate) struct Dot<'a, 'o, F: Format> {
    /// Rows, `[N, K]` in their format.
    pub(crate) w: &'a [F::Item],
    /// Tokens, `[M, K]`.
    pub(crate) x: &'a [f32],
    /// Numbers in a row (K), at least 1.
    pub(crate) k: usize,
    /// One slice a token: element `n` receives the product with row `n`.
    pub(crate) out: &'a mut [&'o mut [f32]],
}

impl<F: Format> Kernel for Dot<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Dot { w, x, k, out } = self;
        let whole = w.len() / (S::ROWS * k * F::ITEMS) * S::ROWS;
        let (panels, rest) = w.split_at(whole * k * F::ITEMS);
        let mut buffer = if F::WIDENS && out.len() > 2 * S::TOKENS { vec![0.0; S::ROWS * k] } else { Vec::new() };
        for (i, panel) in panels.chunks_exact(S::ROWS * k * F::ITEMS).enumerate() {
            let n = i * S::ROWS;
            match S::ROWS {
                4 => rows::<S, F, 4>(simd, panel, x, k, out, n, &mut buffer),
                2 => rows::<S, F, 2>(simd, panel, x, k, out, n, &mut buffer),
                _ => rows::<S, F, 1>(simd, panel, x, k, out, n, &mut buffer),
            }
        }
        for (i, row) in rest.chunks_exact(k * F::ITEMS).enumerate() {
            rows::<S, F, 1>(simd, row, x, k, out, whole + i, &mut buffer);
        }
    }
}

/// All tokens with the `R` rows of `panel`, the first of which is row `n`.
#[inline(always)]
fn rows<S: Simd, F: Format, const R: usize>(
    simd: S,
    panel: &[F::Item],
    x: &[f32],
    k: usize,
    out: &mut [&mut [f32]],
    n: usize,
    buffer: &mut [f32],
) {
    if buffer.is_empty() {
        tokens::<S, F, R>(simd, panel, x, k, out, n);
        return;
    }
    let buffer = &mut buffer[..R * k];
    for (row, wide) in panel.chunks_exact(k * F::ITEMS).zip(buffer.chunks_exact_mut(k)) {
        widen::<S, F>(simd, row, wide);
    }
    tokens::<S, Native, R>(simd, buffer, x, k, out, n);
}

/// Cuts the tokens into tiles of nearly equal height.
#[inline(always)]
fn tokens<S: Simd, F: Format, const R: usize>(
    simd: S,
    panel: &[F::Item],
    x: &[f32],
    k: usize,
    out: &mut [&mut [f32]],
    n: usize,
) {
    let m = out.len();
    let tiles = m.div_ceil(S::TOKENS);
    let mut first = 0;
    for i in 0..tiles {
        let end = (i + 1) * m / tiles;
        let (x, out) = (&x[first * k..end * k], &mut out[first..end]);
        match end - first {
            1 => tile::<S, F, R, 1>(simd, panel, x, k, out, n),
            2 => tile::<S, F, R, 2>(simd, panel, x, k, out, n),
            3 if S::TOKENS >= 3 => tile::<S, F, R, 3>(simd, panel, x, k, out, n),
            4 if S::TOKENS >= 4 => tile::<S, F, R, 4>(simd, panel, x, k, out, n),
            5 if S::TOKENS >= 5 => tile::<S, F, R, 5>(simd, panel, x, k, out, n),
            _ if S::TOKENS >= 6 => tile::<S, F, R, 6>(simd, panel, x, k, out, n),
            _ => unreachable!("a tile has at most S::TOKENS tokens"),
        }
        first = end;
    }
}

/// `R` rows with `M` tokens, all sums in registers.
#[inline(always)]
fn tile<S: Simd, F: Format, const R: usize, const M: usize>(
    simd: S,
    panel: &[F::Item],
    x: &[f32],
    k: usize,
    out: &mut [&mut [f32]],
    n: usize,
) {
    let w: [_; R] = std::array::from_fn(|r| F::blocks(&panel[r * k * F::ITEMS..][..k * F::ITEMS]));
    let x: [_; M] = std::array::from_fn(|m| x[m * k..][..k].as_chunks::<LANES>());
    let steps = k / LANES;
    // Cut to one length, so that the loop below needs no checks.
    let w_blocks: [&[F::Block]; R] = std::array::from_fn(|r| &w[r].0[..steps]);
    let x_blocks: [&[[f32; LANES]]; M] = std::array::from_fn(|m| &x[m].0[..steps]);
    let mut sums = [[simd.splat(0.0); R]; M];
    for i in 0..steps {
        let w: [S::Vector; R] = std::array::from_fn(|r| F::load(simd, &w_blocks[r][i]));
        for m in 0..M {
            let x = simd.load(&x_blocks[m][i]);
            for r in 0..R {
                sums[m][r] = simd.fma(x, w[r], sums[m][r]);
            }
        }
    }
    if steps * LANES < k {
        let w: [S::Vector; R] = std::array::from_fn(|r| F::load(simd, &F::fill(w[r].1)));
        for m in 0..M {
            let x = simd.load(&Native::fill(x[m].1));
            for r in 0..R {
                sums[m][r] = simd.fma(x, w[r], sums[m][r]);
            }
        }
    }
    for m in 0..M {
        let row = &mut out[m][n..n + R];
        if let Ok(four) = <[S::Vector; 4]>::try_from(&sums[m][..]) {
            row.copy_from_slice(&simd.sum4(four));
        } else {
            row.iter_mut().zip(sums[m]).for_each(|(y, sum)| *y = simd.sum(sum));
        }
    }
}

/// The numbers of a stored row as `f32`.
#[inline(always)]
fn widen<S: Simd, F: Format>(simd: S, row: &[F::Item], wide: &mut [f32]) {
    let (blocks, rest) = F::blocks(row);
    let (whole, left) = wide.as_chunks_mut::<LANES>();
    for (block, wide) in blocks.iter().zip(whole) {
        simd.store(F::load(simd, block), wide);
    }
    let mut last = [0.0; LANES];
    simd.store(F::load(simd, &F::fill(rest)), &mut last);
    left.copy_from_slice(&last[..left.len()]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rows::{Bf16, F16, F32};
    use super::super::simd::tests::{near, numbers, run_all};
    use super::*;
    use diffulex_compiler::ir::Encoding;
    use diffulex_compiler::quant;

    /// `x · wᵀ` in f64, one number at a time.
    fn reference(w: &[f32], x: &[f32], k: usize) -> Vec<f64> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
    }

    /// [`Dot`] with a result of its own.
    #[derive(Clone)]
    struct Product<'a, F: Format> {
        w: &'a [F::Item],
        x: &'a [f32],
        k: usize,
    }

    impl<F: Format> Kernel for Product<'_, F> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let Product { w, x, k } = self;
            let n = w.len() / (k * F::ITEMS);
            let mut out = vec![f32::NAN; x.len() / k * n];
            let mut rows: Vec<&mut [f32]> = out.chunks_mut(n.max(1)).collect();
            Dot::<F> { w, x, k, out: &mut rows }.run(simd);
            out
        }
    }

    fn check<F: Format>(w: &[F::Item], decoded: &[f32], x: &[f32], k: usize) {
        let all = run_all(&Product::<F> { w, x, k });
        all.iter().for_each(|one| assert!(*one == all[0], "instructions give different bits"));
        near(&all[0], &reference(decoded, x, k), 2e-6);
        // Each row of the result depends on its token and its row alone.
        let n = decoded.len() / k;
        for (m, x) in x.chunks(k).enumerate() {
            for (i, w) in w.chunks(k * F::ITEMS).enumerate() {
                let alone = super::super::simd::run(Product::<F> { w, x, k });
                assert_eq!(alone[0].to_bits(), all[0][m * n + i].to_bits());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        /// Around the tile heights and widths of every set of instructions, and around the vector width.
        #[test]
        fn dots_are_right(m in 1usize..15, n in 0usize..11, steps in 0usize..4, rest in 0usize..17, seed: u64) {
            let k = (16 * steps + rest).max(1);
            let (x, w) = (numbers(m * k, seed), numbers(n * k, seed ^ 1));
            check::<Native>(&w, &w, &x, k);
            for &encoding in Encoding::ALL {
                let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
                quant::encode(encoding, &w, &mut bytes).unwrap();
                quant::decode(encoding, &bytes, &mut decoded);
                match encoding {
                    Encoding::F32 => check::<F32>(&bytes, &decoded, &x, k),
                    Encoding::F16 => check::<F16>(&bytes, &decoded, &x, k),
                    Encoding::BF16 => check::<Bf16>(&bytes, &decoded, &x, k),
                }
            }
        }
    }
}
