//! Proving that something runs as its source does.
//!
//! * [`mod@reference`]: logits and hidden states that somebody recorded, case by case;
//! * [`trajectories`]: recorded generation runs, pass by pass and token by token;
//! * [`conversations`]: recorded conversations, from the chat template to the text of the answer;
//! * [`weights`]: the weights of two modules, number by number;
//! * [`numbers`]: two engines on the same tokens: errors, divergence, agreement, and the first layer that departs;
//! * [`replies`]: greedy generation of two engines, token by token.
//!
//! Where a run departs, [`departure`] says in which pass and row, and what the candidates' probabilities are there. Each gives [`Check`]s; whoever asked prints them. A limit is never widened to pass: see [`Limits`].

pub mod conversations;
pub mod departure;
pub mod numbers;
pub mod reference;
pub mod replies;
pub mod trajectories;
pub mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diffulex_compiler::generation::{Family, Generation};
use diffulex_compiler::ir::{DType, Encoding, Module};

use crate::generate::{Algorithm, GenerateError};
use crate::session::SessionError;
use departure::Departure;

/// One finished check: one line of `--message-format json`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Check {
    /// The file itself: digests, tables, offsets, shapes.
    Structure {
        /// What was looked at.
        what: String,
        /// What was wrong.
        problem: Option<String>,
        /// Whether nothing was.
        passed: bool,
    },
    /// Logits, and hidden states where the engine shows them, against recorded ones.
    Logits {
        /// Name of the case in the file.
        case: String,
        /// The attention that was assumed: `blocks of 4`.
        attention: String,
        /// Rows compared.
        rows: usize,
        /// Largest absolute error of a logit.
        max_error: f32,
        /// What it may be.
        limit: f32,
        /// Largest absolute error of each hidden state, by its name in the file.
        hidden: BTreeMap<String, f32>,
        /// What those may be.
        hidden_limit: f32,
        /// Recorded hidden states that this engine does not show.
        not_compared: Vec<String>,
        /// Whether all limits are kept.
        passed: bool,
    },
    /// A recorded generation run.
    Trajectory {
        /// Its name in the file.
        name: String,
        /// Passes made.
        passes: usize,
        /// Tokens that came out, the prompt's included.
        tokens: usize,
        /// The first thing that differs.
        departure: Option<Departure>,
        /// Whether nothing does.
        passed: bool,
    },
    /// A recorded conversation.
    Conversation {
        /// Its number in the file and the beginning of what was asked.
        case: String,
        /// Tokens of the recorded answer.
        tokens: usize,
        /// What differs in the texts.
        difference: Option<String>,
        /// The first generated token that differs.
        departure: Option<Departure>,
        /// Whether nothing does.
        passed: bool,
    },
    /// The weights of an artifact, number by number.
    Weights {
        /// Weights that stand for one of the source, and were compared.
        compared: usize,
        /// Weights of the artifact.
        of: usize,
        /// The first number that differs.
        difference: Option<String>,
        /// Whether none does.
        passed: bool,
    },
    /// Two engines on the same tokens.
    Numbers(numbers::Numbers),
    /// Greedy generation of two engines.
    Reply {
        /// The prompt, or its name.
        case: String,
        /// Tokens of the source's answer.
        tokens: usize,
        /// How many of them, from the first on, the other gives too.
        equal: usize,
        /// The first thing that differs.
        departure: Option<Departure>,
        /// Whether the answers are the same.
        passed: bool,
    },
}

impl Check {
    /// Whether the check was passed.
    pub fn passed(&self) -> bool {
        match self {
            Check::Structure { passed, .. }
            | Check::Logits { passed, .. }
            | Check::Trajectory { passed, .. }
            | Check::Conversation { passed, .. }
            | Check::Weights { passed, .. }
            | Check::Reply { passed, .. } => *passed,
            Check::Numbers(numbers) => numbers.passed,
        }
    }
}

/// Why a verification could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A reference file cannot be read.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A reference file does not hold what it should.
    #[error("{}: {what}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A recorded case does not fit the model.
    #[error("case `{case}` {what}")]
    Case {
        /// Its name.
        case: String,
        /// What does not fit.
        what: String,
    },
    /// A pass failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A run failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// What is known of a model before it is run; a recording that says otherwise is one of another model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Its family.
    pub family: Option<Family>,
    /// Its mask token, its end tokens and more.
    pub generation: Option<&'a Generation>,
}

impl Known<'_> {
    /// Says where an algorithm with its parameters is none of this model.
    fn contradiction(&self, algorithm: &Algorithm) -> Option<String> {
        if let Some(family) = self.family.filter(|family| !family.facts().algorithms.contains(&algorithm.name())) {
            return Some(format!("{} is recorded, but the model is of family {family}", algorithm.name()));
        }
        let (own, recorded) = (self.generation?.mask_id, algorithm.mask_id());
        (own != recorded).then(|| format!("the recording's mask token is {recorded}, the model's {own}"))
    }
}

/// Largest recording that is read.
const MAX_BYTES: u64 = 1 << 30;

