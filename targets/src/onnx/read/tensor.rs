//! Stored tensors.

use std::collections::HashMap;
use std::ops::Range;

use diffulex_compiler::ir::Encoding;
use onnx_protobuf::TensorProto;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};

use super::error::{Place, Result};
use super::file::Files;
use crate::onnx::schema::bytes_of;

/// Most axes of a stored tensor.
const MAX_AXES: u64 = 8;
/// Most whole numbers of a list.
const MAX_LIST: u64 = 8;

/// A stored tensor: its type, and where its bytes lie.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dtype: DataType,
    pub(super) dims: Vec<u32>,
    pub(super) file: usize,
    pub(super) range: Range<usize>,
}

impl Tensor {
    /// Reads what a message says, which must be all that it has.
    pub(super) fn read(tensor: &TensorProto, files: &mut Files) -> Result<Tensor> {
        let place = Place::tensor(&tensor.name);
        place.known(&tensor.special_fields)?;
        let typed = tensor.float_data.is_empty() && tensor.int32_data.is_empty() && tensor.string_data.is_empty();
        let typed = typed && tensor.int64_data.is_empty() && tensor.double_data.is_empty();
        if !typed || !tensor.uint64_data.is_empty() || tensor.segment.is_some() || !tensor.metadata_props.is_empty() {
            return Err(place.unsupported("numbers that are not raw bytes"));
        }
        place.at_most("number of axes", tensor.dims.len() as u64, MAX_AXES)?;
        let dim = |&n: &i64| u32::try_from(n).ok().filter(|&n| n > 0 && n <= i32::MAX as u32);
        let dims: Option<Vec<u32>> = tensor.dims.iter().map(dim).collect();
        let dims = dims.ok_or_else(|| place.damaged(format!("its shape is {:?}", tensor.dims)))?;
        let count = dims.iter().try_fold(1u64, |all, &n| all.checked_mul(u64::from(n)));
        let dtype = protobuf::EnumOrUnknown::<DataType>::from_i32(tensor.data_type);
        let dtype = dtype.enum_value().map_err(|n| place.unsupported(format!("element type {n}")))?;
        let bytes = count.and_then(|count| bytes_of(dtype, count));
        let bytes = bytes.ok_or_else(|| place.unsupported(format!("{dtype:?} of shape {dims:?}")))?;
        let (file, range) = match tensor.data_location.enum_value() {
            Ok(DataLocation::DEFAULT) if tensor.external_data.is_empty() => files.keep(&tensor.raw_data),
            Ok(DataLocation::EXTERNAL) if tensor.raw_data.is_empty() => external(&place, tensor, files, bytes)?,
            _ => return Err(place.damaged("its bytes lie in two places")),
        };
        place.same("number of bytes", range.len() as u64, bytes)?;
        Ok(Tensor { dtype, dims, file, range })
    }

    /// Its bytes.
    pub(super) fn bytes<'a>(&self, files: &'a Files) -> &'a [u8] {
        files.list.get(self.file).and_then(|bytes| bytes.get(self.range.clone())).unwrap_or_default()
    }

    /// The whole numbers of a short list.
    pub(super) fn list(&self, place: &Place, files: &Files) -> Result<Vec<i64>> {
        place.same("type of a list", self.dtype, DataType::INT64)?;
        let [count] = self.dims[..] else { return Err(place.unsupported("a list that has not one axis")) };
        place.at_most("length of a list", u64::from(count), MAX_LIST)?;
        Ok(self.bytes(files).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// The encoding of its floats.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        match self.dtype {
            DataType::FLOAT => Some(Encoding::F32),
            DataType::FLOAT16 => Some(Encoding::F16),
            DataType::BFLOAT16 => Some(Encoding::BF16),
            _ => None,
        }
    }
}

/// The bytes of a tensor in a file of their own.
fn external(place: &Place, tensor: &TensorProto, files: &mut Files, bytes: u64) -> Result<(usize, Range<usize>)> {
    let mut facts = HashMap::new();
    for fact in &tensor.external_data {
        place.known(&fact.special_fields)?;
        if facts.insert(fact.key.as_str(), fact.value.as_str()).is_some() {
            return Err(place.damaged("it has two places"));
        }
    }
    let mut number = |key: &str, absent: u64| match facts.remove(key) {
        Some(text) => text.parse::<u64>().map_err(|_| place.damaged(format!("its {key} is no number"))),
        None => Ok(absent),
    };
    let (offset, length) = (number("offset", 0)?, number("length", bytes)?);
    let location = facts.remove("location").ok_or_else(|| place.missing("location"))?;
    if !facts.is_empty() {
        return Err(place.unsupported("more facts about its place"));
    }
    let file = files.map(place, location)?;
    let size = files.list.get(file).map_or(0, |bytes| bytes.len()) as u64;
    let end = offset.saturating_add(length);
    let end = place.at_most("end in its file", end, size)?;
    Ok((file, offset as usize..end))
}
