//! What devices are known to do badly with a package, although the format allows it.
//!
//! Every lint rests on public reports by people with Apple hardware, not on runs of ours; the sources stand in
//! `formats/coreml-mlpackage.md`, section 10. The file itself is looked at, so packages of other writers have lints, too.
//!
//! | name | severity | what it means |
//! |---|---|---|
//! | `coreml::omitted-parameter` | warning | an operation leaves out a parameter that has a default |
//! | `coreml::high-rank` | warning | a value has more than five axes |
//! | `coreml::gather-rank` | warning | a gather makes a value of five axes |
//! | `coreml::state-width` | warning | the last axis of a state is no multiple of 32 |
//! | `coreml::flexible-state` | warning | a state has an axis of unknown size |
//! | `coreml::update-length` | note | a state is updated by other than 16 or 32 rows |
//! | `coreml::run-time-offset` | warning | a state is updated at a place that is known at run time only |
//! | `coreml::compressed-filter` | note | a filter is stored in fewer bits |
//! | `coreml::grouped-scales` | warning | weights have several scales a row |
//! | `coreml::palette-scale` | warning | a palette of four bits is scaled blockwise |
//! | `coreml::fused-attention` | warning | attention is one operation |
//! | `coreml::large-weights` | warning | a weight file has more than 2^31 bytes |
//! | `coreml::engine-memory` | note | the weights have more than 1.5 GB |
//! | `coreml::large-filter` | note | a filter has a dimension above 65,536 |
//! | `coreml::large-dimension` | note | another value has a dimension above 65,536 |
//! | `coreml::flexible-shape` | note | an input has an axis of unknown size |
//! | `coreml::flexible-mean` | warning | a mean is taken where shapes are flexible, for iOS 15 |
//! | `coreml::several-functions` | note | there are several functions |
//! | `coreml::half-vector` | note | numbers in fp16, more than one, stand in the program itself |
//! | `coreml::rounded-epsilon` | note | an epsilon is stored in fp16, where it has fewer digits |
//! | `coreml::rounded-scale` | note | the scale of attention is not exact in fp16 |
//! | `coreml::single-precision` | note | a part of the program computes in fp32 |
//!
//! Two things hold for every package. Loading may succeed although the compiler of the Neural Engine failed, and the first
//! prediction ends the process then: try each compute unit on a device. On watchOS, in extensions and in App Clips there
//! is no compiler: these need an `.mlmodelc` that was made on a Mac.

mod facts;
mod filters;
mod parameters;
mod rules;
mod states;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::ReadError;
use super::read::{Files, folders};
use super::schema::model::Model;
use super::schema::program::{Content, Value};
use facts::{Facts, values_of};
pub use rules::{LINTS, Rule, Severity};

/// Something that a device may do badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its name, one of [`LINTS`].
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The first place that it concerns.
    pub place: String,
    /// How many places it concerns.
    pub count: usize,
    /// What stands there, what happens, and what to do about it.
    pub reason: String,
}

/// Largest weight file of older systems.
const MAX_FILE: u64 = 1 << 31;
/// Weights that one program of the Neural Engine held; 3.4 GB did not fit.
const MAX_ENGINE: u64 = 1_500_000_000;

/// What is known against the package in `folder`, or all of its chain: each lint once, in the order of [`LINTS`]. The
/// package may come from any writer and use what [`super::read()`] does not know, as long as its messages decode.
///
/// # Errors
/// When it is no package of an ML Program, or a weight file is missing.
pub fn lint(folder: &Path) -> Result<Vec<Lint>, ReadError> {
    let one = |folder: &PathBuf| {
        let files = Files::open(folder)?;
        let sizes = weight_files(&files.model).into_iter().map(|name| Ok(files.weight_file(name)?.1));
        Ok(check(&files.model, &sizes.collect::<Result<Vec<u64>, ReadError>>()?))
    };
    Ok(of_chain(folders(folder)?.iter().map(one).collect::<Result<_, ReadError>>()?))
}

/// The lints of all packages of a chain.
pub(super) fn of_chain(packages: Vec<Vec<Lint>>) -> Vec<Lint> {
    let (mut all, chained) = (Found::default(), packages.len() > 1);
    for (number, lints) in (1..).zip(packages) {
        for mut lint in lints {
            match all.0.iter_mut().find(|known| known.name == lint.name) {
                Some(known) => known.count += lint.count,
                None if chained => {
                    lint.place = format!("part {number}, {}", lint.place);
                    all.0.push(lint);
                }
                None => all.0.push(lint),
            }
        }
    }
    all.sorted()
}

/// What is known against a model whose weight files have these sizes.
pub(super) fn check(model: &Model, weight_files: &[u64]) -> Vec<Lint> {
    let mut found = Found::default();
    let functions = Facts::of(model);
    for facts in &functions {
        states::check(facts, &mut found);
        states::check_updates(facts, &mut found);
        values::check(facts, &mut found);
        for (i, operation) in facts.operations.iter().enumerate() {
            let place = || facts.place(i);
            parameters::check(facts, operation, place, &mut found);
            filters::check(facts, operation, place, &mut found);
            values::check_operation(facts, operation, place, &mut found);
        }
    }
    if let Some(largest) = weight_files.iter().max().filter(|bytes| **bytes > MAX_FILE) {
        found.add(&rules::LARGE_WEIGHTS, || "weights".into(), || format!("{largest} bytes"));
    }
    let all: u64 = weight_files.iter().fold(0, |all, bytes| all.saturating_add(*bytes));
    if all > MAX_ENGINE {
        found.add(&rules::ENGINE_MEMORY, || "weights".into(), || format!("{all} bytes"));
    }
    if functions.len() > 1 {
        found.add(&rules::SEVERAL_FUNCTIONS, || "program".into(), || format!("{} functions", functions.len()));
    }
    found.sorted()
}

/// The names of all weight files of a model.
fn weight_files(model: &Model) -> BTreeSet<&str> {
    let operations = Facts::of(model).into_iter().flat_map(|facts| facts.operations);
    operations.flat_map(values_of).filter_map(weight_file).collect()
}

/// The weight file that a constant lies in.
fn weight_file(value: &Value) -> Option<&str> {
    match &value.content {
        Some(Content::BlobFile(blob)) => Some(&blob.file_name),
        _ => None,
    }
}

/// The lints so far.
#[derive(Default)]
struct Found(Vec<Lint>);

impl Found {
    /// Counts a place, and keeps it if it is the first.
    fn add(&mut self, rule: &Rule, place: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|lint| lint.name == rule.name) {
            Some(lint) => lint.count += 1,
            None => self.0.push(Lint {
                name: rule.name,
                severity: rule.severity,
                place: place(),
                count: 1,
                reason: format!("{}: {}", what(), rule.help),
            }),
        }
    }

    /// All of them, in the order of the list.
    fn sorted(mut self) -> Vec<Lint> {
        self.0.sort_by_key(|lint| LINTS.iter().position(|rule| rule.name == lint.name));
        self.0
    }
}
