//! SDAR's block diffusion ("SDAR: A Synergistic Diffusion-AutoRegression Paradigm", `block_diffusion_generate`).
//!
//! The sequence is prompt and masks up to a whole number of blocks, aligned to absolute positions, so the tail of the
//! prompt shares the first decoded block. Whole blocks of the prompt are prefilled. A block is denoised in passes that
//! store nothing, until no mask is left; one more pass over it stores its keys and values. Row `i` decides position `i`.
//!
//! Where the original is undefined, this is not: a quota never reaches past the masks of the block, prompt tokens are
//! never overwritten, the mask itself is never chosen, and temperature 0 is the argmax with the confidences of
//! temperature 1. With `top_k` 1 every confidence is 1, so every threshold is met; that is no way to be greedy.

use super::accept::{best, masks, share, sure};
use super::params::{Ids, Thresholds, at_least_one, steps, strategy};
use super::{Behaviour, GenerateError, Marks, Plan, Planner, Proposal, Setup, Task};
use crate::sample::{Choice, Confidence, Draws, Order, Sampler, Sampling};
use crate::session::{Attention, Store};
use diffulex_compiler::generation::Strategy;

/// Parameters, under the names of the original. Only the mask's id has no default.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sdar {
    /// New tokens; the last block is always filled, so a few more may come.
    #[serde(default = "Sdar::default_gen_length")]
    pub gen_length: usize,
    /// Length of a block, that of the model's attention.
    #[serde(default = "Sdar::default_block")]
    pub block_length: usize,
    /// Steps in which a block is filled at the latest.
    #[serde(default = "Sdar::default_block")]
    pub denoising_steps: usize,
    /// Which masks a pass fills: `sequential`, `low_confidence_static` or `low_confidence_dynamic`.
    #[serde(default = "Sdar::default_strategy")]
    pub remasking_strategy: Strategy,
    /// Above it (strictly) `low_confidence_dynamic` accepts a token.
    #[serde(default = "Sdar::default_threshold")]
    pub confidence_threshold: Thresholds,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f32,
    /// 0 is off.
    #[serde(default)]
    pub top_k: usize,
    /// 1 is off.
    #[serde(default = "Sdar::default_top_p")]
    pub top_p: f32,
    /// Ids that end the answer.
    #[serde(default)]
    pub stopping_criteria_idx: Ids,
    /// The mask's id.
    pub mask_id: u32,
}

impl Sdar {
    /// The strategies it knows, the default first.
    pub(super) const STRATEGIES: [Strategy; 3] =
        [Strategy::LowConfidenceDynamic, Strategy::LowConfidenceStatic, Strategy::Sequential];

    fn default_gen_length() -> usize {
        256
    }
    fn default_block() -> usize {
        4
    }
    fn default_strategy() -> Strategy {
        Self::STRATEGIES[0]
    }
    fn default_threshold() -> Thresholds {
        0.85.into()
    }
    fn default_top_p() -> f32 {
        1.0
    }

    /// The defaults of the published command line, greedy.
    #[must_use]
    pub fn new(mask_id: u32) -> Self {
        Self {
            gen_length: Self::default_gen_length(),
            block_length: Self::default_block(),
            denoising_steps: Self::default_block(),
            remasking_strategy: Self::default_strategy(),
            confidence_threshold: Self::default_threshold(),
            temperature: 0.0,
            top_k: 0,
            top_p: Self::default_top_p(),
            stopping_criteria_idx: Ids::default(),
            mask_id,
        }
    }

    /// The attention its session needs.
    #[must_use]
    pub fn attention(&self) -> Attention {
        Attention::BlockCausal(self.block_length)
    }

    pub(super) fn marks(&self) -> Marks<'_> {
        Marks { mask: self.mask_id, ends: &self.stopping_criteria_idx.0 }
    }

    pub(super) fn set_up(&self, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        if !task.suffix.is_empty() {
            return Err(GenerateError::Suffix("SDAR"));
        }
        at_least_one(&[("gen_length", self.gen_length)])?;
        steps("denoising_steps", self.denoising_steps)?;
        self.confidence_threshold.check("confidence_threshold")?;
        strategy("remasking_strategy", self.remasking_strategy, &Self::STRATEGIES)?;
        let (block, prompt) = (self.block_length, task.prompt.len());
        let total = prompt.saturating_add(self.gen_length).div_ceil(block).saturating_mul(block);
        let need = match task.behaviour {
            Behaviour::Answer => total - block, // the last block is never stored
            Behaviour::Original => total,
        };
        let room = task.shape.max_cache;
        if need > room {
            return Err(GenerateError::TooLong { prompt, new: self.gen_length, need, room });
        }
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let sampling = Sampling { temperature, top_k, top_p, order: Order::TopKFirst, choice: Choice::Share };
        let mut sequence = task.prompt.to_vec();
        sequence.resize(total, self.mask_id);
        Ok(Setup {
            planner: Box::new(Decoding { sdar: self, behaviour: task.behaviour, prompt, total, step: 0 }),
            sampler: Sampler::new(sampling, Confidence::Prob, Some(self.mask_id), task.seed)?,
            marks: self.marks(),
            shifted: false,
            guidance: 0.0,
            sequence,
        })
    }
}

/// A run: which block it is at follows from the cache, as every finished block is stored before the next.
struct Decoding<'a> {
    sdar: &'a Sdar,
    behaviour: Behaviour,
    prompt: usize,
    total: usize,
    step: usize,
}

impl Decoding<'_> {
    /// Whether no further pass matters. The original looks for end tokens after a block only, and stores the last one.
    fn is_over(&self, sequence: &[u32], cached: usize) -> bool {
        let new = &sequence[self.prompt..];
        match self.behaviour {
            Behaviour::Answer => !new.contains(&self.sdar.mask_id),
            Behaviour::Original => {
                let stopped = self.step == 0 && new.iter().any(|id| self.sdar.stopping_criteria_idx.0.contains(id));
                cached == self.total || stopped
            }
        }
    }
}

impl Planner for Decoding<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, cached: usize) -> Option<Plan> {
        if self.is_over(sequence, cached) {
            return None;
        }
        let block = self.sdar.block_length;
        let whole = self.prompt / block * block;
        if cached < whole {
            return Some(Plan { past: cached, feed: cached..whole, undecided: vec![], store: Store::Keep });
        }
        let feed = cached..cached + block;
        let undecided = masks(sequence, self.sdar.mask_id, cached.max(self.prompt)..cached + block);
        let store = if undecided.is_empty() { Store::Keep } else { Store::Discard };
        if store == Store::Keep {
            self.step = 0;
        }
        Some(Plan { past: cached, feed, undecided, store })
    }

    fn accept(&mut self, proposals: &[Proposal], _: &mut Draws) -> Vec<usize> {
        let Some(first) = proposals.first() else { return vec![] };
        let sdar = self.sdar;
        let quota = share(sdar.block_length, sdar.denoising_steps, self.step).max(1);
        self.step += 1;
        match sdar.remasking_strategy {
            Strategy::Sequential => (0..quota.min(proposals.len())).collect(),
            Strategy::LowConfidenceStatic => best(proposals, quota),
            _ => {
                let block = (first.position / sdar.block_length).saturating_sub(self.prompt / sdar.block_length);
                let threshold = sdar.confidence_threshold.of_block(block);
                best(proposals, sure(proposals, quota, |p| p > threshold))
            }
        }
    }
}
