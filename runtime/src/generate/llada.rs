//! LLaDA's own generation ("Large Language Diffusion Models", `generate`) and Fast-dLLM's for it ("Fast-dLLM:
//! Training-free Acceleration of Diffusion LLM").
//!
//! A canvas of a fixed number of masks follows the prompt and is decoded block by block under full attention; row `i`
//! decides position `i`. The own algorithm makes a fixed number of passes over each block and can lead them away from
//! what the model would say without the prompt (guidance). Fast-dLLM leaves a block when it is full, can accept by a
//! threshold instead of a quota, and can reuse keys and values within a block.
//!
//! Confidences come from the logits as they are, also at a temperature above 0, where tokens are drawn with Gumbel noise.
//! Where the original runs out of its schedule, this accepts one token a pass.

use super::accept::{best, masks, share, sure};
use super::blocks::{self, Blocks};
use super::params::{Ids, Thresholds, at_least_one, divides, steps, strategy, wrong};
use super::{Behaviour, GenerateError, Marks, Plan, Planner, Proposal, Setup, Task};
use crate::sample::{Choice, Confidence, Draws, Order, Sampler, Sampling};
use diffulex_compiler::generation::{Reuse, Strategy};

/// Parameters, under the names of the originals. Only the mask's id has no default.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llada {
    /// New tokens.
    #[serde(default = "Llada::default_length")]
    pub gen_length: usize,
    /// Length of a block; divides `gen_length`.
    #[serde(default = "Llada::default_length")]
    pub block_length: usize,
    /// Passes for the whole answer; the number of blocks divides it.
    #[serde(default = "Llada::default_length")]
    pub steps: usize,
    /// Scale of guidance, for the own algorithm; 0 is none.
    #[serde(default)]
    pub cfg_scale: f32,
    /// From it on a token is accepted, for Fast-dLLM's; without it the step's quota counts.
    #[serde(default)]
    pub threshold: Option<Thresholds>,
    /// In which order masks are filled: `low_confidence`, the most confident first, or `random`.
    #[serde(default = "Llada::default_strategy")]
    pub remasking: Strategy,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f32,
    /// Ids that end the answer; the original knows none and leaves the cut to its caller.
    #[serde(default)]
    pub end_ids: Ids,
    /// The mask's id.
    pub mask_id: u32,
}

/// Which of the originals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// LLaDA's own.
    Gsai,
    /// Fast-dLLM's.
    Nv(Reuse),
}

impl Kind {
    pub(super) fn reuse(self) -> Reuse {
        match self {
            Kind::Gsai => Reuse::None,
            Kind::Nv(reuse) => reuse,
        }
    }
}

impl Llada {
    /// The strategies it knows, the default first.
    pub(super) const STRATEGIES: [Strategy; 2] = [Strategy::LowConfidence, Strategy::Random];

    fn default_length() -> usize {
        128
    }
    fn default_strategy() -> Strategy {
        Self::STRATEGIES[0]
    }

    /// The defaults of the published function.
    #[must_use]
    pub fn new(mask_id: u32) -> Self {
        Self {
            gen_length: Self::default_length(),
            block_length: Self::default_length(),
            steps: Self::default_length(),
            cfg_scale: 0.0,
            threshold: None,
            remasking: Self::default_strategy(),
            temperature: 0.0,
            end_ids: Ids::default(),
            mask_id,
        }
    }

    /// Shortens the answer to whole blocks of at most `most` tokens, and the passes with it.
    pub(super) fn shorten(&mut self, most: usize) {
        let block = self.block_length.max(1);
        let (before, after) = ((self.gen_length / block).max(1), (most / block).max(1));
        if after < before {
            self.gen_length = after * block;
            self.steps = (self.steps / before).max(1) * after;
        }
    }

