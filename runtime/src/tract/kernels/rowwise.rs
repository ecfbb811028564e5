//! What is computed row by row along the last axis.

use diffulex_compiler::ir::DType;
use diffulex_compiler::quant::Grid;
use half::{bf16, f16};
use rayon::prelude::*;

use super::SMALL;
use super::exp::{exp, sigmoid};
use super::rows::{Format, Native};
use super::simd::{Kernel, LANES, Simd, run};

/// One row in, one row out.
pub(crate) trait RowFn: Sync {
    /// Computes `out` from `x`, row `i` of all.
    fn row<S: Simd>(&self, simd: S, i: usize, x: &[f32], out: &mut [f32]);
}

/// Computes all rows: `x` is cut into rows of `from` numbers, `out` into rows of `to`.
pub(crate) fn each_row<F: RowFn>(f: &F, x: &[f32], from: usize, out: &mut [f32], to: usize) {
    let rows = x.len() / from.max(1);
    let block = SMALL.div_ceil(8 * from.max(1));
    if rows <= block {
        return run(Rows { f, x, from, out, to, first: 0 });
    }
    let jobs = x.par_chunks(block * from).zip(out.par_chunks_mut(block * to));
    jobs.enumerate().for_each(|(i, (x, out))| run(Rows { f, x, from, out, to, first: i * block }));
}

struct Rows<'a, F> {
    f: &'a F,
    x: &'a [f32],
    from: usize,
    out: &'a mut [f32],
    to: usize,
    first: usize,
}

impl<F: RowFn> Kernel for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.chunks_exact(self.from).zip(self.out.chunks_exact_mut(self.to));
        for (i, (x, out)) in rows.enumerate() {
            self.f.row(simd, self.first + i, x, out);
        }
    }
}

/// `Σ a·b`, in the order of all kernels.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sum = simd.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.fma(simd.load(a), simd.load(b), sum);
    }
    if !a_rest.is_empty() {
        sum = simd.fma(simd.load(&Native::fill(a_rest)), simd.load(&Native::fill(b_rest)), sum);
    }
    simd.sum(sum)
}

/// `Σ x`, in the order of all kernels.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let one = simd.splat(1.0);
    let mut sum = simd.splat(0.0);
    for block in blocks {
        sum = simd.fma(simd.load(block), one, sum);
    }
    if !rest.is_empty() {
        sum = simd.fma(simd.load(&Native::fill(rest)), one, sum);
    }
    simd.sum(sum)
}

/// `x / sqrt(mean(x²) + eps) · gain`.
pub(crate) struct RmsNorm<'a> {
    /// One factor a column.
    pub(crate) gain: &'a [f32],
    /// Added to the mean square.
    pub(crate) eps: f32,
}

impl RowFn for RmsNorm<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let scale = 1.0 / (dot(simd, x, x) / x.len() as f32 + self.eps).sqrt();
        for ((y, x), w) in out.iter_mut().zip(x).zip(self.gain) {
            *y = x * scale * w;
        }
    }
}

/// `exp(x − max) / Σ exp(x − max)`.
pub(crate) struct Softmax;

impl RowFn for Softmax {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        let sum = exp_below_max(simd, out);
        out.iter_mut().for_each(|y| *y /= sum);
    }
}

/// Replaces each number by `exp(x − max)` and gives their sum.
#[inline(always)]
pub(crate) fn exp_below_max<S: Simd>(simd: S, row: &mut [f32]) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut high = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        high.iter_mut().zip(block).for_each(|(h, &x)| *h = if x > *h { x } else { *h });
    }
    let max = high.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    sum(simd, row)
}

/// The mean of the row.
pub(crate) struct Mean;

impl RowFn for Mean {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        out[0] = sum(simd, x) / x.len() as f32;
    }
}

/// `1 / (1 + exp(−x))`.
pub(crate) struct Sigmoid;

impl RowFn for Sigmoid {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = sigmoid(x));
    }
}

/// `x · sigmoid(x)`.
pub(crate) struct Silu;

impl RowFn for Silu {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = x * sigmoid(x));
    }
}

/// Each number at the nearest of 256 levels between the smallest and the largest of the row and 0: see `Op::Int8Token`.
pub(crate) struct Int8Token;

