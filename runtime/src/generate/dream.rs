//! Dream's own generation ("Dream 7B: Diffusion Large Language Models", `diffusion_generate`) and Fast-dLLM's for it.
//!
//! A canvas of a fixed number of masks follows the prompt; attention is full and row `i` decides position `i + 1`. The
//! own algorithm makes a fixed number of passes, of which each fills the share that a schedule gives it. Fast-dLLM's
//! accept by a threshold, or go block by block and reuse keys and values within a block; there the first position of a
//! block, whose row lies before the block, is decided by the pass that feeds everything.
//!
//! With `top_p` many positions can be certain alike; the lowest one comes first, where the original leaves it open.
//! Blocks of a single step, which the original leaves unfilled, are filled for an answer.

mod runs;
mod schedule;

pub use schedule::Schedule;

use super::blocks::{self, Blocks};
use super::params::{Ids, Thresholds, at_least_one, divides, steps, strategy, wrong};
use super::{GenerateError, Marks, Planner, Setup, Task};
use crate::sample::{Choice, Confidence, Order, Sampler, Sampling};
use diffulex_compiler::generation::{Reuse, Strategy};
use runs::{Blockwise, Frame, Scheduled, Thresholded};

/// Parameters, under the names of the originals. Only the mask's id has no default.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dream {
    /// New tokens.
    #[serde(default = "Dream::default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Passes for the whole answer.
    #[serde(default = "Dream::default_steps")]
    pub steps: usize,
    /// Which masks a pass fills: `origin`, `maskgit_plus`, `topk_margin` or `entropy`; with Fast-dLLM's algorithms also
    /// `confidence_threshold`.
    #[serde(default = "Dream::default_strategy")]
    pub alg: Strategy,
    /// Above 0 the positions of a pass are drawn by their confidence; else the most confident are taken.
    #[serde(default)]
    pub alg_temp: Option<f32>,
    /// Where the schedule ends.
    #[serde(default = "Dream::default_eps")]
    pub eps: f32,
    /// From it on a token is accepted.
    #[serde(default = "Dream::default_threshold")]
    pub threshold: Thresholds,
    /// Length of a block; divides `max_new_tokens`. Without it the answer is one.
    #[serde(default)]
    pub block_length: Option<usize>,
    /// Feeds a block alone, where it would feed all that begins at the block.
    #[serde(default)]
    pub dual_cache: bool,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f32,
    /// Unset is off.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Unset is off.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Ids that end the answer; the original knows none and leaves the cut to its caller.
    #[serde(default)]
    pub end_ids: Ids,
    /// The mask's id.
    pub mask_id: u32,
}

/// Which of the originals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Dream's own.
    Plain,
    /// Fast-dLLM's, without blocks.
    Threshold,
    /// Fast-dLLM's, block by block.
    Block,
}

impl Dream {
    /// The strategies that its own algorithm knows, ours first.
    pub(super) const STRATEGIES: [Strategy; 4] =
        [Strategy::Entropy, Strategy::MaskgitPlus, Strategy::TopkMargin, Strategy::Origin];
    /// Those that blocks know. All but the threshold are one: there the original always goes by entropy.
    pub(super) const BLOCK_STRATEGIES: [Strategy; 5] = [
        Strategy::Entropy,
        Strategy::MaskgitPlus,
        Strategy::TopkMargin,
        Strategy::Origin,
        Strategy::ConfidenceThreshold,
    ];

    fn default_max_new_tokens() -> usize {
        256
    }
    fn default_steps() -> usize {
        512
    }
    fn default_strategy() -> Strategy {
        Strategy::Origin
    }
    fn default_eps() -> f32 {
        0.001
    }
    fn default_threshold() -> Thresholds {
        0.9.into()
    }

    /// The defaults of the published function.
    #[must_use]
    pub fn new(mask_id: u32) -> Self {
        Self {
            max_new_tokens: Self::default_max_new_tokens(),
            steps: Self::default_steps(),
            alg: Self::default_strategy(),
            alg_temp: None,
            eps: Self::default_eps(),
            threshold: Self::default_threshold(),
            block_length: None,
            dual_cache: false,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            end_ids: Ids::default(),
            mask_id,
        }
    }

