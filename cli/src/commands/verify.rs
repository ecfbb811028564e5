//! `verify`: checks one by one, a verdict at the end.

use std::path::{Path, PathBuf};

use diffulex_edge::build::Plan;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::verify::{Comparison, Verdict, describe};
use diffulex_edge::{Error, report, verify};
use diffulex_runtime::verify::Check;
use diffulex_targets::artifact::Manifest;

use super::{build, engine, plans, recipes_only, write_report};
use crate::args::{Engine, MessageFormat, Places, Verify};
use crate::terminal::{note, say, steps_bar};

/// Runs the command.
pub(crate) fn run(args: &Verify) -> Result<bool, Error> {
    let mut told = Told::new(args.message_format, args.explain);
    let mut folders = Vec::new();
    if args.report.is_some() && !matches!(subject::kind(&args.path)?, Kind::Recipe | Kind::Bundle) {
        return Err(Error::Usage(format!("{}: only an artifact's folder has a report", args.path.display())));
    }
    let done = checks(args, &mut told, &mut folders).and_then(|()| match &args.report {
        Some(file) => write_report(file, &folders),
        None => Ok(()),
    });
    if let (MessageFormat::Json, Err(error)) = (args.message_format, &done) {
        say(&format!("{}\n", serde_json::json!({ "reason": "error", "message": error.to_string() })))?;
    }
    told.finish(done)
}

/// Verifies one build of a recipe, for `run --verify`: only failures and the verdict are told.
pub(crate) fn plan(plan: &Plan, asked: &Engine) -> Result<bool, Error> {
    let mut told = Told::quiet();
    let done = planned(plan, &Asked::by(asked), &mut told);
    told.finish(done)
}

/// Verifies an artifact against its checkpoint, for `run --verify`.
pub(crate) fn quietly(path: &Path, against: Option<&Path>, places: &Places, asked: &Engine) -> Result<bool, Error> {
    let mut told = Told::quiet();
    let done = compared(path, against, places, &Asked::by(asked), &mut told);
    told.finish(done)
}

/// How an artifact is to be held against its checkpoint.
#[derive(Clone, Copy)]
struct Asked<'a> {
    engine: &'a Engine,
    tolerance: Option<f32>,
    explain: bool,
}

