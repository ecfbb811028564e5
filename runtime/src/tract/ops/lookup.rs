//! Rows picked by number: token embeddings, position tables, the rows that need logits.

use std::sync::Arc;

use diffulex_compiler::math;
use tract_core::internal::*;

use super::super::table::{Memo, Table};
use super::{Compute, View, tensor};

/// Row `ids[i]` of a table.
#[derive(Debug)]
pub(crate) struct Embed(pub(crate) Arc<Table>);

/// Row `rows[i]` of a value `[1, T, H]`.
#[derive(Debug)]
pub(crate) struct GatherRows;

/// `f(p · theta^(-2j/dim))` for positions `p`, both halves of the row alike.
pub(crate) struct RopeTable {
    /// Width of a row.
    pub(crate) dim: usize,
    /// Base of the frequencies.
    pub(crate) theta: f64,
    /// Cosine or sine.
    pub(crate) f: fn(f64) -> f64,
    /// Rows by position.
    pub(crate) known: Memo,
}

impl Compute for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [ids] = args else { bail!("embed takes one value") };
        let mut shape: TVec<usize> = ids.shape.into();
        shape.push(self.0.columns());
        let mut row = Vec::with_capacity(self.0.columns());
        tensor(&shape, |out| {
            for (id, out) in ids.data.iter().zip(out.chunks_exact_mut(self.0.columns())) {
                let id = index(*id, self.0.rows())?;
                row.clear();
                self.0.row(id, &mut row)?;
                out.copy_from_slice(&row);
            }
            Ok(())
        })
    }
}

impl Compute for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x, rows] = args else { bail!("gather_rows takes two values") };
        let &[one, t, width] = x.shape else { bail!("{:?} is not [1, T, H]", x.shape) };
        tensor(&[one, rows.data.len(), width], |out| {
            for (row, out) in rows.data.iter().zip(out.chunks_exact_mut(width)) {
                out.copy_from_slice(&x.data[index(*row, t)? * width..][..width]);
            }
            Ok(())
        })
    }
}

impl Compute for RopeTable {
    fn name(&self) -> &'static str {
        "rope_table"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [positions] = args else { bail!("rope_table takes one value") };
        let &[one, t] = positions.shape else { bail!("{:?} is not [1, T]", positions.shape) };
        let mut row = Vec::with_capacity(self.dim);
        tensor(&[one, 1, t, self.dim], |out| {
            for (position, out) in positions.data.iter().zip(out.chunks_exact_mut(self.dim)) {
                row.clear();
                self.known.row(*position as usize, &mut row, |row| self.compute_row(f64::from(*position), row))?;
                out.copy_from_slice(&row);
            }
            Ok(())
        })
    }
}

impl RopeTable {
    fn compute_row(&self, position: f64, row: &mut Vec<f32>) -> TractResult<()> {
        let value = |j| (self.f)(math::rope_angle(position, self.theta, j, self.dim)) as f32;
        row.extend((0..self.dim / 2).map(value));
        row.extend_from_within(..);
        Ok(())
    }
}

impl std::fmt::Debug for RopeTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rope_table(dim = {}, theta = {})", self.dim, self.theta)
    }
}

/// A number as an index below `rows`.
fn index(number: f32, rows: usize) -> TractResult<usize> {
    let index = if number >= 0.0 { number as usize } else { usize::MAX };
    ensure!(index < rows, "{number} is outside a table of {rows} rows");
    Ok(index)
}