    pub(super) fn reuse(&self, kind: Kind) -> Reuse {
        match kind {
            Kind::Plain | Kind::Threshold => Reuse::None,
            Kind::Block if self.dual_cache => Reuse::Dual,
            Kind::Block => Reuse::Prefix,
        }
    }

    fn block(&self) -> usize {
        self.block_length.unwrap_or(self.max_new_tokens)
    }

    /// Shortens the answer to at most `most` tokens, in whole blocks, and the passes with it.
    pub(super) fn shorten(&mut self, kind: Kind, most: usize) {
        // Tokens that go together: a block, or what a pass fills.
        let unit = match kind {
            Kind::Plain => 1,
            Kind::Threshold => self.max_new_tokens / self.steps.max(1),
            Kind::Block => self.block(),
        };
        let unit = unit.max(1);
        let (before, after) = ((self.max_new_tokens / unit).max(1), (most / unit).max(1));
        if after < before {
            self.max_new_tokens = after * unit;
            self.steps = match kind {
                Kind::Plain => self.steps,
                Kind::Threshold | Kind::Block => (self.steps / before).max(1) * after,
            };
        }
    }

    pub(super) fn set_up(&self, kind: Kind, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        at_least_one(&[("max_new_tokens", self.max_new_tokens)])?;
        steps("steps", self.steps)?;
        self.threshold.check("threshold")?;
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return wrong("eps", format!("must lie between 0 and 1, not {}", self.eps));
        }
        if self.alg_temp.is_some_and(|t| t != 0.0 && !(0.001..=1000.0).contains(&t)) {
            return wrong("alg_temp", "must be 0 (the most confident first) or 0.001 to 1000");
        }
        match kind {
            Kind::Plain => strategy("alg", self.alg, &Self::STRATEGIES)?,
            Kind::Threshold => strategy("alg", self.alg, &[Strategy::ConfidenceThreshold])?,
            Kind::Block => strategy("alg", self.alg, &Self::BLOCK_STRATEGIES)?,
        }
        match kind {
            Kind::Threshold => divides(("steps", self.steps), ("max_new_tokens", self.max_new_tokens))?,
            Kind::Block => {
                divides(("block_length", self.block()), ("max_new_tokens", self.max_new_tokens))?;
                divides(("the number of blocks", self.max_new_tokens / self.block()), ("steps", self.steps))?;
            }
            Kind::Plain => {}
        }
        let sequence = blocks::canvas(task, self.max_new_tokens, self.mask_id, self.reuse(kind))?;
        let gap = task.prompt.len()..sequence.len() - task.suffix.len();
        let frame = Frame { dream: self, behaviour: task.behaviour, gap: gap.clone() };
        let confidence = match (kind, self.alg) {
            (Kind::Plain, Strategy::TopkMargin) => Confidence::Margin,
            (Kind::Plain, Strategy::Entropy) => Confidence::NegEntropy,
            (Kind::Block, alg) if alg != Strategy::ConfidenceThreshold => Confidence::NegEntropy,
            _ => Confidence::Prob,
        };
        let planner: Box<dyn Planner> = match kind {
            Kind::Plain => {
                Box::new(Scheduled { frame, schedule: Schedule { steps: self.steps, eps: self.eps }, step: 0 })
            }
            Kind::Threshold => {
                let (base, steps) = (self.max_new_tokens / self.steps, self.steps);
                Box::new(Thresholded { frame, step: 0, steps, base, carry: 0 })
            }
            Kind::Block => {
                let steps = self.steps / (self.max_new_tokens / self.block());
                let blocks = Blocks::new(gap, self.block(), self.reuse(kind));
                Box::new(Blockwise { frame, blocks, schedule: Schedule { steps, eps: self.eps } })
            }
        };
        let (temperature, top_k, top_p) = (self.temperature, self.top_k.unwrap_or(0), self.top_p.unwrap_or(1.0));
        let sampling = Sampling { temperature, top_k, top_p, order: Order::TopPFirst, choice: Choice::Share };
        Ok(Setup {
            planner,
            sampler: Sampler::new(sampling, confidence, Some(self.mask_id), task.seed)?,
            marks: Marks { mask: self.mask_id, ends: &self.end_ids.0 },
            shifted: true,
            guidance: 0.0,
            sequence,
        })
    }
}