impl<'a> Asked<'a> {
    fn of(args: &'a Verify) -> Asked<'a> {
        Asked { engine: &args.engine, tolerance: args.tolerance, explain: args.explain }
    }

    /// The usual comparison on an engine.
    fn by(engine: &'a Engine) -> Asked<'a> {
        Asked { engine, tolerance: None, explain: false }
    }
}

/// Carries the checks out; notes the artifacts' folders that were verified.
fn checks(args: &Verify, told: &mut Told, folders: &mut Vec<PathBuf>) -> Result<(), Error> {
    let recorded = !(args.reference.is_empty() && args.trajectories.is_empty() && args.conversations.is_empty());
    if subject::kind(&args.path)? != Kind::Recipe {
        recipes_only(&args.places)?;
    } else {
        let all = plans(&args.path, &args.places)?;
        build::ensure(&all)?;
        folders.extend(all.iter().map(|plan| plan.folder.clone()));
        for plan in &all {
            match recorded {
                true => recordings(args, &plan.folder, told)?,
                false => planned(plan, &Asked::of(args), told)?,
            }
        }
        return Ok(());
    }
    folders.push(args.path.clone());
    match recorded {
        true => recordings(args, &args.path, told),
        false => compared(&args.path, args.against.as_deref(), &args.places, &Asked::of(args), told),
    }
}

/// A build that is known with its checkpoint.
fn planned(plan: &Plan, asked: &Asked<'_>, told: &mut Told) -> Result<(), Error> {
    told.heading(&plan.job.build.name);
    held_against(&plan.folder, plan.job.checkpoint.folder(), asked, told)
}

/// An artifact against a checkpoint. What was found is left in the artifact's folder, if it has one.
fn held_against(path: &Path, checkpoint: &Path, asked: &Asked<'_>, told: &mut Told) -> Result<(), Error> {
    told.begin();
    let manifest = if subject::kind(path)? == Kind::Bundle { Some(Manifest::read(path)?) } else { None };
    if let Some(artifact) = opened(path, None, told)? {
        let Asked { engine: wanted, tolerance, explain } = *asked;
        let how = Comparison { engine: engine(wanted, &artifact)?, tolerance, explain };
        let done = verify::artifact(&artifact, checkpoint, &how, &mut |check| told.add(check));
        damaged(&artifact, done, told)?;
    }
    if let Some(manifest) = manifest {
        keep(path, &manifest, asked.engine, told);
    }
    Ok(())
}

/// Leaves in an artifact's folder what was found, for `show`. A folder that cannot be written stays as it is.
fn keep(folder: &Path, manifest: &Manifest, asked: &Engine, told: &Told) {
    let verification = report::Verification::new(manifest, asked.name.word(), &told.since());
    if let Err(error) = report::keep(folder, &verification) {
        note(&format!("the verdict is not kept: {error}"));
    }
}

/// Numbers of an artifact that nothing can compute with are a failed check, not a failed verification.
fn damaged(artifact: &Opened, done: Result<(), Error>, told: &mut Told) -> Result<(), Error> {
    match (done, &artifact.artifact) {
        (Err(error @ (Error::Weight(_) | Error::Lower(_) | Error::Session(_) | Error::Verify(_))), Some(file)) => {
            let (what, problem) = (file.display().to_string(), Some(error.to_string()));
            told.add(Check::Structure { what, problem, passed: false });
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
    asked: &Asked<'_>,
    told: &mut Told,
) -> Result<(), Error> {
    let kind = subject::kind(path)?;
    if kind == Kind::Checkpoint {
        return Err(Error::Usage(format!(
            "{}: a checkpoint is compared with recordings: `verify` takes them as `--reference`, `--trajectories` and \
             `--conversations`",
            path.display()
        )));
    }
    let known = match (against, &kind) {
        (Some(folder), _) => Some(folder.to_path_buf()),
        (None, Kind::Bundle) => verify::checkpoint_of(path, places.models.as_deref())?,
        (None, _) => None,
    };
    match known {
        Some(checkpoint) => held_against(path, &checkpoint, asked, told),
        // Damage is told where there is nothing to compare with.
        None if opened(path, None, told)?.is_none() => Ok(()),
        None => {
            let path = path.display();
            let what = "give `--against CHECKPOINT`, the folder it was made from, or recordings";
            Err(Error::Usage(format!("{path}: {what}")))
        }
    }
}

fn recordings(args: &Verify, path: &Path, told: &mut Told) -> Result<(), Error> {
    let Some(opened) = opened(path, args.block, told)? else { return Ok(()) };
    let engine = engine(&args.engine, &opened)?;
    let recordings = verify::Recordings {
        references: &args.reference,
        trajectories: &args.trajectories,
        conversations: &args.conversations,
        block: args.block,
        tokenizer: args.tokenizer.as_deref(),
        tolerance: args.tolerance,
        explain: args.explain,
    };
    verify::recordings(&opened, &engine, &recordings, &mut |check| told.add(check))
}

/// Opens what is verified, its digests first. A damaged artifact is a failed check, not a failed verification.
fn opened(path: &Path, block: Option<u32>, told: &mut Told) -> Result<Option<Opened>, Error> {
    if subject::kind(path)? == Kind::Bundle {
        verify::structure(path, &mut |check| told.add(check))?;
    }
    match subject::open(path, block) {
        Err(Error::Read { file, error }) => {
            let (what, problem) = (file.display().to_string(), Some(error.to_string()));
            told.add(Check::Structure { what, problem, passed: false });
            Ok(None)
        }
        // The digests have told already.
        Err(Error::Artifact(_)) if told.found.failed().next().is_some() => Ok(None),
        opened => opened.map(Some),
    }
}

/// Prints checks and counts them.
struct Told {
    format: MessageFormat,
    bar: indicatif::ProgressBar,
    found: Verdict,
    /// Checks before the current artifact.
    before: usize,
    /// A departure is told with its candidates.
    explain: bool,
    /// Only failures and the verdict are printed, to the error stream.
    quiet: bool,
}

impl Told {
    fn new(format: MessageFormat, explain: bool) -> Told {
        Told { format, bar: steps_bar("verifying"), found: Verdict::default(), before: 0, explain, quiet: false }
    }

    fn quiet() -> Told {
        Told { quiet: true, ..Told::new(MessageFormat::Text, false) }
    }

    fn heading(&self, name: &str) {
        if self.format == MessageFormat::Text && !self.quiet {
            let _ = say(&format!("{name}\n"));
        }
    }

    /// Begins with another artifact.
    fn begin(&mut self) {
        self.before = self.found.checks.len();
    }

    /// What was found of the current artifact.
    fn since(&self) -> Verdict {
        Verdict { checks: self.found.checks[self.before..].to_vec() }
    }

    fn add(&mut self, check: Check) {
        self.bar.inc(1);
        let text = match self.format {
            // A check is a struct of numbers, words and lists, which always has a JSON form.
            MessageFormat::Json => serde_json::to_string(&check).unwrap_or_default(),
            MessageFormat::Text => describe(&check, self.explain),
        };
        match self.quiet {
            true if check.passed() => {}
            true => note(&text),
            // What cannot be printed is still counted, and the verdict tries again.
            false => _ = say(&format!("{text}\n")),
        }
        self.found.checks.push(check);
    }

    /// Tells the verdict, unless the verification broke off.
    fn finish(self, done: Result<(), Error>) -> Result<bool, Error> {
        self.bar.finish_and_clear();
        done?;
        let passed = self.found.passed();
        let (checks, failed) = (self.found.checks.len(), self.found.failed().count());
        let text = match self.format {
            MessageFormat::Json => serde_json::json!({
                "reason": "verify-finished", "passed": passed, "checks": checks, "failed": failed
            })
            .to_string(),
            MessageFormat::Text => self.found.summary(),
        };
        match self.quiet {
            true => note(&text),
            false => say(&format!("{text}\n"))?,
        }
        Ok(passed)
    }
}
