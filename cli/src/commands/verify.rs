//! `verify`: checks one by one, a verdict at the end.

use std::path::Path;

use diffulex_edge::build::Plan;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::{Error, verify};
use diffulex_runtime::verify::Check;

use super::{build, engine, plans, recipes_only};
use crate::args::{EngineName, MessageFormat, Places, Verify};
use crate::terminal::{note, say, steps_bar};

/// Runs the command.
pub(crate) fn run(args: &Verify) -> Result<bool, Error> {
    let mut verdict = Verdict::new(args.message_format);
    let done = checks(args, &mut verdict);
    if let (MessageFormat::Json, Err(error)) = (args.message_format, &done) {
        say(&format!("{}\n", serde_json::json!({ "reason": "error", "message": error.to_string() })))?;
    }
    verdict.finish(done)
}

/// Verifies one build of a recipe, for `run --verify`: only failures and the verdict are told.
pub(crate) fn plan(plan: &Plan, engine_name: EngineName) -> Result<bool, Error> {
    let mut verdict = Verdict::quiet();
    let done = planned(plan, engine_name, &mut verdict);
    verdict.finish(done)
}

/// Verifies an artifact against its checkpoint, for `run --verify`.
pub(crate) fn quietly(path: &Path, against: Option<&Path>, places: &Places, name: EngineName) -> Result<bool, Error> {
    let mut verdict = Verdict::quiet();
    let done = compared(path, against, places, name, &mut verdict);
    verdict.finish(done)
}

fn checks(args: &Verify, verdict: &mut Verdict) -> Result<(), Error> {
    let recorded = !args.reference.is_empty() || !args.trajectories.is_empty();
    if subject::kind(&args.path)? != Kind::Recipe {
        recipes_only(&args.places)?;
    } else {
        let all = plans(&args.path, &args.places)?;
        build::ensure(&all)?;
        for plan in &all {
            match recorded {
                true => recordings(args, &plan.folder, verdict)?,
                false => planned(plan, args.engine, verdict)?,
            }
        }
        return Ok(());
    }
    match recorded {
        true => recordings(args, &args.path, verdict),
        false => compared(&args.path, args.against.as_deref(), &args.places, args.engine, verdict),
    }
}

/// A build that is known with its checkpoint.
fn planned(plan: &Plan, name: EngineName, verdict: &mut Verdict) -> Result<(), Error> {
    verdict.heading(&plan.build.name);
    let Some(artifact) = opened(&plan.folder, None, verdict)? else { return Ok(()) };
    verify::artifact(&artifact, plan.checkpoint.folder(), &engine(name)?, &mut |check| verdict.add(&check))
}

/// An artifact against the checkpoint that is given, or that its manifest names.
fn compared(
    path: &Path,
    against: Option<&Path>,
    places: &Places,
    name: EngineName,
    verdict: &mut Verdict,
) -> Result<(), Error> {
    let kind = subject::kind(path)?;
    if kind == Kind::Checkpoint {
        return Err(Error::Usage(format!(
            "{}: a checkpoint is compared with recordings: give `--reference` or `--trajectories`",
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
    verify::artifact(&artifact, &source, &engine(name)?, &mut |check| verdict.add(&check))
}

fn recordings(args: &Verify, path: &Path, verdict: &mut Verdict) -> Result<(), Error> {
    let Some(opened) = opened(path, args.block, verdict)? else { return Ok(()) };
    let engine = engine(args.engine)?;
    let report = &mut |check: Check| verdict.add(&check);
    verify::recordings(&opened, &engine, args.block, &args.reference, &args.trajectories, report)
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
    /// Only failures and the verdict are printed, to the error stream.
    quiet: bool,
}

impl Verdict {
    fn new(format: MessageFormat) -> Verdict {
        Verdict { format, bar: steps_bar("verifying"), checks: 0, failed: 0, quiet: false }
    }

    fn quiet() -> Verdict {
        Verdict { quiet: true, ..Verdict::new(MessageFormat::Text) }
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
            MessageFormat::Text => describe(check),
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

/// One line for people.
fn describe(check: &Check) -> String {
    let mark = if check.passed() { "ok    " } else { "FAILED" };
    match check {
        Check::Structure { what, problem, .. } => match problem {
            None => format!("{mark} structure   {what}"),
            Some(problem) => format!("{mark} structure   {what}: {problem}"),
        },
        Check::Logits { case, attention, rows, max_error, limit, hidden, hidden_limit, not_compared, .. } => {
            let worst = hidden.iter().max_by(|a, b| a.1.total_cmp(b.1));
            let hidden = worst.map_or(String::new(), |(name, error)| {
                format!(", {} hidden states within {error:.1e} of {hidden_limit:.0e} (worst {name})", hidden.len())
            });
            let missing = match not_compared.len() {
                0 => String::new(),
                n => format!(", {n} hidden states not compared"),
            };
            format!(
                "{mark} logits      {case}: {rows} rows ({attention}), largest error {max_error:.1e} of {limit:.0e}\
                 {hidden}{missing}"
            )
        }
        Check::Trajectory { name, passes, tokens, difference, .. } => match difference {
            None => format!("{mark} trajectory  {name}: {passes} passes, {tokens} tokens, all equal"),
            Some(difference) => format!("{mark} trajectory  {name}: {difference}"),
        },
        Check::Weights { compared, of, difference, .. } => match difference {
            None => format!("{mark} weights     {compared} of {of} matrices compared, all equal"),
            Some(difference) => format!("{mark} weights     {difference}"),
        },
        Check::Numbers(n) => {
            let departs = n.departs.map_or(String::new(), |layer| format!(", departs in layer {layer}"));
            format!(
                "{mark} numbers     {}: {} rows, error {:.1e} of {:.1e}, KL {:.1e}, top-1 {:.0}%{departs}",
                n.case,
                n.rows,
                n.max_error,
                n.limits.max_error * n.max_logit,
                n.kl,
                n.top1 * 100.0
            )
        }
        Check::Reply { case, tokens, equal, .. } => {
            format!("{mark} reply       {case}: {equal} of {tokens} tokens equal")
        }
    }
}
