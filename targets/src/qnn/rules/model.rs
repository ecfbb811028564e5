//! What concerns a model as a whole: versions, names, shapes, elements, size.

use onnx_protobuf::type_proto::Tensor;
use onnx_protobuf::{ModelProto, ValueInfoProto};

use super::graph::{Graph, Value, is, is_rounding};
use super::infer::is_movement;
use super::numbers::{self, Element};
use super::{Found, list};
use crate::qnn::Soc;

/// Largest context that was tried.
const MAX_CONTEXT: u64 = 2 << 30;

/// The opsets of the default domain that load, with the IR version of each.
const OPSETS: [(i64, i64); 6] = [(21, 10), (22, 10), (23, 11), (24, 12), (25, 13), (26, 13)];

/// What concerns the model.
pub(super) fn check(model: &ModelProto, graph: &Graph<'_>, soc: Option<&Soc>, found: &mut Found) {
    match OPSETS.iter().find(|(opset, _)| *opset == graph.opset) {
        None => found.add(&list::OPSET, "model".into(), format!("opset {}", graph.opset)),
        Some((opset, ir)) if *ir != model.ir_version => {
            found.add(&list::IR_VERSION, "model".into(), format!("IR version {}, opset {opset}", model.ir_version));
        }
        Some(_) => {}
    }
    if let Some(function) = model.functions.first() {
        found.add(
            &list::FUNCTIONS,
            format!("function \"{}\"", function.name),
            format!("{} functions", model.functions.len()),
        );
    }
    let proto = graph.proto;
    for (kind, infos) in [("input", &proto.input), ("output", &proto.output), ("value", &proto.value_info)] {
        for info in infos {
            check_shape(kind, info, found);
        }
    }
    let bytes = proto.initializer.iter().fold(0u64, |all, tensor| all.saturating_add(numbers::size(tensor)));
    if bytes > MAX_CONTEXT {
        found.add(&list::CONTEXT_SIZE, "initializers".into(), format!("{bytes} bytes"));
    }
    for (name, value) in graph.values() {
        check_value(graph, name, value, found);
    }
    if let Some(soc) = soc.filter(|soc| !soc.runs_wide()) {
        let wide = |value: &Value<'_>| {
            let rounded =
                value.producer.is_some_and(is_rounding) || value.users.iter().any(|(user, _)| is_rounding(user));
            rounded && !value.constant && matches!(value.element, Some(Element::U16 | Element::I16))
        };
        if let Some((name, _)) = graph.values().find(|(_, value)| wide(value)) {
            found.add(&list::NARROW_HTP, format!("value \"{name}\""), format!("16 bits on {soc}"));
        }
    }
}

fn check_shape(kind: &str, info: &ValueInfoProto, found: &mut Found) {
    let ty: &Tensor = info.type_.tensor_type();
    let what = match ty.shape.as_ref() {
        None => "no shape".to_string(),
        Some(shape) => match shape.dim.iter().position(|dim| dim.dim_value() <= 0) {
            Some(i) => format!("axis {i} is \"{}\"", shape.dim[i].dim_param()),
            None => return,
        },
    };
    found.add(&list::DYNAMIC_SHAPE, format!("{kind} \"{}\"", info.name), what);
}

fn check_value(graph: &Graph<'_>, name: &str, value: &Value<'_>, found: &mut Found) {
    let place = || format!("value \"{name}\"");
    let is_input = value.producer.is_none() && value.tensor.is_none();
    match value.element {
        Some(Element::Bf16) => {
            let cast = |node| is(node, "Cast") && super::infer::element(graph, node) == Some(Element::F32);
            if value.tensor.is_none() || value.is_output || !value.users.iter().all(|(user, _)| cast(user)) {
                found.add(&list::BF16, place(), "bfloat16 that is not only cast to float");
            }
        }
        Some(element @ Element::Other(_)) => found.add(&list::ELEMENT_TYPE, place(), element.name()),
        Some(element @ (Element::Bool | Element::U4 | Element::I4)) if is_input || value.is_output => {
            found.add(&list::ELEMENT_TYPE, place(), format!("{} as an input or output", element.name()));
        }
        None if is_input => found.add(&list::ELEMENT_TYPE, place(), "an input without an element"),
        _ => {}
    }
    // Numbers that only move may have one axis more.
    let moves = |node| is_movement(node) || is_rounding(node);
    let moved = value.producer.is_none_or(moves) && value.users.iter().all(|(user, _)| moves(user));
    if let Some(rank) = value.rank.filter(|rank| *rank > if moved { 5 } else { 4 }) {
        found.add(&list::HIGH_RANK, place(), format!("{rank} axes"));
    }
}
