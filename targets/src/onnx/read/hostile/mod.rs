//! Files that are wrong in one place each.
//!
//! What no structure shows is not here: exchanged weights of one shape, or scales in another order, are read.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_compiler::ir::Encoding;

use super::read;
use crate::onnx::small::{Parts, RECIPES, Recipe};

mod bytes;
mod model;
mod nodes;
mod tensors;

const FLOAT: Recipe = Recipe::Float(Encoding::F32);

/// A change, and what the reader says of it.
type Case = (Recipe, &'static str, fn(&mut Parts));

/// What the reader says of a file that is changed.
fn said(recipe: Recipe, change: impl FnOnce(&mut Parts)) -> Result<(), String> {
    let (folder, mut parts) = (tempfile::tempdir().unwrap(), Parts::new(recipe));
    change(&mut parts);
    read(&parts.write(folder.path())).map(|_| ()).map_err(|error| error.to_string())
}

/// Tries all cases before it fails.
#[track_caller]
fn refused(cases: &[Case]) {
    let mut wrong = Vec::new();
    for (i, (recipe, expected, change)) in cases.iter().enumerate() {
        match said(*recipe, change) {
            Err(error) if error.contains(expected) => {}
            other => wrong.push(format!("{i}: {other:?} instead of `{expected}`")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_good_files_are_good() {
    for recipe in RECIPES.map(|(_, recipe)| recipe).into_iter().chain([FLOAT, Recipe::Float(Encoding::F16)]) {
        assert_eq!(said(recipe, |_| {}), Ok(()));
    }
}
