//! Greedy generation of two engines, token by token.

use std::ops::ControlFlow;

#[cfg(doc)]
use super::Limits;
use super::departure::{Comparison, Recording};
use super::{Check, VerifyError};
use crate::generate::{Algorithm, Run, generate};
use crate::session::Session;

/// Answers `prompt` with both, which have the same weights, and compares the answers; what the source says is the
/// recording. With `all_rows` every row can be named in the result.
///
/// Where tokens are rounded to int8 the two may part, as [`Limits::same_weights`] says, and nothing is wrong: then how
/// far they agree is told, and judged only where `exactly` is asked for.
///
/// # Errors
/// When a run cannot be carried out.
pub fn compare(
    source: &mut Session,
    other: &mut Session,
    case: &str,
    algorithm: &Algorithm,
    prompt: &[u32],
    all_rows: bool,
    exactly: bool,
) -> Result<Check, VerifyError> {
    source.attend(algorithm.attention())?;
    other.attend(algorithm.attention())?;
    let run = Run { all_rows, ..Run::default() };
    let theirs = generate(source, algorithm, prompt, run, &mut |_, _| ControlFlow::Continue(()))?;
    let recording = Recording { forwards: None, accepted: None, rows: None, output: theirs.tokens.clone() };
    let mut comparison = Comparison::new(&recording, algorithm);
    // Not ended at the first difference: one behind the end of the answer does not count.
    let ours = generate(other, algorithm, prompt, run, &mut |trace, evidence| {
        let _ = comparison.see(trace, evidence);
        ControlFlow::Continue(())
    })?;
    let equal = ours.answer().iter().zip(theirs.answer()).take_while(|(a, b)| a == b).count();
    let same = ours.answer() == theirs.answer();
    let departure = if same { None } else { comparison.finish(&ours) };
    Ok(Check::Reply { case: case.into(), tokens: theirs.answer().len(), equal, passed: same || !exactly, departure })
}
