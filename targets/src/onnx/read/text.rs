//! A file as text: what it is given and gives, its stored tensors, and one operator a line, for people.
//!
//! A rounding shows its grid, `quantize(x) 0.0123+128 uint8`; lists of whole numbers stand where they are used. Only what
//! the file says is shown: inputs, outputs and stored tensors have types and shapes, what is computed has none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::dimension::Value;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

use super::error::{Place, Result};
use super::file::Files;
use super::tensor::Tensor;

/// The text of the file at `path`.
///
/// # Errors
/// When it is no model, or a tensor does not lie where it says.
pub fn text(path: &Path) -> Result<String> {
    let (model, mut files) = Files::open(path)?;
    let graph = model.graph.as_ref().ok_or_else(|| Place::Model.missing("graph"))?;
    let mut out = format!("format version {}", model.ir_version);
    for set in &model.opset_import {
        let domain = if set.domain.is_empty() { String::new() } else { format!(" of {:?}", set.domain) };
        add(&mut out, format_args!(", opset {}{domain}", set.version));
    }
    out.push('\n');
    let facts: BTreeMap<&str, &str> =
        model.metadata_props.iter().map(|fact| (fact.key.as_str(), fact.value.as_str())).collect();
    for (key, value) in facts {
        add(&mut out, format_args!("says {key} = {value:?}\n"));
    }
    for value in &graph.input {
        add(&mut out, format_args!("given {}: {}\n", value.name, declared(value)?));
    }
    let mut constants = HashMap::new();
    for tensor in &graph.initializer {
        let read = Tensor::read(tensor, &mut files)?;
        if let Some(constant) = Constant::of(&read, &files) {
            constants.insert(tensor.name.as_str(), constant);
        }
    }
    let shown: HashSet<&str> = graph.node.iter().flat_map(|node| shown(node, &constants)).collect();
    for tensor in graph.initializer.iter().filter(|tensor| !shown.contains(tensor.name.as_str())) {
        add(&mut out, format_args!("stored {}\n", stored(tensor)));
    }
    nodes(graph, &constants, &mut out);
    for value in &graph.output {
        add(&mut out, format_args!("gives {}: {}\n", value.name, declared(value)?));
    }
    Ok(out)
}

/// A tensor that is so small that it stands where it is used.
enum Constant {
    List(Vec<i64>),
    Scale(f32),
    Zero(DataType, i32),
}

impl Constant {
    fn of(tensor: &Tensor, files: &Files) -> Option<Constant> {
        let single = tensor.dims.is_empty();
        match (tensor.dtype, tensor.bytes(files)) {
            (DataType::INT64, _) => tensor.list(&Place::Graph, files).ok().map(Constant::List),
            (DataType::FLOAT, bytes) if single => bytes.try_into().ok().map(f32::from_le_bytes).map(Constant::Scale),
            (dtype @ DataType::UINT8, [a]) if single => Some(Constant::Zero(dtype, i32::from(*a))),
            (dtype @ DataType::INT8, [a]) if single => Some(Constant::Zero(dtype, i32::from(*a as i8))),
            (dtype @ DataType::UINT16, [a, b]) if single => {
                Some(Constant::Zero(dtype, i32::from(u16::from_le_bytes([*a, *b]))))
            }
            (dtype @ DataType::INT16, [a, b]) if single => {
                Some(Constant::Zero(dtype, i32::from(i16::from_le_bytes([*a, *b]))))
            }
            _ => None,
        }
    }
}

/// The names of a node's operands that its line has the numbers of.
fn shown<'a>(node: &'a NodeProto, constants: &HashMap<&str, Constant>) -> Vec<&'a str> {
    let from = if grid(node, constants).is_some() { 1 } else { node.input.len() };
    let listed = |i: usize, name: &str| i >= from || matches!(constants.get(name), Some(Constant::List(_)));
    let named = node.input.iter().map(String::as_str).enumerate();
    named.filter(|(i, name)| listed(*i, name)).map(|(_, name)| name).collect()
}

