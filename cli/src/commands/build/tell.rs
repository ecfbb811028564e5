//! What a build tells: lines for people, objects for machines. recipes/ci/README.md says what each object holds.

use diffulex_edge::Error;
use diffulex_edge::build::schedule::Outcome;
use diffulex_edge::build::{Estimate, Plan};
use diffulex_targets::artifact::Manifest;
use indicatif::HumanBytes;
use serde_json::json;

use crate::args::MessageFormat;
use crate::terminal::{print_error, say};

/// Tells what is planned: its state, and where it would be built what that takes.
pub(in crate::commands) fn planned(
    format: MessageFormat,
    plan: &Plan,
    estimate: Option<Estimate>,
) -> Result<(), Error> {
    let name = &plan.job.build.name;
    if format == MessageFormat::Json {
        let object = json!({
            "reason": "build-planned", "name": name, "recipe": plan.recipe, "artifact": plan.artifact(),
            "target": plan.job.build.target.value.name(), "state": plan.freshness.state(),
            "why": plan.freshness.reasons(), "disk": estimate.map(|e| e.disk), "memory": estimate.map(|e| e.memory),
        });
        return say(&format!("{object}\n"));
    }
    let takes = estimate.map_or(String::new(), |Estimate { disk, memory }| {
        format!("; would take about {} of disk and {} of memory", HumanBytes(disk), HumanBytes(memory))
    });
    say(&format!("{name}: {}{takes}\n", plan.freshness))
}

/// Tells that a build begins.
pub(super) fn started(format: MessageFormat, plan: &Plan, why: &str) -> Result<(), Error> {
    match format {
        MessageFormat::Json => {
            let object = json!({ "reason": "build-started", "name": plan.job.build.name, "why": why });
            say(&format!("{object}\n"))
        }
        MessageFormat::Text => Ok(()),
    }
}

/// How an artifact was built.
pub(super) struct Built {
    pub(super) seconds: f64,
    /// Weights that an interrupted build had written.
    pub(super) before: usize,
}

/// Tells that an artifact is as it should be: since now, or still.
pub(super) fn finished(format: MessageFormat, plan: &Plan, why: &str, built: Option<Built>) -> Result<(), Error> {
    let (name, path) = (&plan.job.build.name, plan.artifact());
    let bytes = Manifest::read(&plan.folder)?.artifact_bytes();
    match (format, built) {
        (MessageFormat::Json, built) => {
            let object = json!({
                "reason": "build-finished", "name": name, "artifact": path, "bytes": bytes, "fresh": built.is_none(),
                "why": why, "seconds": built.as_ref().map(|built| built.seconds),
                "reused": built.as_ref().map(|built| built.before),
            });
            say(&format!("{object}\n"))
        }
        (MessageFormat::Text, None) => say(&format!("{name}: fresh\n")),
        (MessageFormat::Text, Some(Built { seconds, before })) => {
            let (path, size) = (path.display(), HumanBytes(bytes));
            let more = if before > 0 { format!("; {before} weights were written before") } else { String::new() };
            say(&format!("{name}: built {path} ({size}) in {seconds:.1} s ({why}{more})\n"))
        }
    }
}

/// Tells that a build, or a recipe, failed.
pub(super) fn failed(format: MessageFormat, name: Option<&str>, error: &Error) -> Result<(), Error> {
    print_error(error);
    match (format, name) {
        (MessageFormat::Json, Some(name)) => {
            let object = json!({ "reason": "build-failed", "name": name, "message": error.to_string() });
            say(&format!("{object}\n"))
        }
        (MessageFormat::Json, None) => {
            say(&format!("{}\n", json!({ "reason": "error", "message": error.to_string() })))
        }
        (MessageFormat::Text, _) => Ok(()),
    }
}

/// Tells how all builds went; people are told where some never began.
pub(super) fn all(format: MessageFormat, fresh: usize, outcomes: &[Outcome], seconds: f64) -> Result<(), Error> {
    let count = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let (built, failed, skipped) = (count(Outcome::Done), count(Outcome::Failed), count(Outcome::Skipped));
    match format {
        MessageFormat::Json => {
            let object = json!({
                "reason": "finished", "success": failed + skipped == 0, "fresh": fresh, "built": built,
                "failed": failed, "skipped": skipped, "seconds": seconds,
            });
            say(&format!("{object}\n"))
        }
        MessageFormat::Text if skipped > 0 => {
            say(&format!("{skipped} builds were not begun; `--keep-going` builds what can be built\n"))
        }
        MessageFormat::Text => Ok(()),
    }
}
