//! Weights as the ops read them: rows of the mapped file where the expression allows it, owned bytes where not.

use std::fmt;
use std::sync::Arc;

use diffulex_compiler::ir::{Encoding, StoredTensor, Weight, WeightError, WeightExpr, WeightSource};
use diffulex_compiler::quant::{Encoded, Rows};
use rayon::prelude::*;

use super::error::LowerError;
use super::kernels::rows as rows_of;

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
    Owned(Encoded),
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
    pub(super) fn read<R>(&self, f: impl FnOnce(&[Rows<'_>]) -> R) -> Result<R, WeightError> {
        let rows: Vec<Rows<'_>> = self.pieces.iter().map(|p| self.piece(p)).collect::<Result<_, _>>()?;
        Ok(f(&rows))
    }

    fn piece<'a>(&'a self, piece: &'a Piece) -> Result<Rows<'a>, WeightError> {
        match piece {
            Piece::Owned(rows) => Ok(rows.rows(self.encoding, self.columns)),
            Piece::Stored { tensor, rows } => {
                let stored = self.source.tensor(tensor)?.rows();
                let few = || WeightError::Unfit {
                    name: tensor.clone(),
                    what: format!("has {} rows, too few for {rows}", stored.count()),
                };
                (stored.count() >= *rows).then(|| stored.range(0, *rows)).ok_or_else(few)
            }
        }
    }

    /// Appends row `i`, which is below `rows`.
    pub(super) fn row(&self, mut i: usize, out: &mut Vec<f32>) -> Result<(), WeightError> {
        for piece in &self.pieces {
            let rows = self.piece(piece)?;
            if i < rows.count() {
                rows.range(i, i + 1).decode(out);
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
fn first_not_finite(rows: Rows<'_>) -> Option<(usize, usize)> {
    let block = ((1 << 20) / rows.encoding.row_bytes(rows.columns).max(1)).max(1);
    let starts = (0..rows.count()).into_par_iter().step_by(block);
    let bad = |from: usize| {
        let (row, column) = rows_of::first_not_finite(&rows.range(from, rows.count().min(from + block)))?;
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
        let StoredTensor { ty, packing, .. } = source.tensor(name)?;
        // The kernels read whole rows.
        let alike = ty.encoding == weight.ty.encoding && packing.grid == weight.grid && !packing.turned;
        if !alike || ty.columns() != weight.ty.columns() {
            return Ok(None);
        }
        let rows = ty.rows().min(left);
        left -= rows;
        pieces.push(Piece::Stored { tensor: name.clone(), rows });
    }
    Ok((left == 0).then_some(pieces))
}

/// The rows of an expression in the weight's encoding, computed on all cores.
fn computed(weight: &Weight, source: &dyn WeightSource) -> Result<Encoded, WeightError> {
    let (width, scales, all) = (weight.ty.row_bytes(), weight.ty.scale_bytes(), weight.ty.rows());
    let rows = (CHUNK / width.max(1)).max(1);
    let mut whole = Encoded { values: vec![0; all * width], scales: vec![0; all * scales], grid: weight.grid };
    let numbers = whole.values.par_chunks_mut((rows * width).max(1));
    // A chunk has no scales where the encoding has none.
    let mut parts: Vec<&mut [u8]> = match scales {
        0 => (0..all.div_ceil(rows)).map(|_| &mut [][..]).collect(),
        _ => whole.scales.chunks_mut(rows * scales).collect(),
    };
    numbers.zip(parts.par_iter_mut()).enumerate().try_for_each(|(i, (numbers, scales))| {
        let encoded = encoded_rows(weight, source, i * rows, numbers.len() / width)?;
        numbers.copy_from_slice(&encoded.values);
        scales.copy_from_slice(&encoded.scales);
        Ok(())
    })?;
    weight.expr.release(source, weight.ty.columns(), 0..all);
    Ok(whole)
}

/// Some rows of an expression in the weight's encoding.
pub(super) fn encoded_rows(
    weight: &Weight,
    source: &dyn WeightSource,
    first: usize,
    count: usize,
) -> Result<Encoded, WeightError> {
    let (mut numbers, mut rows) = (Vec::with_capacity(count * weight.ty.columns()), Encoded::default());
    weight.encode(source, first..first + count, &mut numbers, &mut rows)?;
    Ok(rows)
}

/// All numbers of a weight in f32, as its encoding keeps them.
pub(super) fn numbers(weight: &Weight, source: &dyn WeightSource) -> Result<Vec<f32>, LowerError> {
    let rows = computed(weight, source).map_err(|source| LowerError::Weight { weight: weight.name.clone(), source })?;
    let mut numbers = Vec::with_capacity(weight.ty.rows() * weight.ty.columns());
    rows.rows(weight.ty.encoding, weight.ty.columns()).decode(&mut numbers);
    Ok(numbers)
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}, {}]", self.encoding, self.rows, self.columns)
    }
}
