//! `build`: the artifacts of a recipe that are not fresh.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diffulex_compiler::ir;
use diffulex_compiler::passes::{self, Note};
use diffulex_edge::Error;
use diffulex_edge::build::{self, Event, Freshness, Plan};
use diffulex_targets::artifact::Manifest;
use indicatif::ProgressBar;

use super::{context, lints, plans, show_progress, write_report};
use crate::args::{Build, MessageFormat};
use crate::terminal::{bytes_bar, note, print, say};

/// Runs the command.
pub(crate) fn run(args: &Build) -> Result<bool, Error> {
    let done = builds(args);
    if let (MessageFormat::Json, Err(error)) = (args.message_format, &done) {
        say(&format!("{}\n", serde_json::json!({ "reason": "error", "message": error.to_string() })))?;
    }
    done
}

fn builds(args: &Build) -> Result<bool, Error> {
    build::lints::known(&args.deny)?;
    let plans = plans(&args.recipe, &args.places)?;
    if !args.deny.is_empty() && args.stop_after.is_none() {
        // All are looked at before any is written.
        for plan in &plans {
            build::lints::allowed(&build::foreseen(&plan.job)?, &args.deny)?;
        }
    }
    for plan in &plans {
        for stage in args.stop_after.iter().chain(&args.explain) {
            if !build::goes_through(&plan.job, stage)? {
                let (name, target) = (&plan.job.build.name, plan.job.build.target.value.name());
                note(&format!("{name}: {target} does not ask for {stage}; the module is left as it is there"));
            }
        }
        one(plan, args)?;
    }
    if let Some(file) = &args.report {
        let folders: Vec<PathBuf> = plans.iter().map(|plan| plan.folder.clone()).collect();
        write_report(file, &folders)?;
    }
    Ok(true)
}

/// Builds what is stale, for the commands that need artifacts.
pub(crate) fn ensure(plans: &[Plan]) -> Result<(), Error> {
    for plan in plans.iter().filter(|p| p.freshness != Freshness::Fresh) {
        note(&format!("building {} ({})", plan.job.build.name, plan.freshness));
        write(plan, &mut |_| Ok(()))?;
    }
    Ok(())
}

/// Takes one plan as far as asked: to the end of a pass, through all of them where only a look at a fresh build is
/// wanted, or to the written artifact.
fn one(plan: &Plan, args: &Build) -> Result<(), Error> {
    let mut number = 0;
    let mut see = |event: &Event<'_>| -> Result<(), Error> {
        let (name, module, notes) = match event {
            Event::Stage { name, module, notes } => (name, module, notes),
            Event::Lints(found) => return lints::tell(args.message_format, &plan.job.build.name, found),
            Event::WithoutContexts(why) => {
                note(&format!("{}: no context binaries: {why}", plan.job.build.name));
                return Ok(());
            }
            Event::Written { .. } | Event::Calibrating { .. } => return Ok(()),
        };
        number += 1;
        if let Some(folder) = &args.dump_ir {
            dump(&folder.join(&plan.job.build.name), &format!("{number:02}-{name}"), module)?;
        }
        if args.explain.as_deref() == Some(name) {
            print(&explained(&plan.job.build.name, name, notes))?;
        }
        Ok(())
    };
    let fresh = plan.freshness == Freshness::Fresh && !args.force;
    if args.stop_after.is_some() || fresh {
        let looks = args.stop_after.is_some() || args.dump_ir.is_some() || args.explain.is_some();
        if looks {
            let mut failed = Ok(());
            let module = build::compile(&plan.job, args.stop_after.as_deref(), &mut |event| {
                if failed.is_ok() {
                    failed = see(&event);
                }
            });
            failed?;
            let module = module.map_err(|e| with_evidence(plan, e))?;
            if args.stop_after.is_some() {
                return print(&ir::print(&module.module));
            }
        }
        let found = lints::of(&plan.artifact())?;
        lints::tell(args.message_format, &plan.job.build.name, &found)?;
        return report(args.message_format, plan, "fresh", None);
    }
    let started = std::time::Instant::now();
    write(plan, &mut see)?;
    let why = if plan.freshness == Freshness::Fresh { "forced".into() } else { plan.freshness.to_string() };
    report(args.message_format, plan, &why, Some(started.elapsed().as_secs_f64()))
}