/// The grid of a rounding.
fn grid(node: &NodeProto, constants: &HashMap<&str, Constant>) -> Option<String> {
    let [_, scale, zero] = &node.input[..] else { return None };
    match (node.op_type.as_str(), constants.get(scale.as_str()), constants.get(zero.as_str())) {
        ("QuantizeLinear" | "DequantizeLinear", Some(Constant::Scale(scale)), Some(Constant::Zero(dtype, zero))) => {
            Some(format!("{scale:?}{zero:+} {}", word(*dtype as i32)))
        }
        _ => None,
    }
}

fn nodes(graph: &GraphProto, constants: &HashMap<&str, Constant>, out: &mut String) {
    for node in &graph.node {
        let made = node.output.join(", ");
        if let Some(grid) = grid(node, constants) {
            let op = if node.op_type == "QuantizeLinear" { "quantize" } else { "dequantize" };
            add(out, format_args!("{made} = {op}({}) {grid}", node.input[0]));
        } else {
            let operand = |name: &String| match constants.get(name.as_str()) {
                Some(Constant::List(list)) => format!("{list:?}"),
                _ => name.clone(),
            };
            let operands: Vec<String> = node.input.iter().map(operand).collect();
            let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
            add(out, format_args!("{made} = {domain}{}({})", node.op_type, operands.join(", ")));
        }
        let attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
        let attributes = if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
        add(out, format_args!("{attributes}\n"));
    }
}

fn attribute(attribute: &AttributeProto) -> String {
    let value = match attribute.type_.enum_value() {
        Ok(AttributeType::INT) => attribute.i.to_string(),
        Ok(AttributeType::FLOAT) => format!("{:?}", attribute.f),
        Ok(AttributeType::INTS) => format!("{:?}", attribute.ints),
        Ok(AttributeType::FLOATS) => format!("{:?}", attribute.floats),
        Ok(AttributeType::STRING) => format!("{:?}", String::from_utf8_lossy(&attribute.s)),
        Ok(other) => format!("a value of type {other:?}"),
        Err(number) => format!("a value of type {number}"),
    };
    format!("{} = {value}", attribute.name)
}

/// Name, element type, shape and place.
fn stored(tensor: &TensorProto) -> String {
    let fact = |key: &str| tensor.external_data.iter().find(|fact| fact.key == key).map(|fact| fact.value.as_str());
    let place = match fact("location") {
        Some(file) => format!(" at {} of {file}", fact("offset").unwrap_or("0")),
        None => String::new(),
    };
    format!("{}: {}{:?}{place}", tensor.name, word(tensor.data_type), tensor.dims)
}

/// Element type and shape of an input or output.
fn declared(value: &ValueInfoProto) -> Result<String> {
    let ty = value.type_.as_ref().and_then(|ty| ty.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = ty else { return Err(Place::value(&value.name).missing("type")) };
    let size = |dim: &onnx_protobuf::tensor_shape_proto::Dimension| match &dim.value {
        Some(Value::DimValue(n)) => n.to_string(),
        Some(Value::DimParam(name)) => name.clone(),
        _ => "?".into(),
    };
    let sizes: Vec<String> = tensor.shape.iter().flat_map(|shape| &shape.dim).map(size).collect();
    Ok(format!("{}[{}]", word(tensor.elem_type), sizes.join(", ")))
}

/// The word for an element type.
fn word(number: i32) -> String {
    match protobuf::EnumOrUnknown::<DataType>::from_i32(number).enum_value() {
        Ok(dtype) => format!("{dtype:?}").to_lowercase(),
        Err(number) => format!("type {number}"),
    }
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A text can always be written to.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use diffulex_compiler::ir::Encoding;

    use super::*;
    use crate::onnx::small::{RECIPES, Recipe};

    #[test]
    fn texts_of_a_layer() {
        for (name, recipe) in RECIPES.into_iter().chain([("float", Recipe::Float(Encoding::F32))]) {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in recipe.files_of_a_layer() {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            let text = text(&folder.path().join("model.onnx")).unwrap();
            insta::with_settings!({ snapshot_path => "../../../../snapshots/targets", prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(format!("onnx-text-{name}"), text);
            });
        }
    }
}
