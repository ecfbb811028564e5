//! Greedy generation of two engines, token by token.

use std::ops::ControlFlow;

use super::{Check, VerifyError};
use crate::generate::{Algorithm, Run, Trace, generate};
use crate::session::Session;

/// Answers `prompt` with both, which have the same weights, and compares.
///
/// # Errors
/// When a run cannot be carried out.
pub fn compare(
    source: &mut Session,
    other: &mut Session,
    case: &str,
    algorithm: &Algorithm,
    prompt: &[u32],
) -> Result<Check, VerifyError> {
    let answer = |session: &mut Session| {
        session.attend(algorithm.attention())?;
        let go = &mut |_: &Trace| ControlFlow::Continue(());
        let trace = generate(session, algorithm, prompt, Run::default(), go)?;
        Ok::<_, VerifyError>(trace.answer().to_vec())
    };
    let (a, b) = (answer(source)?, answer(other)?);
    let equal = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    Ok(Check::Reply { case: case.into(), tokens: a.len(), equal, passed: a == b })
}
