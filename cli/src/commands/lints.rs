//! Lints in words, and for machines.

use std::path::Path;

use diffulex_edge::Error;
use diffulex_targets::coreml::{self, Lint, ReadError, Severity};

use crate::args::MessageFormat;
use crate::terminal::{note, say};

/// What devices are known to do badly with the artifact at `path`; nothing where there is no such knowledge.
///
/// # Errors
/// When it is a package that cannot be read.
pub(crate) fn of(path: &Path) -> Result<Vec<Lint>, Error> {
    let wrong = |error: ReadError| Error::Read { file: path.into(), error: Box::new(error.into()) };
    match path.extension().is_some_and(|ending| ending == coreml::EXTENSION) {
        true => coreml::lint(path).map_err(wrong),
        false => Ok(vec![]),
    }
}

/// `warning[coreml::grouped-scales]: …`, with a note on how many places there are.
pub(crate) fn line(lint: &Lint) -> String {
    let more = if lint.count > 1 { format!(" ({} places)", lint.count) } else { String::new() };
    format!("{}[{}]: {}: {}{more}", lint.severity.name(), lint.name, lint.place, lint.reason)
}

/// Tells the lints of a build: warnings one by one, of notes how many there are.
///
/// # Errors
/// When the output is closed.
pub(crate) fn tell(format: MessageFormat, build: &str, lints: &[Lint]) -> Result<(), Error> {
    if format == MessageFormat::Json {
        return lints.iter().try_for_each(|lint| {
            let object = serde_json::json!({
                "reason": "lint", "build": build, "name": lint.name, "severity": lint.severity.name(),
                "place": lint.place, "count": lint.count, "message": lint.reason,
            });
            say(&format!("{object}\n"))
        });
    }
    let notes = lints.iter().filter(|lint| lint.severity == Severity::Note).count();
    for lint in lints.iter().filter(|lint| lint.severity == Severity::Warning) {
        note(&format!("{build}: {}", line(lint)));
    }
    if notes > 0 {
        note(&format!("{build}: {notes} notes on what devices do with it; `show` tells"));
    }
    Ok(())
}
