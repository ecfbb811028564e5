//! `x · wᵀ + bias` over all cores: each takes some rows of the weight, all tokens, and writes its own columns.

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::Rows;
use rayon::prelude::*;

use super::dot::Dot;
use super::rows::{Bf16, F16, F32, Format, Native};
use super::{SMALL, run};

/// `out[m][n] = x[m] · w[n] + bias[n]`; `w` is the rows of all pieces, one after another.
pub(crate) fn linear(w: &[Rows<'_>], x: &[f32], k: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    let n: usize = w.iter().map(Rows::count).sum();
    if x.is_empty() || n == 0 {
        return;
    }
    let width = rows_a_job(x.len(), n);
    let mut jobs: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(width)).map(|_| Vec::new()).collect();
    for row in out.chunks_exact_mut(n) {
        for (job, part) in jobs.iter_mut().zip(row.chunks_mut(width)) {
            job.push(part);
        }
    }
    if let [job] = jobs.as_mut_slice() {
        return some_rows(w, x, k, bias, 0, job);
    }
    jobs.par_iter_mut().enumerate().for_each(|(i, job)| some_rows(w, x, k, bias, i * width, job));
}

/// Rows that one job takes: enough to be worth a thread, few enough that the threads end together.
fn rows_a_job(numbers: usize, n: usize) -> usize {
    let fair = n.div_ceil(8 * rayon::current_num_threads());
    fair.max(SMALL.div_ceil(numbers)).next_multiple_of(4)
}

