//! Generation: one loop over passes.
//!
//! 1. A [`Strategy`] looks at the sequence and [plans](Plan) the next pass: which positions are fed, which of them are
//!    to be decided, and whether keys and values are kept.
//! 2. The [`Session`] runs the pass.
//! 3. The [`Sampler`] gives every undecided position a token and a confidence.
//! 4. The strategy accepts some of them; they are written into the sequence.
//! 5. The observer sees what happened, draws or prints it, and may end the run.
//!
//! The families' algorithms are strategies: [`sdar`] so far. Nothing here prints, and nothing knows a tokenizer.

pub mod sdar;
mod trace;

pub use sdar::Sdar;
pub use trace::{Accepted, End, Pass, Trace};

use crate::sample::{Pick, SampleError, Sampler};
use crate::session::{Attention, Session, SessionError, Store};
use diffulex_compiler::generation::{self, Generation};
use std::ops::{ControlFlow, Range};
use std::time::Instant;

/// An algorithm under the name of the original it reproduces, with its parameters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "algorithm", content = "params")]
pub enum Algorithm {
    /// SDAR's block diffusion.
    #[serde(rename = "sdar.block_diffusion_generate")]
    Sdar(Sdar),
}

impl TryFrom<&Generation> for Algorithm {
    type Error = GenerateError;

    /// The algorithm that travels with an artifact, with its defaults.
    fn try_from(generation: &Generation) -> Result<Algorithm, GenerateError> {
        let wrong = |name, problem: &str| Err(GenerateError::Setting { name, problem: problem.into() });
        if generation.attention != generation::Attention::BlockCausal {
            return wrong("attention", "is not block-causal, as this family's is");
        }
        if generation.logits != generation::Logits::Aligned {
            return wrong("logits", "are not aligned, as this family's are");
        }
        match generation.algorithm {
            generation::Algorithm::SdarBlockDiffusion => Ok(Algorithm::Sdar(Sdar {
                gen_length: generation.max_tokens as usize,
                block_length: generation.block as usize,
                denoising_steps: generation.steps.unwrap_or(generation.block) as usize,
                remasking_strategy: generation.strategy.unwrap_or(sdar::Remasking::LowConfidenceDynamic),
                confidence_threshold: sdar::Thresholds(generation.threshold.clone()),
                temperature: generation.temperature,
                top_k: generation.top_k as usize,
                top_p: generation.top_p,
                stopping_criteria_idx: generation.end_ids.clone(),
                mask_id: generation.mask_id,
            })),
            _ => wrong("algorithm", "is not supported yet"),
        }
    }
}

impl Algorithm {
    /// The attention its session needs.
    #[must_use]
    pub fn attention(&self) -> Attention {
        match self {
            Algorithm::Sdar(sdar) => sdar.attention(),
        }
    }
}

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// An answer: passes that cannot change it are left out, cached blocks of an earlier turn are reused.
    #[default]
    Answer,
    /// The original algorithm with every pass it makes, from an empty cache.
    Original,
}

/// How to run, apart from the algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What the run is for.
    pub behaviour: Behaviour,
    /// All draws follow from it.
    pub seed: u64,
    /// Records [`Trace::rows`]; every pass then asks for all of its logits.
    pub record_rows: bool,
}

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Prompt and answer do not fit the build.
    #[error(
        "a prompt of {prompt} tokens and {new} new ones need {need} cached positions; this build holds {room}: \
         ask for fewer tokens, shorten the conversation or build with a longer cache"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        new: usize,
        /// Positions they need.
        need: usize,
        /// Positions there are.
        room: usize,
    },
    /// A parameter without meaning.
    #[error("{name} {problem}")]
    Setting {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt holds an id the model does not know.
    #[error("token {id} of the prompt is not below the model's {vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the model's vocabulary.
        vocab: usize,
    },
    /// A parameter of the sampler without meaning.
    #[error(transparent)]
    Sampling(#[from] SampleError),
    /// Logits without meaning.
    #[error("pass {pass}, position {position}: {error}")]
    Sample {
        /// The pass, counted from 0.
        pass: usize,
        /// The position in the sequence.
        position: usize,
        /// What is wrong with it.
        error: SampleError,
    },
    /// A pass failed.
    #[error("pass {pass}: {error}")]
    Pass {
        /// The pass, counted from 0.
        pass: usize,
        /// Why.
        error: SessionError,
    },
}

/// One pass, as a strategy wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Positions whose tokens are fed.
    pub feed: Range<usize>,
    /// Positions to be decided, ascending; each gets the row of logits of its own position.
    pub undecided: Vec<usize>,
    /// What becomes of the keys and values.
    pub store: Store,
}

/// A token proposed for a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// The position in the sequence.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// The token's probability; thresholds compare this.
    pub probability: f32,
    /// What positions are ranked by.
    pub confidence: f32,
}

