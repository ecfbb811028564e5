//! Generation: one loop over passes.
//!
//! 1. A [`Planner`] looks at the sequence and [plans](Plan) the next pass: which positions are fed, which of them are
//!    to be decided, and whether keys and values are kept.
//! 2. The [`Session`] runs the pass.
//! 3. The [`Sampler`] gives every undecided position a token and a confidence.
//! 4. The planner accepts some of them; they are written into the sequence.
//! 5. The observer sees what happened, draws, prints or compares it, and may end the run; an answer ends with its end
//!    token.
//!
//! The families' algorithms are planners, each in its file: [`sdar`], [`fast_dllm_v2`], [`dream`], [`llada`]; ours for
//! full attention is [`canvas`]. Nothing here prints, and nothing knows a tokenizer.

mod accept;
mod algorithm;
mod blocks;
pub mod canvas;
pub mod dream;
mod error;
pub mod fast_dllm_v2;
pub mod llada;
mod params;
pub mod sdar;
mod trace;

pub use algorithm::{Algorithm, settings};
pub use canvas::Canvas;
pub use dream::Dream;
pub use error::GenerateError;
pub use fast_dllm_v2::FastDllm;
pub use llada::Llada;
pub use params::{Ids, Thresholds};
pub use sdar::Sdar;
pub use trace::{Accepted, End, Pass, Trace};

use crate::engine::EngineShape;
use crate::sample::{Draws, Pick, SampleError, Sampler};
use crate::session::{Session, SessionError, Store};
use std::ops::{ControlFlow, Range};
use std::time::Instant;

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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Run<'a> {
    /// What the run is for.
    pub behaviour: Behaviour,
    /// All draws follow from it.
    pub seed: u64,
    /// Most tokens of the answer, where blocks would give more; those behind are cut off.
    pub limit: Option<usize>,
    /// Recorded uniform numbers, used up before those of the seed.
    pub draws: &'a [f64],
    /// Asks every pass for all of its logits; without it only for those of undecided positions.
    pub all_rows: bool,
}

/// One pass, as a planner wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Cached positions that stay; the pass sees those that it does not feed.
    pub past: usize,
    /// Positions whose tokens are fed.
    pub feed: Range<usize>,
    /// Positions to be decided, ascending.
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
    pub probability: f64,
    /// What positions are ranked by.
    pub confidence: f64,
}

/// Decides what is fed, what is kept and what is accepted.
pub trait Planner {
    /// The next pass over `sequence`, of which `cached` positions are committed; `None` at the end. It may append to
    /// the sequence, and cut it at the end.
    fn plan(&mut self, sequence: &mut Vec<u32>, cached: usize) -> Option<Plan>;
    /// The proposals, as indices, that are written into the sequence.
    fn accept(&mut self, proposals: &[Proposal], draws: &mut Draws) -> Vec<usize>;
    /// What else changes after a pass, before it counts as made.
    fn settle(&mut self, _sequence: &mut [u32]) {}
}

/// What a run starts from.
#[derive(Clone, Copy)]
struct Task<'a> {
    prompt: &'a [u32],
    /// What follows the gap that is to be filled.
    suffix: &'a [u32],
    behaviour: Behaviour,
    seed: u64,
    shape: &'a EngineShape,
}

/// An algorithm ready to run.
struct Setup<'a> {
    planner: Box<dyn Planner + 'a>,
    sampler: Sampler,
    marks: Marks<'a>,
    /// Row `i` decides position `i + 1`.
    shifted: bool,
    /// Scale of classifier-free guidance; 0 is none.
    guidance: f32,
    /// Prompt, masks where their number is known from the start, suffix.
    sequence: Vec<u32>,
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

/// What the last pass showed.
pub struct Evidence<'a> {
    /// The first position that was fed.
    pub start: usize,
    /// Tokens fed.
    pub fed: usize,
    /// Whether row `i` decides position `i + 1`.
    pub shifted: bool,
    /// The rows whose logits there are, counted from the first position fed.
    pub rows: &'a [u32],
    /// Their logits, `[rows, V]`, after guidance.
    pub logits: &'a [f32],
    /// A token for every undecided position.
    pub proposals: &'a [Proposal],
}

impl Evidence<'_> {
    /// The row that decides a position, where the pass fed it.
    #[must_use]
    pub fn row_of(&self, position: usize) -> Option<u32> {
        let row = (position >= self.start).then(|| row_of(position, self.start, self.shifted))?;
        ((row as usize) < self.fed).then_some(row)
    }
}

/// Sees the run after every pass, and may end the run with `Break`.
pub type Observer<'a> = dyn FnMut(&Trace, &Evidence<'_>) -> ControlFlow<()> + 'a;

/// Runs an algorithm on a prompt.
///
/// # Errors
/// Before the first pass when prompt and parameters do not fit the session; later when a pass fails or gives logits
/// without meaning.
pub fn generate(
    session: &mut Session,
    algorithm: &Algorithm,
    prompt: &[u32],
    run: Run<'_>,
    observer: &mut Observer<'_>,
) -> Result<Trace, GenerateError> {
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    infill(session, algorithm, prompt, &[], run, observer)
}

