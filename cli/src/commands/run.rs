//! `run`: answers prompts, building and verifying first where asked.

use std::ops::ControlFlow;
use std::path::PathBuf;

use diffulex_edge::Error;
use diffulex_edge::answer::Model;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_runtime::chat::{ChatError, Message};
use diffulex_runtime::generate::{Behaviour, End, Trace};
use serde::Deserialize;

use super::{build, engine, flags, plans, recipes_only, verify};
use crate::args::Run;
use crate::terminal::{note, print};

/// Runs the command.
pub(crate) fn run(args: &Run) -> Result<bool, Error> {
    let kind = subject::kind(&args.path)?;
    if kind != Kind::Recipe {
        recipes_only(&args.places)?;
    }
    let opened = match kind {
        Kind::Recipe => built(args)?,
        _ if args.verify && !verify::quietly(&args.path, args.against.as_deref(), &args.places, &args.engine)? => None,
        _ => Some(subject::open(&args.path, None)?),
    };
    let Some(mut opened) = opened else { return Ok(false) };
    flags::apply(&args.sampling, opened.settings()?)?;
    if let Some(length) = args.gap.length {
        flags::gap(length, opened.settings()?)?;
    }
    if let Some(folder) = &args.tokenizer {
        opened = opened.tokenizer(folder);
    }
    // An original asked for by name makes the passes of the original; else only those that matter are made.
    let behaviour = if args.sampling.algorithm.is_some() { Behaviour::Original } else { Behaviour::Answer };
    let mut model = Model::of(&opened, &engine(&args.engine, &opened)?, behaviour)?;
    match (&args.prompt, &args.prompts) {
        (Some(prompt), _) => one(&mut model, args, prompt)?,
        (None, Some(file)) => many(&mut model, args, file)?,
        (None, None) if args.gap.length.is_some() => filled(&mut model, args)?,
        (None, None) => return Err(Error::Usage(NOTHING.into())),
    }
    Ok(true)
}

const NOTHING: &str = "nothing to answer: give `--prompt TEXT` or `--prompts FILE`, or `--prefix`, `--suffix` and \
                       `--length` for a gap";

/// The first artifact of a recipe, alone built when stale and verified when asked; nothing when that fails.
fn built(args: &Run) -> Result<Option<Opened>, Error> {
    let mut planned = plans(&args.path, &args.places)?;
    if planned.len() > 1 {
        let name = &planned[0].job.build.name;
        note(&format!("running {name}, the first of {} builds; `--only TEXT` chooses", planned.len()));
    }
    planned.truncate(1);
    build::ensure(&planned)?;
    let Some(plan) = planned.first() else { return Ok(None) };
    if args.verify && !verify::plan(plan, &args.engine)? {
        return Ok(None);
    }
    subject::bundle(&plan.folder).map(Some)
}

/// One prompt, its answer streamed.
fn one(model: &mut Model, args: &Run, prompt: &str) -> Result<(), Error> {
    let ids = ids(model, args, prompt)?;
    streamed(model, args, |model, show| model.answer(&ids, show))
}

/// A gap, what fills it streamed.
fn filled(model: &mut Model, args: &Run) -> Result<(), Error> {
    let encode = |text: &Option<String>| model.text(text.as_deref().unwrap_or_default());
    let (prefix, suffix) = (encode(&args.gap.prefix)?, encode(&args.gap.suffix)?);
    streamed(model, args, |model, show| model.infill(&prefix, &suffix, show))
}

/// Prints an answer as it comes.
fn streamed(
    model: &mut Model,
    args: &Run,
    answer: impl FnOnce(&mut Model, &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<(String, Trace), Error>,
) -> Result<(), Error> {
    let mut failed = Ok(());
    let mut show = |piece: &str| match print(piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Err(error);
            ControlFlow::Break(())
        }
    };
    let (_, trace) = answer(model, &mut show).map_err(flags::named)?;
    failed?;
    print("\n")?;
    let cut = args.gap.length.is_none() && trace.end == End::Length && trace.answer().len() < model.max_tokens();
    match trace.undecided {
        0 if cut => {
            let (tokens, room) = (trace.answer().len(), model.room());
            note(&format!("the answer was cut to {tokens} tokens: more do not fit the {room} positions of this build"));
        }
        0 => {}
        left if trace.end == End::Length => {
            note(&format!("the algorithm left {left} positions undecided, as the original does with these settings"));
        }
        _ => {}
    }
    if args.stats {
        note(&stats(&trace));
    }
    Ok(())
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
        let (answer, trace) = answered.map_err(|e| Error::Usage(format!("{place}: {}", flags::named(e))))?;
        let (tokens, passes) = (trace.answer().len(), trace.passes.len());
        let object = serde_json::json!({ "prompt": prompt, "answer": answer, "tokens": tokens, "passes": passes });
        print(&format!("{object}\n"))?;
    }
    Ok(())
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
