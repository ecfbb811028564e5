//! Fast-dLLM v2 ("Fast-dLLM v2: Efficient Block-Diffusion LLM", `generate` and the evaluation's `batch_sample`).
//!
//! Blocks are aligned to absolute positions and attention is block-causal, as in SDAR, but row `i` decides position
//! `i + 1`. So the pass that stores a finished block also gives the first token of the next one, and no block begins
//! with a mask. A block is filled small block by small block: every pass accepts what is above the threshold, and always
//! the most confident token.
//!
//! With the block cache a small block is fed alone while keys and values of the rest of the block are reused as they
//! were when its first position was still a mask: an approximation that the published code offers.
//!
//! The original never feeds a prompt of exactly one block; here such a prompt is prefilled like longer ones.

use super::accept::{best, masks, sure};
use super::params::{Ids, Thresholds, at_least_one, divides, wrong};
use super::{GenerateError, Marks, Plan, Planner, Proposal, Setup, Task};
use crate::sample::{Choice, Confidence, Draws, Order, Sampler, Sampling};
use crate::session::{Attention, Store};
use std::ops::Range;

/// Parameters, under the names of the original. Only the mask's id has no default.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastDllm {
    /// New tokens, of which whole blocks are decoded.
    #[serde(default = "FastDllm::default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Length of a block, that of the model's attention.
    #[serde(default = "FastDllm::default_block")]
    pub block_size: usize,
    /// Length of the small blocks that a block is filled by.
    #[serde(default = "FastDllm::default_small_block")]
    pub small_block_size: usize,
    /// Above it (strictly) a token is accepted.
    #[serde(default = "FastDllm::default_threshold")]
    pub threshold: Thresholds,
    /// Feeds small blocks alone where it can.
    #[serde(default)]
    pub use_block_cache: bool,
    /// Ids that end the answer.
    #[serde(default)]
    pub stop_token: Ids,
    /// What `batch_sample` puts behind the end.
    #[serde(default)]
    pub pad_token: u32,
    /// 0 is greedy, and then nothing is filtered.
    #[serde(default)]
    pub temperature: f32,
    /// 1 is off.
    #[serde(default = "FastDllm::default_top_p")]
    pub top_p: f32,
    /// The mask's id.
    pub mask_id: u32,
}

/// Which of the two originals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ends as soon as the end token stands behind no mask, and cuts there.
    Generate,
    /// Fills the block of the end token, pads behind it, and cuts nothing.
    BatchSample,
}

impl FastDllm {
    fn default_max_new_tokens() -> usize {
        256
    }
    fn default_block() -> usize {
        32
    }
    fn default_small_block() -> usize {
        8
    }
    fn default_threshold() -> Thresholds {
        1.0.into()
    }
    fn default_top_p() -> f32 {
        1.0
    }

    /// The defaults of the published function, greedy.
    #[must_use]
    pub fn new(mask_id: u32) -> Self {
        Self {
            max_new_tokens: Self::default_max_new_tokens(),
            block_size: Self::default_block(),
            small_block_size: Self::default_small_block(),
            threshold: Self::default_threshold(),
            use_block_cache: false,
            stop_token: Ids::default(),
            pad_token: 0,
            temperature: 0.0,
            top_p: Self::default_top_p(),
            mask_id,
        }
    }

    /// The attention its session needs.
    #[must_use]
    pub fn attention(&self) -> Attention {
        Attention::BlockCausal(self.block_size)
    }

    fn marks(&self) -> Marks<'_> {
        Marks { mask: self.mask_id, ends: &self.stop_token.0 }
    }

    /// Shortens the answer to at most `most` tokens, in whole blocks, but at least one.
    pub(super) fn shorten(&mut self, most: usize) {
        let block = self.block_size.max(1);
        self.max_new_tokens = self.max_new_tokens.min((most / block).max(1) * block);
    }

    pub(super) fn set_up(&self, kind: Kind, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        if !task.suffix.is_empty() {
            return Err(GenerateError::Suffix("Fast-dLLM v2"));
        }
        at_least_one(&[("max_new_tokens", self.max_new_tokens)])?;
        divides(("small_block_size", self.small_block_size), ("block_size", self.block_size))?;
        self.threshold.check("threshold")?;
        if self.pad_token as usize >= task.shape.vocab {
            return wrong("pad_token", format!("{} is not below the model's {}", self.pad_token, task.shape.vocab));
        }
        let (prompt, block) = (task.prompt.len(), self.block_size);
        let blocks = self.max_new_tokens / block;
        let (need, room) = ((prompt / block).saturating_add(blocks).saturating_mul(block), task.shape.max_cache);
        if need > room {
            return Err(GenerateError::TooLong { prompt, new: self.max_new_tokens, need, room });
        }
        let temperature = self.temperature;
        let top_p = if temperature > 0.0 { self.top_p } else { 1.0 };
        let sampling = Sampling { temperature, top_k: 0, top_p, order: Order::TopPFirst, choice: Choice::Share };
        let run = Decoding { params: self, kind, prompt, start: None, left: blocks, padded: false };
        Ok(Setup {
            planner: Box::new(run),
            sampler: Sampler::new(sampling, Confidence::Prob, Some(self.mask_id), task.seed)?,
            marks: self.marks(),
            shifted: true,
            guidance: 0.0,
            sequence: task.prompt.to_vec(),
        })
    }
}

