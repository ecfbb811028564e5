//! `verify`: checks one by one, a verdict at the end.

use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::{Error, verify};
use diffulex_runtime::verify::Check;

use super::{build, engine};
use crate::args::{EngineName, MessageFormat, Verify};
use crate::terminal::{note, print, steps_bar};

/// Runs the command.
pub(crate) fn run(args: &Verify) -> Result<bool, Error> {
    let mut verdict = Verdict::new(args.message_format);
    let done = checks(args, &mut verdict);
    if let Err(error) = done {
        verdict.bar.finish_and_clear();
        return Err(error);
    }
    verdict.finish()
}

/// Verifies the artifacts of a recipe, for `run --verify`.
pub(crate) fn plan(plan: &diffulex_edge::build::Plan, engine_name: EngineName) -> Result<bool, Error> {
    let mut verdict = Verdict::new(MessageFormat::Text);
    verdict.quiet = true;
    planned(plan, engine_name, &mut verdict)?;
    verdict.finish()
}

fn checks(args: &Verify, verdict: &mut Verdict) -> Result<(), Error> {
    let recorded = !args.reference.is_empty() || !args.trajectories.is_empty();
    if subject::kind(&args.path)? == Kind::Recipe {
        for plan in build::ensure(&args.path, &args.places)? {
            if recorded {
                recordings(args, &subject::bundle(&plan.folder)?, verdict)?;
            } else {
                planned(&plan, args.engine, verdict)?;
            }
        }
        return Ok(());
    }
    let opened = subject::open(&args.path, args.block)?;
    if subject::kind(&args.path)? == Kind::Bundle {
        verify::structure(&args.path, &mut |check| verdict.add(&check))?;
    }
    if recorded {
        return recordings(args, &opened, verdict);
    }
    match (&args.against, &opened.artifact) {
        (Some(folder), Some(_)) => {
            let source = subject::checkpoint(folder, args.block)?;
            verify::artifact(&opened, &source, &engine(args.engine)?, &mut |check| verdict.add(&check))
        }
        (None, Some(_)) => match recipe_checkpoint(args)? {
            Some(source) => verify::artifact(&opened, &source, &engine(args.engine)?, &mut |check| verdict.add(&check)),
            None => Err(Error::Usage(format!(
                "{}: give `--against CHECKPOINT` (the folder it was made from), `--reference` or `--trajectories`",
                args.path.display()
            ))),
        },
        (_, None) => Err(Error::Usage(format!(
            "{}: a checkpoint is compared with recordings: give `--reference` or `--trajectories`",
            args.path.display()
        ))),
    }
}

fn planned(plan: &diffulex_edge::build::Plan, name: EngineName, verdict: &mut Verdict) -> Result<(), Error> {
    verdict.heading(&plan.build.name);
    verify::structure(&plan.folder, &mut |check| verdict.add(&check))?;
    let artifact = subject::bundle(&plan.folder)?;
    let source = subject::checkpoint(plan.checkpoint.folder(), Some(plan.build.shape.block.value))?;
    verify::artifact(&artifact, &source, &engine(name)?, &mut |check| verdict.add(&check))
}

fn recordings(args: &Verify, opened: &Opened, verdict: &mut Verdict) -> Result<(), Error> {
    let engine = engine(args.engine)?;
    let report = &mut |check: Check| verdict.add(&check);
    verify::recordings(opened, &engine, args.block, &args.reference, &args.trajectories, report)
}

/// The checkpoint that an artifact's manifest names, where it is still at hand.
fn recipe_checkpoint(args: &Verify) -> Result<Option<Opened>, Error> {
    if subject::kind(&args.path)? != Kind::Bundle {
        return Ok(None);
    }
    match verify::checkpoint_of(&args.path, args.places.models.as_deref())? {
        Some(folder) => subject::checkpoint(&folder, args.block).map(Some),
        None => Ok(None),
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

    fn heading(&self, name: &str) {
        if self.format == MessageFormat::Text && !self.quiet {
            let _ = print(&format!("{name}\n"));
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
            // A closed output stream is found again by the verdict.
            false => _ = print(&format!("{text}\n")),
        });
    }

    fn finish(self) -> Result<bool, Error> {
        self.bar.finish_and_clear();
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
            false => print(&format!("{text}\n"))?,
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
        Check::Logits { case, rows, max_error, limit, hidden, hidden_limit, .. } => {
            let worst = hidden.iter().max_by(|a, b| a.1.total_cmp(b.1));
            let hidden = worst.map_or(String::new(), |(name, error)| {
                format!(", {} hidden states within {error:.1e} of {hidden_limit:.0e} (worst {name})", hidden.len())
            });
            format!("{mark} logits      {case}: {rows} rows, largest error {max_error:.1e} of {limit:.0e}{hidden}")
        }
        Check::Trajectory { name, passes, tokens, difference, .. } => match difference {
            None => format!("{mark} trajectory  {name}: {passes} passes, {tokens} tokens, all equal"),
            Some(difference) => format!("{mark} trajectory  {name}: {difference}"),
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
