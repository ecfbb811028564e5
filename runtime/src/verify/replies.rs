//! Greedy generation of two engines, token by token.

use std::ops::ControlFlow;

use super::{Check, Limits, VerifyError};
use crate::generate::{Algorithm, Run, Trace, generate};
use crate::session::Session;

/// Answers `prompt` with both and compares. Where the limits do not ask for equality, the first difference is
/// reported and counts as passed: one near tie decided otherwise changes everything after it.
///
/// # Errors
/// When a run cannot be carried out.
pub fn compare(
    source: &mut Session,
    other: &mut Session,
    case: &str,
    algorithm: &Algorithm,
    prompt: &[u32],
    limits: Limits,
) -> Result<Check, VerifyError> {
    let answer = |session: &mut Session| {
        session.attend(algorithm.attention())?;
        let go = &mut |_: &Trace| ControlFlow::Continue(());
        let trace = generate(session, algorithm, prompt, Run::default(), go)?;
        Ok::<_, VerifyError>(trace.answer().to_vec())
    };
    let (a, b) = (answer(source)?, answer(other)?);
    let equal = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let passed = !limits.exact || a == b;
    Ok(Check::Reply { case: case.into(), tokens: a.len(), equal, exact: limits.exact, passed })
}
