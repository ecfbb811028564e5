//! Which ops run on the HTP, and with which types.

use onnx_protobuf::NodeProto;

use super::graph::{Graph, input, int, is, is_default, is_rounding, place};
use super::infer::along_last;
use super::numbers::{self, Element};
use super::{Found, list};
use Element::{Bool, F16, F32, I8, I16, I32, I64, U8, U16};

/// Ops of the default domain that are known to run whole, with the opset from which they exist.
const KNOWN: [(&str, i64); 29] = [
    ("QuantizeLinear", 21),
    ("DequantizeLinear", 21),
    ("Constant", 21),
    ("Identity", 21),
    ("MatMul", 21),
    ("SimplifiedLayerNormalization", 21),
    ("RMSNormalization", 23),
    ("LayerNormalization", 21),
    ("Softmax", 21),
    ("Sigmoid", 21),
    ("Add", 21),
    ("Mul", 21),
    ("Div", 21),
    ("Sqrt", 21),
    ("Neg", 21),
    ("Clip", 21),
    ("Slice", 21),
    ("Split", 21),
    ("Concat", 21),
    ("Transpose", 21),
    ("Reshape", 21),
    ("Unsqueeze", 21),
    ("Expand", 21),
    ("Tile", 21),
    ("Gather", 21),
    ("Where", 21),
    ("ReduceMean", 21),
    ("RotaryEmbedding", 23),
    ("Attention", 23),
];

/// Ops with inputs that shape the result: from which on.
const SHAPED: [(&str, usize); 8] = [
    ("Reshape", 1),
    ("Slice", 1),
    ("Split", 1),
    ("Expand", 1),
    ("Tile", 1),
    ("Unsqueeze", 1),
    ("ReduceMean", 1),
    ("Clip", 1),
];

/// Lower end of the sum of scores and mask from which on its steps are too wide, with 16 bits.
const LOWEST_MASK: f64 = -1000.0;

/// The same with 8 bits: a sum down to -100 still gave good results, one down to -1000 did not.
const LOWEST_NARROW_MASK: f64 = -200.0;

pub(super) fn check<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    check_known(graph, node, found);
    if !is_default(&node.domain) {
        if is_nbits(node) {
            check_nbits(graph, node, found);
        }
        return;
    }
    if let Some((_, first)) = SHAPED.iter().find(|(op, _)| is(node, op)) {
        let runs = |i: &usize| graph.operand(node, *i).is_some_and(|value| !value.constant);
        if let Some(i) = (*first..node.input.len()).find(runs) {
            found.add(&list::RUN_TIME_SHAPE, place(node), format!("input {i}"));
        }
    }
    check_types(graph, node, found);
    match &node.op_type[..] {
        "SimplifiedLayerNormalization" | "RMSNormalization" => check_norm(graph, node, found),
        "LayerNormalization" => {
            let gamma = graph.read_grid(node, 1).map(|gamma| gamma.element);
            if let Some(gamma) = gamma.filter(|gamma| !matches!(gamma, U8 | I16)) {
                found.add(&list::LAYER_NORM_GAMMA, place(node), gamma.name());
            }
        }
        "Sigmoid" => check_sigmoid(graph, node, found),
        "Softmax" => check_softmax(graph, node, found),
        "Gather" => check_table(graph, node, found),
        "Attention" if graph.operand(node, 3).is_some_and(|mask| mask.element == Some(Bool)) => {
            found.add(&list::BOOLEAN_MASK, place(node), "input 3");
        }
        _ => {}
    }
}

fn check_known(graph: &Graph<'_>, node: &NodeProto, found: &mut Found) {
    if !is_default(&node.domain) {
        if !is_nbits(node) {
            found.add(&list::CONTRIB_OP, place(node), format!("{} of {}", node.op_type, node.domain));
        }
        return;
    }
    let cast = is(node, "Cast") && graph.operand(node, 0).is_some_and(|value| value.constant);
    match KNOWN.iter().find(|(op, _)| is(node, op)) {
        Some((op, since)) if *since > graph.opset && *since > 21 => {
            found.add(&list::OP_VERSION, place(node), format!("{op} in opset {}", graph.opset));
        }
        None if is(node, "Cast") && !cast => found.add(&list::UNKNOWN_OP, place(node), "Cast while the model runs"),
        None if !cast => found.add(&list::UNKNOWN_OP, place(node), node.op_type.clone()),
        _ => {}
    }
}

