//! Which recipes there are to build, where a path may be a folder of them.

use std::path::{Path, PathBuf};

use crate::Error;

/// The recipes that `paths` stand for, in order and each once: a file stands for itself, a folder for the files in it
/// that end in `.toml` and name a product, by themselves or by what they extend. Others are there to be extended, such as
/// `base.toml`.
///
/// # Errors
/// When a path is not there, or a folder holds no recipe.
pub fn recipes(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let stat = path.metadata().map_err(Error::io(path))?;
        let more = if stat.is_dir() { inside(path)? } else { vec![path.clone()] };
        for recipe in more {
            if !found.contains(&recipe) {
                found.push(recipe);
            }
        }
    }
    Ok(found)
}

/// The recipes in a folder, by name; folders below it are not looked at.
fn inside(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let files = entries.map_err(Error::io(folder))?.into_iter().map(|entry| entry.path());
    let mut recipes: Vec<PathBuf> = files.filter(|file| is_recipe(file)).collect();
    recipes.sort();
    match recipes.is_empty() {
        false => Ok(recipes),
        true => Err(Error::Usage(format!(
            "{}: holds no recipe, which is a file that ends in .toml and has a `name`; folders below it are named one by one",
            folder.display()
        ))),
    }
}

fn is_recipe(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "toml") && file.is_file() && named(file, DEEPEST)
}

/// Longest chain of files that extend each other.
const DEEPEST: usize = 16;

/// Whether a file, or one that it extends, has a name. One that cannot be read counts, so that its mistakes are told.
fn named(file: &Path, deepest: usize) -> bool {
    let text = std::fs::read_to_string(file).ok();
    let Some(table) = text.and_then(|text| text.parse::<toml::Table>().ok()) else { return true };
    match table.get("extends").and_then(toml::Value::as_str) {
        _ if table.contains_key("name") => true,
        Some(parent) if deepest > 0 => named(&file.with_file_name("").join(parent), deepest - 1),
        Some(_) => true,
        None => false,
    }
}
