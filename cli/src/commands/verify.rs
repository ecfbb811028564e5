//! `verify`: checks one by one, a verdict at the end.

use std::path::Path;

use diffulex_edge::build::Plan;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::{Error, verify};
use diffulex_runtime::verify::Check;

use super::checks::describe;
use super::{build, engine, plans, recipes_only};
use crate::args::{EngineName, MessageFormat, Places, Verify};
use crate::terminal::{note, say, steps_bar};

/// Runs the command.
pub(crate) fn run(args: &Verify) -> Result<bool, Error> {
    let mut verdict = Verdict::new(args.message_format, args.explain);
    let done = checks(args, &mut verdict);
    if let (MessageFormat::Json, Err(error)) = (args.message_format, &done) {
        say(&format!("{}\n", serde_json::json!({ "reason": "error", "message": error.to_string() })))?;
    }
    verdict.finish(done)
}

/// Verifies one build of a recipe, for `run --verify`: only failures and the verdict are told.
pub(crate) fn plan(plan: &Plan, engine_name: EngineName) -> Result<bool, Error> {
    let mut verdict = Verdict::quiet();
    let done = planned(plan, engine_name, false, &mut verdict);
    verdict.finish(done)
}

/// Verifies an artifact against its checkpoint, for `run --verify`.
pub(crate) fn quietly(path: &Path, against: Option<&Path>, places: &Places, name: EngineName) -> Result<bool, Error> {
    let mut verdict = Verdict::quiet();
    let done = compared(path, against, places, name, false, &mut verdict);
    verdict.finish(done)
}

fn checks(args: &Verify, verdict: &mut Verdict) -> Result<(), Error> {
    let recorded = !(args.reference.is_empty() && args.trajectories.is_empty() && args.conversations.is_empty());
    if subject::kind(&args.path)? != Kind::Recipe {
        recipes_only(&args.places)?;
    } else {
        let all = plans(&args.path, &args.places)?;
        build::ensure(&all)?;
        for plan in &all {
            match recorded {
                true => recordings(args, &plan.folder, verdict)?,
                false => planned(plan, args.engine, args.explain, verdict)?,
            }
        }
        return Ok(());
    }
    match recorded {
        true => recordings(args, &args.path, verdict),
        false => compared(&args.path, args.against.as_deref(), &args.places, args.engine, args.explain, verdict),
    }
}

/// A build that is known with its checkpoint.
fn planned(plan: &Plan, name: EngineName, explain: bool, verdict: &mut Verdict) -> Result<(), Error> {
    verdict.heading(&plan.build.name);
    let Some(artifact) = opened(&plan.folder, None, verdict)? else { return Ok(()) };
    let checkpoint = plan.checkpoint.folder();
    let done = verify::artifact(&artifact, checkpoint, &engine(name)?, explain, &mut |check| verdict.add(&check));
    damaged(&artifact, done, verdict)
}

/// Numbers of an artifact that nothing can compute with are a failed check, not a failed verification.
fn damaged(artifact: &Opened, done: Result<(), Error>, verdict: &mut Verdict) -> Result<(), Error> {
    match (done, &artifact.artifact) {
        (Err(error @ (Error::Weight(_) | Error::Lower(_) | Error::Session(_) | Error::Verify(_))), Some(file)) => {
            let (what, problem) = (file.display().to_string(), Some(error.to_string()));
            verdict.add(&Check::Structure { what, problem, passed: false });
            Ok(())
        }
        (done, _) => done,
    }
}

/// An artifact against the checkpoint that is given, or that its manifest names.
fn compared(
    path: &Path,
    against: Option<&Path>,
    places: &Places,
    name: EngineName,
    explain: bool,
    verdict: &mut Verdict,
) -> Result<(), Error> {
    let kind = subject::kind(path)?;
    if kind == Kind::Checkpoint {
        return Err(Error::Usage(format!(
            "{}: a checkpoint is compared with recordings: `verify` takes them as `--reference`, `--trajectories` and \
             `--conversations`",
            path.display()
        )));
    }
    let Some(artifact) = opened(path, None, verdict)? else { return Ok(()) };
    let known = match (against, kind) {
        (Some(folder), _) => Some(folder.to_path_buf()),
        (None, Kind::Bundle) => verify::checkpoint_of(path, places.models.as_deref())?,
        (None, _) => None,
    };
    let source = known.ok_or_else(|| {
        let path = path.display();
        Error::Usage(format!("{path}: give `--against CHECKPOINT`, the folder it was made from, or recordings"))
    })?;
    let done = verify::artifact(&artifact, &source, &engine(name)?, explain, &mut |check| verdict.add(&check));
    damaged(&artifact, done, verdict)
}

