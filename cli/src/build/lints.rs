//! Lints that a user does not want.

use diffulex_targets::coreml::{LINTS, Lint, Severity};

use crate::Error;

/// Stands for all lints that are warnings.
const WARNINGS: &str = "warnings";

/// Checks names that are to be denied: that of a lint, or `warnings`.
///
/// # Errors
/// Names the first that is none, and those there are.
pub fn known(deny: &[String]) -> Result<(), Error> {
    let known = |name: &String| name == WARNINGS || LINTS.iter().any(|rule| rule.name == name);
    match deny.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = LINTS.iter().map(|rule| rule.name).collect();
            Err(Error::Usage(format!(
                "there is no lint `{name}`; there are {}, and `{WARNINGS}` for all that are",
                names.join(", ")
            )))
        }
    }
}

/// Fails where a lint is denied.
///
/// # Errors
/// Names it, with its place and reason.
pub fn allowed(lints: &[Lint], deny: &[String]) -> Result<(), Error> {
    let denied = |lint: &&Lint| {
        deny.iter().any(|name| name == lint.name || (name == WARNINGS && lint.severity == Severity::Warning))
    };
    let denied: Vec<String> = lints
        .iter()
        .filter(denied)
        .map(|lint| format!("denied[{}]: {}: {}", lint.name, lint.place, lint.reason))
        .collect();
    if denied.is_empty() { Ok(()) } else { Err(Error::Denied(denied.join("\n"))) }
}
