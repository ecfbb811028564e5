//! `run`: answers prompts, building and verifying first where asked.

use std::ops::ControlFlow;
use std::path::PathBuf;

use diffulex_compiler::generation::{Generation, Remasking};
use diffulex_edge::Error;
use diffulex_edge::answer::Model;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_runtime::chat::Message;
use diffulex_runtime::generate::{End, Trace};
use serde::Deserialize;

use super::{build, engine, plans, recipes_only, verify};
use crate::args::{Run, Sampling};
use crate::terminal::{note, print};

/// Runs the command.
pub(crate) fn run(args: &Run) -> Result<bool, Error> {
    let kind = subject::kind(&args.path)?;
    if kind != Kind::Recipe {
        recipes_only(&args.places)?;
    }
    let opened = match kind {
        Kind::Recipe => built(args)?,
        _ if args.verify && !verify::quietly(&args.path, args.against.as_deref(), &args.places, args.engine)? => None,
        _ => Some(subject::open(&args.path, None)?),
    };
    let Some(opened) = opened else { return Ok(false) };
    let mut generation = opened.generation.clone().ok_or_else(|| {
        Error::Usage(format!("{} does not say its mask token or how to generate; run its recipe instead", opened.name))
    })?;
    apply(&args.sampling, &mut generation)?;
    let text: PathBuf = args.tokenizer.clone().or(opened.text.clone()).ok_or_else(|| {
        let path = args.path.display();
        Error::Usage(format!("{path}: has no tokenizer beside it: give its folder with `--tokenizer`"))
    })?;
    let mut model = Model::new(opened.engine(&engine(args.engine)?)?, &generation, &text)?;
    match (&args.prompt, &args.prompts) {
        (Some(prompt), _) => one(&mut model, args, prompt)?,
        (None, Some(file)) => many(&mut model, args, file)?,
        (None, None) => return Err(Error::Usage("give `--prompt` or `--prompts`".into())),
    }
    Ok(true)
}

/// The first artifact of a recipe, alone built when stale and verified when asked; nothing when that fails.
fn built(args: &Run) -> Result<Option<Opened>, Error> {
    let mut planned = plans(&args.path, &args.places)?;
    if planned.len() > 1 {
        let name = &planned[0].build.name;
        note(&format!("running {name}, the first of {} builds; `--only TEXT` chooses", planned.len()));
    }
    planned.truncate(1);
    build::ensure(&planned)?;
    let Some(plan) = planned.first() else { return Ok(None) };
    if args.verify && !verify::plan(plan, args.engine)? {
        return Ok(None);
    }
    subject::bundle(&plan.folder).map(Some)
}

/// One prompt, its answer streamed.
fn one(model: &mut Model, args: &Run, prompt: &str) -> Result<(), Error> {
    let ids = ids(model, args, prompt)?;
    let mut failed = Ok(());
    let mut show = |piece: &str| match print(piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Err(error);
            ControlFlow::Break(())
        }
    };
    let (_, trace) = model.answer(&ids, &mut show)?;
    failed?;
    print("\n")?;
    if trace.end == End::Length && trace.tokens.len() >= model.cache() {
        note(&format!("the answer ends where the cache of {} positions is full", model.cache()));
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
        let (answer, trace) = answered.map_err(|e| Error::Usage(format!("{place}: {e}")))?;
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
    model.conversation(&messages)
}

fn stats(trace: &Trace) -> String {
    format!(
        "{} tokens in {} passes ({:.1} a pass), {:.0} tokens a second, prompt of {} tokens in {:.0} ms",
        trace.answer().len(),
        trace.passes.len(),
        trace.tokens_per_pass(),
        trace.tokens_per_second(),
        trace.prompt,
        trace.prefill_time().as_secs_f64() * 1000.0
    )
}

/// Flags over the artifact's defaults, each held against its range.
fn apply(flags: &Sampling, generation: &mut Generation) -> Result<(), Error> {
    let range = |name: &str, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
        true => Ok(value),
        false => Err(Error::Usage(format!("--{name} is {value}, which is not between {low} and {high}"))),
    };
    if let Some(value) = flags.temperature {
        generation.temperature = range("temperature", value, 0.0, 2.0)?;
    }
    if let Some(value) = flags.top_p {
        generation.top_p = range("top-p", value, 0.0, 1.0)?;
    }
    if let Some(value) = flags.threshold {
        generation.threshold = vec![range("threshold", value, 0.0, 1.0)?];
    }
    if let Some(name) = &flags.strategy {
        generation.strategy = Some(Remasking::from_name(name).ok_or_else(|| {
            Error::Usage(format!("there is no strategy `{name}`; there are {}", Remasking::NAMES.join(", ")))
        })?);
    }
    if let Some((name, _)) =
        [("max-tokens", flags.max_tokens), ("steps", flags.steps)].iter().find(|(_, flag)| *flag == Some(0))
    {
        return Err(Error::Usage(format!("--{name} is at least 1")));
    }
    generation.max_tokens = flags.max_tokens.unwrap_or(generation.max_tokens);
    generation.steps = flags.steps.or(generation.steps);
    generation.top_k = flags.top_k.unwrap_or(generation.top_k);
    generation.seed = flags.seed.unwrap_or(generation.seed);
    Ok(())
}
