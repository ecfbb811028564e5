//! SDAR's block diffusion ("SDAR: A Synergistic Diffusion-AutoRegression Paradigm", `block_diffusion_generate`).
//!
//! The sequence is prompt and masks up to a whole number of blocks, aligned to absolute positions, so the tail of the
//! prompt shares the first decoded block. Whole blocks of the prompt are prefilled. A block is denoised in passes that
//! store nothing, until no mask is left; one more pass over it stores its keys and values. Row `i` decides position `i`.
//!
//! Where the original is undefined, this is not: a quota never reaches past the masks of the block, prompt tokens are
//! never overwritten, the mask itself is never chosen, and temperature 0 is the argmax with the confidences of
//! temperature 1. With `top_k` 1 every confidence is 1, so every threshold is met; that is no way to be greedy.

pub use diffulex_compiler::generation::Remasking;

use super::{Behaviour, GenerateError, Marks, Plan, Proposal, Strategy};
use crate::sample::{Confidence, Order, Sampler, Sampling};
use crate::session::{Attention, Session, Store};

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
    /// Which masks a pass fills.
    #[serde(default = "Sdar::default_remasking")]
    pub remasking_strategy: Remasking,
    /// Above it (strictly) `low_confidence_dynamic` accepts a token.
    #[serde(default)]
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
    pub stopping_criteria_idx: Vec<u32>,
    /// The mask's id.
    pub mask_id: u32,
}

/// One threshold for each decoded block, the first one first; the last repeats. A single number stands for a list of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct Thresholds(pub Vec<f32>);

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(f32),
    Many(Vec<f32>),
}

impl Thresholds {
    fn of_block(&self, block: usize) -> f32 {
        self.0.get(block).or(self.0.last()).copied().unwrap_or(1.0)
    }

    fn are_valid(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|t| (0.0..=1.0).contains(t))
    }
}

impl Default for Thresholds {
    /// The published one, 0.85.
    fn default() -> Self {
        0.85.into()
    }
}

impl From<f32> for Thresholds {
    fn from(threshold: f32) -> Self {
        Self(vec![threshold])
    }
}

impl From<OneOrMany> for Thresholds {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(threshold) => threshold.into(),
            OneOrMany::Many(thresholds) => Self(thresholds),
        }
    }
}

impl From<Thresholds> for OneOrMany {
    fn from(value: Thresholds) -> Self {
        match value.0[..] {
            [one] => OneOrMany::One(one),
            _ => OneOrMany::Many(value.0),
        }
    }
}

impl Sdar {
    fn default_gen_length() -> usize {
        256
    }
    fn default_block() -> usize {
        4
    }
    fn default_remasking() -> Remasking {
        Remasking::LowConfidenceDynamic
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
            remasking_strategy: Self::default_remasking(),
            confidence_threshold: Thresholds::default(),
            temperature: 0.0,
            top_k: 0,
            top_p: Self::default_top_p(),
            stopping_criteria_idx: vec![],
            mask_id,
        }
    }

    /// The attention its session needs.
    #[must_use]
    pub fn attention(&self) -> Attention {
        Attention::BlockCausal(self.block_length)
    }

    pub(super) fn marks(&self) -> Marks<'_> {
        Marks { mask: self.mask_id, ends: &self.stopping_criteria_idx }
    }

    pub(super) fn sampler(&self, seed: u64) -> Result<Sampler, GenerateError> {
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let sampling = Sampling { temperature, top_k, top_p, order: Order::TopKFirst };
        Ok(Sampler::new(sampling, Confidence::Prob, Some(self.mask_id), seed)?)
    }

    /// Checks the parameters against the session and starts a run.
    pub(super) fn begin(
        &self,
        session: &Session,
        prompt: usize,
        behaviour: Behaviour,
    ) -> Result<Blocks<'_>, GenerateError> {
        let wrong = |name, problem: String| Err(GenerateError::Setting { name, problem });
        if session.attention() != self.attention() {
            let (mine, its) = (self.block_length, session.attention());
            return wrong("block_length", format!("is {mine}, but the session attends as {its:?}"));
        }
        for (name, value) in [("gen_length", self.gen_length), ("denoising_steps", self.denoising_steps)] {
            if value == 0 {
                return wrong(name, "must be at least 1".into());
            }
        }
        if !self.confidence_threshold.are_valid() {
            return wrong("confidence_threshold", format!("must be 0 to 1, not {:?}", self.confidence_threshold.0));
        }
        let (vocab, room) = (session.shape().vocab, session.shape().max_cache);
        if self.mask_id as usize >= vocab {
            return wrong("mask_id", format!("{} is not below the model's {vocab}", self.mask_id));
        }
        let block = self.block_length;
        let total = prompt.saturating_add(self.gen_length).div_ceil(block).saturating_mul(block);
        let need = match behaviour {
            Behaviour::Answer => total - block, // the last block is never stored
            Behaviour::Original => total,
        };
        if need > room {
            return Err(GenerateError::TooLong { prompt, new: self.gen_length, need, room });
        }
        Ok(Blocks { sdar: self, behaviour, prompt, total, step: 0 })
    }
}

