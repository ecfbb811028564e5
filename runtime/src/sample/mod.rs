//! From one row of logits to a token and how sure the model is of it.
//!
//! The primitives are those of the families' own samplers (temperature, top-k, top-p, softmax, confidences). They filter
//! `f32` logits and make `f64` probabilities of them, with functions that give the same bits on every machine.

mod draws;
mod filter;

pub use draws::Draws;
pub use filter::{Choice, DROPPED, Order, Sampling, argmax, softmax, top_k, top_p};

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
    pub fn of(self, probabilities: &[f64], token: usize) -> f64 {
        match self {
            Self::Prob => probabilities[token],
            Self::Margin => {
                let (best, second) = probabilities.iter().fold((0.0f64, 0.0f64), |(best, second), &p| {
                    if p > best { (p, best) } else { (best, second.max(p)) }
                });
                best - second
            }
            Self::NegEntropy => {
                let term = |&p: &f64| p * libm::log(p + 1e-10);
                probabilities.iter().filter(|&&p| p > 0.0).map(term).sum()
            }
        }
    }
}

/// What a row of logits says about its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// The token chosen.
    pub token: u32,
    /// Its probability in the filtered distribution; thresholds compare this. Two that are nearly certain still differ.
    pub probability: f64,
    /// How sure the model is; ranking compares this.
    pub confidence: f64,
}

/// Chooses tokens, by the largest probability or by seeded draws.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    confidence: Confidence,
    never: Option<u32>,
    draws: Draws,
    row: Vec<f64>,
}

impl Sampler {
    /// A sampler whose draws follow from `seed` alone. `never` is the mask token: it keeps its share of the
    /// distribution, as in the original algorithms, but is never chosen.
    ///
    /// # Errors
    /// [`SampleError::Setting`] for a temperature or a top-p without meaning.
    pub fn new(sampling: Sampling, confidence: Confidence, never: Option<u32>, seed: u64) -> Result<Self, SampleError> {
        sampling.check()?;
        Ok(Self { sampling, confidence, never, draws: Draws::seeded(seed), row: vec![] })
    }

    /// The numbers that all draws are made of, for whoever draws something else than tokens.
    pub fn draws(&mut self) -> &mut Draws {
        &mut self.draws
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
        self.row = self.sampling.distribution(logits);
        // The filters may have left nothing but the mask; then the choice is made among the others.
        if let Some(id) = never
            && self.row.iter().enumerate().all(|(i, &p)| i == id || p == 0.0)
        {
            let mut others = logits.to_vec();
            others[id] = f32::NEG_INFINITY;
            self.row = self.sampling.distribution(&others);
        }
        let share = never.map_or(0.0, |id| std::mem::take(&mut self.row[id]));
        let token = match self.sampling.choice {
            _ if self.sampling.temperature == 0.0 => argmax(&self.row),
            Choice::Share => self.draws.index(&self.row),
            Choice::Gumbel => self.noisy_argmax(logits, never),
        };
        if let Some(id) = never {
            self.row[id] = share;
        }
        let confidence = self.confidence.of(&self.row, token);
        Ok(Pick { token: token as u32, probability: self.row[token], confidence })
    }

    /// The index of the largest `exp(logit) / (-ln u)^temperature`, each with a draw of its own, by its logarithm.
    fn noisy_argmax(&mut self, logits: &[f32], never: Option<usize>) -> usize {
        let temperature = f64::from(self.sampling.temperature);
        let (mut best, mut largest) = (usize::from(never == Some(0)), f64::NEG_INFINITY);
        for (i, &logit) in logits.iter().enumerate() {
            let noisy = f64::from(logit) - temperature * libm::log(-libm::log(self.draws.uniform()));
            if noisy > largest && Some(i) != never {
                (best, largest) = (i, noisy);
            }
        }
        best
    }
}
