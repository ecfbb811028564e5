//! A canvas under full attention, decoded block by block: which block is at work, and what each of its passes feeds.

use super::{GenerateError, Plan, Task};
use crate::engine::EngineShape;
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
        Self { at: gap.start..gap.end.min(gap.start.saturating_add(length)), step: 0, length, end: gap.end, reuse }
    }

    /// Whether all blocks are behind us.
    pub(super) fn are_done(&self) -> bool {
        self.at.start >= self.end
    }

    /// Goes on to the next block.
    pub(super) fn next(&mut self) {
        let start = self.at.end;
        (self.at, self.step) = (start..self.end.min(start.saturating_add(self.length)), 0);
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
        let whole = Plan::whole(len, undecided);
        match (self.reuse, self.feeds_all()) {
            (Reuse::Prefix, true) => Plan { store: Store::Draft(start), ..whole },
            (Reuse::Dual, true) => Plan { store: Store::Draft(len), ..whole },
            (Reuse::Prefix, false) => Plan { past: start, feed: start..len, ..whole },
            (Reuse::Dual, false) => {
                Plan { past: len, feed: start..self.at.end, store: Store::Draft(self.at.end - start), ..whole }
            }
            // `Reuse::Block` is refused where it is asked for.
            (Reuse::None | Reuse::Block, _) => whole,
        }
    }
}

impl Plan {
    /// A pass over a whole canvas of `len` positions that keeps nothing.
    pub(super) fn whole(len: usize, undecided: Vec<usize>) -> Plan {
        Plan { past: 0, feed: 0..len, undecided, store: Store::Discard }
    }
}

/// Prompt, masks and suffix, where they fit one pass and, where keys and values are kept, the cache.
pub(super) fn canvas(task: &Task<'_>, new: usize, mask: u32, reuse: Reuse) -> Result<Vec<u32>, GenerateError> {
    let given = task.prompt.len() + task.suffix.len();
    let need = given.saturating_add(new);
    let room = room(task.shape, reuse);
    if need > room {
        return Err(GenerateError::TooLong { prompt: given, new, need, room });
    }
    let mut sequence = task.prompt.to_vec();
    sequence.resize(task.prompt.len() + new, mask);
    sequence.extend_from_slice(task.suffix);
    Ok(sequence)
}

/// Positions of a canvas: a pass must take it whole, and what is reused must fit the cache.
pub(super) fn room(shape: &EngineShape, reuse: Reuse) -> usize {
    match reuse {
        Reuse::None | Reuse::Block => shape.max_tokens,
        Reuse::Prefix | Reuse::Dual => shape.max_tokens.min(shape.max_cache),
    }
}
