//! One build: taken as far as asked, with what it tells on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use diffulex_compiler::ir;
use diffulex_edge::Error;
use diffulex_edge::build::{self, Event, Freshness, Locked, Plan};
use diffulex_edge::report::{Clock, Timings};
use diffulex_targets::artifact::Manifest;

use super::{explain, tell};
use crate::args::Build;
use crate::commands::{context, lints, show_progress};
use crate::terminal::{bytes_bar, note, print};

/// Builds what is stale, for the commands that need artifacts.
pub(crate) fn ensure(plans: &[Plan]) -> Result<(), Error> {
    for plan in plans.iter().filter(|p| p.freshness != Freshness::Fresh) {
        note(&format!("building {} ({})", plan.job.build.name, plan.freshness));
        write(plan, None, &mut |_| Ok(()))?;
    }
    Ok(())
}

/// An artifact that stays; its module is looked at where that is asked for.
pub(super) fn kept(plan: &Plan, args: &Build, locked: Option<&Locked>) -> Result<(), Error> {
    if args.stop_after.is_some() || args.dump_ir.is_some() || args.explain.is_some() {
        look(plan, args)?;
    }
    if args.stop_after.is_some() {
        return Ok(());
    }
    let files = Manifest::read(&plan.folder)?.files;
    if let Some(what) = locked.and_then(|locked| locked.other_outputs(&files)) {
        let name = &plan.job.build.name;
        return Err(Error::Usage(format!("{name}: it is not what is locked: {what}; `--force` builds it anew")));
    }
    lints::tell(args.message_format, &plan.job.build.name, &lints::of(&plan.artifact())?)?;
    tell::finished(args.message_format, plan, "fresh", None)
}

/// What all stale builds have in common.
pub(super) struct Work<'a> {
    pub(super) args: &'a Build,
    /// What is locked, by folder, where it must come out like that.
    pub(super) locks: Option<&'a BTreeMap<PathBuf, Locked>>,
    /// Takes times, where they are asked for.
    pub(super) timings: Option<&'a Timings>,
    /// Why a result could not be told.
    pub(super) failed: Mutex<Option<Error>>,
}

impl Work<'_> {
    /// Builds one artifact, or shows its module where only that is wanted; whether that succeeded.
    pub(super) fn carry_out(&self, plan: &Plan) -> bool {
        let (format, name) = (self.args.message_format, &plan.job.build.name);
        let done = match self.built(plan) {
            Ok(()) => Ok(true),
            Err(error) => tell::failed(format, Some(name), &error).map(|()| false),
        };
        done.unwrap_or_else(|error| {
            if let Ok(mut failed) = self.failed.lock() {
                failed.get_or_insert(error);
            }
            false
        })
    }

    fn built(&self, plan: &Plan) -> Result<(), Error> {
        if self.args.stop_after.is_some() {
            return look(plan, self.args);
        }
        let why = match plan.freshness {
            Freshness::Fresh => "forced".into(),
            _ => plan.freshness.to_string(),
        };
        tell::started(self.args.message_format, plan, &why)?;
        let started = Instant::now();
        let locked = self.locks.and_then(|locks| locks.get(&plan.folder));
        let mut stages = Stages::new(plan, self.args);
        let mut clock = self.timings.map(|timings| timings.clock(&plan.job.build.name));
        write(plan, locked, &mut |event| {
            clock.iter_mut().for_each(|clock| clock.see(event));
            stages.see(event)
        })?;
        clock.into_iter().for_each(Clock::stop);
        let built = tell::Built { seconds: started.elapsed().as_secs_f64(), before: stages.before };
        tell::finished(self.args.message_format, plan, &why, Some(built))
    }
}

/// Takes a module through the stages and prints what was asked for; writes no artifact.
fn look(plan: &Plan, args: &Build) -> Result<(), Error> {
    let mut stages = Stages::new(plan, args);
    let mut failed = Ok(());
    let module = build::compile(&plan.job, args.stop_after.as_deref(), &mut |event| {
        if failed.is_ok() {
            failed = stages.see(&event);
        }
    });
    failed?;
    let module = module.map_err(|e| with_evidence(plan, e))?;
    match args.stop_after {
        Some(_) => print(&ir::print(&module.module)),
        None => Ok(()),
    }
}

/// What is asked to be seen of a build's stages.
struct Stages<'a> {
    plan: &'a Plan,
    args: &'a Build,
    /// Stages so far.
    number: usize,
    /// Weights that an interrupted build had written.
    before: usize,
}

impl<'a> Stages<'a> {
    fn new(plan: &'a Plan, args: &'a Build) -> Stages<'a> {
        Stages { plan, args, number: 0, before: 0 }
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let build = &self.plan.job.build.name;
        let (name, module, notes) = match event {
            Event::Stage { name, module, notes } => (name, module, notes),
            Event::Lints(found) => return lints::tell(self.args.message_format, build, found),
            Event::WithoutContexts(why) => {
                note(&format!("{build}: no context binaries: {why}"));
                return Ok(());
            }
            Event::Weight { before, .. } => {
                self.before += usize::from(*before);
                return Ok(());
            }
            Event::Written { .. } | Event::Calibrating { .. } => return Ok(()),
        };
        self.number += 1;
        if let Some(folder) = &self.args.dump_ir {
            dump(&folder.join(build), &format!("{:02}-{name}", self.number), module)?;
        }
        if self.args.explain.as_deref() == Some(name) {
            print(&explain::pass(build, name, notes))?;
        }
        Ok(())
    }
}

/// Writes one artifact with a bar.
fn write(
    plan: &Plan,
    locked: Option<&Locked>,
    see: &mut dyn FnMut(&Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let bar = bytes_bar(&plan.job.build.name);
    let mut failed = Ok(());
    let missing = context::missing();
    let contexts: Result<&build::MakeContext<'_>, &str> = match &missing {
        Ok(()) => Ok(&context::apart),
        Err(why) => Err(why),
    };
    let done = build::run(&plan.job, &plan.folder, contexts, locked, &mut |event| {
        show_progress(&bar, &event);
        if failed.is_ok() {
            failed = see(&event);
        }
    });
    bar.finish_and_clear();
    done.map_err(|e| with_evidence(plan, e))?;
    failed
}

/// A wrong pass leaves the modules before and after it beside the artifacts.
fn with_evidence(plan: &Plan, error: Error) -> Error {
    if let Error::Pass(bug) = &error {
        let folder = plan.folder.with_file_name(format!("{}.bug", plan.job.build.name));
        let before = dump(&folder, &format!("{}.before", bug.pass), &bug.before);
        let after = bug.after.as_ref().map(|after| dump(&folder, &format!("{}.after", bug.pass), after));
        if before.is_ok() && after.is_none_or(|done| done.is_ok()) {
            note(&format!("the modules before and after the pass are in {}", folder.display()));
        }
    }
    error
}

fn dump(folder: &Path, name: &str, module: &ir::Module) -> Result<(), Error> {
    let file = folder.join(format!("{name}.ir"));
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    std::fs::write(&file, ir::print(module)).map_err(Error::io(file))
}