/// Decides what is fed, what is kept and what is accepted.
pub trait Strategy {
    /// The next pass over `sequence`, of which `cached` positions are committed; `None` at the end. It may append to
    /// the sequence.
    fn plan(&mut self, sequence: &mut Vec<u32>, cached: usize) -> Option<Plan>;
    /// The proposals, as indices, that are written into the sequence.
    fn accept(&mut self, proposals: &[Proposal]) -> Vec<usize>;
}

/// Ids with a meaning of their own.
#[derive(Clone, Copy)]
struct Marks<'a> {
    /// Stands for a position that is not decided.
    mask: u32,
    /// End the answer.
    ends: &'a [u32],
}

impl Marks<'_> {
    /// The decided beginning of what follows the prompt, up to the first end token, and whether that token is there.
    fn answer<'a>(&self, new: &'a [u32]) -> (&'a [u32], bool) {
        let stop = new.iter().position(|id| *id == self.mask || self.ends.contains(id));
        match stop {
            Some(at) => (&new[..at], new[at] != self.mask),
            None => (new, false),
        }
    }
}

/// Sees the run after every pass, and may end the run with `Break`.
pub type Observer<'a> = dyn FnMut(&Trace) -> ControlFlow<()> + 'a;

/// Runs an algorithm on a prompt.
///
/// # Errors
/// Before the first pass when prompt and parameters do not fit the session; later when a pass fails or gives logits
/// without meaning.
pub fn generate(
    session: &mut Session,
    algorithm: &Algorithm,
    prompt: &[u32],
    run: Run,
    observer: &mut Observer<'_>,
) -> Result<Trace, GenerateError> {
    let vocab = session.shape().vocab;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        return Err(GenerateError::Token { id, vocab });
    }
    match algorithm {
        Algorithm::Sdar(sdar) => {
            let mut sampler = sdar.sampler(run.seed)?;
            let mut strategy = sdar.begin(session, prompt.len(), run.behaviour)?;
            passes(session, &mut strategy, &mut sampler, sdar.marks(), prompt, run, observer)
        }
    }
}

/// The loop.
fn passes(
    session: &mut Session,
    strategy: &mut dyn Strategy,
    sampler: &mut Sampler,
    marks: Marks<'_>,
    prompt: &[u32],
    run: Run,
    observer: &mut Observer<'_>,
) -> Result<Trace, GenerateError> {
    match run.behaviour {
        Behaviour::Answer => _ = session.reuse(prompt),
        Behaviour::Original => session.clear(),
    }
    let mut trace = Trace::new(prompt, session.cached());
    while let Some(plan) = strategy.plan(&mut trace.tokens, session.cached()) {
        let (pass, started) = (trace.passes.len(), Instant::now());
        let rows: Vec<u32> = match run.record_rows {
            true => (0..plan.feed.len() as u32).collect(),
            false => plan.undecided.iter().map(|p| (p - plan.feed.start) as u32).collect(),
        };
        let (cached, vocab) = (session.cached(), session.shape().vocab);
        let logits = session
            .pass(&trace.tokens[plan.feed.clone()], plan.feed.start, &rows, plan.store)
            .map_err(|error| GenerateError::Pass { pass, error })?;
        let proposals = propose(sampler, &plan, &rows, logits, vocab)
            .map_err(|(position, error)| GenerateError::Sample { pass, position, error })?;
        if run.record_rows {
            trace.record_rows(logits, vocab);
        }
        let first = trace.accepted.len();
        for i in strategy.accept(&proposals) {
            let Proposal { position, token, confidence, .. } = proposals[i];
            trace.tokens[position] = token;
            trace.accepted.push(Accepted { pass, position, token, confidence });
        }
        trace.accepted[first..].sort_unstable_by_key(|a| a.position);
        let accepted = trace.accepted.len() - first;
        let (fed, stored) = (plan.feed.len(), plan.store == Store::Keep);
        trace.passes.push(Pass { fed, cached, stored, accepted, elapsed: started.elapsed() });
        trace.update_answer(marks);
        if observer(&trace).is_break() {
            trace.end = End::Stopped;
            break;
        }
    }
    trace.update_answer(marks);
    Ok(trace)
}

/// A token for every undecided position, from the rows of logits that are there; an error comes with its position.
fn propose(
    sampler: &mut Sampler,
    plan: &Plan,
    rows: &[u32],
    logits: &[f32],
    vocab: usize,
) -> Result<Vec<Proposal>, (usize, SampleError)> {
    let mut proposals = Vec::with_capacity(plan.undecided.len());
    for (row, logits) in rows.iter().zip(logits.chunks_exact(vocab)) {
        let position = plan.feed.start + *row as usize;
        if plan.undecided.binary_search(&position).is_ok() {
            let Pick { token, probability, confidence } = sampler.pick(logits).map_err(|error| (position, error))?;
            proposals.push(Proposal { position, token, probability, confidence });
        }
    }
    Ok(proposals)
}
