//! Which recipes there are to build, where a path may be a folder of them.

use std::path::{Path, PathBuf};

use crate::Error;

/// The recipes that `paths` stand for, in order and each once: a file stands for itself, a folder for the files in it
/// that end in `.toml` and name a product. What has no name is there to be built upon, such as `base.toml`.
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
            "{}: holds no recipe: no file that ends in .toml and has a `name`; folders below it are named one by one",
            folder.display()
        ))),
    }
}

/// Whether a file is a recipe of a product. One that is no TOML counts as one, so that its mistakes are told.
fn is_recipe(file: &Path) -> bool {
    let named = || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.parse::<toml::Table>().map_or(true, |table| table.contains_key("name"))
    };
    file.extension().is_some_and(|ending| ending == "toml") && file.is_file() && named()
}
