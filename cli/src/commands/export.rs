//! `export`: one artifact from one checkpoint, without a recipe.

use std::time::Instant;

use diffulex_edge::build::{self, Event};
use diffulex_edge::export::{Export, Exported, printed};
use diffulex_edge::{Error, load, report};
use indicatif::HumanBytes;

use super::lints::line;
use super::{context, show_progress};
use crate::args;
use crate::terminal::{bytes_bar, note, print, say};

/// Runs the command.
pub(crate) fn run(args: &args::Export) -> Result<bool, Error> {
    let usual = Export::to(args.backend);
    let export = Export {
        dtype: args.dtype.unwrap_or(usual.dtype),
        socs: args.soc.clone(),
        overrides: args.overrides.clone(),
        deny: args.deny.clone(),
        ..usual
    };
    let checkpoint = load(&args.hf_model_path)?;
    if args.print_recipe {
        print(&printed(&export.recipe(&checkpoint, &args.output_path)?))?;
        return Ok(true);
    }
    let started = Instant::now();
    let bar = bytes_bar(&args.output_path.to_string_lossy());
    let missing = context::missing();
    let contexts: Result<&build::MakeContext<'_>, &str> = match &missing {
        Ok(()) => Ok(&context::apart),
        Err(why) => Err(why),
    };
    let done = export.write_observed(&checkpoint, &args.output_path, contexts, &mut |event| {
        show_progress(&bar, &event);
        if let Event::WithoutContexts(why) = event {
            note(&format!("no context binaries: {why}"));
        }
    });
    bar.finish_and_clear();
    let Exported { report, bytes, lints, .. } = done?;
    lints.iter().for_each(|lint| note(&line(lint)));
    let (file, size) = (args.output_path.display(), HumanBytes(bytes));
    let (bits, seconds) = (report.bits_per_weight(), started.elapsed().as_secs_f64());
    print(&report::weights(&report))?;
    say(&format!("\n{file}: {size}, {bits:.2} bits a weight, in {seconds:.1} s\n"))?;
    Ok(true)
}