/// A run. The block it is at is the last one of the sequence, and follows those that are cached.
struct Decoding<'a> {
    params: &'a FastDllm,
    kind: Kind,
    prompt: usize,
    /// Length of the sequence when the block was begun; none between blocks.
    start: Option<usize>,
    /// Blocks to be decoded.
    left: usize,
    /// The end token was accepted in a block of `batch_sample`.
    padded: bool,
}

impl Decoding<'_> {
    fn is_stop(&self, id: &u32) -> bool {
        self.params.stop_token.0.contains(id)
    }

    /// Feeds rows that are final, and decides the position behind them when `next` says so.
    fn store(&self, sequence: &mut Vec<u32>, feed: Range<usize>, next: bool) -> Plan {
        let undecided = if next { vec![feed.end] } else { vec![] };
        sequence.extend(undecided.iter().map(|_| self.params.mask_id));
        Plan { past: feed.start, feed, undecided, store: Store::Keep }
    }

    /// Whether the sequence from here on ends before its first mask.
    fn ends_in(&self, sequence: &[u32]) -> bool {
        self.params.marks().answer(sequence).1
    }

    /// The whole sequence, cut behind the first end token where the original does so.
    fn finish(&self, sequence: &mut Vec<u32>) -> Option<Plan> {
        let new = &sequence[self.prompt..];
        if let (Kind::Generate, Some(at)) = (self.kind, new.iter().position(|id| self.is_stop(id))) {
            sequence.truncate(self.prompt + at + 1);
        }
        None
    }

    /// A pass over the masks of the first small block that has any.
    fn denoise(&self, sequence: &[u32], block: Range<usize>, cached: usize) -> Plan {
        let FastDllm { small_block_size: small, mask_id, use_block_cache, .. } = *self.params;
        let undecided = masks(sequence, mask_id, block.clone());
        let first = undecided.first().map_or(block.start, |first| first / small * small);
        let undecided = undecided.into_iter().take_while(|&p| p < first + small).collect();
        let reuse = use_block_cache && cached == block.end && sequence[first] != mask_id;
        match (use_block_cache, reuse) {
            (_, true) => Plan { past: cached, feed: first..first + small, undecided, store: Store::Draft(small) },
            (true, false) => Plan { past: block.start, store: Store::Draft(block.len()), feed: block, undecided },
            (false, false) => Plan { past: block.start, feed: block, undecided, store: Store::Discard },
        }
    }
}

impl Planner for Decoding<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, cached: usize) -> Option<Plan> {
        let (size, prompt) = (self.params.block_size, self.prompt);
        let whole = prompt / size * size;
        if sequence.len() == prompt && (cached < whole || whole == prompt) {
            // The next token comes from the last row of the prompt, so its last block is fed even when it is cached.
            let next = whole == prompt;
            let from = if next { cached.min(whole - size) } else { cached };
            return Some(self.store(sequence, from..whole, next));
        }
        let start = match self.start {
            Some(start) => start,
            None => {
                let stopped = self.kind == Kind::Generate && sequence[prompt..].iter().any(|id| self.is_stop(id));
                if stopped || self.left == 0 {
                    return self.finish(sequence);
                }
                self.left -= 1;
                let start = sequence.len();
                sequence.resize((start / size + 1) * size, self.params.mask_id);
                *self.start.insert(start)
            }
        };
        let block = sequence.len() - size..sequence.len();
        let full = !sequence[block.clone()].contains(&self.params.mask_id);
        match self.kind {
            Kind::Generate if self.ends_in(&sequence[start..]) => self.finish(sequence),
            Kind::BatchSample if full && self.padded => None,
            _ if full => {
                self.start = None;
                Some(self.store(sequence, block, true))
            }
            _ => Some(self.denoise(sequence, block, cached)),
        }
    }

    fn accept(&mut self, proposals: &[Proposal], _: &mut Draws) -> Vec<usize> {
        let Some(first) = proposals.first() else { return vec![] };
        if self.start.is_none() {
            return vec![0]; // the one token behind a stored block
        }
        let decoded = (first.position / self.params.block_size).saturating_sub(self.prompt / self.params.block_size);
        let threshold = self.params.threshold.of_block(decoded);
        let accepted = best(proposals, sure(proposals, 1, |p| p > threshold));
        self.padded |= accepted.iter().any(|&i| self.is_stop(&proposals[i].token));
        accepted
    }

    fn settle(&mut self, sequence: &mut [u32]) {
        let new = &mut sequence[self.prompt..];
        if self.kind == Kind::BatchSample && self.padded && self.start.is_some() && !new.contains(&self.params.mask_id)
        {
            let stop = new.iter().position(|id| self.params.stop_token.0.contains(id));
            new[stop.map_or(0, |at| at + 1)..].fill(self.params.pad_token);
        }
    }
}