/// Fills the gap between `prefix` and `suffix`, as long as the algorithm's new tokens; needs full attention where there
/// is a suffix. One of the two must hold something.
///
/// # Errors
/// As [`generate`], and [`GenerateError::Suffix`] for algorithms that go block by block.
pub fn infill(
    session: &mut Session,
    algorithm: &Algorithm,
    prefix: &[u32],
    suffix: &[u32],
    run: Run<'_>,
    observer: &mut Observer<'_>,
) -> Result<Trace, GenerateError> {
    let shape = session.shape().clone();
    if prefix.is_empty() && suffix.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if let Some(&id) = prefix.iter().chain(suffix).find(|&&id| id as usize >= shape.vocab) {
        return Err(GenerateError::Token { id, vocab: shape.vocab });
    }
    if session.attention() != algorithm.attention() {
        let (mine, its) = (algorithm.attention(), session.attention());
        return params::wrong("block_length", format!("makes for {mine}, but the session has {its}"));
    }
    let task = Task { prompt: prefix, suffix, behaviour: run.behaviour, seed: run.seed, shape: &shape };
    let setup = algorithm.set_up(&task)?;
    if setup.marks.mask as usize >= shape.vocab {
        return params::wrong("mask_id", format!("{} is not below the model's {}", setup.marks.mask, shape.vocab));
    }
    passes(session, setup, &task, run, observer)
}

/// The loop.
fn passes(
    session: &mut Session,
    setup: Setup<'_>,
    task: &Task<'_>,
    run: Run<'_>,
    observer: &mut Observer<'_>,
) -> Result<Trace, GenerateError> {
    let Setup { mut planner, mut sampler, marks, shifted, guidance, sequence } = setup;
    let vocab = task.shape.vocab;
    sampler.draws().replay(run.draws.iter().copied());
    match run.behaviour {
        Behaviour::Answer => _ = session.reuse(task.prompt),
        Behaviour::Original => session.clear(),
    }
    let mut trace = Trace::new(sequence, task.prompt.len(), task.suffix.len(), session.cached());
    let mut guided: Vec<f32>;
    while let Some(plan) = planner.plan(&mut trace.tokens, session.cached()) {
        let (pass, started) = (trace.passes.len(), Instant::now());
        session.truncate(plan.past);
        let rows = rows(&plan, shifted, run.all_rows);
        let failed = |error| GenerateError::Pass { pass, error };
        let mut logits = feed(session, &plan, &trace.tokens, &rows).map_err(failed)?;
        if guidance > 0.0 {
            guided = logits.to_vec();
            let blind = without_context(&trace.tokens, task, marks.mask);
            logits = feed(session, &plan, &blind, &rows).map_err(failed)?;
            guided.iter_mut().zip(logits).for_each(|(l, u)| *l = u + (guidance + 1.0) * (*l - u));
            logits = &guided;
        }
        let proposals = propose(&mut sampler, &plan, shifted, &rows, logits, vocab)
            .map_err(|(position, error)| GenerateError::Sample { pass, position, error })?;

        let before = trace.tokens.clone();
        for i in planner.accept(&proposals, sampler.draws()) {
            trace.tokens[proposals[i].position] = proposals[i].token;
        }
        planner.settle(&mut trace.tokens);
        let accepted = trace.note_changes(pass, &before, &proposals);
        trace.passes.push(Pass {
            start: plan.feed.start,
            fed: plan.feed.len(),
            cached: plan.past,
            store: plan.store,
            guided: guidance > 0.0,
            accepted,
            elapsed: started.elapsed(),
        });
        trace.update_answer(marks, run.limit);
        let (start, fed) = (plan.feed.start, plan.feed.len());
        let evidence = Evidence { start, fed, shifted, rows: &rows, logits, proposals: &proposals };
        if observer(&trace, &evidence).is_break() {
            trace.end = End::Stopped;
            break;
        }
        let full = run.limit.is_some_and(|limit| trace.answer().len() >= limit);
        if run.behaviour == Behaviour::Answer && (full || trace.end == End::EndToken) {
            break;
        }
    }
    trace.update_answer(marks, run.limit);
    Ok(trace)
}

/// The row of logits that decides a position, counted from the first position fed. With shifted logits nothing precedes
/// the first position fed, and its own row stands in, as in the originals: only a gap at the very beginning of the
/// sequence and a mask among the tokens of the prompt lead there.
fn row_of(position: usize, start: usize, shifted: bool) -> u32 {
    (position - start).saturating_sub(usize::from(shifted)) as u32
}

/// The rows that a pass must give, ascending.
fn rows(plan: &Plan, shifted: bool, all: bool) -> Vec<u32> {
    if all {
        return (0..plan.feed.len() as u32).collect();
    }
    let mut rows: Vec<u32> = plan.undecided.iter().map(|&p| row_of(p, plan.feed.start, shifted)).collect();
    rows.dedup();
    rows
}

fn feed<'a>(session: &'a mut Session, plan: &Plan, tokens: &[u32], rows: &[u32]) -> Result<&'a [f32], SessionError> {
    session.pass(&tokens[plan.feed.clone()], plan.feed.start, rows, plan.store)
}

/// The sequence with everything hidden that was given: what guidance leads away from.
fn without_context(sequence: &[u32], task: &Task<'_>, mask: u32) -> Vec<u32> {
    let mut blind = sequence.to_vec();
    let gap_end = blind.len() - task.suffix.len();
    blind[..task.prompt.len()].fill(mask);
    blind[gap_end..].fill(mask);
    blind
}

/// A token for every undecided position, from the rows of logits that are there; an error comes with its position.
fn propose(
    sampler: &mut Sampler,
    plan: &Plan,
    shifted: bool,
    rows: &[u32],
    logits: &[f32],
    vocab: usize,
) -> Result<Vec<Proposal>, (usize, SampleError)> {
    let mut proposals = Vec::with_capacity(plan.undecided.len());
    for &position in &plan.undecided {
        // Every row that decides something was asked for.
        let at = rows.partition_point(|&row| row < row_of(position, plan.feed.start, shifted));
        let row = &logits[at * vocab..(at + 1) * vocab];
        let Pick { token, probability, confidence } = sampler.pick(row).map_err(|error| (position, error))?;
        proposals.push(Proposal { position, token, probability, confidence });
    }
    Ok(proposals)
}
