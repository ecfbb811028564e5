//! Recordings of the original code against whatever was opened.

use std::path::{Path, PathBuf};

use diffulex_runtime::chat::Chat;
use diffulex_runtime::session::{Attention, Session};
use diffulex_runtime::tract::TractEngine;
use diffulex_runtime::verify::trajectories::{self, Trajectory};
use diffulex_runtime::verify::{Known, Limits, conversations, reference};

use super::{Found, tolerable};
use crate::Error;
use crate::subject::{EngineChoice, Opened};

/// What was recorded, by file.
#[derive(Clone, Copy, Debug)]
pub struct Recordings<'a> {
    /// Logits.
    pub references: &'a [PathBuf],
    /// Generation runs.
    pub trajectories: &'a [PathBuf],
    /// Conversations.
    pub conversations: &'a [PathBuf],
    /// Block length of the attention, where it is not the model's own.
    pub block: Option<u32>,
    /// The folder of the tokenizer, where it is not the model's own.
    pub tokenizer: Option<&'a Path>,
    /// Largest error of a logit, as a share of the largest of its case, where that is tighter than the usual limit.
    pub tolerance: Option<f32>,
    /// Asks for all rows, so that a departing one can be named whichever it is.
    pub explain: bool,
}

/// Recorded logits, runs and conversations against whatever was opened.
///
/// # Errors
/// When a recording cannot be read or a pass cannot be run.
pub fn recordings(
    opened: &Opened,
    engine: &EngineChoice,
    recordings: &Recordings<'_>,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    let runs = recordings.trajectories.iter().map(|file| trajectories::read(file)).collect::<Result<Vec<_>, _>>()?;
    let talks = recordings.conversations.iter().map(|file| conversations::read(file)).collect::<Result<Vec<_>, _>>()?;
    if !recordings.references.is_empty() {
        let attention = attention(opened, recordings.block, &runs)?;
        logits(opened, engine, attention, recordings, found)?;
    }
    let model = Known { family: opened.family, generation: opened.generation.as_ref().ok() };
    if runs.iter().flatten().next().is_some() {
        let mut session = Session::new(opened.engine(engine)?, Attention::Full)?;
        for trajectory in runs.iter().flatten() {
            found(trajectories::check(&mut session, &model, trajectory, recordings.explain));
        }
    }
    if talks.iter().flatten().next().is_some() {
        let chat = Chat::open(recordings.tokenizer.map_or_else(|| opened.tokenizer_folder(), Ok)?)?;
        let mut session = Session::new(opened.engine(engine)?, Attention::Full)?;
        for (number, talk) in talks.iter().flatten().enumerate() {
            found(conversations::check(&mut session, &model, &chat, number, talk, recordings.explain));
        }
    }
    Ok(())
}

/// Recorded logits, case by case.
fn logits(
    opened: &Opened,
    engine: &EngineChoice,
    attention: Attention,
    recordings: &Recordings<'_>,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    tolerable(recordings.tolerance)?;
    let limits = Limits::of(&opened.module);
    for file in recordings.references {
        let cases = reference::read(file)?;
        let engine = match engine {
            // Only our engine shows what is inside, and only what was imported has the names of the parts.
            EngineChoice::Tract if opened.artifact.is_none() => {
                let taps = reference::taps(&opened.module);
                Box::new(TractEngine::with_taps(&opened.module, opened.source.clone(), &taps)?)
            }
            _ => opened.engine(engine)?,
        };
        let mut session = Session::new(engine, attention)?;
        for case in &cases {
            let largest = case.logits.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            // A checkpoint is its own source, and so is an f32 artifact; other encodings may differ by their own limit.
            let limit = match limits == Limits::same_weights(&opened.module) || opened.artifact.is_none() {
                true => reference::LOGITS_LIMIT,
                false => limits.max_error * largest,
            };
            let limit = recordings.tolerance.map_or(limit, |tolerance| limit.min(tolerance * largest));
            found(reference::check(&mut session, case, limit)?);
        }
    }
    Ok(())
}

/// How tokens attend: as asked for, as the model tells, as all recorded runs do.
fn attention(opened: &Opened, block: Option<u32>, runs: &[Vec<Trajectory>]) -> Result<Attention, Error> {
    let mut recorded = runs.iter().flatten().map(|run| run.algorithm.attention());
    let first = recorded.next();
    let shared = first.filter(|first| recorded.all(|other| other == *first));
    let length = match shared {
        Some(Attention::BlockCausal(block)) => Some(block as u32),
        _ => None,
    };
    match (block, opened.attention(length)) {
        (Some(_), Some(Attention::Full)) => {
            Err(Error::Usage(format!("{} attends to everything; `--block` has no meaning for it", opened.name)))
        }
        (Some(block), _) => Ok(Attention::BlockCausal(block as usize)),
        (None, known) => known.or(shared).ok_or_else(|| {
            Error::Usage(format!("{} does not say how its tokens attend: give `--block N`", opened.name))
        }),
    }
}
