//! `run`: answers prompts, building and verifying first where asked.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use diffulex_edge::Error;
use diffulex_edge::answer::{Model, Watch};
use diffulex_edge::build::Plan;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_runtime::chat::{ChatError, Message};
use diffulex_runtime::generate::{Behaviour, End, Trace};
use serde::Deserialize;

use super::{build, engine, flags, note_end, plans, recipes_only, verify, with_tokenizer};
use crate::args::{Places, Run};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::live::Screen;
use crate::terminal::{note, print};

/// Runs the command.
pub(crate) fn run(args: &Run) -> Result<bool, Error> {
    let kind = subject::kind(&args.path)?;
    if kind != Kind::Recipe {
        recipes_only(&args.places)?;
    }
    let opened = match kind {
        Kind::Recipe => {
            built(&args.path, &args.places, &mut |plan| Ok(!args.verify || verify::plan(plan, &args.engine)?))?
        }
        _ if args.verify && !verify::quietly(&args.path, args.against.as_deref(), &args.places, &args.engine)? => None,
        _ => Some(subject::open(&args.path, None)?),
    };
    let Some(mut opened) = opened else { return Ok(false) };
    flags::apply(&args.sampling, opened.settings()?, flags::as_flag)?;
    if let Some(length) = args.gap.length {
        flags::gap(length, opened.settings()?)?;
    }
    let opened = with_tokenizer(args.tokenizer.as_deref(), opened)?;
    // An original asked for by name makes the passes of the original; else only those that matter are made.
    let behaviour = if args.sampling.algorithm.is_some() { Behaviour::Original } else { Behaviour::Answer };
    let mut model = Model::of(&opened, &engine(&args.engine, &opened)?, behaviour)?;
    match (&args.prompt, &args.prompts) {
        (Some(prompt), _) => one(&mut model, args, prompt),
        (None, Some(file)) => many(&mut model, args, file).map(|()| true),
        (None, None) if args.gap.length.is_some() => filled(&mut model, args),
        (None, None) => Err(Error::Usage(NOTHING.into())),
    }
}

const NOTHING: &str = "nothing to answer: give `--prompt TEXT` or `--prompts FILE`, or `--prefix`, `--suffix` and \
                       `--length` for a gap";

/// The first artifact of a recipe, alone built when stale, and held against `sound`; nothing when that is not.
pub(super) fn built(
    recipe: &Path,
    places: &Places,
    sound: &mut dyn FnMut(&Plan) -> Result<bool, Error>,
) -> Result<Option<Opened>, Error> {
    let mut planned = plans(recipe, places)?;
    if planned.len() > 1 {
        let name = &planned[0].job.build.name;
        note(&format!("running {name}, the first of {} builds; `--only TEXT` chooses", planned.len()));
    }
    planned.truncate(1);
    build::ensure(&planned)?;
    let Some(plan) = planned.first() else { return Ok(None) };
    if !sound(plan)? {
        return Ok(None);
    }
    subject::bundle(&plan.folder).map(Some)
}

/// One prompt, its answer shown as it comes.
fn one(model: &mut Model, args: &Run, prompt: &str) -> Result<bool, Error> {
    let ids = ids(model, args, prompt)?;
    shown(model, args, |model, watch| model.watch(&ids, watch))
}

/// A gap, what fills it shown as it comes.
fn filled(model: &mut Model, args: &Run) -> Result<bool, Error> {
    let encode = |text: &Option<String>| model.text(text.as_deref().unwrap_or_default());
    let (prefix, suffix) = (encode(&args.gap.prefix)?, encode(&args.gap.suffix)?);
    shown(model, args, |model, watch| model.infill(&prefix, &suffix, watch))
}

/// Shows an answer as it comes, and whether it was not stopped.
fn shown(
    model: &mut Model,
    args: &Run,
    answer: impl FnOnce(&mut Model, &mut Watch<'_>) -> Result<(String, Trace), Error>,
) -> Result<bool, Error> {
    let (mut screen, mut failed) = (Screen::new(args.plain), Ok(()));
    let interrupt = if screen.is_drawn() { Some(Interrupt::listen(true)?) } else { None };
    let stoppable = interrupt.as_ref().map(Interrupt::stoppable);
    let stopped = || stoppable.as_ref().is_some_and(|stoppable| stoppable.is_stopped());
    let answered = answer(model, &mut |progress| screen.watch(progress, &mut failed, &stopped));
    if answered.is_err() {
        screen.abandon()?;
    }
    let (text, trace) = answered.map_err(named)?;
    failed?;
    screen.finish(&text)?;
    note_end(model, &trace);
    if args.stats {
        note(&stats(&trace));
    }
    Ok(trace.end != End::Stopped)
}

/// A file of prompts, answers as JSON lines.
fn many(model: &mut Model, args: &Run, file: &PathBuf) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Line {
        prompt: String,
    }
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}:{}", file.display(), number + 1);
        let Line { prompt } = serde_json::from_str(line).map_err(|e| {
            Error::Usage(format!("{place}: is no JSON object with a `prompt`, at column {}", e.column()))
        })?;
        let answered = ids(model, args, &prompt).and_then(|ids| model.answer(&ids, &mut |_| ControlFlow::Continue(())));
        let (answer, trace) = answered.map_err(|e| Error::Usage(format!("{place}: {}", named(e))))?;
        let (tokens, passes) = (trace.answer().len(), trace.passes.len());
        let object = serde_json::json!({ "prompt": prompt, "answer": answer, "tokens": tokens, "passes": passes });
        print(&format!("{object}\n"))?;
    }
    Ok(())
}

fn named(error: Error) -> Error {
    flags::named(error, flags::as_flag)
}

fn ids(model: &Model, args: &Run, prompt: &str) -> Result<Vec<u32>, Error> {
    if args.raw {
        return model.text(prompt);
    }
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let system = args.system.iter().map(|text| message("system", text));
    let messages: Vec<Message> = system.chain([message("user", prompt)]).collect();
    model.conversation(&messages).map_err(|error| match error {
        Error::Chat(ChatError::NoTemplate) => {
            let path = args.path.display();
            Error::Usage(format!("{path}: has no chat template; `--raw` continues the prompt as it stands"))
        }
        other => other,
    })
}

fn stats(trace: &Trace) -> String {
    let prefill = trace.prefill_time().as_secs_f64() * 1000.0;
    let prompt = match prefill > 0.0 {
        true => format!("prompt of {} tokens in {prefill:.0} ms", trace.prompt),
        false => format!("prompt of {} tokens", trace.prompt),
    };
    format!(
        "{} tokens in {} passes ({:.1} a pass), {:.0} tokens a second, {prompt}",
        trace.answer().len(),
        trace.decoding_passes(),
        trace.tokens_per_pass(),
        trace.tokens_per_second(),
    )
}
