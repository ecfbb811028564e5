//! Recorded generation runs: a JSON file with `trajectories`, each with its algorithm, parameters, prompt, passes,
//! acceptances and output. Our run must make the same passes and accept the same tokens in them.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::departure::{Comparison, Departure, Forward, Recording};
use super::{Check, Known, VerifyError, read_json};
use crate::generate::{Algorithm, Behaviour, Run, generate};
use crate::session::Session;

/// A recorded run.
#[derive(Clone, Debug)]
pub struct Trajectory {
    /// Its name in the file.
    pub name: String,
    /// Algorithm and parameters.
    pub algorithm: Algorithm,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Uniform numbers that the run drew, in order.
    pub draws: Vec<f64>,
    /// What it did.
    pub recording: Recording,
}

/// The keys of one entry; others only explain.
#[derive(Deserialize)]
struct Entry {
    name: String,
    algorithm: String,
    params: Map<String, Value>,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    num_forwards: Option<usize>,
    forwards: Vec<Forward>,
    accepted: Vec<(usize, usize, u32)>,
    rows: Option<Vec<(Vec<u32>, Vec<f64>)>>,
    #[serde(default)]
    uniform_draws_per_pass: Vec<Vec<f64>>,
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
        trajectories: Vec<Entry>,
    }
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    let File { family, mask_id, trajectories } = read_json(file)?;
    if trajectories.is_empty() {
        return Err(wrong("holds no run".into()));
    }
    let named = |entry: Entry| {
        let about = |what: String| wrong(format!("run `{}`: {what}", entry.name));
        if let Some(what) = contradiction(&entry, family.as_deref(), mask_id) {
            return Err(about(what));
        }
        let algorithm = algorithm(&entry.algorithm, &entry.params).map_err(|e| about(e.to_string()))?;
        Ok(Trajectory {
            name: entry.name,
            algorithm,
            prompt: entry.prompt_ids,
            draws: entry.uniform_draws_per_pass.concat(),
            recording: Recording {
                forwards: Some(entry.forwards),
                accepted: Some(entry.accepted),
                rows: entry.rows,
                output: entry.output_ids,
            },
        })
    };
    trajectories.into_iter().map(named).collect()
}

/// Says where a recorded run contradicts itself, or cannot be repeated at all.
fn contradiction(run: &Entry, family: Option<&str>, mask_id: Option<u32>) -> Option<String> {
    let passes = run.forwards.len();
    let greedy = run.params.get("greedy") == Some(&Value::Bool(true));
    let temperature = run.params.get("temperature").and_then(Value::as_f64).unwrap_or(0.0);
    if greedy && temperature != 0.0 && temperature != 1.0 {
        return Some(format!("is greedy at temperature {temperature}; only those at temperature 1 can be repeated"));
    }
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
    let drawn = run.algorithm == "dream.diffusion_generate" && run.params.get("alg").is_none_or(|alg| alg == "origin");
    if drawn && run.uniform_draws_per_pass.len() != passes {
        return Some("was drawn at random, which only `uniform_draws_per_pass` of each pass can repeat".into());
    }
    if run.rows.as_ref().is_some_and(|rows| rows.len() != passes) {
        return Some(format!("`rows` has not one entry for each of the {passes} passes"));
    }
    run.accepted.iter().find(|a| a.0 >= passes).map(|a| format!("accepts in pass {}, of {passes}", a.0))
}

/// The algorithm of a recording. Their greedy runs draw the argmax at temperature 1; ours are greedy at temperature 0.
pub(super) fn algorithm(name: &str, params: &Map<String, Value>) -> Result<Algorithm, serde_json::Error> {
    let mut params = params.clone();
    let number = params.get("temperature").is_none_or(Value::is_number);
    if params.remove("greedy") == Some(Value::Bool(true)) && number {
        params.insert("temperature".into(), 0.0.into());
    }
    serde_json::from_value(serde_json::json!({ "algorithm": name, "params": params }))
}

/// Repeats a run and compares it, pass by pass, up to the first difference. With `all_rows` every row of every pass can
/// be named in the result; else only those that decide something, or that were recorded. A run that cannot be carried
/// out with this model has failed.
pub fn check(session: &mut Session, model: &Known<'_>, trajectory: &Trajectory, all_rows: bool) -> Check {
    let Trajectory { name, algorithm, prompt, draws, recording } = trajectory;
    let begins = model.contradiction(algorithm).map_or(Ok(()), Err);
    let begins = begins.and_then(|()| session.attend(algorithm.attention()).map_err(|e| e.to_string()));
    if let Err(what) = begins {
        let departure = Some(Departure::at_the_start(what));
        return Check::Trajectory { name: name.clone(), passes: 0, tokens: 0, passed: false, departure };
    }
    let all_rows = all_rows || recording.rows.is_some();
    let run = Run { behaviour: Behaviour::Original, draws, all_rows, ..Run::default() };
    let mut comparison = Comparison::new(recording, algorithm);
    let ran = generate(session, algorithm, prompt, run, &mut |trace, evidence| comparison.see(trace, evidence));
    let (passes, tokens, departure) = match ran {
        Ok(trace) => (trace.passes.len(), trace.tokens.len(), comparison.finish(&trace)),
        Err(error) => (0, 0, Some(Departure::at_the_start(error.to_string()))),
    };
    Check::Trajectory { name: name.clone(), passes, tokens, passed: departure.is_none(), departure }
}