/// A run: which block it is at follows from the cache, as every finished block is stored before the next.
pub(super) struct Blocks<'a> {
    sdar: &'a Sdar,
    behaviour: Behaviour,
    prompt: usize,
    total: usize,
    step: usize,
}

impl Blocks<'_> {
    /// The step's share of a block: the block divided by the steps, one more in the first steps of an uneven division.
    fn quota(&self) -> usize {
        let (block, steps) = (self.sdar.block_length, self.sdar.denoising_steps);
        (block / steps + usize::from(self.step < block % steps)).max(1)
    }

    /// Whether no further pass matters. The original looks for end tokens after a block only, and stores the last one.
    fn is_over(&self, sequence: &[u32], cached: usize) -> bool {
        let new = &sequence[self.prompt..];
        match self.behaviour {
            Behaviour::Answer => {
                let (answer, ended) = self.sdar.marks().answer(new);
                ended || answer.len() == new.len()
            }
            Behaviour::Original => {
                let stopped = self.step == 0 && new.iter().any(|id| self.sdar.stopping_criteria_idx.contains(id));
                cached == self.total || stopped
            }
        }
    }
}

impl Strategy for Blocks<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, cached: usize) -> Option<Plan> {
        sequence.resize(self.total, self.sdar.mask_id);
        if self.is_over(sequence, cached) {
            return None;
        }
        let block = self.sdar.block_length;
        let whole = self.prompt / block * block;
        if cached < whole {
            return Some(Plan { feed: cached..whole, undecided: vec![], store: Store::Keep });
        }
        let feed = cached..cached + block;
        let undecided: Vec<usize> =
            feed.clone().filter(|&p| p >= self.prompt && sequence[p] == self.sdar.mask_id).collect();
        let store = if undecided.is_empty() { Store::Keep } else { Store::Discard };
        if store == Store::Keep {
            self.step = 0;
        }
        Some(Plan { feed, undecided, store })
    }

    fn accept(&mut self, proposals: &[Proposal]) -> Vec<usize> {
        if proposals.is_empty() {
            return vec![];
        }
        let quota = self.quota().min(proposals.len());
        self.step += 1;
        let mut ranked: Vec<usize> = (0..proposals.len()).collect();
        if self.sdar.remasking_strategy != Remasking::Sequential {
            // A stable sort: the lowest position first among equals.
            ranked.sort_by(|&a, &b| proposals[b].confidence.total_cmp(&proposals[a].confidence));
        }
        let block =
            (proposals[0].position / self.sdar.block_length).saturating_sub(self.prompt / self.sdar.block_length);
        let threshold = self.sdar.confidence_threshold.of_block(block);
        let sure = |i: &usize| proposals[*i].probability > threshold;
        let accepted = match self.sdar.remasking_strategy {
            Remasking::LowConfidenceDynamic => quota.max(ranked.iter().filter(|i| sure(i)).count()),
            _ => quota,
        };
        ranked.truncate(accepted);
        ranked
    }
}
