//! What a run did, pass by pass.

use super::Marks;
use crate::sample::{argmax, softmax};
use std::time::Duration;

/// One pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Tokens fed.
    pub fed: usize,
    /// Cached positions before it.
    pub cached: usize,
    /// Whether its keys and values were kept.
    pub stored: bool,
    /// Tokens accepted.
    pub accepted: usize,
    /// Time of the pass, the sampler included.
    pub elapsed: Duration,
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
    pub confidence: f32,
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
    /// Where asked for: for every pass, the best token of every fed row and its probability among the raw logits.
    pub rows: Vec<Vec<(u32, f32)>>,
    /// Why it ended; `Length` while it runs.
    pub end: End,
    answer: usize,
}

impl Trace {
    pub(super) fn new(prompt: &[u32], reused: usize) -> Self {
        let (tokens, prompt) = (prompt.to_vec(), prompt.len());
        Self { prompt, reused, tokens, passes: vec![], accepted: vec![], rows: vec![], end: End::Length, answer: 0 }
    }

    /// The new tokens before the first end token; no mask is among them.
    #[must_use]
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..self.prompt + self.answer]
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
        let passes = self.passes.iter().filter(|p| !self.is_prefill(p)).count();
        self.answer as f64 / passes.max(1) as f64
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
        pass.stored && pass.cached + pass.fed <= self.prompt
    }

    pub(super) fn update_answer(&mut self, marks: Marks<'_>) {
        let (answer, ended) = marks.answer(&self.tokens[self.prompt..]);
        self.answer = answer.len();
        if ended && self.end == End::Length {
            self.end = End::EndToken;
        }
    }

    pub(super) fn record_rows(&mut self, logits: &[f32], vocab: usize) {
        let best = |row: &[f32]| {
            let mut row = row.to_vec();
            softmax(&mut row);
            let token = argmax(&row);
            (token as u32, row[token])
        };
        self.rows.push(logits.chunks(vocab.max(1)).map(best).collect());
    }
}
