//! Weights as the ops read them: rows of the mapped file where the expression allows it, owned bytes where not.

use std::fmt;
use std::sync::Arc;

use diffulex_compiler::ir::{Encoding, Weight, WeightError, WeightExpr, WeightSource};
use diffulex_compiler::quant;
use rayon::prelude::*;

use super::error::LowerError;
use super::kernels::rows::StoredRows;

/// Bytes of the rows that are computed at a time.
const CHUNK: usize = 1 << 16;

/// A matrix `[N, K]`.
pub(super) struct Matrix {
    source: Arc<dyn WeightSource>,
    /// How the numbers are stored.
    pub(super) encoding: Encoding,
    /// Numbers in a row (K).
    pub(super) columns: usize,
    /// Rows (N).
    pub(super) rows: usize,
    pieces: Vec<Piece>,
}

/// Some rows of a matrix.
pub(super) enum Piece {
    /// The first rows of a stored tensor.
    Stored { tensor: String, rows: usize },
    /// Rows that had to be computed.
    Owned(Vec<u8>),
}

impl Matrix {
    /// The matrix of a weight. Every number is looked at once.
    pub(super) fn new(weight: &Weight, source: &Arc<dyn WeightSource>) -> Result<Matrix, LowerError> {
        let (rows, columns) = (weight.ty.rows(), weight.ty.columns());
        let wrap = |source| LowerError::Weight { weight: weight.name.clone(), source };
        let pieces = match stored_pieces(weight, source.as_ref()).map_err(wrap)? {
            Some(pieces) => pieces,
            None => vec![Piece::Owned(computed(weight, source.as_ref()).map_err(wrap)?)],
        };
        let matrix = Matrix { source: source.clone(), encoding: weight.ty.encoding, columns, rows, pieces };
        matrix.check_finite(weight).map(|()| matrix)
    }

    /// Calls `f` with all rows.
    pub(super) fn read<R>(&self, f: impl FnOnce(&[StoredRows<'_>]) -> R) -> Result<R, WeightError> {
        let rows: Vec<StoredRows<'_>> = self.pieces.iter().map(|p| self.piece(p)).collect::<Result<_, _>>()?;
        Ok(f(&rows))
    }

    fn piece<'a>(&'a self, piece: &'a Piece) -> Result<StoredRows<'a>, WeightError> {
        let bytes = match piece {
            Piece::Owned(bytes) => bytes,
            Piece::Stored { tensor, rows } => {
                let stored = self.source.tensor(tensor)?.bytes;
                stored.get(..rows * self.encoding.row_bytes(self.columns)).ok_or_else(|| WeightError::Unfit {
                    name: tensor.clone(),
                    what: format!("has {} bytes, too few for {rows} rows", stored.len()),
                })?
            }
        };
        Ok(StoredRows { encoding: self.encoding, columns: self.columns, bytes })
    }

    /// Appends row `i`, which is below `rows`.
    pub(super) fn row(&self, mut i: usize, out: &mut Vec<f32>) -> Result<(), WeightError> {
        for piece in &self.pieces {
            let rows = self.piece(piece)?;
            if i < rows.count() {
                quant::decode(self.encoding, rows.range(i, i + 1).bytes, out);
                return Ok(());
            }
            i -= rows.count();
        }
        Ok(())
    }

    fn check_finite(&self, weight: &Weight) -> Result<(), LowerError> {
        for piece in &self.pieces {
            let Piece::Stored { tensor, .. } = piece else { continue };
            let wrap = |source| LowerError::Weight { weight: weight.name.clone(), source };
            if let Some((row, column)) = first_not_finite(self.piece(piece).map_err(wrap)?) {
                return Err(LowerError::NotFinite { weight: weight.name.clone(), tensor: tensor.clone(), row, column });
            }
        }
        Ok(())
    }
}

/// The place of the first bad number, found on all cores.
fn first_not_finite(rows: StoredRows<'_>) -> Option<(usize, usize)> {
    let block = ((1 << 20) / rows.encoding.row_bytes(rows.columns).max(1)).max(1);
    let starts = (0..rows.count()).into_par_iter().step_by(block);
    let bad = |from: usize| {
        let (row, column) = rows.range(from, rows.count().min(from + block)).first_not_finite()?;
        Some((from + row, column))
    };
    starts.find_map_first(bad)
}

/// The expression as pieces of stored tensors, if it is no more than that.
pub(super) fn stored_pieces(weight: &Weight, source: &dyn WeightSource) -> Result<Option<Vec<Piece>>, WeightError> {
    let parts = match &weight.expr {
        WeightExpr::Rows(parts) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut pieces = Vec::new();
    let mut left = weight.ty.rows();
    for part in parts {
        let WeightExpr::Stored(name) = part else { return Ok(None) };
        let ty = source.tensor(name)?.ty;
        if ty.encoding != weight.ty.encoding || ty.columns() != weight.ty.columns() {
            return Ok(None);
        }
        let rows = ty.rows().min(left);
        left -= rows;
        pieces.push(Piece::Stored { tensor: name.clone(), rows });
    }
    Ok((left == 0).then_some(pieces))
}

/// The bytes of an expression in the weight's encoding, computed on all cores.
fn computed(weight: &Weight, source: &dyn WeightSource) -> Result<Vec<u8>, WeightError> {
    let width = weight.ty.row_bytes();
    let rows = (CHUNK / width).max(1);
    let mut bytes = vec![0; weight.ty.rows() * width];
    bytes.par_chunks_mut(rows * width).enumerate().try_for_each(|(i, chunk)| {
        let encoded = encoded_rows(weight, source, i * rows, chunk.len() / width)?;
        chunk.copy_from_slice(&encoded);
        Ok(())
    })?;
    weight.expr.stored().into_iter().for_each(|name| source.release(name));
    Ok(bytes)
}

/// Some rows of an expression as bytes in the weight's encoding.
pub(super) fn encoded_rows(
    weight: &Weight,
    source: &dyn WeightSource,
    first: usize,
    count: usize,
) -> Result<Vec<u8>, WeightError> {
    let columns = weight.ty.columns();
    let mut numbers = Vec::with_capacity(count * columns);
    weight.expr.rows(source, columns, first..first + count, &mut numbers)?;
    let mut bytes = Vec::with_capacity(count * weight.ty.row_bytes());
    quant::encode(weight.ty.encoding, &numbers, &mut bytes).map_err(|i| WeightError::Overflow {
        weight: weight.name.clone(),
        row: first + i / columns,
        column: i % columns,
        value: numbers[i],
        encoding: weight.ty.encoding,
    })?;
    Ok(bytes)
}

/// All numbers of a weight in f32, as its encoding keeps them.
pub(super) fn numbers(weight: &Weight, source: &dyn WeightSource) -> Result<Vec<f32>, LowerError> {
    let bytes =
        computed(weight, source).map_err(|source| LowerError::Weight { weight: weight.name.clone(), source })?;
    let mut numbers = Vec::with_capacity(weight.ty.rows() * weight.ty.columns());
    quant::decode(weight.ty.encoding, &bytes, &mut numbers);
    Ok(numbers)
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}, {}]", self.encoding, self.rows, self.columns)
    }
}