/// A JSON file of bounded size.
fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, VerifyError> {
    let io = |error| VerifyError::Io { file: file.into(), error };
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    if std::fs::metadata(file).map_err(io)?.len() > MAX_BYTES {
        return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = std::fs::read(file).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))
}

/// What two engines may differ by.
///
/// With the same weights only the order of sums differs, and the limits are tight: they prove an artifact. Against
/// weights of a higher precision they bound what the encoding costs: a 16-bit weight is off by at most `2^-11` (f16) or
/// `2^-8` (bf16) of itself, which models whose logits lie close together feel more than others.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Limits {
    /// Largest error of a logit, as a share of the largest logit of the case.
    pub max_error: f32,
    /// Mean divergence (KL, in nats) from the source's distribution.
    pub kl: f32,
    /// Least share of rows with the same best token; a token whose logit is within the error limit of the best counts
    /// as the same.
    pub as_good: f32,
}

impl Limits {
    /// The limits for the matrices of `module`.
    pub fn of(module: &Module) -> Limits {
        let matrices = module.weights.iter().filter(|w| w.ty.shape.len() > 1).map(|w| w.ty.encoding);
        matrices.map(Limits::of_encoding).fold(Limits::same_weights(module), Limits::loosest)
    }

    /// The limits for two engines that run the same weights as `module`: only the order of sums differs. Where tokens
    /// are rounded, a number that lies between two levels may fall to either because of that, and all that follows from
    /// it differs, the more the deeper the network. Measured between this engine and ExecuTorch 1.5.1, as a share of the
    /// largest logit:
    ///
    /// * int8: most rows 1e-6 and the worst 1.3e-2 on 5 trained layers (KL 3e-4); on 24 layers of random numbers most
    ///   rows differ, at most by 7.5e-2 (KL 2e-3);
    /// * f16, which XNNPACK also adds up in f16 where the processor can: 1.0e-2 on 5 trained layers (KL 4e-4);
    /// * bf16: 2.8e-3 on 5 trained layers (KL 2e-5).
    ///
    /// Between this engine and ONNX Runtime 1.32 on its CPU, and on the emulator of Qualcomm's HTP, on 5 trained layers:
    ///
    /// * every value in uint16, caches in uint8: 4.5e-3 (KL 4e-5), and 1.7e-2 (KL 1e-3);
    /// * every value in uint8: 7.5e-2 (KL 6e-3) on the CPU;
    /// * all floats in f16: 1.5e-3 (KL 7e-6), and 2.6e-3 (KL 2e-5).
    pub fn same_weights(module: &Module) -> Limits {
        if module.rounds_tokens() || module.rounds_values().is_some() {
            Limits { max_error: 2e-1, kl: 1e-2, as_good: 1.0 }
        } else if module.has_values(DType::F16) {
            Limits { max_error: 1e-1, kl: 5e-3, as_good: 1.0 }
        } else if module.has_values(DType::BF16) {
            Limits { max_error: 5e-2, kl: 1e-3, as_good: 1.0 }
        } else {
            Limits::of_encoding(Encoding::F32)
        }
    }

    /// The limits for an outside engine and this one that run the same artifact: as [`Limits::same_weights`], but an
    /// engine also computes in f16 where all vectors are stored in it.
    pub fn between_engines(module: &Module) -> Limits {
        let mut vectors = module.weights.iter().filter(|w| w.ty.shape.len() == 1).map(|w| w.ty.encoding).peekable();
        let half = vectors.peek().is_some() && vectors.all(|encoding| encoding == Encoding::F16);
        let same = Limits::same_weights(module);
        if half { same.loosest(Limits::of_encoding(Encoding::F16)) } else { same }
    }

    fn of_encoding(encoding: Encoding) -> Limits {
        match encoding {
            Encoding::F32 => Limits { max_error: 1e-4, kl: 1e-6, as_good: 1.0 },
            Encoding::F16 => Limits { max_error: 2e-2, kl: 1e-3, as_good: 1.0 },
            Encoding::BF16 => Limits { max_error: 1e-1, kl: 3e-2, as_good: 1.0 },
            // What quantization costs is the model's affair: it is told, and only nonsense fails. That the numbers are
            // those to which the source's are rounded is judged apart, and exactly.
            Encoding::U16
            | Encoding::U8
            | Encoding::Int8Row
            | Encoding::Int4Row
            | Encoding::Int4G32
            | Encoding::Int4G64
            | Encoding::Int4G128 => Limits { max_error: 2.0, kl: 100.0, as_good: 0.0 },
        }
    }

    /// The same with an error of no more than `tolerance`; a limit is never widened by it.
    pub fn within(self, tolerance: Option<f32>) -> Limits {
        Limits { max_error: self.max_error.min(tolerance.unwrap_or(f32::INFINITY)), ..self }
    }

    fn loosest(self, other: Limits) -> Limits {
        if other.max_error > self.max_error { other } else { self }
    }
}

/// The largest absolute difference; infinite when the lengths differ or a number is not one.
fn max_error(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let difference = |(x, y): (&f32, &f32)| if x == y { 0.0 } else { (x - y).abs() };
    a.iter().zip(b).map(difference).fold(0.0, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) })
}
