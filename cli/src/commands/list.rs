//! `list`: the builds of recipes, or the artifacts that there are.

use diffulex_edge::Error;
use diffulex_edge::build::artifacts;
use indicatif::HumanBytes;
use serde_json::json;

use super::build::tell;
use super::{planned, recipes_only};
use crate::args::{List, MessageFormat};
use crate::terminal::{print_error, say};

/// Runs the command.
pub(crate) fn run(args: &List) -> Result<bool, Error> {
    if args.recipes.is_empty() {
        recipes_only(&args.places)?;
        return there(args).map(|()| true);
    }
    let (plans, mistakes) = planned(&args.recipes, &args.places)?;
    mistakes.iter().for_each(print_error);
    plans.iter().try_for_each(|plan| tell::planned(args.message_format, plan, None))?;
    Ok(mistakes.is_empty())
}

/// The artifacts of the output folder.
fn there(args: &List) -> Result<(), Error> {
    let found = artifacts(&args.places.out)?;
    if found.is_empty() && args.message_format == MessageFormat::Text {
        return say(&format!("no artifacts in {}\n", args.places.out.display()));
    }
    let width = found.iter().map(|(_, manifest)| manifest.name.chars().count()).max().unwrap_or(0);
    for (folder, manifest) in found {
        let (name, target, tool, bytes) = (&manifest.name, &manifest.target, &manifest.tool, manifest.artifact_bytes());
        let artifact = folder.join(&manifest.artifact);
        let line = match args.message_format {
            MessageFormat::Json => json!({
                "reason": "artifact", "name": name, "artifact": artifact, "target": target, "bytes": bytes, "tool": tool,
                "license": manifest.origin.license,
            })
            .to_string(),
            MessageFormat::Text => format!("{name:width$}  {:>10}  {}", HumanBytes(bytes).to_string(), artifact.display()),
        };
        say(&(line + "\n"))?;
    }
    Ok(())
}
