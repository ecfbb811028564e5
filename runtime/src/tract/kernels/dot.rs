//! `x · wᵀ`: the dot products of some tokens with some rows, on one core.
//!
//! A tile holds the sums of `S::ROWS` rows for up to `S::TOKENS` tokens in registers, so that each number loaded is
//! used several times; rows stay where they lie. Rows stored in 16 bits are widened in registers for a few tokens,
//! and once into a buffer for many; widening is exact, so both give the same bits. Rows that do not end with a whole
//! vector go through that buffer too, where zeros follow them.

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
        let width = k.next_multiple_of(LANES);
        let padded: Vec<f32>;
        let x = if width == k {
            x
        } else {
            let zeros = std::iter::repeat_n(0.0, width - k);
            padded = x.chunks_exact(k).flat_map(|row| row.iter().copied().chain(zeros.clone())).collect();
            &padded
        };
        let (x, _) = x.as_chunks();
        let buffered = width != k || F::WIDENS && out.len() > 2 * S::TOKENS;
        let mut buffer = if buffered { vec![0.0; S::ROWS * width] } else { Vec::new() };
        let whole = w.len() / (S::ROWS * k * F::ITEMS) * S::ROWS;
        let (panels, rest) = w.split_at(whole * k * F::ITEMS);
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
    x: &[[f32; LANES]],
    k: usize,
    out: &mut [&mut [f32]],
    n: usize,
    buffer: &mut [f32],
) {
    let ahead = Ahead { next: panel.as_ptr_range().end.cast(), step: size_of::<F::Block>() * R };
    if buffer.is_empty() {
        return tokens::<S, F, R>(simd, F::blocks(panel).0, x, out, n, ahead);
    }
    let buffer = &mut buffer[..R * k.next_multiple_of(LANES)];
    for (row, wide) in panel.chunks_exact(k * F::ITEMS).zip(buffer.chunks_exact_mut(k.next_multiple_of(LANES))) {
        widen::<S, F>(simd, row, wide);
    }
    tokens::<S, Native, R>(simd, Native::blocks(buffer).0, x, out, n, ahead);
}

/// Where the next panel lies. Its rows are brought near while the last tile of this one is computed: rows are too short
/// for the processor to see by itself where this is going.
#[derive(Clone, Copy)]
struct Ahead {
    next: *const u8,
    /// Bytes to ask for at each step.
    step: usize,
}

/// Cuts the tokens into tiles of nearly equal height.
#[inline(always)]
fn tokens<S: Simd, F: Format, const R: usize>(
    simd: S,
    panel: &[F::Block],
    x: &[[f32; LANES]],
    out: &mut [&mut [f32]],
    n: usize,
    ahead: Ahead,
) {
    let (m, steps) = (out.len(), panel.len() / R);
    // Cut to one length, so that the loop of a tile needs no checks.
    let w: [&[F::Block]; R] = std::array::from_fn(|r| &panel[r * steps..][..steps]);
    let tiles = m.div_ceil(S::TOKENS);
    let mut first = 0;
    for i in 0..tiles {
        let end = (i + 1) * m / tiles;
        let (x, out) = (&x[first * steps..end * steps], &mut out[first..end]);
        let ahead = if i + 1 == tiles { ahead } else { Ahead { next: ahead.next, step: 0 } };
        match end - first {
            1 => tile::<S, F, R, 1>(simd, w, x, out, n, ahead),
            2 => tile::<S, F, R, 2>(simd, w, x, out, n, ahead),
            3 if S::TOKENS >= 3 => tile::<S, F, R, 3>(simd, w, x, out, n, ahead),
            4 if S::TOKENS >= 4 => tile::<S, F, R, 4>(simd, w, x, out, n, ahead),
            5 if S::TOKENS >= 5 => tile::<S, F, R, 5>(simd, w, x, out, n, ahead),
            _ if S::TOKENS >= 6 => tile::<S, F, R, 6>(simd, w, x, out, n, ahead),
            _ => unreachable!("a tile has at most S::TOKENS tokens"),
        }
        first = end;
    }
}

/// `R` rows with `M` tokens, all sums in registers.
#[inline(always)]
fn tile<S: Simd, F: Format, const R: usize, const M: usize>(
    simd: S,
    w: [&[F::Block]; R],
    x: &[[f32; LANES]],
    out: &mut [&mut [f32]],
    n: usize,
    ahead: Ahead,
) {
    let steps = w[0].len();
    let x: [&[[f32; LANES]]; M] = std::array::from_fn(|m| &x[m * steps..][..steps]);
    let mut sums = [[simd.splat(0.0); R]; M];
    for i in 0..steps {
        for line in (0..ahead.step).step_by(64) {
            simd.prefetch(ahead.next.wrapping_add(i * ahead.step + line));
        }
        let w: [S::Vector; R] = std::array::from_fn(|r| F::load(simd, &w[r][i]));
        for m in 0..M {
            let x = simd.load(&x[m][i]);
            for r in 0..R {
                sums[m][r] = simd.fma(x, w[r], sums[m][r]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        let row = &mut out[n..n + R];
        if let Ok(four) = <[S::Vector; 4]>::try_from(&sums[..]) {
            row.copy_from_slice(&simd.sum4(four));
        } else {
            row.iter_mut().zip(sums).for_each(|(y, sum)| *y = simd.sum(*sum));
        }
    }
}

/// The numbers of a stored row as `f32`, zeros after them.
#[inline(always)]
fn widen<S: Simd, F: Format>(simd: S, row: &[F::Item], wide: &mut [f32]) {
    let (blocks, rest) = F::blocks(row);
    let (wide, _) = wide.as_chunks_mut::<LANES>();
    for (block, wide) in blocks.iter().zip(&mut *wide) {
        simd.store(F::load(simd, block), wide);
    }
    if let [.., last] = wide
        && !rest.is_empty()
    {
        simd.store(F::load(simd, &F::fill(rest)), last);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rows::{Bf16, F16, F32};
    use super::super::simd::tests::{near, numbers, run_all};
    use super::*;
    use diffulex_compiler::ir::Encoding;
    use diffulex_compiler::quant::{self, Encoded};

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
            for encoding in [Encoding::F32, Encoding::F16, Encoding::BF16] {
                let (mut stored, mut decoded) = (Encoded::default(), Vec::new());
                quant::encode(encoding, quant::Search::Max, k, &w, &mut stored).unwrap();
                stored.rows(encoding, k).decode(&mut decoded);
                match encoding {
                    Encoding::F16 => check::<F16>(&stored.values, &decoded, &x, k),
                    Encoding::BF16 => check::<Bf16>(&stored.values, &decoded, &x, k),
                    _ => check::<F32>(&stored.values, &decoded, &x, k),
                }
            }
        }
    }
}
