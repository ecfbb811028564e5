//! Dream's own generation ("Dream 7B: Diffusion Large Language Models", `diffusion_generate`) and Fast-dLLM's for it.
//!
//! A canvas of a fixed number of masks follows the prompt; attention is full and row `i` decides position `i + 1`. The
//! own algorithm makes a fixed number of passes, of which each fills the share that a schedule gives it. Fast-dLLM's
//! accept by a threshold, or go block by block and reuse keys and values within a block; there the first position of a
//! block, whose row lies before the block, is decided by the pass that feeds everything.
//!
//! With `top_p` many positions can be certain alike; the lowest one comes first, where the original leaves it open.
//! Blocks of a single step, which the original leaves unfilled, are filled for an answer.

use super::accept::{best, masks, sure};
use super::blocks::{self, Blocks};
use super::params::{Ids, Thresholds, at_least_one, divides, wrong};
use super::{Behaviour, GenerateError, Marks, Plan, Proposal, Setup, Strategy, Task};
use crate::engine::EngineShape;
use crate::sample::{Choice, Confidence, Draws, Order, Sampler, Sampling, softmax};
use diffulex_compiler::generation::Reuse;
use std::ops::Range;

/// In which order masks are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alg {
    /// Each by a draw of its own.
    #[default]
    Origin,
    /// By the probability of the token.
    MaskgitPlus,
    /// By the distance of the two best tokens.
    TopkMargin,
    /// By the entropy of the distribution.
    Entropy,
    /// By the probability, those above the threshold together.
    ConfidenceThreshold,
}

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
    /// In which order masks are filled.
    #[serde(default)]
    pub alg: Alg,
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
    fn default_max_new_tokens() -> usize {
        256
    }
    fn default_steps() -> usize {
        512
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
            alg: Alg::default(),
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

    fn reuse(&self, kind: Kind) -> Reuse {
        match kind {
            Kind::Plain | Kind::Threshold => Reuse::None,
            Kind::Block if self.dual_cache => Reuse::Dual,
            Kind::Block => Reuse::Prefix,
        }
    }

    fn block(&self) -> usize {
        self.block_length.unwrap_or(self.max_new_tokens)
    }

    /// Shortens the answer to what there is room for after the prompt, in whole blocks, and the passes with it.
    pub(super) fn fit(&mut self, kind: Kind, prompt: usize, shape: &EngineShape) {
        let room = blocks::room(shape.max_tokens, shape.max_cache, self.reuse(kind)).saturating_sub(prompt);
        let all = self.max_new_tokens;
        if all > room {
            let block = self.block_length.unwrap_or(1).max(1);
            self.max_new_tokens = (room / block).max(1) * block;
            let parts = |tokens: usize| if kind == Kind::Plain { 1 } else { tokens.div_ceil(block).max(1) };
            self.steps = (self.steps / parts(all)).max(1) * parts(self.max_new_tokens);
        }
    }

    pub(super) fn set_up(&self, kind: Kind, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        at_least_one(&[("max_new_tokens", self.max_new_tokens), ("steps", self.steps)])?;
        self.threshold.check("threshold")?;
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return wrong("eps", format!("must lie between 0 and 1, not {}", self.eps));
        }
        if self.alg_temp.is_some_and(|t| !(0.0..=1000.0).contains(&t)) {
            return wrong("alg_temp", "must be 0 (the most confident first) to 1000");
        }
        match kind {
            Kind::Plain if self.alg == Alg::ConfidenceThreshold => {
                return wrong("alg", "confidence_threshold belongs to dream.diffusion_generate_threshold and _block");
            }
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
            (Kind::Plain, Alg::TopkMargin) => Confidence::Margin,
            (Kind::Plain, Alg::Entropy) => Confidence::NegEntropy,
            (Kind::Block, alg) if alg != Alg::ConfidenceThreshold => Confidence::NegEntropy,
            _ => Confidence::Prob,
        };
        let strategy: Box<dyn Strategy> = match kind {
            Kind::Plain => Box::new(Scheduled { frame, schedule: Schedule::new(self.steps, self.eps), step: 0 }),
            Kind::Threshold => {
                let (base, steps) = (self.max_new_tokens / self.steps, self.steps);
                Box::new(Thresholded { frame, step: 0, steps, base, carry: 0 })
            }
            Kind::Block => {
                let steps = self.steps / (self.max_new_tokens / self.block());
                let blocks = Blocks::new(gap, self.block(), self.reuse(kind));
                Box::new(Blockwise { frame, blocks, schedule: Schedule::new(steps, self.eps) })
            }
        };
        let (temperature, top_k, top_p) = (self.temperature, self.top_k.unwrap_or(0), self.top_p.unwrap_or(1.0));
        let sampling = Sampling { temperature, top_k, top_p, order: Order::TopPFirst, choice: Choice::Share };
        Ok(Setup {
            strategy,
            sampler: Sampler::new(sampling, confidence, Some(self.mask_id), task.seed)?,
            marks: Marks { mask: self.mask_id, ends: &self.end_ids.0 },
            shifted: true,
            guidance: 0.0,
            sequence,
        })
    }
}

