//! Weights on their way to a file: evaluated and encoded by all cores, some rows at a time, handed on in order.
//!
//! While one batch of chunks is written the next one is made, so no more than two batches are in memory, whatever the
//! model weighs. Chunks do not depend on the number of cores, nor do the sums of their errors.
//!
//! Weights that are in the file already, by what a journal knows, are not made again: zeros go in their place through the
//! writers, which the file throws away.

use std::ops::Range;

use diffulex_compiler::ir::{Weight, WeightError, WeightSource};
use diffulex_compiler::quant::{Encoded, Rounding};
use rayon::prelude::*;

use crate::artifact::Journal;
use crate::emit::EmitError;

/// Numbers of a chunk, about: a chunk holds whole rows.
const CHUNK: usize = 1 << 18;
/// Most chunks of a batch: what bounds the memory on machines with many cores.
const BATCH: usize = 16;

/// Told of a weight by its name, and whether an interrupted build had written it.
pub type Watch<'a> = dyn Fn(&str, bool) + 'a;

/// Where the numbers of weights come from, and which of them are written already.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Gives the numbers.
    pub source: &'a dyn WeightSource,
    /// Knows what an interrupted build wrote, and is told what this one writes.
    pub journal: Option<&'a Journal>,
    /// Told of each weight that is written, or part of one that is stored by itself.
    pub watch: Option<&'a Watch<'a>>,
}

impl<'a> Work<'a> {
    /// All of it is yet to be done, and nobody takes notes.
    pub fn new(source: &'a dyn WeightSource) -> Work<'a> {
        Work { source, journal: None, watch: None }
    }
}

/// Some rows of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    /// The weight.
    pub(crate) weight: &'a Weight,
    /// Which rows.
    pub(crate) range: Range<usize>,
    /// The last of those that are stored in one: nothing of them is kept back when they are written.
    pub(crate) last: bool,
    /// Something of them goes elsewhere than to the file: they are made in any case.
    pub(crate) kept: bool,
}

impl Part<'_> {
    /// Tells the source that these rows are done with, and once more those before them: the system maps some pages around
    /// each that is read, so reading what follows brought the last of them back.
    fn release(&self, source: &dyn WeightSource) {
        let Part { weight, range, .. } = self;
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
    rows.clone().step_by(step).map(move |start| {
        let range = start..rows.end.min(start + step);
        Part { weight, last: range.end == rows.end, range, kept: false }
    })
}

/// Encodes all chunks and gives them to `sink` in order.
///
/// # Errors
/// The first chunk, in order, that cannot be evaluated or encoded, or that `sink` refuses.
pub(crate) fn encode<'a>(
    work: Work<'_>,
    chunks: impl Iterator<Item = Part<'a>>,
    sink: &mut dyn FnMut(&Part<'a>, &Chunk) -> Result<(), EmitError>,
) -> Result<(), EmitError> {
    let Work { source, journal, watch } = work;
    let batch = rayon::current_num_threads().clamp(1, BATCH);
    let mut chunks = chunks.peekable();
    let mut made: Vec<(Part<'a>, bool, Result<Chunk, WeightError>)> = Vec::new();
    let mut rounding = Rounding::default();
    while chunks.peek().is_some() || !made.is_empty() {
        let known = |part: &Part<'_>| journal.map_or(Ok(None), |journal| journal.known(&part.weight.name, part.last));
        let next = chunks.by_ref().take(batch).map(|part| Ok((known(&part)?, part)));
        let next: Vec<(Option<Rounding>, Part<'a>)> = next.collect::<Result<_, EmitError>>()?;
        let mut making = Vec::new();
        rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                let make = |(known, part): (Option<Rounding>, Part<'a>)| {
                    let there = known.is_some();
                    let chunk = match known {
                        Some(rounding) if !part.kept => Ok(placeholder(&part, rounding)),
                        _ => chunk(source, &part),
                    };
                    (part, there, chunk)
                };
                making = next.into_par_iter().map(make).collect();
            });
            std::mem::take(&mut made).into_iter().try_for_each(|(part, there, chunk)| {
                let chunk = chunk?;
                sink(&part, &chunk)?;
                if let Some(watch) = watch.filter(|_| part.last) {
                    watch(&part.weight.name, there);
                }
                if there {
                    return Ok(());
                }
                part.release(source);
                rounding.join(&chunk.rounding);
                match journal.filter(|_| part.last) {
                    Some(journal) => journal.finished(&part.weight.name, &std::mem::take(&mut rounding)),
                    None => Ok(()),
                }
                .map_err(EmitError::Io)
            })
        })?;
        made = making;
    }
    Ok(())
}

/// What goes in the place of rows that are in the file already.
fn placeholder(part: &Part<'_>, rounding: Rounding) -> Chunk {
    let (rows, ty) = (part.range.len(), &part.weight.ty);
    let (values, scales) = (vec![0; rows * ty.row_bytes()], vec![0; rows * ty.scale_bytes()]);
    Chunk { encoded: Encoded { values, scales, grid: part.weight.grid }, rounding }
}

fn chunk(source: &dyn WeightSource, rows: &Part<'_>) -> Result<Chunk, WeightError> {
    let Part { weight, range, .. } = rows;
    let (encoding, columns) = (weight.ty.encoding, weight.ty.columns());
    let (mut exact, mut kept, mut chunk) = (Vec::new(), Vec::new(), Chunk::default());
    weight.encode(source, range.clone(), &mut exact, &mut chunk.encoded)?;
    chunk.encoded.rows(encoding, columns).decode(&mut kept);
    chunk.rounding.add(&exact, &kept);
    Ok(chunk)
}
