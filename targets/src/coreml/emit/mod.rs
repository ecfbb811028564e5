//! Writes a legal module as an `.mlpackage`.
//!
//! ```text
//! Manifest.json                                   the same for every package
//! Data/com.apple.CoreML/model.mlmodel             the program and what it says of itself    step.rs, node.rs, constant.rs
//! Data/com.apple.CoreML/weights/weight.bin        one record a weight, or its scales        blobs.rs, weights.rs
//! ```
//!
//! The program is made in memory; it holds small constants only. Weights are evaluated some rows at a time and written
//! straight on, so memory does not depend on the size of the model. The bytes depend on the arguments only.

mod blobs;
mod block;
mod cache;
mod constant;
mod node;
mod step;
mod value;
mod weights;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use diffulex_compiler::ir::{Module, Stage, WeightSource};
use diffulex_compiler::quant::Cost;
use prost::Message;

use super::schema::manifest::Manifest;
use super::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH};
use super::{Options, legal};
pub use crate::emit::{EmitError, Metadata};
use blobs::Blobs;

/// A package without its numbers, ready to be written.
pub struct Package<'a> {
    module: &'a Module,
    options: Options,
    version: i32,
    model: Vec<u8>,
    blobs: Blobs,
}

impl<'a> Package<'a> {
    /// Plans the package of a legal module; no numbers are needed.
    ///
    /// # Errors
    /// When `module` is not legal, or a constant of it has no place in `fp16`.
    pub fn new(module: &'a Module, metadata: &Metadata, options: &Options) -> Result<Package<'a>, EmitError> {
        let illegal = |what: String| EmitError::Illegal { place: "module".into(), what };
        if module.stage != Stage::Legal(super::NAME.into()) {
            return Err(illegal(format!("is at stage `{}`, not `legal {}`", module.stage.name(), super::NAME)));
        }
        legal::check(module, options).map_err(|refusal| illegal(refusal.to_string()))?;
        let version = legal::version(module, options).map_err(|refusal| illegal(refusal.to_string()))?;
        let (model, blobs) = step::build(module, metadata, options, version)?;
        Ok(Package { module, options: *options, version, model: model.encode_to_vec(), blobs })
    }

    /// The specification version that it asks for.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The files with their sizes.
    pub fn files(&self) -> [(&'static str, u64); 3] {
        [
            (MANIFEST_PATH, self.manifest().len() as u64),
            (MODEL_PATH, self.model.len() as u64),
            (WEIGHT_PATH, self.blobs.bytes()),
        ]
    }

    /// The manifest.
    fn manifest(&self) -> String {
        // A struct of texts always has a JSON form.
        serde_json::to_string_pretty(&Manifest::new()).unwrap_or_default() + "\n"
    }

    /// Writes one of [`Package::files`]; gives what each weight of the model became, in the order of the file.
    /// `progress` is told, now and then, how many of its bytes are written.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or writing fails.
    pub fn write_file(
        &self,
        file: usize,
        source: &dyn WeightSource,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        match file {
            0 => out.write_all(self.manifest().as_bytes())?,
            1 => out.write_all(&self.model)?,
            _ => return weights::write(self.module, source, &self.blobs, self.options.nibbles, out, progress),
        }
        Ok(vec![])
    }

    /// Writes all files below `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// As [`Package::write_file`], and when a file cannot be made.
    pub fn write(
        &self,
        source: &dyn WeightSource,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let mut costs = Vec::new();
        for (file, (path, _)) in self.files().into_iter().enumerate() {
            let path = folder.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
            costs.extend(self.write_file(file, source, &mut out, progress)?);
            out.flush()?;
        }
        Ok(costs)
    }
}
