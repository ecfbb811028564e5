//! What a run did, pass by pass.

use super::{Marks, Proposal};
use crate::session::Store;
use std::time::Duration;

/// One pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The first position fed.
    pub start: usize,
    /// Tokens fed.
    pub fed: usize,
    /// Cached positions before it.
    pub cached: usize,
    /// What became of its keys and values.
    pub store: Store,
    /// Whether a second row of the pass was fed without the prompt.
    pub guided: bool,
    /// Tokens that changed.
    pub accepted: usize,
    /// Time of the pass, the sampler included.
    pub elapsed: Duration,
}

impl Pass {
    /// Whether it wrote over cached rows.
    #[must_use]
    pub fn replaces(&self) -> bool {
        self.start < self.cached
    }
}

/// A token written into the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accepted {
    /// The pass after which it was written.
    pub pass: usize,
    /// Its position in the sequence.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// How sure the model was of it.
    pub confidence: f64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer holds an end token.
    EndToken,
    /// All tokens asked for are there.
    Length,
    /// The observer ended it.
    Stopped,
}

/// What a run did; after a pass, what it did so far: the answer is then the beginning that is settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, how many were cached by an earlier run.
    pub reused: usize,
    /// The whole sequence as the run left it: prompt, new tokens, and masks where it never came to decide.
    pub tokens: Vec<u32>,
    /// All passes.
    pub passes: Vec<Pass>,
    /// All accepted tokens, by pass and position.
    pub accepted: Vec<Accepted>,
    /// Why it ended, as far as it is known.
    pub end: End,
    /// Positions of the answer that were never decided: some originals leave masks behind.
    pub undecided: usize,
    suffix: usize,
    answer: usize,
}

impl Trace {
    pub(super) fn new(tokens: Vec<u32>, prompt: usize, suffix: usize, reused: usize) -> Self {
        Self {
            prompt,
            reused,
            tokens,
            passes: vec![],
            accepted: vec![],
            end: End::Length,
            undecided: 0,
            suffix,
            answer: 0,
        }
    }

    /// The new tokens before the first end token; no mask is among them.
    #[must_use]
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..self.prompt + self.answer]
    }

    /// The positions that are the run's to fill.
    #[must_use]
    pub fn gap(&self) -> std::ops::Range<usize> {
        self.prompt.min(self.tokens.len())..self.tokens.len().saturating_sub(self.suffix)
    }

    /// What the last pass decided.
    #[must_use]
    pub fn latest(&self) -> &[Accepted] {
        let last = self.passes.len().saturating_sub(1);
        &self.accepted[self.accepted.partition_point(|a| a.pass < last)..]
    }

    /// Tokens of the answer for each pass after the prompt's.
    #[must_use]
    pub fn tokens_per_pass(&self) -> f64 {
        self.answer as f64 / self.decoding_passes().max(1) as f64
    }

    /// Passes after the prompt's.
    #[must_use]
    pub fn decoding_passes(&self) -> usize {
        self.passes.iter().filter(|p| !self.is_prefill(p)).count()
    }

    /// Tokens of the answer a second, the prompt's passes not counted; 0 when no time passed.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let time = self.elapsed(|p| !self.is_prefill(p)).as_secs_f64();
        if time > 0.0 { self.answer as f64 / time } else { 0.0 }
    }

    /// Time until the prompt was in the cache.
    #[must_use]
    pub fn prefill_time(&self) -> Duration {
        self.elapsed(|p| self.is_prefill(p))
    }

    /// Time of all passes.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.elapsed(|_| true)
    }

    fn elapsed(&self, which: impl Fn(&Pass) -> bool) -> Duration {
        self.passes.iter().filter(|p| which(p)).map(|p| p.elapsed).sum()
    }

    /// Whether a pass fed nothing but the prompt.
    fn is_prefill(&self, pass: &Pass) -> bool {
        pass.store == Store::Keep && pass.start + pass.fed <= self.prompt
    }

    /// Notes what a pass changed, by position, and how sure the model was of it; returns how many tokens that are.
    pub(super) fn note_changes(&mut self, pass: usize, before: &[u32], proposals: &[Proposal]) -> usize {
        let first = self.accepted.len();
        for (position, &token) in self.tokens.iter().enumerate() {
            if before.get(position) != Some(&token) {
                // What was not proposed is padding, which is certain.
                let proposal = proposals.iter().find(|p| p.position == position && p.token == token);
                let confidence = proposal.map_or(1.0, |p| p.confidence);
                self.accepted.push(Accepted { pass, position, token, confidence });
            }
        }
        self.accepted.len() - first
    }

    pub(super) fn update_answer(&mut self, marks: Marks<'_>, limit: Option<usize>) {
        let new = &self.tokens[self.gap()];
        let (answer, ended) = marks.answer(new);
        self.undecided = new.iter().filter(|&&id| id == marks.mask).count();
        let within = limit.is_none_or(|limit| answer.len() <= limit);
        self.answer = limit.map_or(answer.len(), |limit| limit.min(answer.len()));
        if ended && within && self.end == End::Length {
            self.end = End::EndToken;
        }
    }
}
