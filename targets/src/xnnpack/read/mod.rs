//! Reads a `.pte` file as a module and a source of weights.
//!
//! The file may come from anywhere, so nothing in it is believed: every table, offset, size, id and count is checked
//! where it is read, and an error names the place. In this order:
//!
//! 1. `file`: headers, segments and keys;
//! 2. `methods`: metadata;
//! 3. `plan` with `calls` and `tensor`: method `forward`, its inputs, embeddings, delegate and outputs;
//! 4. `graph` with `value` and `node`: the delegate's values, constants and nodes;
//! 5. `lift` with `shape`: the module, with T and C as symbols; `crate::layers`: its layers and names.
//!
//! Files of other writers are understood when they keep to the same interface; what else they use is refused by name.

mod calls;
mod error;
mod file;
mod graph;
#[cfg(test)]
mod hostile;
mod lift;
mod methods;
mod node;
mod plan;
mod shape;
mod tensor;
mod value;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, StoredTensor, WeightError, WeightSource, verify, well_named};
use diffulex_compiler::quant::Search;
use memmap2::Mmap;

use crate::stored::Stored;

pub use error::{Fault, Place, ReadError};
pub use methods::{Constant, Methods};

/// A file, read.
pub struct Artifact {
    /// The step graph, stage `read xnnpack`.
    pub module: Module,
    /// How to generate text with the model, if the file says so.
    pub generation: Option<Generation>,
    /// Digest of the recipe's effective values, if the file has one.
    pub recipe_digest: Option<String>,
    /// What every method without inputs returns.
    pub methods: Methods,
    /// The numbers of the module's weights.
    pub source: Arc<dyn WeightSource>,
}

/// The stored tensors of a file.
#[derive(Debug)]
struct Weights {
    bytes: Bytes,
    tensors: HashMap<String, Stored>,
}

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// Maps and reads a file. It must not be changed while the artifact is in use.
///
/// # Errors
/// Names the part of the file that is wrong, and what is wrong with it.
pub fn read(file: &File) -> Result<Artifact, ReadError> {
    let unreadable = |e: std::io::Error| Place::File.fault(Fault::Unreadable(e.to_string()));
    // SAFETY: the map is read-only. That nobody changes the file meanwhile is the caller's part, as documented.
    let map = unsafe { Mmap::map(file) }.map_err(unreadable)?;
    read_all(Bytes::Mapped(map))
}

/// Reads a file that is in memory.
///
/// # Errors
/// As [`read()`].
pub fn read_bytes(bytes: Vec<u8>) -> Result<Artifact, ReadError> {
    read_all(Bytes::Owned(bytes))
}

fn read_all(bytes: Bytes) -> Result<Artifact, ReadError> {
    let file = file::File::new(bytes.as_slice())?;
    let mut methods = Methods::new();
    let mut reader = methods::Reader::default();
    let mut forward = None;
    for (name, plan) in file.methods()? {
        match name {
            "forward" => forward = Some(plan),
            name => drop(methods.insert(name.to_string(), reader.method(name, &plan)?)),
        }
    }
    let forward = forward.ok_or_else(|| Place::Program.damaged("there is no method `forward`"))?;
    let plan = plan::read(&file, &forward)?;
    let graph = graph::read(&file, plan.delegate.clone())?;
    let name = methods::text(&methods, "get_model_name")?.filter(|name| well_named(name)).unwrap_or("model");
    let search = search(&methods)?;
    let lift::Lifted { module, tensors } = lift::lift(name, search, &plan, &graph)?;
    let module = crate::layers::arrange(module);
    verify(&module).map_err(|e| Place::Module(e.place).fault(Fault::Broken(e.what)))?;
    check_metadata(&methods, &module)?;
    let generation = generation(&methods)?;
    let recipe_digest = methods::text(&methods, "get_recipe_digest")?.map(str::to_string);
    Ok(Artifact { module, generation, recipe_digest, methods, source: Arc::new(Weights { bytes, tensors }) })
}

/// What the metadata says of the module must be true.
fn check_metadata(methods: &Methods, module: &Module) -> Result<(), ReadError> {
    if let Some(version) = methods::int(methods, "get_format_version")?.filter(|v| *v != super::FORMAT_VERSION) {
        return Err(Place::Method("get_format_version".into()).unsupported(format!("version {version}")));
    }
    let vocab = module.outputs.first().and_then(|id| module.node(*id).ty.width()).unwrap_or(0);
    let facts = [
        ("get_vocab_size", i64::from(vocab)),
        ("get_max_seq_len", module.bounds.t as i64),
        ("get_n_layers", module.cache.layers.into()),
        ("get_n_kv_heads", module.cache.kv_heads.into()),
        ("get_head_dim", module.cache.head_dim.into()),
    ];
    for (name, expected) in facts {
        if let Some(found) = methods::int(methods, name)?.filter(|found| *found != expected) {
            return Err(Place::Method(name.into()).mismatch("value", found, expected));
        }
    }
    Ok(())
}

/// How the scales were found, where the file says so.
fn search(methods: &Methods) -> Result<Search, ReadError> {
    let name = "get_scale_search";
    let known =
        |word| Search::from_name(word).ok_or_else(|| Place::Method(name.into()).unsupported(format!("{word:?}")));
    methods::text(methods, name)?.map_or(Ok(Search::Max), known)
}

fn generation(methods: &Methods) -> Result<Option<Generation>, ReadError> {
    let name = "get_generation";
    let broken = |e: serde_json::Error| Place::Method(name.into()).fault(Fault::Broken(e.to_string()));
    methods::text(methods, name)?.map(|text| serde_json::from_str(text).map_err(broken)).transpose()
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let found = self.tensors.get(name).and_then(|stored| stored.tensor(self.bytes.as_slice()));
        found.ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if let (Bytes::Mapped(map), Some(stored)) = (&self.bytes, self.tensors.get(name)) {
            stored.release(map, rows);
        }
    }
}
