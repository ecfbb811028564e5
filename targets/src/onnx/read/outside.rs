//! A model as it is stored, for whoever looks at the graph itself.

use std::path::Path;

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{ModelProto, TensorProto};

use super::error::{Place, Result};
use super::file::Files;

/// The message of a file, with the files that its tensors lie in.
pub(crate) struct Whole {
    /// The message.
    pub(crate) model: ModelProto,
    files: Files,
}

impl Whole {
    /// Reads the file at `path` and maps those that its tensors lie in.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub(crate) fn open(path: &Path) -> Result<Whole> {
        let (model, mut files) = Files::open(path)?;
        for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
            if let Some(name) = entry(tensor, "location") {
                files.map(&Place::Tensor(tensor.name.clone()), name)?;
            }
        }
        Ok(Whole { model, files })
    }

    /// Whether the model rounds values, or has norms as only the QNN execution provider wants them: then it is for the HTP.
    pub(crate) fn for_htp(&self) -> bool {
        let ops = ["QuantizeLinear", super::super::schema::NORMS[0]];
        self.model.graph.iter().flat_map(|graph| &graph.node).any(|node| ops.contains(&node.op_type.as_str()))
    }

    /// The bytes of a tensor that lies outside.
    pub(crate) fn external(&self, tensor: &TensorProto) -> Option<&[u8]> {
        let number = |key| entry(tensor, key)?.parse::<usize>().ok();
        let (offset, length) = (number("offset").unwrap_or(0), number("length")?);
        self.files.find(entry(tensor, "location")?)?.get(offset..offset.checked_add(length)?)
    }
}

/// A value of the list that says where a tensor lies outside.
fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    if tensor.data_location.enum_value() != Ok(DataLocation::EXTERNAL) {
        return None;
    }
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}
