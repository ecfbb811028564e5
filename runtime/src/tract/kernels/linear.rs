//! `x · wᵀ + bias` over all cores: each takes some rows of the weight, all tokens, and writes its own columns.

use diffulex_compiler::ir::Encoding;
use rayon::prelude::*;

use super::dot::Dot;
use super::rows::{Bf16, F16, F32, Format, StoredRows};
use super::{SMALL, run};

/// `out[m][n] = x[m] · w[n] + bias[n]`; `w` is the rows of all pieces, one after another.
pub(crate) fn linear(w: &[StoredRows<'_>], x: &[f32], k: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    let n: usize = w.iter().map(StoredRows::count).sum();
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
fn some_rows(w: &[StoredRows<'_>], x: &[f32], k: usize, bias: Option<&[f32]>, first: usize, out: &mut [&mut [f32]]) {
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
            }
        }
        start += piece.count();
    }
    let Some(bias) = bias.map(|bias| &bias[first..end]) else { return };
    for row in out {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

fn dots<F: Format<Item = u8>>(rows: StoredRows<'_>, x: &[f32], k: usize, out: &mut [&mut [f32]]) {
    run(Dot::<F> { w: rows.bytes, x, k, out });
}
