//! The three runs: by a schedule, by a threshold, block by block.

use super::{Dream, Schedule};
use crate::generate::accept::{best, masks, sure};
use crate::generate::blocks::Blocks;
use crate::generate::{Behaviour, Plan, Planner, Proposal};
use crate::sample::{Draws, softmax};
use diffulex_compiler::generation::Strategy;
use std::ops::Range;

/// Whether a token is sure enough. The original's probabilities are float32, in which 1 can be reached.
fn reaches(probability: f64, threshold: f64) -> bool {
    probability as f32 >= threshold as f32
}

/// What the three runs share.
pub(super) struct Frame<'a> {
    pub(super) dream: &'a Dream,
    pub(super) behaviour: Behaviour,
    /// The positions to be filled.
    pub(super) gap: Range<usize>,
}

impl Frame<'_> {
    /// Whether an answer has all its tokens, so that no further pass matters.
    fn is_answered(&self, sequence: &[u32]) -> bool {
        self.behaviour == Behaviour::Answer && !sequence[self.gap.clone()].contains(&self.dream.mask_id)
    }

    /// `n` proposals: the most confident, or drawn one after the other in proportion to `exp(confidence / alg_temp)`.
    fn choose(&self, proposals: &[Proposal], n: usize, draws: &mut Draws) -> Vec<usize> {
        match self.dream.alg_temp {
            Some(temperature) if temperature > 0.0 => {
                let scaled: Vec<f32> = proposals.iter().map(|p| p.confidence as f32 / temperature).collect();
                let shares = softmax(&scaled);
                let mut left: Vec<usize> = (0..proposals.len()).collect();
                let mut draw = || left.swap_remove(draws.index(&left.iter().map(|&i| shares[i]).collect::<Vec<_>>()));
                (0..n.min(proposals.len())).map(|_| draw()).collect()
            }
            _ => best(proposals, n),
        }
    }

    /// A pass over the whole canvas that may fill any mask.
    fn pass(&self, sequence: &[u32]) -> Plan {
        Plan::whole(sequence.len(), masks(sequence, self.dream.mask_id, 0..sequence.len()))
    }
}

/// Dream's own algorithm.
pub(super) struct Scheduled<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) schedule: Schedule,
    pub(super) step: usize,
}

impl Planner for Scheduled<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        let over = self.step == self.schedule.steps || self.frame.is_answered(sequence);
        let pass = self.frame.pass(sequence);
        // For an answer, a step that fills nothing needs no pass.
        while self.frame.behaviour == Behaviour::Answer
            && self.frame.dream.alg != Strategy::Origin
            && self.step + 1 < self.schedule.steps
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
            Strategy::Origin => {
                let share = self.schedule.share(step);
                (0..proposals.len()).filter(|_| draws.uniform() < f64::from(share)).collect()
            }
            _ => self.frame.choose(proposals, self.schedule.quota(step, proposals.len()), draws),
        }
    }
}

/// Fast-dLLM's threshold without blocks: what a step rejects is owed to the next one.
pub(super) struct Thresholded<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) step: usize,
    pub(super) steps: usize,
    /// What each step is to fill.
    pub(super) base: usize,
    /// What the last step left.
    pub(super) carry: usize,
}

impl Planner for Thresholded<'_> {
    fn plan(&mut self, sequence: &mut Vec<u32>, _: usize) -> Option<Plan> {
        // Masks in the prompt itself take from the steps' shares; an answer is filled nevertheless.
        let over = self.step >= self.steps && self.frame.behaviour == Behaviour::Original;
        (!over && !self.frame.is_answered(sequence)).then(|| self.frame.pass(sequence))
    }

    fn accept(&mut self, proposals: &[Proposal], _: &mut Draws) -> Vec<usize> {
        let threshold = self.frame.dream.threshold.of_block(0);
        let wanted = (self.base + self.carry).max(1).min(proposals.len());
        let accepted = sure(proposals, 1, |p| reaches(p, threshold)).min(wanted);
        self.carry = wanted - accepted;
        if self.carry > 0 && self.step + 1 == self.steps {
            (self.base, self.steps) = (0, self.steps + 1);
        }
        self.step += 1;
        best(proposals, accepted)
    }
}

/// Fast-dLLM's blocks.
pub(super) struct Blockwise<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) blocks: Blocks,
    pub(super) schedule: Schedule,
}

impl Blockwise<'_> {
    fn by_threshold(&self) -> bool {
        self.frame.dream.alg == Strategy::ConfidenceThreshold
    }

    /// Whether the block has had all its passes: at least one follows the one over everything.
    fn leaves(&self, masks: usize) -> bool {
        let step = self.blocks.step;
        match self.frame.behaviour {
            Behaviour::Answer => masks == 0,
            Behaviour::Original if self.by_threshold() => step >= 2 && masks == 0,
            Behaviour::Original => step >= 2 && (masks == 0 || step > self.schedule.steps),
        }
    }
}

impl Planner for Blockwise<'_> {
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
            return best(proposals, sure(proposals, 1, |p| reaches(p, threshold)));
        }
        let quota = match (self.frame.behaviour, step < self.schedule.steps) {
            (_, true) => self.schedule.quota(step, proposals.len()),
            (Behaviour::Answer, false) => proposals.len(),
            (Behaviour::Original, false) => 0,
        };
        self.frame.choose(proposals, quota, draws)
    }
}
