//! `matmul` of two values, leading axes broadcast.

use rayon::prelude::*;
use tract_core::internal::*;

use super::super::kernels::dot::Dot;
use super::super::kernels::rows::Native;
use super::super::kernels::{SMALL, run};
use super::{Compute, View, tensor};

/// `[.., M, K] · [.., K, N]`.
#[derive(Debug)]
pub(crate) struct Matmul {
    /// The second operand is stored `[.., N, K]`.
    pub(crate) transpose: bool,
}

impl Compute for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [a, b] = args else { bail!("matmul takes two values") };
        let (Some((a_lead, &[m, k])), Some((b_lead, &b_last))) =
            (a.shape.split_last_chunk(), b.shape.split_last_chunk::<2>())
        else {
            bail!("{:?} and {:?} are not matrices", a.shape, b.shape)
        };
        let [n, bk] = if self.transpose { b_last } else { [b_last[1], b_last[0]] };
        ensure!(k == bk && k > 0, "{:?} and {:?} do not multiply", a.shape, b.shape);
        let mut shape = tract_core::broadcast::multi_broadcast(&[a_lead, b_lead])?;
        let lead = shape.clone();
        shape.extend([m, n]);
        tensor(&shape, |out| {
            let product = |(i, out): (usize, &mut [f32])| {
                let a = &a.data[broadcast_index(a_lead, &lead, i) * m * k..][..m * k];
                let b = &b.data[broadcast_index(b_lead, &lead, i) * n * k..][..n * k];
                let mut rows: Vec<&mut [f32]> = out.chunks_exact_mut(n).collect();
                match self.transpose {
                    true => run(Dot::<Native> { w: b, x: a, k, out: &mut rows }),
                    false => run(Dot::<Native> { w: &turned(b, k, n), x: a, k, out: &mut rows }),
                }
            };
            match out.len() * k < SMALL {
                true => out.chunks_exact_mut(m * n).enumerate().for_each(product),
                false => out.par_chunks_exact_mut(m * n).enumerate().for_each(product),
            }
            Ok(())
        })
    }
}

/// `[K, N]` as `[N, K]`.
fn turned(b: &[f32], k: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; b.len()];
    for (j, row) in b.chunks_exact(n).enumerate() {
        for (i, &x) in row.iter().enumerate() {
            out[i * k + j] = x;
        }
    }
    out
}

/// Which matrix of an operand with leading axes `own` belongs to matrix `index` of the broadcast axes `shape`.
fn broadcast_index(own: &[usize], shape: &[usize], mut index: usize) -> usize {
    let (mut offset, mut stride) = (0, 1);
    for (i, &size) in shape.iter().enumerate().rev() {
        let at = index % size;
        index /= size;
        if let Some(own) = (i + own.len()).checked_sub(shape.len()).map(|j| own[j]) {
            offset += if own == 1 { 0 } else { at * stride };
            stride *= own;
        }
    }
    offset
}