/// The points from 1 down to `eps` that a run goes through, and what each step fills.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// One more than there are steps.
    pub points: Vec<f32>,
}

impl Schedule {
    /// Equally spaced points in float32: the first half counted from 1, the second back from `eps`, each rounded once, as
    /// PyTorch's `linspace` does.
    #[must_use]
    pub fn new(steps: usize, eps: f32) -> Self {
        let width = (eps - 1.0) / steps as f32;
        let half = steps.div_ceil(2);
        let point = |i: usize| match i < half {
            true => (i as f32).mul_add(width, 1.0),
            false => ((steps - i) as f32).mul_add(-width, eps),
        };
        Self { points: (0..=steps).map(point).collect() }
    }

    /// Number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.points.len() - 1
    }

    /// The share of its masks that a step fills; all in the last step.
    #[must_use]
    pub fn share(&self, step: usize) -> f32 {
        if step + 1 < self.steps() { 1.0 - self.points[step + 1] / self.points[step] } else { 1.0 }
    }

    /// How many of `masks` a step fills, truncated.
    #[must_use]
    pub fn quota(&self, step: usize, masks: usize) -> usize {
        if step + 1 < self.steps() { (masks as f32 * self.share(step)) as usize } else { masks }
    }
}

/// What the three runs share.
struct Frame<'a> {
    dream: &'a Dream,
    behaviour: Behaviour,
    gap: Range<usize>,
}

impl Frame<'_> {
    /// Whether no further pass matters.
    fn is_answered(&self, sequence: &[u32]) -> bool {
        let marks = Marks { mask: self.dream.mask_id, ends: &self.dream.end_ids.0 };
        self.behaviour == Behaviour::Answer && marks.answered(&sequence[self.gap.clone()])
    }

    /// `n` proposals: the most confident, or drawn one after the other in proportion to `exp(confidence / alg_temp)`.
    fn choose(&self, proposals: &[Proposal], n: usize, draws: &mut Draws) -> Vec<usize> {
        match self.dream.alg_temp {
            Some(temperature) if temperature > 0.0 => {
                let mut shares: Vec<f32> = proposals.iter().map(|p| p.confidence / temperature).collect();
                softmax(&mut shares);
                let draw = |_| {
                    // What rounding left without a share is as good as another.
                    let some = shares.iter().any(|&share| share > 0.0);
                    let i = if some { draws.index(&shares) } else { shares.iter().position(|&s| s == 0.0)? };
                    shares[i] = -1.0;
                    Some(i)
                };
                (0..n.min(proposals.len())).filter_map(draw).collect()
            }
            _ => best(proposals, n),
        }
    }

    /// A pass over the whole canvas that may fill any mask.
    fn pass(&self, sequence: &[u32]) -> Plan {
        let undecided = masks(sequence, self.dream.mask_id, 0..sequence.len());
        Blocks::new(self.gap.clone(), self.gap.len(), Reuse::None).pass(sequence.len(), 0, undecided)
    }
}

/// Dream's own algorithm.
struct Scheduled<'a> {
    frame: Frame<'a>,
    schedule: Schedule,
    step: usize,
}