fn recordings(args: &Verify, path: &Path, verdict: &mut Verdict) -> Result<(), Error> {
    let Some(opened) = opened(path, args.block, verdict)? else { return Ok(()) };
    let engine = engine(args.engine)?;
    let recordings = verify::Recordings {
        references: &args.reference,
        trajectories: &args.trajectories,
        conversations: &args.conversations,
        block: args.block,
        tokenizer: args.tokenizer.as_deref(),
        explain: args.explain,
    };
    verify::recordings(&opened, &engine, &recordings, &mut |check| verdict.add(&check))
}

/// Opens what is verified, its digests first. A damaged artifact is a failed check, not a failed verification.
fn opened(path: &Path, block: Option<u32>, verdict: &mut Verdict) -> Result<Option<Opened>, Error> {
    if subject::kind(path)? == Kind::Bundle {
        verify::structure(path, &mut |check| verdict.add(&check))?;
    }
    match subject::open(path, block) {
        Err(Error::Read { file, error }) => {
            let (what, problem) = (file.display().to_string(), Some(error.to_string()));
            verdict.add(&Check::Structure { what, problem, passed: false });
            Ok(None)
        }
        // The digests have told already.
        Err(Error::Artifact(_)) if verdict.failed > 0 => Ok(None),
        opened => opened.map(Some),
    }
}

/// Prints checks and counts them.
struct Verdict {
    format: MessageFormat,
    bar: indicatif::ProgressBar,
    checks: usize,
    failed: usize,
    /// A departure is told with its candidates.
    explain: bool,
    /// Only failures and the verdict are printed, to the error stream.
    quiet: bool,
}

impl Verdict {
    fn new(format: MessageFormat, explain: bool) -> Verdict {
        Verdict { format, bar: steps_bar("verifying"), checks: 0, failed: 0, explain, quiet: false }
    }

    fn quiet() -> Verdict {
        Verdict { quiet: true, ..Verdict::new(MessageFormat::Text, false) }
    }

    fn heading(&self, name: &str) {
        if self.format == MessageFormat::Text && !self.quiet {
            let _ = say(&format!("{name}\n"));
        }
    }

    fn add(&mut self, check: &Check) {
        self.checks += 1;
        self.failed += usize::from(!check.passed());
        self.bar.inc(1);
        let text = match self.format {
            // A check is a struct of numbers, words and lists, which always has a JSON form.
            MessageFormat::Json => serde_json::to_string(check).unwrap_or_default(),
            MessageFormat::Text => describe(check, self.explain),
        };
        self.bar.suspend(|| match self.quiet {
            true if check.passed() => {}
            true => note(&text),
            // What cannot be printed is still counted, and the verdict tries again.
            false => _ = say(&format!("{text}\n")),
        });
    }

    /// Tells the verdict, unless the verification broke off.
    fn finish(self, done: Result<(), Error>) -> Result<bool, Error> {
        self.bar.finish_and_clear();
        done?;
        let passed = self.failed == 0 && self.checks > 0;
        let (checks, failed) = (self.checks, self.failed);
        let text = match (self.format, passed) {
            (MessageFormat::Json, _) => serde_json::json!({
                "reason": "verify-finished", "passed": passed, "checks": checks, "failed": failed
            })
            .to_string(),
            (MessageFormat::Text, true) => format!("verified: {checks} checks passed"),
            (MessageFormat::Text, false) => format!("not verified: {failed} of {checks} checks failed"),
        };
        match self.quiet {
            true => note(&text),
            false => say(&format!("{text}\n"))?,
        }
        Ok(passed)
    }
}
