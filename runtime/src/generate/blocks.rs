//! A canvas under full attention, decoded block by block: which block is at work, and what each of its passes feeds.

use super::params::wrong;
use super::{GenerateError, Plan, Task};
use crate::session::Store;
use diffulex_compiler::generation::Reuse;
use std::ops::Range;

/// The block at work. Blocks are counted from the end of the prompt.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// The positions of the block.
    pub(super) at: Range<usize>,
    /// Passes that were made over the block.
    pub(super) step: usize,
    length: usize,
    /// The end of the last block.
    end: usize,
    reuse: Reuse,
}

impl Blocks {
    /// The first block of `length` positions of the gap `gap`.
    pub(super) fn new(gap: Range<usize>, length: usize, reuse: Reuse) -> Self {
        Self { at: gap.start..gap.end.min(gap.start + length), step: 0, length, end: gap.end, reuse }
    }

    /// Whether all blocks are behind us.
    pub(super) fn are_done(&self) -> bool {
        self.at.start >= self.end
    }

    /// Goes on to the next block.
    pub(super) fn next(&mut self) {
        let start = self.at.end;
        (self.at, self.step) = (start..self.end.min(start + self.length), 0);
    }

    /// Whether the next pass feeds the whole canvas.
    pub(super) fn feeds_all(&self) -> bool {
        self.step == 0 || self.reuse == Reuse::None
    }

    /// A pass over a canvas of `len` positions. The first pass of a block feeds all of it, and so does every pass where
    /// nothing is reused. With a prefix cache the later ones feed what begins at the block, with a dual cache the block
    /// alone, whose rows replace the cached ones. They begin `lead` positions before the block.
    pub(super) fn pass(&self, len: usize, lead: usize, undecided: Vec<usize>) -> Plan {
        let start = self.at.start.saturating_sub(lead);
        let (past, feed, store) = match (self.reuse, self.feeds_all()) {
            (Reuse::Prefix, true) => (0, 0..len, Store::Draft(start)),
            (Reuse::Dual, true) => (0, 0..len, Store::Draft(len)),
            (Reuse::Prefix, false) => (start, start..len, Store::Discard),
            (Reuse::Dual, false) => (len, start..self.at.end, Store::Draft(self.at.end - start)),
            (Reuse::None | Reuse::Block, _) => (0, 0..len, Store::Discard),
        };
        Plan { past, feed, undecided, store }
    }
}

/// Prompt, masks and suffix, where they fit one pass and, where keys and values are kept, the cache.
pub(super) fn canvas(task: &Task<'_>, new: usize, mask: u32, reuse: Reuse) -> Result<Vec<u32>, GenerateError> {
    let (given, shape) = (task.prompt.len() + task.suffix.len(), task.shape);
    let need = given.saturating_add(new);
    let room = room(shape.max_tokens, shape.max_cache, reuse);
    if need > room {
        return Err(GenerateError::TooLong { prompt: given, new, need, room });
    }
    if mask as usize >= shape.vocab {
        return wrong("mask_id", format!("{mask} is not below the model's {}", shape.vocab));
    }
    let mut sequence = task.prompt.to_vec();
    sequence.resize(task.prompt.len() + new, mask);
    sequence.extend_from_slice(task.suffix);
    Ok(sequence)
}

/// Positions of a canvas: a pass must take it whole, and what is reused must fit the cache.
pub(super) fn room(max_tokens: usize, max_cache: usize, reuse: Reuse) -> usize {
    match reuse {
        Reuse::None | Reuse::Block => max_tokens,
        Reuse::Prefix | Reuse::Dual => max_tokens.min(max_cache),
    }
}
