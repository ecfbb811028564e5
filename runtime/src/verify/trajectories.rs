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
    num_forwards: Option<usize>,
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

impl std::fmt::Display for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keeps = if self.store_kv { "and keeps them" } else { "and keeps nothing" };
        write!(f, "feeds {} rows over {} cached {keeps}", self.q_len, self.past_len)
    }
}

/// Reads all runs of a file.
///
/// # Errors
/// When the file is not of this layout, or names an algorithm or a parameter that is not known.
pub fn read(file: &Path) -> Result<Vec<Trajectory>, VerifyError> {
    #[derive(Deserialize)]
    struct File {
        family: Option<String>,
        mask_id: Option<u32>,
        trajectories: Vec<Recorded>,
    }
    let io = |error| VerifyError::Io { file: file.into(), error };
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    if std::fs::metadata(file).map_err(io)?.len() > MAX_BYTES {
        return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = std::fs::read(file).map_err(io)?;
    let File { family, mask_id, trajectories } = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if trajectories.is_empty() {
        return Err(wrong("holds no run".into()));
    }
    let named = |recorded: Recorded| {
        if let Some(what) = contradiction(&recorded, family.as_deref(), mask_id) {
            return Err(wrong(format!("run `{}`: {what}", recorded.name)));
        }
        let algorithm = algorithm(&recorded).map_err(|e| wrong(format!("run `{}`: {e}", recorded.name)))?;
        Ok(Trajectory { name: recorded.name.clone(), algorithm, recorded })
    };
    trajectories.into_iter().map(named).collect()
}

/// Says where a recorded run contradicts itself, or cannot be repeated at all.
fn contradiction(run: &Recorded, family: Option<&str>, mask_id: Option<u32>) -> Option<String> {
    let passes = run.forwards.len();
    let greedy = run.params.get("greedy") == Some(&Value::Bool(true));
    let temperature = run.params.get("temperature").and_then(Value::as_f64).unwrap_or(0.0);
    if !greedy && temperature > 0.0 {
        return Some("was drawn at random, which cannot be repeated; record it with `greedy`".into());
    }
    if family.is_some_and(|family| run.algorithm.split('.').next() != Some(family)) {
        return Some(format!("`{}` is no algorithm of family `{}`", run.algorithm, family.unwrap_or_default()));
    }
    if let (Some(own), Some(mask)) = (run.params.get("mask_id").and_then(Value::as_u64), mask_id)
        && own != u64::from(mask)
    {
        return Some(format!("has mask id {own}, the file {mask}"));
    }
    if run.num_forwards.is_some_and(|n| n != passes) {
        return Some(format!("`num_forwards` is {}, but {passes} are listed", run.num_forwards.unwrap_or_default()));
    }
    if run.rows.as_ref().is_some_and(|rows| rows.len() != passes) {
        return Some(format!("`rows` has not one entry for each of the {passes} passes"));
    }
    run.accepted.iter().find(|a| a.0 >= passes).map(|a| format!("accepts in pass {}, of {passes}", a.0))
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
            return Some(format!("pass {i} {got}, not {want}"));
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