fn is_nbits(node: &NodeProto) -> bool {
    node.domain == "com.microsoft" && node.op_type == "MatMulNBits"
}

/// Integer types that an op does not work on.
fn check_types<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    let grids = || (0..node.input.len()).filter_map(|i| graph.read_grid(node, i)).chain(graph.written_grids(node));
    let has = |element: Element| grids().any(|grid| grid.element == element);
    match &node.op_type[..] {
        "Neg" | "Clip" | "Expand" | "Tile" if has(I16) => found.add(&list::INT16_OP, place(node), node.op_type.clone()),
        "Where" if grids().next().is_some() => found.add(&list::BOOLEAN_MASK, place(node), "Where on rounded numbers"),
        "RotaryEmbedding" | "Attention" if grids().next().is_some() => {
            found.add(&list::FLOAT_ONLY, place(node), node.op_type.clone());
        }
        "Sigmoid" | "Add" | "Mul" | "Neg" | "Clip" | "Softmax" if has(I8) => {
            found.add(&list::UNTRIED_TYPE, place(node), format!("{} of int8", node.op_type));
        }
        "ReduceMean" if grids().next().is_some() => found.add(&list::DECOMPOSED_NORM, place(node), "ReduceMean"),
        _ => {}
    }
}

fn check_norm(graph: &Graph<'_>, node: &NodeProto, found: &mut Found) {
    let (axis, is_last) = along_last(graph, node);
    let rank = graph.operand(node, 0).and_then(|x| x.rank).unwrap_or(0);
    if !is_last || rank > 4 {
        found.add(&list::NORM_AXIS, place(node), format!("axis {axis} of {rank}"));
    }
    let element = |i: usize| graph.read_grid(node, i).map(|grid| grid.element);
    if rank == 4 && matches!(element(0), None | Some(U8)) && !is_one_matrix(graph, node) {
        found.add(&list::NORM_ROWS, place(node), element(0).map_or("floats".into(), Element::name));
    }
    let allowed: &[Element] = match element(0) {
        Some(U16) => &[U8, U16, I16],
        Some(I16) => &[U8, I16],
        Some(U8) => &[U8],
        Some(_) => &[],
        None => return,
    };
    // A float gain breaks another rule.
    if let (Some(act), Some(gamma)) = (element(0), element(1))
        && !allowed.contains(&gamma)
    {
        found.add(&list::NORM_GAMMA, place(node), format!("{} for {}", gamma.name(), act.name()));
    }
}

/// Whether what a node is given, of four axes, comes from an input or a `Reshape` that says the first two to be 1.
fn is_one_matrix(graph: &Graph<'_>, node: &NodeProto) -> bool {
    let Some(mut name) = input(node, 0) else { return false };
    // Two pairs stand there at most: a rounding and a conversion.
    for _ in 0..4 {
        match graph.value(name).and_then(|value| value.producer).filter(|node| is_rounding(node)) {
            Some(rounding) => name = input(rounding, 0).unwrap_or_default(),
            None => break,
        }
    }
    match graph.value(name).and_then(|value| value.producer) {
        Some(reshape) if is(reshape, "Reshape") => {
            let sizes = graph.operand(reshape, 1).and_then(|sizes| sizes.tensor).map(numbers::sizes);
            sizes.is_some_and(|sizes| sizes.starts_with(&[1, 1]))
        }
        Some(_) => false,
        None => {
            let declared = graph.proto.input.iter().find(|value| value.name == name);
            let dims = declared.map(|value| value.type_.tensor_type().shape.dim.as_slice()).unwrap_or_default();
            dims.len() == 4 && dims[..2].iter().all(|dim| dim.dim_value() == 1)
        }
    }
}

/// The HTP rounds sigmoids to a grid of its own, whatever the file says.
fn check_sigmoid<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    for grid in graph.written_grids(node) {
        let step = match grid.element {
            U16 => 1.0 / 65536.0,
            U8 => 1.0 / 256.0,
            _ => continue,
        };
        let is_own = graph.range(grid.scale).is_some_and(|scale| scale.is_all(step));
        if !is_own || !graph.zeros(grid).is_some_and(|zeros| zeros.is_all(0.0)) {
            return found.add(
                &list::SIGMOID_GRID,
                place(node),
                format!("{} by \"{}\"", grid.element.name(), grid.scale),
            );
        }
    }
}

