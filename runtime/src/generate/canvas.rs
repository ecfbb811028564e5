//! Our own algorithm for models with full attention, what `run` uses unless an original is asked for by name.
//!
//! Like Fast-dLLM's for Dream and LLaDA it goes block by block and accepts every token above a threshold, always the
//! most confident one. Unlike them it has no fixed canvas: a window of masks moves along with the blocks, and the run
//! ends at the end token. So an answer costs what it is long, not what it might have been.
//!
//! The window is longer than a block, since a model that sees only a block of masks believes that it must come to an
//! end there. With shifted logits a block is fed together with the position before it, whose row decides its first one.

use super::accept::{best, masks, sure};
use super::blocks::{self, Blocks};
use super::params::{Ids, Thresholds, at_least_one, wrong};
use super::{GenerateError, Marks, Plan, Planner, Proposal, Setup, Task};
use crate::sample::{Choice, Confidence, Draws, Order, Sampler, Sampling};
use diffulex_compiler::generation::{Logits, Reuse};
use std::ops::Range;

/// Parameters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canvas {
    /// Most new tokens; exactly so many where a gap is filled.
    #[serde(default = "Canvas::default_max_tokens")]
    pub max_tokens: usize,
    /// Positions decided together.
    #[serde(default = "Canvas::default_block")]
    pub block_length: usize,
    /// Masks in view from the beginning of the block on, at least the block's.
    #[serde(default = "Canvas::default_window")]
    pub window: usize,
    /// Above it (strictly) a token is accepted.
    #[serde(default = "Canvas::default_threshold")]
    pub threshold: Thresholds,
    /// Keys and values reused within a block: none, prefix or dual.
    #[serde(default = "Canvas::default_reuse")]
    pub reuse: Reuse,
    /// Which token a row names.
    pub logits: Logits,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f32,
    /// 0 is off.
    #[serde(default)]
    pub top_k: usize,
    /// 1 is off.
    #[serde(default = "Canvas::default_top_p")]
    pub top_p: f32,
    /// Ids that end the answer.
    #[serde(default)]
    pub end_ids: Ids,
    /// The mask's id.
    pub mask_id: u32,
}

impl Canvas {
    fn default_max_tokens() -> usize {
        256
    }
    fn default_block() -> usize {
        32
    }
    fn default_window() -> usize {
        128
    }
    fn default_threshold() -> Thresholds {
        0.9.into()
    }
    fn default_reuse() -> Reuse {
        Reuse::Dual
    }
    fn default_top_p() -> f32 {
        1.0
    }

    /// The defaults, greedy.
    #[must_use]
    pub fn new(logits: Logits, mask_id: u32) -> Self {
        Self {
            max_tokens: Self::default_max_tokens(),
            block_length: Self::default_block(),
            window: Self::default_window(),
            threshold: Self::default_threshold(),
            reuse: Self::default_reuse(),
            logits,
            temperature: 0.0,
            top_k: 0,
            top_p: Self::default_top_p(),
            end_ids: Ids::default(),
            mask_id,
        }
    }

    pub(super) fn set_up(&self, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        at_least_one(&[("max_tokens", self.max_tokens), ("block_length", self.block_length)])?;
        self.threshold.check("threshold")?;
        if self.reuse == Reuse::Block {
            return wrong("reuse", "is block, which diffulex.canvas does not know; it knows none, prefix, dual");
        }
        let mut sequence = blocks::canvas(task, self.max_tokens, self.mask_id, self.reuse)?;
        let gap = task.prompt.len()..task.prompt.len() + self.max_tokens;
        let moves = task.suffix.is_empty();
        if moves {
            sequence.truncate(gap.start);
        }
        let shifted = self.logits == Logits::Shifted;
        let blocks = Blocks::new(gap.clone(), self.block_length, self.reuse);
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let sampling = Sampling { temperature, top_k, top_p, order: Order::TopPFirst, choice: Choice::Share };
        Ok(Setup {
            planner: Box::new(Decoding { canvas: self, gap, moves, blocks, lead: usize::from(shifted) }),
            sampler: Sampler::new(sampling, Confidence::Prob, Some(self.mask_id), task.seed)?,
            marks: self.marks(),
            shifted,
            guidance: 0.0,
            sequence,
        })
    }

    fn marks(&self) -> Marks<'_> {
        Marks { mask: self.mask_id, ends: &self.end_ids.0 }
    }
}

/// A run.
struct Decoding<'a> {
    canvas: &'a Canvas,
    /// The longest answer.
    gap: Range<usize>,
    /// Whether the window moves: nothing follows the answer.
    moves: bool,
    blocks: Blocks,
    /// Positions before a block that its passes feed too.
    lead: usize,
}

impl Planner for Decoding<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        let mask = self.canvas.mask_id;
        let new = &sequence[self.gap.start..self.gap.end.min(sequence.len())];
        if self.canvas.marks().answer(new).1 {
            return None;
        }
        if self.blocks.step > 0 && masks(sequence, mask, self.blocks.at.clone()).is_empty() {
            self.blocks.next();
        }
        if self.blocks.are_done() {
            return None;
        }
        if self.moves && self.blocks.step == 0 {
            let window = self.canvas.window.max(self.canvas.block_length);
            sequence.resize(self.gap.end.min(self.blocks.at.start.saturating_add(window)), mask);
        }
        let undecided = masks(sequence, mask, self.blocks.at.clone());
        Some(self.blocks.pass(sequence.len(), self.lead, undecided))
    }

    fn accept(&mut self, proposals: &[Proposal], _: &mut Draws) -> Vec<usize> {
        let block = (self.blocks.at.start - self.gap.start) / self.canvas.block_length;
        let threshold = self.canvas.threshold.of_block(block);
        self.blocks.step += 1;
        best(proposals, sure(proposals, 1, |p| p > threshold))
    }
}
