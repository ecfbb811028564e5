//! `bench`: how long a step takes, for one artifact or for several in turn.

use diffulex_edge::bench::{self, Loaded, Pass, Timing};
use diffulex_edge::subject;
use diffulex_edge::{Error, subject::EngineChoice};
use diffulex_runtime::executorch::ExecuTorch;
use diffulex_runtime::tract;
use indicatif::HumanBytes;

use super::engine;
use crate::args::{Bench, MessageFormat};
use crate::terminal::{note, say, steps_bar};

/// Runs the command.
pub(crate) fn run(args: &Bench) -> Result<bool, Error> {
    let mut subjects = Vec::new();
    for path in &args.paths {
        let bar = steps_bar("loading");
        let loaded = subject::open(path, None).and_then(|opened| {
            let engine = engine(&args.engine, &opened)?;
            if let (Some(threads), true) = (args.threads, subjects.is_empty()) {
                set_threads(&engine, threads)?;
            }
            Loaded::new(path.display().to_string(), &opened, &engine)
        });
        bar.finish_and_clear();
        subjects.push(loaded?);
    }
    if args.message_format == MessageFormat::Text {
        for subject in &subjects {
            say(&format!("{}: loaded in {:.2} s\n", subject.name, subject.load.as_secs_f64()))?;
        }
    }
    let block = Pass { tokens: args.block, cached: args.cache };
    let full = Pass { tokens: args.full, cached: 0 };
    for (what, asked) in [("block", block), ("full", full)] {
        let bar = steps_bar("timing");
        bar.set_length((bench::passes(args.runs) * subjects.len()) as u64);
        let timings = bench::time(&mut subjects, asked, args.rows, args.runs, &mut || bar.inc(1));
        bar.finish_and_clear();
        report(what, asked, &timings?, args)?;
    }
    if args.message_format == MessageFormat::Text
        && let Some((anonymous, peak)) = memory()
    {
        let (anonymous, peak) = (HumanBytes(anonymous), HumanBytes(peak));
        say(&format!("\nmemory: {anonymous} anonymous now, {peak} resident at most\n"))?;
    }
    Ok(true)
}

fn report(what: &str, asked: Pass, timings: &[Timing], args: &Bench) -> Result<(), Error> {
    let Some(first) = timings.first() else { return Ok(()) };
    let pass = first.pass;
    if args.message_format == MessageFormat::Json {
        for timing in timings {
            let object = serde_json::json!({ "reason": "bench", "what": what, "timing": timing });
            say(&format!("{object}\n"))?;
        }
        return Ok(());
    }
    if pass != asked {
        note(&format!("{what}: cut to what was built: {} tokens, {} cached", pass.tokens, pass.cached));
    }
    let Pass { tokens, cached } = pass;
    let rows = if first.rows == tokens { "all rows".into() } else { format!("{} of them", first.rows) };
    say(&format!(
        "\n{what}: {tokens} tokens, {cached} cached, logits of {rows}, {} runs on {}\n",
        args.runs, first.engine
    ))?;
    let width = timings.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
    for timing in timings {
        let (least, most) = (timing.milliseconds.first(), timing.milliseconds.last());
        let (least, most) = (least.copied().unwrap_or(f64::NAN), most.copied().unwrap_or(f64::NAN));
        let ratio = match timings.len() {
            1 => String::new(),
            _ => format!("  {:.3} of the first", timing.median() / first.median()),
        };
        let (name, median) = (&timing.name, timing.median());
        say(&format!("  {name:width$}  {median:8.2} ms  ({least:.2} .. {most:.2}){ratio}\n"))?;
    }
    Ok(())
}

fn set_threads(engine: &EngineChoice, threads: u32) -> Result<(), Error> {
    match engine {
        EngineChoice::ExecuTorch(library) => Ok(ExecuTorch::set_threads(library, threads)?),
        EngineChoice::Tract => Ok(tract::set_threads(threads as usize)?),
        EngineChoice::OnnxRuntime(_) | EngineChoice::TractOnnx => {
            Err(Error::Usage("`--threads` is for tract and executorch".into()))
        }
    }
}

/// Anonymous memory now and the largest resident set so far, where the system tells.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kilobytes("RssAnon:")? << 10, kilobytes("VmHWM:")? << 10))
}
