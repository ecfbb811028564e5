//! Attention over keys and values that lie in pieces: the committed cache and this step's rows, neither copied.
//!
//! A key that the mask hides is not looked at: for each token the visible keys are listed as ranges, in order, and
//! neighbouring tokens with the same ranges are done together, all query heads that share a key/value head at once.
//! So the result depends on the visible keys in their order, not on how many hidden ones lie between them nor on the
//! piece they lie in: a pass over a cache gives the same bits as the pass that filled it.

use std::ops::Range;

use rayon::prelude::*;

use super::SMALL;
use super::dot::Dot;
use super::mix::Mix;
use super::rows::Native;
use super::rowwise::exp_below_max;
use super::simd::{Kernel, Simd, run};
use crate::engine::HIDDEN;

/// Query rows of one job: four tiles of the largest height.
const JOB_ROWS: usize = 24;

/// `[KV, len, D]` keys or values.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// The numbers.
    pub(crate) data: &'a [f32],
    /// Positions.
    pub(crate) len: usize,
}

/// The operands.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// `[H, T, D]`.
    pub(crate) q: &'a [f32],
    /// All keys, piece after piece.
    pub(crate) keys: &'a [Piece<'a>],
    /// All values; the pieces may be cut elsewhere.
    pub(crate) values: &'a [Piece<'a>],
    /// `[T, S]`, added to the scores.
    pub(crate) mask: &'a [f32],
    /// Query heads (H).
    pub(crate) heads: usize,
    /// Key/value heads (KV), which divide H.
    pub(crate) kv_heads: usize,
    /// Tokens (T), at least 1.
    pub(crate) tokens: usize,
    /// Width of a head (D), at least 1.
    pub(crate) dim: usize,
    /// Multiplies the scores.
    pub(crate) scale: f32,
}

/// Neighbouring tokens that see the same keys.
struct Group {
    tokens: Range<usize>,
    visible: Vec<Range<usize>>,
}

/// Rows of a piece: `(piece, positions)`.
type Segment = (usize, Range<usize>);

/// Some query rows of one group under one key/value head.
struct Job<'a> {
    all: Attention<'a>,
    group: &'a Group,
    kv_head: usize,
    /// Counted over the query heads of the key/value head, then the tokens of the group.
    rows: Range<usize>,
}

/// `softmax(q · kᵀ · scale + mask) · v` into `out`, `[H, T, D]`. A token that sees nothing gets zeros.
pub(crate) fn attention(all: &Attention<'_>, out: &mut [f32]) {
    let groups = groups(all.mask, all.tokens);
    let shared = all.heads / all.kv_heads;
    let mut jobs = Vec::new();
    for kv_head in 0..all.kv_heads {
        for group in &groups {
            let count = shared * group.tokens.len();
            let starts = (0..count).step_by(JOB_ROWS);
            jobs.extend(starts.map(|i| Job { all: *all, group, kv_head, rows: i..count.min(i + JOB_ROWS) }));
        }
    }
    let work = all.q.len() * all.mask.len() / all.tokens;
    let mut write = |job: &Job<'_>, mixed: Vec<f32>| {
        for (row, from) in job.rows.clone().zip(mixed.chunks_exact(all.dim)) {
            out[job.query(row) * all.dim..][..all.dim].copy_from_slice(from);
        }
    };
    if work < SMALL || jobs.len() == 1 {
        jobs.iter().for_each(|job| write(job, run(job)));
    } else {
        let mixed: Vec<Vec<f32>> = jobs.par_iter().map(run).collect();
        jobs.iter().zip(mixed).for_each(|(job, mixed)| write(job, mixed));
    }
}

/// Tokens with equal sets of visible keys, put together where they are neighbours.
fn groups(mask: &[f32], tokens: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (token, row) in mask.chunks_exact(mask.len() / tokens).enumerate() {
        let mut visible = Vec::new();
        let mut at = 0;
        for run in row.chunk_by(|a, b| hidden(*a) == hidden(*b)) {
            if !hidden(run[0]) {
                visible.push(at..at + run.len());
            }
            at += run.len();
        }
        match groups.last_mut() {
            Some(group) if group.visible == visible => group.tokens.end += 1,
            _ => groups.push(Group { tokens: token..token + 1, visible }),
        }
    }
    groups
}

/// Whether a mask entry hides its key. An entry a tenth of the way to [`HIDDEN`] hides as well.
fn hidden(mask: f32) -> bool {
    mask <= HIDDEN / 10.0
}

