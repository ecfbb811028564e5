//! `QuantizeLinear` and `DequantizeLinear`: that they come in pairs, around every op, on grids that belong together.

use onnx_protobuf::NodeProto;

use super::graph::{Graph, Grid, inputs, is, place};
use super::infer::is_movement;
use super::numbers::Element;
use super::{Found, list};

/// What activations may be rounded to.
const ACTIVATIONS: [Element; 4] = [Element::U8, Element::I8, Element::U16, Element::I16];

pub(super) fn check<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    if is(node, "QuantizeLinear") {
        check_quantize(graph, node, found);
    } else if is(node, "DequantizeLinear") {
        check_dequantize(graph, node, found);
    } else {
        check_wrapped(graph, node, found);
        check_movement(graph, node, found);
    }
}

fn check_quantize<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    let Some(grid) = graph.grid(node) else { return };
    check_grid(graph, node, grid, found);
    let Some(value) = node.output.first().and_then(|name| graph.value(name)) else { return };
    let behind = |user: &NodeProto, i: usize| i == 0 && is(user, "DequantizeLinear");
    match value.users.iter().find(|(user, i)| !behind(user, *i)) {
        Some((user, _)) => found.add(&list::LONE_QUANTIZE, place(node), format!("{} reads it", place(user))),
        None if value.users.is_empty() && !value.is_output => {
            found.add(&list::LONE_QUANTIZE, place(node), "nothing reads it");
        }
        None => {}
    }
    for (user, _) in value.users.iter().filter(|(user, i)| behind(user, *i)) {
        if graph.grid(user).is_some_and(|other| !graph.is_same(grid, other)) {
            found.add(&list::PAIR_PARAMETERS, place(user), format!("not those of {}", place(node)));
        }
    }
}

fn check_dequantize<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    let (Some(grid), Some(source)) = (graph.grid(node), graph.operand(node, 0)) else { return };
    if let Some(producer) = source.producer.filter(|producer| !is(producer, "QuantizeLinear")) {
        found.add(&list::LONE_DEQUANTIZE, place(node), format!("{} makes what it reads", place(producer)));
    }
    let Some(value) = node.output.first().and_then(|name| graph.value(name)) else { return };
    if value.users.is_empty() && !value.is_output {
        found.add(&list::LONE_DEQUANTIZE, place(node), "nothing reads it");
    }
    // Weights, tables and scales of scales have rules of their own.
    let stored = |user: &NodeProto, i: usize| match i {
        0 => is(user, "Gather"),
        _ => i == 1 && (is(user, "MatMul") || is(user, "DequantizeLinear")),
    };
    if source.tensor.is_none() || value.users.iter().any(|(user, i)| !stored(user, *i)) {
        check_grid(graph, node, grid, found);
    }
}

/// One stored scale, a type for activations.
fn check_grid(graph: &Graph<'_>, node: &NodeProto, grid: Grid<'_>, found: &mut Found) {
    if !graph.is_single(grid) {
        found.add(&list::ACTIVATION_SCALE, place(node), format!("scale \"{}\"", grid.scale));
    } else if !graph.range(grid.scale).is_some_and(|scale| scale.min > 0.0 && scale.max.is_finite()) {
        found.add(&list::UNREADABLE_NUMBERS, place(node), format!("scale \"{}\" is no positive number", grid.scale));
    }
    if !ACTIVATIONS.contains(&grid.element) {
        found.add(&list::ACTIVATION_TYPE, place(node), grid.element.name());
    }
}

/// In a quantized graph floats come from a `DequantizeLinear` and go into a `QuantizeLinear`.
fn check_wrapped(graph: &Graph<'_>, node: &NodeProto, found: &mut Found) {
    let results = || node.output.iter().filter_map(|name| graph.value(name));
    if !graph.quantized || results().any(|result| result.constant) {
        return;
    }
    let is_float = |element: Option<Element>| element.is_some_and(Element::is_float);
    // Bounds and scales that the op takes as they are.
    let takes = |i: usize| i > 0 && (is(node, "Clip") || node.op_type == "MatMulNBits");
    for (i, name) in inputs(node).filter(|(i, _)| !takes(*i)) {
        let Some(value) = graph.value(name).filter(|value| is_float(value.element)) else { continue };
        if !value.producer.is_some_and(|producer| is(producer, "DequantizeLinear")) {
            found.add(&list::UNQUANTIZED_TENSOR, place(node), format!("input {i}, \"{name}\""));
        }
    }
    if results().any(|result| result.is_output && is_float(result.element)) {
        found.add(&list::UNQUANTIZED_TENSOR, place(node), "its result is an output");
    }
}

/// All grids around an op that moves numbers are the same, but for what is read from a stored table. Other zero points
/// are what the HTP does not see at all.
fn check_movement<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    if !is_movement(node) || is(node, "Gather") && graph.stored(node, 0).is_some() {
        return;
    }
    let sources = if is(node, "Concat") { node.input.len() } else { 1 };
    let mut grids = (0..sources).filter_map(|i| graph.read_grid(node, i)).chain(graph.written_grids(node));
    let Some(first) = grids.next() else { return };
    let others: Vec<Grid<'_>> = grids.filter(|other| !graph.is_same(first, *other)).collect();
    let shifts = |other: &&Grid<'_>| other.element == first.element && graph.zeros(**other) != graph.zeros(first);
    let shifted = others.iter().find(shifts).filter(|_| is(node, "Transpose") || is(node, "Concat"));
    if let Some(other) = shifted.or(others.first()) {
        let what = format!(
            "{} by \"{}\", then {} by \"{}\"",
            first.element.name(),
            first.scale,
            other.element.name(),
            other.scale
        );
        let rule = if shifted.is_some() { &list::MOVEMENT_ZERO_POINT } else { &list::MOVEMENT_PARAMETERS };
        found.add(rule, place(node), what);
    }
}