/// Its axis, the grid of its result, and the mask that was added right before.
fn check_softmax<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    let (axis, is_last) = along_last(graph, node);
    if !is_last {
        found.add(&list::SOFTMAX_AXIS, place(node), format!("axis {axis}"));
    }
    for grid in graph.written_grids(node) {
        let step = match grid.element {
            U16 => 1.0 / 65536.0,
            U8 => 1.0 / 256.0,
            _ => continue,
        };
        let reaches = graph.range(grid.scale).is_some_and(|scale| scale.min >= step);
        if !reaches || grid.element == U8 && !graph.zeros(grid).is_some_and(|zeros| zeros.is_all(0.0)) {
            found.add(&list::SOFTMAX_GRID, place(node), format!("{} by \"{}\"", grid.element.name(), grid.scale));
        }
    }
    // The op behind the pair that rounds its result.
    let dequantize = graph.operand(node, 0).and_then(|x| x.producer);
    let quantize = dequantize.filter(|node| is_rounding(node)).and_then(|node| graph.operand(node, 0)?.producer);
    let add = quantize.filter(|node| is_rounding(node)).and_then(|node| graph.operand(node, 0)?.producer);
    let Some(add) = add.filter(|add| is(add, "Add")) else { return };
    for grid in [graph.read_grid(node, 0), graph.read_grid(add, 0), graph.read_grid(add, 1)].into_iter().flatten() {
        let (low, limit) = match grid.element {
            I8 => (-128.0, LOWEST_NARROW_MASK),
            U8 => (0.0, LOWEST_NARROW_MASK),
            I16 => (-32768.0, LOWEST_MASK),
            _ => (0.0, LOWEST_MASK),
        };
        if let (Some(scale), Some(zero)) = (graph.range(grid.scale), graph.zeros(grid))
            && (low - zero.max) * scale.max < limit
        {
            let what = format!("down to {:.4e} by \"{}\"", (low - zero.max) * scale.max, grid.scale);
            return found.add(&list::MASK_GRID, place(add), what);
        }
    }
}

/// The table of an embedding, or of positions.
fn check_table<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    if !graph.operand(node, 1).is_some_and(|indices| matches!(indices.element, Some(I32 | I64))) {
        found.add(&list::TABLE_TYPE, place(node), "indices that are neither int32 nor int64");
    }
    let grid = graph.stored(node, 0).and_then(|_| graph.read_grid(node, 0));
    if let Some(grid) = grid.filter(|grid| !graph.is_single(*grid)) {
        found.add(&list::TABLE_SCALES, place(node), format!("scale \"{}\"", grid.scale));
    }
    let Some(table) = graph.operand(node, 0).filter(|table| table.constant) else { return };
    let element = grid.map(|grid| grid.element).or(table.element);
    if let Some(element) = element.filter(|element| !matches!(element, F32 | F16 | U16 | U8 | I16 | I8)) {
        found.add(&list::TABLE_TYPE, place(node), format!("a table of {}", element.name()));
    }
}

/// `com.microsoft::MatMulNBits`.
fn check_nbits(graph: &Graph<'_>, node: &NodeProto, found: &mut Found) {
    let bits = int(node, "bits").unwrap_or(4);
    let block = int(node, "block_size").unwrap_or(0);
    if !matches!((bits, block), (4, 16 | 32 | 64 | 128) | (8, 32 | 64)) {
        found.add(&list::NBITS, place(node), format!("{bits} bits in blocks of {block}"));
    }
    if let Some(zeros) = input(node, 3) {
        // Two of 8 in a byte.
        let eights = graph.range(zeros).is_some_and(|zeros| zeros.is_all(f64::from(0x88)));
        if !eights || (bits, block) != (4, 32) {
            found.add(&list::NBITS, place(node), "zero points");
        }
    }
    if graph.read_grid(node, 0).is_some() {
        found.add(&list::NBITS, place(node), "a rounded activation");
    }
    if graph.operand(node, 1).is_some_and(|weight| weight.tensor.is_none()) {
        found.add(&list::NBITS, place(node), "a weight that is not stored");
    }
}
