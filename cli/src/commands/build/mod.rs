//! `build`: the artifacts of recipes that are not fresh.
//!
//! 1. Recipes become plans; every mistake in them is told before anything is written.
//! 2. What is stale is weighed: it must fit the memory and the disk, and with `--locked` be made from what is locked.
//! 3. Plans are carried out, several at once; each tells how it went.
//! 4. `recipes.lock` and the pages that were asked for are written.

mod explain;
mod one;
pub(super) mod tell;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use diffulex_edge::Error;
use diffulex_edge::build::schedule::{self, Limits, Outcome};
use diffulex_edge::build::{self, Estimate, Freshness, Lock, Locked, Plan};
use diffulex_edge::report::Timings;
use diffulex_targets::artifact::Manifest;

pub(crate) use one::ensure;

use super::{context, planned, write_page, write_report};
use crate::args::{Build, FRESHNESS};
use crate::terminal::{note, print};

/// Runs the command.
pub(crate) fn run(args: &Build) -> Result<bool, Error> {
    let done = builds(args);
    if let Err(error) = &done {
        tell::failed(args.message_format, None, error)?;
    }
    Ok(done.unwrap_or(false))
}

fn builds(args: &Build) -> Result<bool, Error> {
    let started = Instant::now();
    build::lints::known(&args.deny)?;
    let (plans, mistakes) = planned(&args.recipes, &args.places)?;
    for error in &mistakes {
        tell::failed(args.message_format, None, error)?;
    }
    if plans.is_empty() || !(mistakes.is_empty() || args.keep_going) {
        return Ok(false);
    }
    if !args.deny.is_empty() && args.stop_after.is_none() {
        // All are looked at before any is written.
        for plan in &plans {
            build::lints::allowed(&build::foreseen(&plan.job)?, &args.deny)?;
        }
    }
    let pass = args.explain.as_ref().filter(|pass| *pass != FRESHNESS);
    for plan in &plans {
        for stage in args.stop_after.iter().chain(pass) {
            if !build::goes_through(&plan.job, stage)? {
                let (name, target) = (&plan.job.build.name, plan.job.build.target.value.name());
                note(&format!("{name}: {target} does not ask for {stage}; the module is left as it is there"));
            }
        }
        if args.explain.as_deref() == Some(FRESHNESS) {
            print(&explain::freshness(plan))?;
        }
    }
    let looks = args.stop_after.is_some() || args.dump_ir.is_some() || pass.is_some();
    let fresh = |plan: &Plan| plan.freshness == Freshness::Fresh && !args.force;
    let (kept, stale): (Vec<Plan>, Vec<Plan>) = plans.into_iter().partition(fresh);
    if args.dry_run {
        let weighed = |plan: &Plan| Estimate::of(&plan.job, context::missing().is_ok()).map(Some);
        kept.iter().try_for_each(|plan| tell::planned(args.message_format, plan, None))?;
        stale.iter().try_for_each(|plan| tell::planned(args.message_format, plan, weighed(plan)?))?;
        return Ok(mistakes.is_empty());
    }
    let locks = if args.locked { Some(locked(kept.iter().chain(&stale))?) } else { None };
    let memory = args.memory.unwrap_or_else(build::free_memory);
    // What is printed of modules is printed in order.
    let jobs = if looks { 1 } else { args.jobs.map_or_else(cores, |jobs| jobs as usize) };
    let costs = if args.stop_after.is_some() { vec![0; stale.len()] } else { weighed(&stale, args, memory, jobs)? };

    for plan in &kept {
        one::kept(plan, args, locks.as_ref().and_then(|locks| locks.get(&plan.folder)))?;
    }
    let timings = args.timings.as_ref().map(|_| Timings::default());
    let work = one::Work { args, locks: locks.as_ref(), timings: timings.as_ref(), failed: Mutex::new(None) };
    let limits = Limits { jobs, memory, keep_going: args.keep_going };
    let outcomes = schedule::run(&costs, limits, &|place| work.carry_out(&stale[place]));
    if let Some(error) = work.failed.into_inner().ok().flatten() {
        return Err(error);
    }
    let done = |(_, outcome): &(&Plan, &Outcome)| **outcome == Outcome::Done;
    let built: Vec<&Plan> = stale.iter().zip(&outcomes).filter(done).map(|(plan, _)| plan).collect();
    if args.stop_after.is_none() {
        build::learn(&args.places.out, &built);
    }
    let whole: Vec<&Plan> = kept.iter().chain(built).collect();
    if args.places.overrides.is_empty() && args.stop_after.is_none() && !args.locked {
        lock(&whole, args.places.only.is_none())?;
    }
    if let Some(file) = &args.report {
        let folders: Vec<PathBuf> = whole.iter().map(|plan| plan.folder.clone()).collect();
        write_report(file, &folders)?;
    }
    if let (Some(file), Some(timings)) = (&args.timings, timings) {
        write_page(file, &timings.page())?;
    }
    if args.stop_after.is_none() {
        tell::all(args.message_format, kept.len(), &outcomes, started.elapsed().as_secs_f64())?;
    }
    Ok(mistakes.is_empty() && outcomes.iter().all(|outcome| *outcome == Outcome::Done))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The memory that each build takes; refuses what does not fit.
fn weighed(stale: &[Plan], args: &Build, memory: u64, jobs: usize) -> Result<Vec<u64>, Error> {
    let contexts = context::missing().is_ok();
    let (mut costs, mut sizes) = (Vec::new(), Vec::new());
    for plan in stale {
        let estimate = Estimate::of(&plan.job, contexts)?;
        build::fits(&plan.job.build.name, estimate, memory)?;
        let old = Manifest::read(&plan.folder).map_or(0, |old| old.files.values().map(|file| file.bytes).sum());
        costs.push(estimate.memory);
        sizes.push((estimate.disk, old));
    }
    build::fits_disk(&args.places.out, &sizes, jobs)?;
    Ok(costs)
}

/// What is locked of each build, by its folder.
fn locked<'a>(plans: impl Iterator<Item = &'a Plan>) -> Result<BTreeMap<PathBuf, Locked>, Error> {
    let mut locks: BTreeMap<PathBuf, Lock> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for plan in plans {
        let file = Lock::beside(&plan.recipe);
        if !locks.contains_key(&file) {
            locks.insert(file.clone(), Lock::read(&file)?);
        }
        found.insert(plan.folder.clone(), locks[&file].find(&file, &plan.recipe, &plan.job)?.clone());
    }
    Ok(found)
}

/// Notes builds in the locks beside their recipes; with `all` they are all builds of these.
fn lock(plans: &[&Plan], all: bool) -> Result<(), Error> {
    let mut by_file: BTreeMap<PathBuf, BTreeMap<String, Locked>> = BTreeMap::new();
    for plan in plans {
        let files = Manifest::read(&plan.folder)?.files;
        let locked = Locked::new(&plan.recipe, &plan.job, &files);
        by_file.entry(Lock::beside(&plan.recipe)).or_default().insert(plan.job.build.name.clone(), locked);
    }
    for (file, made) in by_file {
        if let Err(error) = Lock::note(&file, &made, all) {
            note(&format!("what was built is not locked: {error}"));
        }
    }
    Ok(())
}