/// The visible positions as rows of pieces.
fn segments(visible: &[Range<usize>], pieces: &[Piece<'_>]) -> Vec<Segment> {
    let mut segments = Vec::new();
    for range in visible {
        let mut start = 0;
        for (i, piece) in pieces.iter().enumerate() {
            let (from, to) = (range.start.max(start), range.end.min(start + piece.len));
            if from < to {
                segments.push((i, from - start..to - start));
            }
            start += piece.len;
        }
    }
    segments
}

impl Job<'_> {
    /// The row of the whole query that this job calls `row`.
    fn query(&self, row: usize) -> usize {
        let (shared, tokens) = (self.all.heads / self.all.kv_heads, self.group.tokens.len());
        (self.kv_head * shared + row / tokens) * self.all.tokens + self.token(row)
    }

    fn token(&self, row: usize) -> usize {
        self.group.tokens.start + row % self.group.tokens.len()
    }

    /// The rows of a segment under this job's head.
    fn slice<'a>(&self, pieces: &[Piece<'a>], (piece, range): &Segment) -> &'a [f32] {
        let (Piece { data, len }, d) = (pieces[*piece], self.all.dim);
        &data[(self.kv_head * len + range.start) * d..(self.kv_head * len + range.end) * d]
    }
}

impl Kernel for &Job<'_> {
    /// `[rows, D]`.
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let (all, d) = (&self.all, self.all.dim);
        let mut out = vec![0.0; self.rows.len() * d];
        let count: usize = self.group.visible.iter().map(Range::len).sum();
        if count == 0 {
            return out;
        }
        let queries: Vec<f32> = self.rows.clone().flat_map(|row| &all.q[self.query(row) * d..][..d]).copied().collect();
        let mut scores = vec![0.0; self.rows.len() * count];
        let mut at = 0;
        for segment in segments(&self.group.visible, all.keys) {
            let w = self.slice(all.keys, &segment);
            let len = segment.1.len();
            let mut columns: Vec<&mut [f32]> =
                scores.chunks_exact_mut(count).map(|row| &mut row[at..at + len]).collect();
            Dot::<Native> { w, x: &queries, k: d, out: &mut columns }.run(simd);
            at += len;
        }
        let width = all.mask.len() / all.tokens;
        let mut sums = Vec::with_capacity(self.rows.len());
        for (row, scores) in self.rows.clone().zip(scores.chunks_exact_mut(count)) {
            let mask = &all.mask[self.token(row) * width..][..width];
            let mut left = &mut *scores;
            for range in &self.group.visible {
                let (now, later) = left.split_at_mut(range.len());
                now.iter_mut().zip(&mask[range.clone()]).for_each(|(s, m)| *s = *s * all.scale + m);
                left = later;
            }
            sums.push(exp_below_max(simd, scores));
        }
        let values: Vec<&[f32]> =
            segments(&self.group.visible, all.values).iter().map(|s| self.slice(all.values, s)).collect();
        Mix { weights: &scores, count, values: &values, d, out: &mut out }.run(simd);
        for (row, sum) in out.chunks_exact_mut(d).zip(sums) {
            let factor = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use diffulex_compiler::math;
    use proptest::prelude::*;

    use super::super::simd::tests::{near, numbers, run_all};
    use super::*;

    /// One query row at a time, over keys and values as they would lie without a cache, in f64.
    fn reference(all: &Attention<'_>, keys: &[f32], values: &[f32]) -> Vec<f64> {
        let (d, s) = (all.dim, all.mask.len() / all.tokens);
        let row = |i: usize| {
            let (head, token) = (i / all.tokens, i % all.tokens);
            let first = head / (all.heads / all.kv_heads) * s;
            let mask = &all.mask[token * s..][..s];
            let visible: Vec<usize> = (0..s).filter(|&j| mask[j] > -1e29).collect();
            let dot = |j: usize| -> f64 {
                let (q, k) = (&all.q[i * d..][..d], &keys[(first + j) * d..][..d]);
                q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let scores: Vec<f64> =
                visible.iter().map(|&j| dot(j) * f64::from(all.scale) + f64::from(mask[j])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| math::exp(s - max)).collect();
            let sum: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let mixed = move |c: usize| {
                let value = |j: usize| f64::from(values[(first + j) * d + c]);
                visible.iter().zip(&weights).map(|(&j, w)| w * value(j)).sum::<f64>() / sum
            };
            (0..d).map(mixed).collect::<Vec<f64>>()
        };
        (0..all.heads * all.tokens).flat_map(row).collect()
    }

    /// Positions `range` of each head of `[KV, S, D]`.
    fn cut(data: &[f32], s: usize, d: usize, range: Range<usize>) -> Vec<f32> {
        data.chunks(s * d).flat_map(|head| &head[range.start * d..range.end * d]).copied().collect()
    }

    fn mixed(all: &Attention<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; all.q.len()];
        attention(all, &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mixtures_are_right_wherever_the_rows_lie(
            kv_heads in 1usize..4, shared in 1usize..4, tokens in 1usize..9, s in 1usize..40, dim in 1usize..70,
            at in 0usize..40, kind in 0..4, seed: u64,
        ) {
            let heads = kv_heads * shared;
            let q = numbers(heads * tokens * dim, seed);
            let (k, v) = (numbers(kv_heads * s * dim, seed ^ 1), numbers(kv_heads * s * dim, seed ^ 2));
            let mask: Vec<f32> = numbers(tokens * s, seed ^ 3).iter().enumerate().map(|(i, &x)| match kind {
                0 => 0.0,
                // Equal for all tokens, different for each, or hidden in pairs of tokens.
                1 if i % s % 3 == 1 => HIDDEN,
                2 if x > 0.0 => HIDDEN,
                3 if i % s > i / s / 2 => HIDDEN,
                _ => x,
            }).collect();
            let whole = [Piece { data: &k, len: s }];
            let values = [Piece { data: &v, len: s }];
            let all = Attention { q: &q, keys: &whole, values: &values, mask: &mask, heads, kv_heads, tokens, dim, scale: 0.3 };
            let out = mixed(&all);
            near(&out, &reference(&all, &k, &v), 2e-6);

            let at = at.min(s);
            let parts = [&k, &v].map(|x| [cut(x, s, dim, 0..at), cut(x, s, dim, at..s)]);
            let pieces = |[a, b]: &'_ [Vec<f32>; 2]| [(a.clone(), at), (b.clone(), s - at)];
            let (keys, other) = (pieces(&parts[0]), pieces(&parts[1]));
            let keys = keys.each_ref().map(|(data, len)| Piece { data, len: *len });
            let other = other.each_ref().map(|(data, len)| Piece { data, len: *len });
            assert!(mixed(&Attention { keys: &keys, values: &other, ..all }) == out, "cut at {at}");
            assert!(mixed(&Attention { keys: &keys, ..all }) == out, "only the keys cut at {at}");

            for group in &groups(&mask, tokens) {
                let rows = 0..shared * group.tokens.len();
                let outs = run_all(&&Job { all, group, kv_head: kv_heads - 1, rows });
                outs.iter().for_each(|one| assert!(*one == outs[0], "instructions give different bits"));
            }
        }
    }

    #[test]
    fn what_is_hidden_is_not_read() {
        let (q, k, v) = (numbers(32, 1), numbers(16 * 8, 2), numbers(16 * 8, 3));
        let hole = |x: &[f32]| {
            let garbage = vec![f32::NAN; 5 * 8];
            [&garbage[..], &x[..3 * 8], &garbage, &x[3 * 8..], &garbage].concat()
        };
        let shown = [vec![0.0; 3], vec![0.5; 13]];
        let hide = vec![HIDDEN; 5];
        let tight: Vec<f32> = (0..4).flat_map(|_| shown.concat()).collect();
        let loose: Vec<f32> =
            (0..4).flat_map(|_| [&hide, &shown[0], &hide, &shown[1], &hide].map(|x| x.as_slice()).concat()).collect();
        let (wide_k, wide_v) = (hole(&k), hole(&v));
        let (keys, values) = ([Piece { data: &k, len: 16 }], [Piece { data: &v, len: 16 }]);
        let all = Attention {
            q: &q,
            keys: &keys,
            values: &values,
            mask: &tight,
            heads: 1,
            kv_heads: 1,
            tokens: 4,
            dim: 8,
            scale: 1.0,
        };
        let expected = mixed(&all);
        let (keys, values) = ([Piece { data: &wide_k, len: 31 }], [Piece { data: &wide_v, len: 31 }]);
        assert_eq!(mixed(&Attention { keys: &keys, values: &values, mask: &loose, ..all }), expected);
        assert_eq!(mixed(&Attention { keys: &keys, values: &values, mask: &vec![HIDDEN; 4 * 31], ..all }), [0.0; 32]);
    }

    #[test]
    fn threads_do_not_matter() {
        let (q, k, v) = (numbers(8 * 30 * 64, 1), numbers(4 * 200 * 64, 2), numbers(4 * 200 * 64, 3));
        let mask: Vec<f32> = (0..30 * 200).map(|i| if i % 200 > 170 + i / 200 { HIDDEN } else { 0.0 }).collect();
        let (keys, values) = ([Piece { data: &k, len: 200 }], [Piece { data: &v, len: 200 }]);
        let all = Attention {
            q: &q,
            keys: &keys,
            values: &values,
            mask: &mask,
            heads: 8,
            kv_heads: 4,
            tokens: 30,
            dim: 64,
            scale: 0.1,
        };
        let run =
            |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| mixed(&all));
        assert!(run(1) == run(2) && run(1) == run(5));
    }
}