impl RowFn for Int8Token {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        // Smallest and largest do not depend on the order in which they are looked for.
        let (least, most) = x.iter().fold((0.0f32, 0.0f32), |(a, b), &v| (a.min(v), b.max(v)));
        let scale = if least == most { 1.0 } else { 255.0 / (most - least) };
        let (low, high) = (least * scale, most * scale);
        let zero = if (low - 128.0) + (high + 127.0) > 0.0 { -128.0 - low } else { 127.0 - high };
        let zero = zero.clamp(-128.0, 127.0).round_ties_even();
        let step = 1.0 / scale;
        for (y, &v) in out.iter_mut().zip(x) {
            *y = (((v * scale).round_ties_even() + zero).clamp(-128.0, 127.0) - zero) * step;
        }
    }
}

/// Each number at the nearest of a grid.
pub(crate) struct FakeQuantize(pub(crate) Grid);

impl RowFn for FakeQuantize {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        let grid = self.0;
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = grid.round(x));
    }
}

/// `silu(a) · b` for the two halves of the row.
pub(crate) struct Swiglu;

impl RowFn for Swiglu {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        let (a, b) = x.split_at(out.len());
        out.iter_mut().zip(a).zip(b).for_each(|((y, &a), b)| *y = a * sigmoid(a) * b);
    }
}

/// `(a, b)` → `(a·cos − b·sin, b·cos + a·sin)` for the two halves of the row; row `i` belongs to token `i mod tokens`.
pub(crate) struct Rope<'a> {
    /// `[tokens, D]`.
    pub(crate) cos: &'a [f32],
    /// `[tokens, D]`.
    pub(crate) sin: &'a [f32],
    /// Tokens of the step.
    pub(crate) tokens: usize,
}

impl RowFn for Rope<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, i: usize, x: &[f32], out: &mut [f32]) {
        let (d, half) = (x.len(), x.len() / 2);
        let at = i % self.tokens * d;
        let (cos, sin) = (self.cos[at..at + d].split_at(half), self.sin[at..at + d].split_at(half));
        let ((a, b), (low, high)) = (x.split_at(half), out.split_at_mut(half));
        for (((y, a), b), (c, s)) in low.iter_mut().zip(a).zip(b).zip(cos.0.iter().zip(sin.0)) {
            *y = a * c - b * s;
        }
        for (((y, a), b), (c, s)) in high.iter_mut().zip(a).zip(b).zip(cos.1.iter().zip(sin.1)) {
            *y = b * c + a * s;
        }
    }
}

/// Each number as the type would keep it: rounded, cut to an integer, infinite if it is too large.
pub(crate) struct Cast(pub(crate) DType);

impl RowFn for Cast {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, x: &[f32], out: &mut [f32]) {
        let cast: fn(f32) -> f32 = match self.0 {
            DType::F32 => |x| x,
            DType::F16 => |x| f16::from_f32(x).to_f32(),
            DType::BF16 => |x| bf16::from_f32(x).to_f32(),
            DType::I32 | DType::I64 => f32::trunc,
        };
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = cast(x));
    }
}

#[cfg(test)]
mod tests {
    use diffulex_compiler::math;
    use proptest::prelude::*;

    use super::super::simd::tests::{numbers, run_all};
    use super::*;

    /// [`Rows`] with a result of its own.
    struct Whole<'a, F>(&'a F, &'a [f32], usize, usize);