    pub(super) fn set_up(&self, kind: Kind, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        at_least_one(&[("gen_length", self.gen_length)])?;
        steps("steps", self.steps)?;
        strategy("remasking", self.remasking, &Self::STRATEGIES)?;
        divides(("block_length", self.block_length), ("gen_length", self.gen_length))?;
        let count = self.gen_length / self.block_length;
        divides(("the number of blocks", count), ("steps", self.steps))?;
        if !(0.0..=100.0).contains(&self.cfg_scale) {
            return wrong("cfg_scale", format!("must be 0 to 100, not {}", self.cfg_scale));
        }
        match (&self.threshold, kind) {
            (Some(_), Kind::Gsai) => return wrong("threshold", "is unknown to llada.gsai; llada.nv knows it"),
            (Some(threshold), _) => threshold.check("threshold")?,
            (None, _) => {}
        }
        if kind != Kind::Gsai && self.cfg_scale != 0.0 {
            return wrong("cfg_scale", "is known to llada.gsai alone");
        }
        let sequence = blocks::canvas(task, self.gen_length, self.mask_id, kind.reuse())?;
        let gap = task.prompt.len()..sequence.len() - task.suffix.len();
        let run = Decoding {
            llada: self,
            kind,
            behaviour: task.behaviour,
            blocks: Blocks::new(gap.clone(), self.block_length, kind.reuse()),
            gap,
            quota: self.block_length,
        };
        let choice = Choice::Gumbel;
        let sampling =
            Sampling { temperature: self.temperature, top_k: 0, top_p: 1.0, order: Order::TopKFirst, choice };
        Ok(Setup {
            planner: Box::new(run),
            sampler: Sampler::new(sampling, Confidence::Prob, Some(self.mask_id), task.seed)?,
            marks: Marks { mask: self.mask_id, ends: &self.end_ids.0 },
            shifted: false,
            guidance: self.cfg_scale,
            sequence,
        })
    }
}

/// A run.
struct Decoding<'a> {
    llada: &'a Llada,
    kind: Kind,
    behaviour: Behaviour,
    gap: std::ops::Range<usize>,
    blocks: Blocks,
    /// Masks of the block before its first pass, which its steps share.
    quota: usize,
}

impl Decoding<'_> {
    /// Steps of one block.
    fn steps(&self) -> usize {
        self.llada.steps / (self.llada.gen_length / self.llada.block_length)
    }

    /// Whether the block has had all its passes.
    fn leaves(&self, masks: usize) -> bool {
        match (self.behaviour, self.kind) {
            (Behaviour::Answer, _) | (_, Kind::Nv(Reuse::None | Reuse::Block)) => masks == 0,
            (_, Kind::Gsai) => self.blocks.step == self.steps(),
            // One pass with the cache is made even over a block that is full.
            (_, Kind::Nv(_)) => masks == 0 && self.blocks.step >= 2,
        }
    }
}

impl Planner for Decoding<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        let mask = self.llada.mask_id;
        let mut left = masks(sequence, mask, self.blocks.at.clone());
        while !self.blocks.are_done() && self.leaves(left.len()) {
            self.blocks.next();
            left = masks(sequence, mask, self.blocks.at.clone());
        }
        if self.blocks.are_done() {
            return None;
        }
        if self.blocks.step == 0 {
            self.quota = left.len();
        }
        // A pass over all of it fills masks anywhere before the end of the block.
        let undecided = if self.blocks.feeds_all() { masks(sequence, mask, 0..self.blocks.at.end) } else { left };
        Some(self.blocks.pass(sequence.len(), 0, undecided))
    }

    fn accept(&mut self, proposals: &[Proposal], draws: &mut Draws) -> Vec<usize> {
        let step = self.blocks.step;
        self.blocks.step += 1;
        let mut proposals = proposals.to_vec();
        if self.llada.remasking == Strategy::Random {
            for p in &mut proposals {
                p.confidence = draws.uniform();
                p.probability = p.confidence;
            }
        }
        let wanted = match &self.llada.threshold {
            Some(thresholds) => {
                let block = (self.blocks.at.start - self.gap.start) / self.llada.block_length;
                let threshold = thresholds.of_block(block);
                sure(&proposals, 1, |p| p >= threshold)
            }
            None if step < self.steps() => share(self.quota, self.steps(), step),
            // Only masks in the prompt itself, which take from a block's share, lead here; the original stops with an error.
            None => 1,
        };
        best(&proposals, wanted)
    }
}
