//! Tables whose rows are picked one by one: token embeddings, and what positions give.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use diffulex_compiler::ir::{Weight, WeightError, WeightExpr, WeightSource};

use super::error::LowerError;
use super::weights::{Matrix, encoded_rows, stored_pieces};

/// A table; rows of an expression that is more than stored rows are computed when they are asked for.
pub(super) enum Table {
    /// Stored rows.
    Matrix(Matrix),
    /// Rows of an expression, kept once computed when they are few and dear.
    Computed { source: Arc<dyn WeightSource>, weight: Weight, known: Option<Memo> },
}

/// Rows that were computed before.
#[derive(Default)]
pub(super) struct Memo(Mutex<HashMap<usize, Box<[f32]>>>);

impl Table {
    /// The table of a weight. Stored numbers are looked at once; those of other expressions when they are computed.
    pub(super) fn new(weight: &Weight, source: &Arc<dyn WeightSource>) -> Result<Table, LowerError> {
        let wrap = |source| LowerError::Weight { weight: weight.name.clone(), source };
        if stored_pieces(weight, source.as_ref()).map_err(wrap)?.is_some() {
            return Matrix::new(weight, source).map(Table::Matrix);
        }
        let known = matches!(weight.expr, WeightExpr::RopeCos(_) | WeightExpr::RopeSin(_)).then(Memo::default);
        let table = Table::Computed { source: source.clone(), weight: weight.clone(), known };
        // The last row fails where the expression has too few.
        table.row(table.rows() - 1, &mut Vec::new()).map_err(wrap).map(|()| table)
    }

    /// Rows of the table.
    pub(super) fn rows(&self) -> usize {
        match self {
            Table::Matrix(matrix) => matrix.rows,
            Table::Computed { weight, .. } => weight.ty.rows(),
        }
    }

    /// Numbers in a row.
    pub(super) fn columns(&self) -> usize {
        match self {
            Table::Matrix(matrix) => matrix.columns,
            Table::Computed { weight, .. } => weight.ty.columns(),
        }
    }

    /// Appends row `i`, which is below [`Table::rows`].
    pub(super) fn row(&self, i: usize, out: &mut Vec<f32>) -> Result<(), WeightError> {
        match self {
            Table::Matrix(matrix) => matrix.row(i, out),
            Table::Computed { source, weight, known } => {
                let compute = |out: &mut Vec<f32>| {
                    let row = encoded_rows(weight, source.as_ref(), i, 1)?;
                    row.rows(weight.ty.encoding, weight.ty.columns()).decode(out);
                    Ok(())
                };
                match known {
                    Some(memo) => memo.row(i, out, compute),
                    None => compute(out),
                }
            }
        }
    }
}

impl Memo {
    /// Appends row `i`, calling `compute` the first time.
    pub(super) fn row<E>(
        &self,
        i: usize,
        out: &mut Vec<f32>,
        compute: impl FnOnce(&mut Vec<f32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = match known.entry(i) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(place) => {
                let mut row = Vec::new();
                compute(&mut row)?;
                place.insert(row.into())
            }
        };
        out.extend_from_slice(row);
        Ok(())
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table[{}, {}]", self.rows(), self.columns())
    }
}
