//! Reads an `.mlpackage` as a module and a source of weights.
//!
//! The package may come from anywhere, so nothing in it is believed: every path, type, name, offset and count is checked
//! where it is read, and an error names the place. In this order:
//!
//! 1. `package`: manifest and paths, the model file; `blobs`: the weight file, record by record;
//! 2. `functions`, with `interface` and `feature`: for each function its inputs, states and outputs, described and
//!    declared alike; metadata;
//! 3. `lift` with `arguments`, `constant`, `ops`, `shape` and `cache`: the operations, one by one, as nodes of a module
//!    with T and C as symbols; `crate::layers`: its layers and names;
//! 4. `chain`: all of that for each part of a chain, and one module of all of them.
//!
//! Several functions are one module, and an error where they are not.
//!
//! A module has its values in `f32`. Those of the program are declared `fp16`; how a device rounds them on the way is
//! its own affair, and no module says. Weights are exactly those that are stored.
//!
//! A package that keeps its cache is read as the step that it computes: the rows that the host would commit are those of
//! the state, and a module's `C+T` stands where the program has `C`.
//!
//! Packages of other writers are understood when they keep to the same interface; what else they use is refused by name.

mod arguments;
mod blobs;
mod cache;
mod chain;
mod constant;
mod error;
mod feature;
mod functions;
#[cfg(test)]
mod hostile;
mod interface;
mod lift;
mod ops;
mod package;
mod shape;
mod text;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Encoding, Module, StoredTensor, WeightError, WeightSource, verify, well_named};
use diffulex_compiler::passes;
use diffulex_compiler::quant::{Packing, Rows, Scheme, Search};
use memmap2::Mmap;

use super::schema::keys;
use super::{FORMAT_VERSION, Interface, Shapes};
use crate::stored::Stored;
pub use chain::folders;
use error::Result;
pub use error::{Fault, Place, ReadError};
pub(super) use package::Files;
pub use text::text;

/// A package, read.
pub struct Artifact {
    /// The step graph, stage `read coreml`.
    pub module: Module,
    /// Who keeps the committed rows.
    pub interface: Interface,
    /// How the package says which numbers of tokens a step may have.
    pub shapes: Shapes,
    /// These numbers, ascending, the last being the module's bound; of a range its ends.
    pub lengths: Vec<u32>,
    /// The specification version.
    pub version: i32,
    /// How many packages it is spread over.
    pub parts: u32,
    /// How to generate text with the model, if the package says so.
    pub generation: Option<Generation>,
    /// Digest of the recipe's effective values, if the package has one.
    pub recipe_digest: Option<String>,
    /// The numbers of the module's weights.
    pub source: Arc<dyn WeightSource>,
}

/// The stored tensors of packages: each in which of their weight files, and where.
#[derive(Debug)]
struct Weights {
    maps: Vec<Option<Mmap>>,
    tensors: HashMap<String, (usize, Stored)>,
}

/// Reads the package in `folder`; where it is a part of a chain, any one, all parts of it. Weight files are mapped; they
/// must not be changed while the artifact is in use.
///
/// # Errors
/// Names the part of the package that is wrong, and what is wrong with it.
pub fn read(folder: &Path) -> std::result::Result<Artifact, ReadError> {
    let mut chain = chain::Chain::read(folder)?;
    let parts = chain.modules.len() as u32;
    let module = chain.joined()?;
    let broken = |place: String, what: String| Place::Module(place).fault(Fault::Broken(what));
    let module = passes::run(module, &["drop-dead"], &Scheme::F32, &mut |_| {});
    let module = crate::layers::arrange(module.map_err(|e| broken(e.place, e.what))?);
    verify(&module).map_err(|e| broken(e.place, e.what))?;
    Ok(Artifact {
        module,
        interface: chain.interface,
        shapes: chain.shapes,
        lengths: chain.lengths,
        version: chain.version,
        parts,
        generation: chain.facts.generation,
        recipe_digest: chain.facts.recipe_digest,
        source: Arc::new(chain.weights),
    })
}

/// What the package says of itself.
struct Facts {
    name: String,
    search: Search,
    generation: Option<Generation>,
    recipe_digest: Option<String>,
    part: Option<chain::Part>,
}

impl Facts {
    fn read(model: &super::schema::model::Model) -> Result<Facts> {
        let metadata = model.description.as_ref().and_then(|description| description.metadata.as_ref());
        let get = |key: &str| metadata.and_then(|facts| facts.user_defined.get(key)).map(String::as_str);
        if let Some(version) = get(keys::FORMAT_VERSION).filter(|version| *version != FORMAT_VERSION.to_string()) {
            return Err(Place::Metadata(keys::FORMAT_VERSION).unsupported(format!("version {version:?}")));
        }
        let search = |word| {
            Search::from_name(word).ok_or_else(|| Place::Metadata(keys::SEARCH).unsupported(format!("{word:?}")))
        };
        let broken = |e: serde_json::Error| Place::Metadata(keys::GENERATION).fault(Fault::Broken(e.to_string()));
        Ok(Facts {
            name: get(keys::NAME).filter(|name| well_named(name)).unwrap_or("model").into(),
            search: get(keys::SEARCH).map_or(Ok(Search::Max), search)?,
            generation: get(keys::GENERATION).map(|text| serde_json::from_str(text).map_err(broken)).transpose()?,
            recipe_digest: get(keys::RECIPE).map(str::to_string),
            part: chain::Part::read(metadata)?,
        })
    }
}

/// The first number of some bytes in `fp16`.
pub(super) fn half(bytes: &[u8]) -> Option<f32> {
    let (mut out, packing) = (Vec::new(), Packing::default());
    let values = bytes.get(..2)?;
    Rows { encoding: Encoding::F16, packing, columns: 1, values, scales: &[], of: None }.decode(&mut out);
    out.first().copied()
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> std::result::Result<StoredTensor<'_>, WeightError> {
        let found = self.tensors.get(name).and_then(|(file, stored)| {
            stored.tensor(self.maps.get(*file).and_then(|map| map.as_deref()).unwrap_or_default())
        });
        found.ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if let Some((file, stored)) = self.tensors.get(name)
            && let Some(Some(map)) = self.maps.get(*file)
        {
            stored.release(map, rows);
        }
    }
}
