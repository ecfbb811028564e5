//! `export`: one artifact from one checkpoint, without a recipe.

use std::time::Instant;

use diffulex_compiler::recipe::TargetName;
use diffulex_edge::build::{self, Event};
use diffulex_edge::export::{Request, printed};
use diffulex_edge::{Error, report};
use indicatif::HumanBytes;

use super::lints::line;
use super::{context, show_progress};
use crate::args::Export;
use crate::terminal::{bytes_bar, note, print, say};

/// Runs the command.
pub(crate) fn run(args: &Export) -> Result<bool, Error> {
    build::lints::known(&args.deny)?;
    let usual = if args.backend == TargetName::Qnn { "w8a16" } else { "float16" };
    let mut overrides = args.overrides.clone();
    if !args.soc.is_empty() {
        if args.backend != TargetName::Qnn {
            return Err(Error::Usage("`--soc` names a chip for `--backend qnn`".into()));
        }
        // A list of texts in JSON is one in TOML.
        overrides.push(format!("target.qnn.socs={}", serde_json::json!(args.soc)));
    }
    let request = Request {
        checkpoint: &args.hf_model_path,
        output: &args.output_path,
        target: args.backend,
        dtype: args.dtype.as_deref().unwrap_or(usual),
        overrides: &overrides,
    };
    if args.print_recipe {
        print(&printed(&request.recipe()?))?;
        return Ok(true);
    }
    let started = Instant::now();
    let job = request.job()?;
    let bar = bytes_bar(&args.output_path.to_string_lossy());
    let mut lints = Vec::new();
    let missing = context::missing();
    let contexts: Result<&build::MakeContext<'_>, &str> = match &missing {
        Ok(()) => Ok(&context::apart),
        Err(why) => Err(why),
    };
    let done = build::export(&job, &args.output_path, &args.deny, contexts, &mut |event| {
        show_progress(&bar, &event);
        match event {
            Event::Lints(found) => lints = found.to_vec(),
            Event::WithoutContexts(why) => note(&format!("no context binaries: {why}")),
            _ => {}
        }
    });
    bar.finish_and_clear();
    let (report, bytes) = done?;
    lints.iter().for_each(|lint| note(&line(lint)));
    let (file, size) = (args.output_path.display(), HumanBytes(bytes));
    let (bits, seconds) = (report.bits_per_weight(), started.elapsed().as_secs_f64());
    print(&report::weights(&report))?;
    say(&format!("\n{file}: {size}, {bits:.2} bits a weight, in {seconds:.1} s\n"))?;
    Ok(true)
}
