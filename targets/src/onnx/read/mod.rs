//! Reads an ONNX file, and the files that its tensors lie in, as a module and a source of weights.
//!
//! The file may come from anywhere, so nothing in it is believed: every path, type, name, attribute, offset and size is
//! checked where it is read, and an error names the place. In this order:
//!
//! 1. `file`: the message, looked over by `scan`, and mapped files; `facts`: what the model says of itself;
//! 2. `interface`: inputs and outputs, which are those of a step;
//! 3. `tensor`: stored tensors; `lift` with `node` and `ops`: the nodes, one by one, as nodes of a module with T and C as
//!    symbols; `crate::layers`: its layers and names.
//!
//! A module has its values in `f32`. How a device rounds them on the way is its own affair. Files of other writers are
//! understood when they keep to the same interface; what else they use is refused by name.

mod error;
mod facts;
mod file;
#[cfg(test)]
mod hostile;
mod interface;
mod lift;
mod node;
mod ops;
mod outside;
mod scan;
mod tensor;
mod text;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, StoredTensor, WeightError, WeightSource, verify};
use diffulex_compiler::passes;
use diffulex_compiler::quant::Scheme;
use onnx_protobuf::ModelProto;
use onnx_protobuf::tensor_proto::DataType;

use crate::stored::Stored;
use error::Result;
pub use error::{Fault, Place, ReadError};
use file::{Bytes, Files};
pub(crate) use outside::Whole;
pub use text::text;

/// Opsets whose operators are those that are known here.
const OPSETS: std::ops::RangeInclusive<i64> = 21..=26;
/// The newest version of the file format.
const MAX_VERSION: u64 = 13;

/// A file, read.
pub struct Artifact {
    /// The step graph, stage `read onnx`.
    pub module: Module,
    /// Whether all floats are `f16`.
    pub half: bool,
    /// Whether one file serves steps of any size.
    pub dynamic: bool,
    /// The opset.
    pub opset: i64,
    /// How to generate text with the model, if the file says so.
    pub generation: Option<Generation>,
    /// Digest of the recipe's effective values, if the file has one.
    pub recipe_digest: Option<String>,
    /// The numbers of the module's weights.
    pub source: Arc<dyn WeightSource>,
}

/// Where a stored tensor lies.
#[derive(Clone, Debug)]
struct Held {
    /// Its numbers, in the file of that number.
    numbers: Stored,
    file: usize,
    /// Its scales, and in which file.
    scales: (usize, Range<usize>),
}

/// The stored tensors of a model.
#[derive(Debug)]
struct Weights {
    files: Files,
    tensors: HashMap<String, Held>,
}

/// Reads the file at `path`. Files of tensors are mapped; they must not be changed while the artifact is in use.
///
/// # Errors
/// Names the part of the file that is wrong, and what is wrong with it.
pub fn read(path: &Path) -> std::result::Result<Artifact, ReadError> {
    let (model, files) = Files::open(path)?;
    let opset = opset(&model)?;
    let facts = facts::Facts::read(&model)?;
    let graph = model.graph.as_ref().ok_or_else(|| Place::Model.missing("graph"))?;
    Place::Graph.known(&graph.special_fields)?;
    let more = !graph.sparse_initializer.is_empty() || !graph.quantization_annotation.is_empty();
    if more || !graph.value_info.is_empty() || !graph.metadata_props.is_empty() {
        return Err(Place::Graph.unsupported("more than nodes, tensors, inputs and outputs"));
    }
    let step = interface::Step::read(graph, &facts)?;
    let (module, weights) = lift::lift(graph, &facts, &step, opset, files)?;
    let broken = |place: String, what: String| Place::Module(place).fault(Fault::Broken(what));
    let module = passes::run(module, &["drop-dead"], &Scheme::F32, &mut |_| {});
    let module = crate::layers::arrange(module.map_err(|e| broken(e.place, e.what))?);
    verify(&module).map_err(|e| broken(e.place, e.what))?;
    Ok(Artifact {
        module,
        half: step.float == DataType::FLOAT16,
        dynamic: step.dynamic,
        opset,
        generation: facts.generation,
        recipe_digest: facts.recipe_digest,
        source: Arc::new(weights),
    })
}

/// The opset of a model that has nothing but a graph.
fn opset(model: &ModelProto) -> Result<i64> {
    let place = Place::Model;
    place.known(&model.special_fields)?;
    place.at_most("version", u64::try_from(model.ir_version).unwrap_or(u64::MAX), MAX_VERSION)?;
    if !model.functions.is_empty() || !model.training_info.is_empty() {
        return Err(place.unsupported("functions and training"));
    }
    match &model.opset_import[..] {
        [set] if set.domain.is_empty() && OPSETS.contains(&set.version) => Ok(set.version),
        [set] if set.domain.is_empty() => Err(place.unsupported(format!("opset {}", set.version))),
        _ => Err(place.unsupported("other operators than those of one opset")),
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> std::result::Result<StoredTensor<'_>, WeightError> {
        let bytes = |file: usize, range: &Range<usize>| self.files.list.get(file).and_then(|f| f.get(range.clone()));
        let found = self.tensors.get(name).and_then(|held| {
            let Stored { ty, packing, range, .. } = &held.numbers;
            let (file, scales) = &held.scales;
            let (bytes, scales) = (bytes(held.file, range)?, bytes(*file, scales)?);
            Some(StoredTensor { ty: ty.clone(), packing: *packing, bytes, scales })
        });
        found.ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if let Some(held) = self.tensors.get(name)
            && let Some(Bytes::Map(map)) = self.files.list.get(held.file)
        {
            held.numbers.release(map, rows);
        }
    }
}