    impl<F> Clone for Whole<'_, F> {
        fn clone(&self) -> Self {
            Whole(self.0, self.1, self.2, self.3)
        }
    }

    impl<F: RowFn> Kernel for Whole<'_, F> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let Whole(f, x, from, to) = self;
            let mut out = vec![f32::NAN; x.len() / from * to];
            Rows { f, x, from, out: &mut out, to, first: 0 }.run(simd);
            out
        }
    }

    /// A number, and the sum of what it is made of without signs: where terms cancel, rounding is a share of that sum.
    type Sum = (f64, f64);

    /// Numbers that are no sums.
    fn plain(values: impl IntoIterator<Item = f64>) -> Vec<Sum> {
        values.into_iter().map(|x| (x, x.abs())).collect()
    }

    /// Compares all sets of instructions, and several threads, with `reference`: within `1e-6` of the largest sum.
    fn check<F: RowFn>(f: &F, x: &[f32], from: usize, to: usize, reference: impl Fn(usize, &[f64]) -> Vec<Sum>) {
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let expected: Vec<Sum> = wide.chunks(from).enumerate().flat_map(|(i, row)| reference(i, row)).collect();
        let all = run_all(&Whole(f, x, from, to));
        all.iter().for_each(|one| assert!(*one == all[0], "instructions give different bits"));
        assert_eq!(all[0].len(), expected.len());
        let largest = expected.iter().fold(1e-3f64, |m, (_, sum)| m.max(*sum));
        for (i, (a, (b, _))) in all[0].iter().zip(&expected).enumerate() {
            let off = (f64::from(*a) - b).abs() / largest;
            assert!(off <= 1e-6, "number {i}: {a} is not {b}, off by {off} of {largest}");
        }
        let mut out = vec![f32::NAN; all[0].len()];
        each_row(f, x, from, &mut out, to);
        assert!(out == all[0]);
    }

    fn silu(x: f64) -> f64 {
        x / (1.0 + math::exp(-x))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_right(rows in 1usize..7, half in 1usize..40, scale in 0.1f32..20.0, seed: u64) {
            let (width, halves) = (half, 2 * half);
            let x: Vec<f32> = numbers(rows * halves, seed).iter().map(|x| x * scale).collect();
            let gain = numbers(width, seed ^ 2);
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;

            let eps = 1e-6;
            check(&RmsNorm { gain: &gain, eps }, &x, width, width, |_, x| {
                let square = mean(&x.iter().map(|x| x * x).collect::<Vec<_>>()) + f64::from(eps);
                plain(x.iter().zip(wide(&gain)).map(|(x, w)| x / square.sqrt() * w))
            });
            check(&Softmax, &x, width, width, |_, x| {
                let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = x.iter().map(|x| math::exp(x - max)).sum();
                plain(x.iter().map(|x| math::exp(x - max) / sum))
            });
            check(&Mean, &x, width, 1, |_, x| vec![(mean(x), mean(&x.iter().map(|x| x.abs()).collect::<Vec<_>>()))]);
            check(&Sigmoid, &x, width, width, |_, x| plain(x.iter().map(|x| 1.0 / (1.0 + math::exp(-x)))));
            check(&Silu, &x, width, width, |_, x| plain(x.iter().copied().map(silu)));
            check(&Swiglu, &x, halves, half, |_, x| plain((0..half).map(|j| silu(x[j]) * x[half + j])));
            let (cos, sin) = (numbers(3 * halves, seed ^ 3), numbers(3 * halves, seed ^ 4));
            check(&Rope { cos: &cos, sin: &sin, tokens: 3 }, &x, halves, halves, |i, x| {
                let (cos, sin) = (wide(&cos[i % 3 * halves..]), wide(&sin[i % 3 * halves..]));
                let other = |j: usize| if j < half { -x[j + half] } else { x[j - half] };
                let terms = |j: usize| (x[j] * cos[j], other(j) * sin[j]);
                (0..halves).map(terms).map(|(a, b)| (a + b, a.abs() + b.abs())).collect()
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        /// At most half a level off, 0 stays 0, and no more than 256 levels come out.
        #[test]
        fn int8_tokens_are_near(width in 1usize..200, scale in 1e-3f32..1e3, offset in -2.0f32..2.0, seed: u64) {
            let x: Vec<f32> = numbers(width, seed).iter().map(|x| (x + offset) * scale).chain([0.0]).collect();
            let mut y = vec![f32::NAN; x.len()];
            each_row(&Int8Token, &x, x.len(), &mut y, x.len());
            let (least, most) = x.iter().fold((0.0f32, 0.0f32), |(a, b), &v| (a.min(v), b.max(v)));
            let level = (most - least) / 255.0;
            // Half a level, and another half where the zero point had to move the ends.
            prop_assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 1.001 * level));
            prop_assert!(y.last() == Some(&0.0));
            let mut levels: Vec<u32> = y.iter().map(|y| (y + 0.0).to_bits()).collect();
            levels.sort_unstable();
            levels.dedup();
            prop_assert!(levels.len() <= 256);
        }
    }

    #[test]
    fn casts() {
        let x = [1.0 + 1.0 / 4096.0, -70000.0, 0.1, -2.7];
        let cast = |to| {
            let mut out = [0.0; 4];
            each_row(&Cast(to), &x, 4, &mut out, 4);
            out
        };
        assert_eq!(cast(DType::F32), x);
        assert_eq!(cast(DType::F16), [1.0, f32::NEG_INFINITY, 0.099_975_586, -2.699_218_8]);
        assert_eq!(cast(DType::BF16), [1.0, -70144.0, 0.100_097_656, -2.703_125]);
        assert_eq!(cast(DType::I64), [1.0, -70000.0, 0.0, -2.0]);
    }

    #[test]
    fn many_rows_are_spread_over_threads() {
        let x = numbers(3000 * 64, 5);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![f32::NAN; x.len()];
            pool.install(|| each_row(&Softmax, &x, 64, &mut out, 64));
            out
        };
        assert!(run(1) == run(3));
    }
}
