//! Messages, made in short.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// A node, called after what it makes.
pub(super) fn node(op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|name| (*name).into()).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: op.into(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// A whole number as an attribute.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i, ..AttributeProto::default() }
}

/// Whole numbers as an attribute.
pub(super) fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INTS.into(), ints, ..AttributeProto::default() }
}

/// A number as an attribute.
pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::FLOAT.into(), f, ..AttributeProto::default() }
}

/// An input or output; a dimension is a size or a name.
pub(super) fn value(name: &str, dtype: DataType, shape: Vec<Result<i64, String>>) -> ValueInfoProto {
    let dim = |size: Result<i64, String>| {
        let value = match size {
            Ok(n) => dimension::Value::DimValue(n),
            Err(symbol) => dimension::Value::DimParam(symbol),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: shape.into_iter().map(dim).collect(), ..TensorShapeProto::default() };
    let tensor = type_proto::Tensor { elem_type: dtype as i32, shape: Some(shape).into(), ..Default::default() };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), type_: Some(ty).into(), ..ValueInfoProto::default() }
}

/// A tensor that lies in the file of the graph.
pub(super) fn inline(name: &str, dtype: DataType, dims: &[u64], bytes: Vec<u8>) -> TensorProto {
    TensorProto { raw_data: bytes, ..tensor(name, dtype, dims) }
}

/// A tensor that lies in the data file.
pub(super) fn external(
    name: &str,
    dtype: DataType,
    dims: &[u64],
    file: &str,
    [offset, length]: [u64; 2],
) -> TensorProto {
    let facts = [("location", file.to_string()), ("offset", offset.to_string()), ("length", length.to_string())];
    TensorProto {
        external_data: facts.into_iter().map(|(key, value)| entry(key, value)).collect(),
        data_location: DataLocation::EXTERNAL.into(),
        ..tensor(name, dtype, dims)
    }
}

/// A key and its value.
pub(super) fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value, ..StringStringEntryProto::default() }
}

fn tensor(name: &str, dtype: DataType, dims: &[u64]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: dtype as i32,
        name: name.into(),
        ..TensorProto::default()
    }
}