/// The columns of `out` from `first` on.
fn some_rows(w: &[Rows<'_>], x: &[f32], k: usize, bias: Option<&[f32]>, first: usize, out: &mut [&mut [f32]]) {
    let end = first + out.first().map_or(0, |row| row.len());
    let mut start = 0;
    for piece in w {
        let (from, to) = (first.max(start), end.min(start + piece.count()));
        if from < to {
            let rows = piece.range(from - start, to - start);
            let mut columns: Vec<&mut [f32]> = out.iter_mut().map(|row| &mut row[from - first..to - first]).collect();
            match piece.encoding {
                Encoding::F32 => dots::<F32>(rows, x, k, &mut columns),
                Encoding::F16 => dots::<F16>(rows, x, k, &mut columns),
                Encoding::BF16 => dots::<Bf16>(rows, x, k, &mut columns),
                _ => decoded_dots(rows, x, k, &mut columns),
            }
        }
        start += piece.count();
    }
    let Some(bias) = bias.map(|bias| &bias[first..end]) else { return };
    for row in out {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

fn dots<F: Format<Item = u8>>(rows: Rows<'_>, x: &[f32], k: usize, out: &mut [&mut [f32]]) {
    run(Dot::<F> { w: rows.values, x, k, out });
}

/// Quantized rows that are decoded at a time.
const DECODED: usize = 16;

/// Dot products with quantized rows, which are decoded some at a time.
fn decoded_dots(rows: Rows<'_>, x: &[f32], k: usize, out: &mut [&mut [f32]]) {
    let mut decoded = Vec::with_capacity(DECODED * k);
    for from in (0..rows.count()).step_by(DECODED) {
        let to = rows.count().min(from + DECODED);
        decoded.clear();
        rows.range(from, to).decode(&mut decoded);
        let mut columns: Vec<&mut [f32]> = out.iter_mut().map(|row| &mut row[from..to]).collect();
        run(Dot::<Native> { w: &decoded, x, k, out: &mut columns });
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::first_not_finite;
    use super::super::simd::tests::{near, numbers};
    use super::*;
    use diffulex_compiler::quant::{self, Encoded};

    #[test]
    fn pieces_biases_and_threads() {
        for (m, n, k) in [(1, 1, 1), (3, 700, 130), (33, 257, 65), (4, 4096, 64)] {
            let (x, w, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
            let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let row = |x| w.chunks(k).zip(&bias).map(move |(w, b)| dot(x, w) + f64::from(*b));
            let expected: Vec<f64> = x.chunks(k).flat_map(row).collect();
            let mut stored = Encoded::default();
            quant::encode(Encoding::F32, quant::Search::Max, k, &w, &mut stored).unwrap();
            let all = stored.rows(Encoding::F32, k);
            let cut = [all.range(0, n / 3), all.range(n / 3, n / 3), all.range(n / 3, n)];
            let mut first = vec![f32::NAN; m * n];
            linear(&[all], &x, k, Some(&bias), &mut first);
            near(&first, &expected, 2e-6);
            for threads in [1, 2, 3, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = vec![f32::NAN; m * n];
                pool.install(|| linear(&cut, &x, k, Some(&bias), &mut out));
                assert!(out == first, "{m} x {n} x {k} on {threads} threads");
            }
        }
    }

    #[test]
    fn no_tokens_or_no_rows_are_no_trouble() {
        let none = Rows {
            encoding: Encoding::BF16,
            packing: Default::default(),
            columns: 4,
            values: &[],
            scales: &[],
            of: None,
        };
        linear(&[none], &[1.0; 8], 4, None, &mut []);
        linear(&[none], &[], 4, None, &mut []);
    }

    /// Rows of every encoding, whole and cut, against the numbers that they hold.
    #[test]
    fn quantized_rows_are_their_numbers() {
        for (m, n, k) in [(1, 5, 128), (7, 130, 256), (3, 40, 384)] {
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            for &encoding in Encoding::ALL {
                let (mut stored, mut decoded) = (Encoded::default(), Vec::new());
                quant::encode(encoding, quant::Search::Max, k, &w, &mut stored).unwrap();
                let all = stored.rows(encoding, k);
                all.decode(&mut decoded);
                let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let expected: Vec<f64> =
                    x.chunks(k).flat_map(|x| decoded.chunks(k).map(move |w| dot(x, w)).collect::<Vec<f64>>()).collect();
                for pieces in [&[all][..], &[all.range(0, 3), all.range(3, n)]] {
                    let mut out = vec![f32::NAN; m * n];
                    linear(pieces, &x, k, None, &mut out);
                    near(&out, &expected, 2e-6);
                }
            }
        }
    }

    #[test]
    fn infinities_are_found() {
        let numbers = [1.0, -2.0, 65504.0, 0.0, 1e-7, 3.0];
        for encoding in [Encoding::F32, Encoding::F16, Encoding::BF16] {
            let mut stored = Encoded::default();
            quant::encode(encoding, quant::Search::Max, 3, &numbers, &mut stored).unwrap();
            assert_eq!(first_not_finite(&stored.rows(encoding, 3)), None);
            let width = encoding.row_bytes(1);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let bytes = match encoding {
                    Encoding::F16 => half::f16::from_f32(bad).to_le_bytes().to_vec(),
                    Encoding::BF16 => half::bf16::from_f32(bad).to_le_bytes().to_vec(),
                    _ => bad.to_le_bytes().to_vec(),
                };
                let mut stored = stored.clone();
                stored.values[4 * width..5 * width].copy_from_slice(&bytes);
                assert_eq!(first_not_finite(&stored.rows(encoding, 3)), Some((1, 1)));
            }
        }
        let numbers = [1.0; 3 * 128];
        for (encoding, at, place) in [(Encoding::Int8Row, 4..8, (1, 0)), (Encoding::Int4G32, 10..12, (1, 32))] {
            let mut stored = Encoded::default();
            quant::encode(encoding, quant::Search::Max, 128, &numbers, &mut stored).unwrap();
            assert_eq!(first_not_finite(&stored.rows(encoding, 128)), None);
            stored.scales[at].fill(0xff);
            assert_eq!(first_not_finite(&stored.rows(encoding, 128)), Some(place));
        }
    }
}
