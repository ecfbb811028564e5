//! Where everything lies: segments in the file, tables in the constant segment, values in the arena.

use diffulex_compiler::ir::Module;

use super::EmitError;
use super::constant::Constant;
use super::delegate::Delegate;
use super::plan::{Step, Tensor};

/// Values in the arena start at multiples of this.
const ARENA_ALIGNMENT: u64 = 64;
/// XNNPACK's kernels may read this far beyond the end of a buffer.
const TAIL: u64 = 128;

/// Offsets and sizes of a file, known before a number of it is.
#[derive(Debug)]
pub(super) struct Layout {
    /// Segments start at multiples of this.
    pub(super) alignment: u64,
    /// `(offset, size)` of each segment, from the first one on: tables, delegate, then one for each constant.
    pub(super) segments: Vec<(u64, u64)>,
    /// From the first segment to the end of the file.
    pub(super) segment_data: u64,
    /// The tables, each once, with their offsets in the constant segment, which is the first.
    pub(super) tables: Vec<(Constant, u64)>,
    /// Arena offsets of what the embeddings give.
    pub(super) embeddings: Vec<u64>,
    /// Arena offsets of the outputs.
    pub(super) outputs: Vec<u64>,
    /// Bytes of the arena.
    pub(super) arena: u64,
}

impl Layout {
    /// Lays a file out.
    pub(super) fn new(module: &Module, step: &Step, graph: &Delegate, alignment: u32) -> Result<Layout, EmitError> {
        let too_large = || EmitError::TooLarge { part: "the file", bytes: u64::MAX, limit: i64::MAX as u64 };
        let alignment = u64::from(alignment);
        let mut tables: Vec<(Constant, u64)> = Vec::new();
        let mut end = 0;
        for constant in step.embeddings.iter().flat_map(|embedding| Constant::of(module, embedding.table, true)) {
            if tables.iter().all(|(known, _)| *known != constant) {
                let place = place(&mut end, constant.bytes(module), alignment);
                tables.push((constant, place.ok_or_else(too_large)?));
            }
        }
        let mut segments = Vec::new();
        let mut data = 0;
        for size in [end, graph.bytes.len() as u64] {
            segments.push((place(&mut data, size, alignment).ok_or_else(too_large)?, size));
        }
        for constant in &graph.constants {
            // A filter that is a table too, with the same bytes, is a segment inside the constant segment.
            let size = constant.bytes(module);
            let offset = match tables.iter().find(|(table, _)| table.same_bytes(*constant, module)) {
                Some((_, offset)) => segments[0].0 + offset,
                None => place(&mut data, size, alignment).ok_or_else(too_large)?,
            };
            segments.push((offset, size));
        }
        let segment_data = data.checked_add(TAIL).filter(|&n| n < i64::MAX as u64 / 2).ok_or_else(too_large)?;

        // Everything in the arena lives during the one call of the delegate, so nothing shares bytes.
        let mut arena = 0;
        let mut plan = |tensor: &Tensor| {
            let planned = tensor.bytes().and_then(|bytes| place(&mut arena, bytes, ARENA_ALIGNMENT));
            planned.ok_or(EmitError::TooLarge { part: "the arena", bytes: u64::MAX, limit: i64::MAX as u64 })
        };
        let embeddings = step.embeddings.iter().map(|e| plan(&e.out)).collect::<Result<_, _>>()?;
        let outputs = step.outputs.iter().map(|(_, tensor)| plan(tensor)).collect::<Result<_, _>>()?;
        Ok(Layout { alignment, segments, segment_data, tables, embeddings, outputs, arena })
    }
}

impl Layout {
    /// Where the first segment lies, behind a program of `program` bytes.
    pub(super) fn base(&self, program: usize) -> u64 {
        (program as u64).next_multiple_of(self.alignment)
    }

    /// Bytes of the file.
    pub(super) fn file_bytes(&self, program: usize) -> u64 {
        self.base(program) + self.segment_data
    }
}

/// Puts `size` bytes behind `end`; gives their offset.
fn place(end: &mut u64, size: u64, alignment: u64) -> Option<u64> {
    let start = end.checked_next_multiple_of(alignment)?;
    *end = start.checked_add(size)?;
    Some(start)
}