impl Strategy for Scheduled<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        let over = self.step == self.schedule.steps() || self.frame.is_answered(sequence);
        let pass = self.frame.pass(sequence);
        // For an answer, a step that fills nothing needs no pass.
        while self.frame.behaviour == Behaviour::Answer
            && self.frame.dream.alg != Alg::Origin
            && self.step + 1 < self.schedule.steps()
            && self.schedule.quota(self.step, pass.undecided.len()) == 0
        {
            self.step += 1;
        }
        (!over).then_some(pass)
    }

    fn accept(&mut self, proposals: &[Proposal], draws: &mut Draws) -> Vec<usize> {
        let (step, dream) = (self.step, self.frame.dream);
        self.step += 1;
        match dream.alg {
            Alg::Origin => {
                let share = self.schedule.share(step);
                (0..proposals.len()).filter(|_| draws.uniform() < f64::from(share)).collect()
            }
            _ => self.frame.choose(proposals, self.schedule.quota(step, proposals.len()), draws),
        }
    }
}

/// Fast-dLLM's threshold without blocks: what a step rejects is owed to the next one.
struct Thresholded<'a> {
    frame: Frame<'a>,
    step: usize,
    steps: usize,
    base: usize,
    carry: usize,
}

impl Strategy for Thresholded<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        // Masks in the prompt itself take from the steps' shares; an answer is filled nevertheless.
        let over = self.step >= self.steps && self.frame.behaviour == Behaviour::Original;
        (!over && !self.frame.is_answered(sequence)).then(|| self.frame.pass(sequence))
    }

    fn accept(&mut self, proposals: &[Proposal], _: &mut Draws) -> Vec<usize> {
        let threshold = self.frame.dream.threshold.of_block(0);
        let wanted = (self.base + self.carry).max(1).min(proposals.len());
        let accepted = sure(proposals, 1, |p| p >= threshold).min(wanted);
        self.carry = wanted - accepted;
        if self.carry > 0 && self.step + 1 == self.steps {
            (self.base, self.steps) = (0, self.steps + 1);
        }
        self.step += 1;
        best(proposals, accepted)
    }
}

/// Fast-dLLM's blocks.
struct Blockwise<'a> {
    frame: Frame<'a>,
    blocks: Blocks,
    schedule: Schedule,
}

impl Blockwise<'_> {
    fn by_threshold(&self) -> bool {
        self.frame.dream.alg == Alg::ConfidenceThreshold
    }

    /// Whether the block has had all its passes: at least one follows the one over everything.
    fn leaves(&self, masks: usize) -> bool {
        let step = self.blocks.step;
        match self.frame.behaviour {
            Behaviour::Answer => masks == 0,
            Behaviour::Original if self.by_threshold() => step >= 2 && masks == 0,
            Behaviour::Original => step >= 2 && (masks == 0 || step > self.schedule.steps()),
        }
    }
}

impl Strategy for Blockwise<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        let mask = self.frame.dream.mask_id;
        if self.frame.is_answered(sequence) {
            return None;
        }
        let mut left = masks(sequence, mask, self.blocks.at.clone());
        while !self.blocks.are_done() && self.leaves(left.len()) {
            self.blocks.next();
            left = masks(sequence, mask, self.blocks.at.clone());
        }
        if self.blocks.step == 0 {
            left.retain(|&position| position == self.blocks.at.start);
        }
        (!self.blocks.are_done()).then(|| self.blocks.pass(sequence.len(), 0, left))
    }

    fn accept(&mut self, proposals: &[Proposal], draws: &mut Draws) -> Vec<usize> {
        let step = self.blocks.step;
        self.blocks.step += 1;
        if step == 0 {
            return (0..proposals.len()).collect();
        }
        if self.by_threshold() {
            let block = (self.blocks.at.start - self.frame.gap.start) / self.frame.dream.block();
            let threshold = self.frame.dream.threshold.of_block(block);
            return best(proposals, sure(proposals, 1, |p| p >= threshold));
        }
        let quota = match (self.frame.behaviour, step < self.schedule.steps()) {
            (_, true) => self.schedule.quota(step, proposals.len()),
            (Behaviour::Answer, false) => proposals.len(),
            (Behaviour::Original, false) => 0,
        };
        self.frame.choose(proposals, quota, draws)
    }
}
