//! `clean`: removes artifacts, and what killed builds left of them.

use std::path::PathBuf;

use diffulex_edge::Error;
use diffulex_edge::build::{self, artifacts};
use diffulex_targets::artifact;
use indicatif::HumanBytes;

use super::{options, recipes_only};
use crate::args::Clean;
use crate::terminal::{note, say};

/// Runs the command.
pub(crate) fn run(args: &Clean) -> Result<bool, Error> {
    let folders = match args.recipes.is_empty() {
        true => {
            recipes_only(&args.places)?;
            every(args)?
        }
        false => {
            let options = options(&args.places);
            let recipes = build::recipes(&args.recipes)?;
            let folders = recipes.iter().map(|recipe| build::folders(recipe, &options));
            folders.collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    let (mut bytes, mut removed) = (0, 0);
    for folder in folders {
        let freed = if args.dry_run { artifact::size(&folder) } else { artifact::remove(&folder)? };
        if let Some(freed) = freed {
            let what = if args.dry_run { "would remove" } else { "removed" };
            say(&format!("{what} {} ({})\n", folder.display(), HumanBytes(freed)))?;
            (bytes, removed) = (bytes + freed, removed + 1);
        }
    }
    if removed == 0 {
        note("there is nothing to remove");
    } else if removed > 1 {
        say(&format!("{removed} artifacts, {}\n", HumanBytes(bytes)))?;
    }
    Ok(true)
}

/// Every artifact of the output folder, finished or not.
fn every(args: &Clean) -> Result<Vec<PathBuf>, Error> {
    let finished = artifacts(&args.places.out)?.into_iter().map(|(folder, _)| folder);
    let mut folders: Vec<PathBuf> = finished.chain(artifact::unfinished(&args.places.out)).collect();
    folders.sort();
    folders.dedup();
    Ok(folders)
}
