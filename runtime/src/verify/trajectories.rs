//! Recorded generation runs: a JSON file with `trajectories`, each with its algorithm, parameters, prompt, passes,
//! acceptances and output. Our run must make the same passes and accept the same tokens in them.

use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Check, VerifyError};
use crate::generate::{Algorithm, Behaviour, Run, Trace, generate};
use crate::session::Session;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 30;
/// What the probability of a recorded row may differ by.
const PROBABILITY_LIMIT: f32 = 1e-4;

/// A recorded run.
#[derive(Clone, Debug)]
pub struct Trajectory {
    /// Its name in the file.
    pub name: String,
    /// Algorithm and parameters.
    pub algorithm: Algorithm,
    recorded: Recorded,
}

/// The keys of one entry; others only explain.
#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    name: String,
    algorithm: String,
    params: serde_json::Map<String, Value>,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    forwards: Vec<Forward>,
    accepted: Vec<(usize, usize, u32)>,
    #[serde(default)]
    rows: Option<Vec<(Vec<u32>, Vec<f32>)>>,
}

/// One recorded pass.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Forward {
    q_len: usize,
    past_len: usize,
    store_kv: bool,
}

/// Reads all runs of a file.
///
/// # Errors
/// When the file is not of this layout, or names an algorithm or a parameter that is not known.
pub fn read(file: &Path) -> Result<Vec<Trajectory>, VerifyError> {
    #[derive(Deserialize)]
    struct File {
        trajectories: Vec<Recorded>,
    }
    let io = |error| VerifyError::Io { file: file.into(), error };
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    if std::fs::metadata(file).map_err(io)?.len() > MAX_BYTES {
        return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = std::fs::read(file).map_err(io)?;
    let File { trajectories } = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if trajectories.is_empty() {
        return Err(wrong("holds no run".into()));
    }
    let named = |recorded: Recorded| {
        let algorithm = algorithm(&recorded).map_err(|e| wrong(format!("run `{}`: {e}", recorded.name)))?;
        Ok(Trajectory { name: recorded.name.clone(), algorithm, recorded })
    };
    trajectories.into_iter().map(named).collect()
}

/// Repeats a run and compares it, pass by pass.
///
/// # Errors
/// When the run cannot be carried out, for one because the sequence does not fit the cache.
pub fn check(session: &mut Session, trajectory: &Trajectory) -> Result<Check, VerifyError> {
    let recorded = &trajectory.recorded;
    session.attend(trajectory.algorithm.attention())?;
    let run = Run { behaviour: Behaviour::Original, seed: 0, record_rows: recorded.rows.is_some() };
    let go = &mut |_: &Trace| ControlFlow::Continue(());
    let trace = generate(session, &trajectory.algorithm, &recorded.prompt_ids, run, go)?;
    let difference = difference(&trace, recorded);
    Ok(Check::Trajectory {
        name: trajectory.name.clone(),
        passes: trace.passes.len(),
        tokens: trace.tokens.len(),
        passed: difference.is_none(),
        difference,
    })
}

/// Their greedy runs draw the argmax at temperature 1; ours are greedy at temperature 0.
fn algorithm(recorded: &Recorded) -> Result<Algorithm, serde_json::Error> {
    let mut params = recorded.params.clone();
    if params.remove("greedy") == Some(Value::Bool(true)) {
        params.insert("temperature".into(), 0.0.into());
    }
    serde_json::from_value(serde_json::json!({ "algorithm": recorded.algorithm, "params": params }))
}

/// The first thing that differs, in words.
fn difference(trace: &Trace, recorded: &Recorded) -> Option<String> {
    for (i, want) in recorded.forwards.iter().enumerate() {
        let Some(pass) = trace.passes.get(i) else {
            return Some(format!("{} passes, not {}", trace.passes.len(), recorded.forwards.len()));
        };
        let got = Forward { q_len: pass.fed, past_len: pass.cached, store_kv: pass.stored };
        if got != *want {
            return Some(format!("pass {i} is {got:?}, not {want:?}"));
        }
        let row = || row_difference(trace.rows.get(i)?, recorded.rows.as_ref()?.get(i)?);
        if let Some(row) = row() {
            return Some(format!("pass {i}, {row}"));
        }
        let accepted = |pass: usize| {
            let ours = trace.accepted.iter().filter(move |a| a.pass == pass).map(|a| (a.position, a.token));
            let theirs = recorded.accepted.iter().filter(move |a| a.0 == pass).map(|a| (a.1, a.2));
            (ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>())
        };
        let (ours, theirs) = accepted(i);
        if ours != theirs {
            return Some(format!("pass {i} accepts (position, token) {ours:?}, not {theirs:?}"));
        }
    }
    if trace.passes.len() != recorded.forwards.len() {
        return Some(format!("{} passes, not {}", trace.passes.len(), recorded.forwards.len()));
    }
    (trace.tokens != recorded.output_ids).then(|| {
        let at = trace.tokens.iter().zip(&recorded.output_ids).take_while(|(a, b)| a == b).count();
        format!("the output differs from position {at} on")
    })
}

fn row_difference(ours: &[(u32, f32)], (tokens, probabilities): &(Vec<u32>, Vec<f32>)) -> Option<String> {
    if ours.len() != tokens.len() || tokens.len() != probabilities.len() {
        return Some(format!("{} rows, not {}", ours.len(), tokens.len()));
    }
    ours.iter().zip(tokens).zip(probabilities).enumerate().find_map(|(row, ((ours, token), probability))| {
        let same = ours.0 == *token && (ours.1 - probability).abs() <= PROBABILITY_LIMIT;
        let text = || format!("row {row}: token {} with {}, not {token} with {probability}", ours.0, ours.1);
        (!same).then(text)
    })
}
