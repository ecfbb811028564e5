//! Weights on their way to a file: evaluated and encoded by all cores, some rows at a time, handed on in order.
//!
//! While one batch of chunks is written the next one is made, so no more than two batches are in memory, whatever the
//! model weighs. Chunks do not depend on the number of cores, nor do the sums of their errors.

use std::ops::Range;

use diffulex_compiler::ir::{Weight, WeightError, WeightSource};
use diffulex_compiler::quant::{Encoded, Rounding};
use rayon::prelude::*;

/// Numbers of a chunk, about: a chunk holds whole rows.
const CHUNK: usize = 1 << 18;
/// Most chunks of a batch: what bounds the memory on machines with many cores.
const BATCH: usize = 16;

/// Some rows of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    /// The weight.
    pub(crate) weight: &'a Weight,
    /// Which rows.
    pub(crate) range: Range<usize>,
}

impl Part<'_> {
    /// Tells the source that these rows are done with, and once more those before them: the system maps some pages around
    /// each that is read, so reading what follows brought the last of them back.
    fn release(&self, source: &dyn WeightSource) {
        let Part { weight, range } = self;
        let before = range.start.saturating_sub(range.len());
        weight.expr.release(source, weight.ty.columns(), before..range.end);
    }
}

/// Rows in their encoding, and what that cost.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Numbers and scales.
    pub(crate) encoded: Encoded,
    /// Their errors.
    pub(crate) rounding: Rounding,
}

/// The rows of a weight, chunk by chunk.
pub(crate) fn chunks(weight: &Weight) -> impl Iterator<Item = Part<'_>> {
    chunks_of(weight, 0..weight.ty.rows())
}

/// Some rows of a weight, chunk by chunk.
pub(crate) fn chunks_of(weight: &Weight, rows: Range<usize>) -> impl Iterator<Item = Part<'_>> {
    let step = (CHUNK / weight.ty.columns().max(1)).max(1);
    rows.clone().step_by(step).map(move |start| Part { weight, range: start..rows.end.min(start + step) })
}

/// Encodes all chunks and gives them to `sink` in order.
///
/// # Errors
/// The first chunk, in order, that cannot be evaluated or encoded, or that `sink` refuses.
pub(crate) fn encode<'a, E: From<WeightError>>(
    source: &dyn WeightSource,
    chunks: impl Iterator<Item = Part<'a>>,
    sink: &mut dyn FnMut(&Part<'a>, &Chunk) -> Result<(), E>,
) -> Result<(), E> {
    let batch = rayon::current_num_threads().clamp(1, BATCH);
    let mut chunks = chunks.peekable();
    let mut made: Vec<(Part<'a>, Result<Chunk, WeightError>)> = Vec::new();
    while chunks.peek().is_some() || !made.is_empty() {
        let next: Vec<Part<'a>> = chunks.by_ref().take(batch).collect();
        let mut making = Vec::new();
        rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                let make = |rows: Part<'a>| {
                    let chunk = chunk(source, &rows);
                    (rows, chunk)
                };
                making = next.into_par_iter().map(make).collect();
            });
            std::mem::take(&mut made).into_iter().try_for_each(|(rows, chunk)| {
                sink(&rows, &chunk?)?;
                rows.release(source);
                Ok::<(), E>(())
            })
        })?;
        made = making;
    }
    Ok(())
}

fn chunk(source: &dyn WeightSource, rows: &Part<'_>) -> Result<Chunk, WeightError> {
    let Part { weight, range } = rows;
    let (encoding, columns) = (weight.ty.encoding, weight.ty.columns());
    let (mut exact, mut kept, mut chunk) = (Vec::new(), Vec::new(), Chunk::default());
    weight.encode(source, range.clone(), &mut exact, &mut chunk.encoded)?;
    chunk.encoded.rows(encoding, columns).decode(&mut kept);
    chunk.rounding.add(&exact, &kept);
    Ok(chunk)
}
