//! From one row of logits to a token and how sure the model is of it.
//!
//! The primitives are those of the families' own samplers (temperature, top-k, top-p, softmax, confidences). They work
//! on `f32` rows and add up in `f64`, with functions that give the same bits on every machine.

mod filter;

pub use filter::{DROPPED, Order, Sampling, argmax, softmax, top_k, top_p};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Why a row cannot be sampled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A setting is outside what the formulas allow.
    #[error("{name} must be {allowed}, not {value}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it may be.
        allowed: &'static str,
        /// What it is.
        value: f32,
    },
    /// The row holds a NaN or an infinity, or nothing but the token that must not be chosen.
    #[error("a row of logits holds no token to choose: {0}")]
    Row(&'static str),
}

/// How sure the model is, by which positions are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The probability of the token.
    #[default]
    Prob,
    /// The largest probability minus the second largest.
    Margin,
    /// `sum p ln(p + 1e-10)`: at most about 0, and nearer to 0 the surer.
    NegEntropy,
}

impl Confidence {
    /// The confidence of `token` in a distribution.
    #[must_use]
    pub fn of(self, probabilities: &[f32], token: usize) -> f32 {
        match self {
            Self::Prob => probabilities[token],
            Self::Margin => {
                let (best, second) = probabilities.iter().fold((0.0f32, 0.0f32), |(best, second), &p| {
                    if p > best { (p, best) } else { (best, second.max(p)) }
                });
                best - second
            }
            Self::NegEntropy => {
                let term = |&p: &f32| f64::from(p) * libm::log(f64::from(p + 1e-10));
                probabilities.iter().filter(|&&p| p > 0.0).map(term).sum::<f64>() as f32
            }
        }
    }
}

/// What a row of logits says about its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// The token chosen.
    pub token: u32,
    /// Its probability in the filtered distribution; thresholds compare this.
    pub probability: f32,
    /// How sure the model is; ranking compares this.
    pub confidence: f32,
}

/// Chooses tokens, by the largest probability or by seeded draws.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    confidence: Confidence,
    never: Option<u32>,
    draws: ChaCha8Rng,
    row: Vec<f32>,
}

impl Sampler {
    /// A sampler whose draws follow from `seed` alone. `never` is the mask token: it keeps its share of the
    /// distribution, as in the original algorithms, but is never chosen.
    ///
    /// # Errors
    /// [`SampleError::Setting`] for a temperature or a top-p without meaning.
    pub fn new(sampling: Sampling, confidence: Confidence, never: Option<u32>, seed: u64) -> Result<Self, SampleError> {
        sampling.check()?;
        Ok(Self { sampling, confidence, never, draws: ChaCha8Rng::seed_from_u64(seed), row: vec![] })
    }

    /// The token of one row of finite logits: the most probable one at temperature 0 (the lowest id of equals), else a draw.
    ///
    /// # Errors
    /// [`SampleError::Row`] when a logit is NaN or infinite, or only the mask token is left to choose.
    pub fn pick(&mut self, logits: &[f32]) -> Result<Pick, SampleError> {
        if logits.iter().any(|l| !l.is_finite()) {
            return Err(SampleError::Row("some logits are NaN or infinite"));
        }
        let never = self.never.map(|id| id as usize).filter(|&id| id < logits.len());
        if logits.is_empty() || (never.is_some() && logits.len() == 1) {
            return Err(SampleError::Row("there is none but the mask"));
        }
        self.row.clear();
        self.row.extend_from_slice(logits);
        self.sampling.distribution(&mut self.row);
        // The filters may have left nothing but the mask; then the choice is made among the others.
        if let Some(id) = never
            && self.row.iter().enumerate().all(|(i, &p)| i == id || p == 0.0)
        {
            self.row.copy_from_slice(logits);
            self.row[id] = f32::NEG_INFINITY;
            self.sampling.distribution(&mut self.row);
        }
        let share = never.map_or(0.0, |id| std::mem::take(&mut self.row[id]));
        let token = if self.sampling.temperature > 0.0 { self.draw() } else { argmax(&self.row) };
        if let Some(id) = never {
            self.row[id] = share;
        }
        let confidence = self.confidence.of(&self.row, token);
        Ok(Pick { token: token as u32, probability: self.row[token], confidence })
    }

    /// An index drawn in proportion to `self.row`, by inverting the cumulative sum.
    fn draw(&mut self) -> usize {
        let total: f64 = self.row.iter().map(|&p| f64::from(p)).sum();
        let mut left = self.uniform() * total;
        let mut last = 0;
        for (i, &p) in self.row.iter().enumerate().filter(|&(_, &p)| p > 0.0) {
            last = i;
            left -= f64::from(p);
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// A uniform number in `[0, 1)`, 53 bits of it.
    fn uniform(&mut self) -> f64 {
        (self.draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
