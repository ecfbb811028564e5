//! Writes a legal module as an `.mlpackage`.
//!
//! ```text
//! Manifest.json                                   the same for every package
//! Data/com.apple.CoreML/model.mlmodel             the program and what it says of itself    model.rs, step.rs, node.rs
//! Data/com.apple.CoreML/weights/weight.bin        one record a weight, or its scales        blobs.rs, weights.rs
//! ```
//!
//! A model in parts has one such folder for each, see `packages.rs`.
//!
//! The program is made in memory; it holds small constants only. Weights are evaluated some rows at a time and written
//! straight on, so memory does not depend on the size of the model. The bytes depend on the arguments only.

mod blobs;
mod block;
mod cache;
mod constant;
mod model;
mod node;
mod packages;
mod step;
mod value;
mod weights;

use std::borrow::Cow;

use diffulex_compiler::ir::{Module, Stage};
use prost::Message;
use serde::Serialize;

use super::lint::{self, Lint};
use super::schema::manifest::Manifest;
use super::schema::model::Model;
use super::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH};
use super::{Options, legal};
pub use crate::emit::{EmitError, Metadata};
use blobs::Blobs;
pub use packages::Packages;

/// A package without its numbers, ready to be written.
pub struct Package<'a> {
    module: Cow<'a, Module>,
    options: Options,
    version: i32,
    model: Model,
    blobs: Blobs,
}

/// Which part of a chain a package is.
#[derive(Clone, Copy)]
struct Part {
    /// Its number, from 1.
    number: u32,
    /// How many there are.
    of: u32,
}

impl<'a> Package<'a> {
    /// Plans the package of a legal module, all of it in one, whatever `options.parts` says; no numbers are needed.
    ///
    /// # Errors
    /// When `module` is not legal, or a constant of it has no place in `fp16`.
    pub fn new(module: &'a Module, metadata: &Metadata, options: &Options) -> Result<Package<'a>, EmitError> {
        let version = check(module, options)?;
        Package::plan(Cow::Borrowed(module), metadata, options, version, None)
    }

    fn plan(
        module: Cow<'a, Module>,
        metadata: &Metadata,
        options: &Options,
        version: i32,
        part: Option<Part>,
    ) -> Result<Package<'a>, EmitError> {
        let (model, blobs) = model::build(&module, metadata, options, version, part)?;
        Ok(Package { module, options: options.clone(), version, model, blobs })
    }

    /// The specification version that it asks for.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// What devices are known to do badly with it.
    pub fn lints(&self) -> Vec<Lint> {
        lint::check(&self.model, &[self.blobs.bytes()])
    }

    /// The files with their sizes.
    pub fn files(&self) -> [(&'static str, u64); 3] {
        [
            (MANIFEST_PATH, self.manifest().len() as u64),
            (MODEL_PATH, self.model.encoded_len() as u64),
            (WEIGHT_PATH, self.blobs.bytes()),
        ]
    }

    /// The manifest, as Apple's library writes it: coremltools writes it anew whenever it opens a package, and its bytes
    /// then stay the same.
    fn manifest(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        // A struct of texts always has a JSON form, and memory can always be written to.
        let _ = Manifest::new().serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, form));
        bytes.push(b'\n');
        bytes
    }
}

/// The specification version of a module, which must be legal.
fn check(module: &Module, options: &Options) -> Result<i32, EmitError> {
    let illegal = |what: String| EmitError::Illegal { place: "module".into(), what };
    if module.stage != Stage::Legal(super::NAME.into()) {
        return Err(illegal(format!("is at stage `{}`, not `legal {}`", module.stage.name(), super::NAME)));
    }
    legal::check(module, options).map_err(|refusal| illegal(refusal.to_string()))?;
    legal::version(module, options).map_err(|refusal| illegal(refusal.to_string()))
}