/// Writes one artifact with a bar.
fn write(plan: &Plan, see: &mut dyn FnMut(&Event<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let bar: ProgressBar = bytes_bar(&plan.job.build.name);
    let mut failed = Ok(());
    let missing = context::missing();
    let contexts: Result<&build::MakeContext<'_>, &str> = match &missing {
        Ok(()) => Ok(&context::apart),
        Err(why) => Err(why),
    };
    let done = build::run(plan, contexts, &mut |event| {
        show_progress(&bar, &event);
        if failed.is_ok() {
            failed = see(&event);
        }
    });
    bar.finish_and_clear();
    done.map_err(|e| with_evidence(plan, e))?;
    failed
}

/// Tells how a build went: a line for people, or an object for machines.
fn report(format: MessageFormat, plan: &Plan, why: &str, seconds: Option<f64>) -> Result<(), Error> {
    let (name, path) = (&plan.job.build.name, plan.artifact());
    match (format, seconds) {
        (MessageFormat::Json, _) => {
            let object = serde_json::json!({
                "reason": "build-finished", "name": name, "artifact": path, "fresh": seconds.is_none(),
                "why": why, "seconds": seconds,
            });
            say(&format!("{object}\n"))
        }
        (MessageFormat::Text, None) => say(&format!("{name}: fresh\n")),
        (MessageFormat::Text, Some(seconds)) => {
            let bytes = Manifest::read(&plan.folder)?.artifact_bytes();
            let size = indicatif::HumanBytes(bytes);
            say(&format!("{name}: built {} ({size}) in {seconds:.1} s ({why})\n", path.display()))
        }
    }
}

/// What a pass did, equal notes of neighbouring layers joined.
fn explained(build: &str, pass: &str, notes: &[Note]) -> String {
    let about = match pass {
        "import" => "the model as its family builds it; no pass",
        _ => passes::find(pass).map_or("the model in the words of the target; no pass", |p| p.about),
    };
    let mut text = format!("{build}: {pass}: {about}\n");
    if notes.is_empty() {
        text.push_str("  found no place to look at\n");
    }
    let mut groups: BTreeMap<(usize, String), Vec<u32>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for Note { place, changed, what } in notes {
        let (layer, local) = split(place);
        let what = layer.map_or(what.clone(), |layer| what.replace(&format!("layers.{layer}."), "layers.{i}."));
        let said = format!("{} {local}: {what}", if *changed { "done    " } else { "not done" });
        let index = order.iter().position(|o| *o == said).unwrap_or_else(|| {
            order.push(said.clone());
            order.len() - 1
        });
        groups.entry((index, said)).or_default().extend(layer);
    }
    for ((_, said), layers) in groups {
        let layers = match (layers.first(), layers.last()) {
            (Some(first), Some(last)) if first == last => format!(" (layer {first})"),
            (Some(first), Some(last)) => format!(" ({} layers, {first} to {last})", layers.len()),
            _ => String::new(),
        };
        text.push_str(&format!("  {said}{layers}\n"));
    }
    text
}

/// `layers.3 %q` → (3, `%q`); `@layers.3.self_attn.q_proj` → (3, `@self_attn.q_proj`).
fn split(place: &str) -> (Option<u32>, String) {
    let (sign, rest) = if let Some(rest) = place.strip_prefix('@') { ("@", rest) } else { ("", place) };
    let parts = rest.strip_prefix("layers.").and_then(|rest| rest.split_once(['.', ' ']));
    match parts.and_then(|(layer, local)| Some((layer.parse().ok()?, local))) {
        Some((layer, local)) => (Some(layer), format!("{sign}{local}")),
        None => (None, place.to_string()),
    }
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
