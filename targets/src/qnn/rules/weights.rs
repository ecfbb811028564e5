//! Stored operands of MatMul: their layout, and which form goes with which activation.

use onnx_protobuf::{NodeProto, TensorProto};

use super::graph::{Graph, Grid, is, place};
use super::numbers::Element;
use super::{Found, list};
use Element::{I4, I8, I16, U4, U8, U16};
use Scales::{Block, Channel, Tensor};

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    Tensor,
    Channel,
    /// So many numbers along K.
    Block(i64),
}

pub(super) fn check<'a>(graph: &Graph<'a>, node: &'a NodeProto, found: &mut Found) {
    if !is(node, "MatMul") || !graph.operand(node, 1).is_some_and(|b| b.constant) {
        return;
    }
    let Some(tensor) = graph.stored(node, 1) else {
        let producer = graph.operand(node, 1).and_then(|b| b.producer);
        // bfloat16 that is cast to float, or a table of floats that is the head too: folded while the model loads.
        let folded = |node: &NodeProto| (is(node, "Cast") || is(node, "Transpose")) && stores(graph, node);
        if let Some(producer) = producer.filter(|producer| !folded(producer)) {
            found.add(&list::WEIGHT_PATH, place(node), format!("{} makes it", place(producer)));
        }
        return;
    };
    let Some(grid) = graph.read_grid(node, 1) else { return };
    let scales = check_layout(graph, node, tensor, grid, found);
    let act = graph.read_grid(node, 0).map(|act| act.element);
    let weight = grid.element;
    match (weight, scales) {
        (U4, Block(_)) => found.add(&list::UINT4_BLOCKS, place(node), "uint4 in blocks"),
        _ if takes(act, weight, scales) => check_zeros(graph, node, grid, scales, found),
        _ => {
            let rule = if act.is_none() { &list::WEIGHT_ONLY } else { &list::WEIGHT_FORM };
            let act = act.map_or("float".to_string(), Element::name);
            found.add(rule, place(node), format!("{act} by {} {}", weight.name(), scales.name()));
        }
    }
    if let Some(outer) = graph.value(grid.scale).and_then(|scale| scale.producer) {
        check_block_scales(graph, node, outer, scales, found);
    }
}

/// Whether a node reads a stored tensor.
fn stores(graph: &Graph<'_>, node: &NodeProto) -> bool {
    graph.operand(node, 0).is_some_and(|value| value.tensor.is_some())
}

/// The table of forms that the HTP takes; `None` are floats.
fn takes(act: Option<Element>, weight: Element, scales: Scales) -> bool {
    matches!(
        (act, weight, scales),
        (Some(U16 | I16 | U8 | I8) | None, I8 | I4, Tensor)
            | (Some(U16 | I16 | U8 | I8), I8 | I4, Channel)
            | (Some(U16 | U8 | I8) | None, U8, Tensor)
            | (Some(U16 | U8), U8, Channel)
            | (Some(U16), U4, Tensor)
            | (Some(U16), I4, Block(16 | 32 | 64 | 128))
            | (Some(I16), I4, Block(32))
            | (Some(U16 | I16), I8, Block(32))
            | (Some(U16), I16, Tensor | Channel)
            | (Some(I8), I16, Tensor)
    )
}

/// What shares a scale, by the dimensions of the scales.
fn check_layout(
    graph: &Graph<'_>,
    node: &NodeProto,
    tensor: &TensorProto,
    grid: Grid<'_>,
    found: &mut Found,
) -> Scales {
    let mut wrong = |what: String| found.add(&list::WEIGHT_LAYOUT, place(node), what);
    let [k, n] = tensor.dims[..] else {
        wrong(format!("{} axes", tensor.dims.len()));
        return if graph.is_single(grid) { Tensor } else { Channel };
    };
    if graph.is_single(grid) {
        return Tensor;
    }
    let axis = if grid.axis < 0 { grid.axis.saturating_add(2) } else { grid.axis };
    let scale = graph.value(grid.scale);
    let dims = scale.and_then(|scale| scale.tensor.or_else(|| graph.operand(scale.producer?, 0)?.tensor));
    let dims: Option<&[i64]> = dims.map(|tensor| &tensor.dims[..]);
    if grid.block == 0 {
        if axis != 1 || dims != Some(&[n]) {
            wrong(format!("scales {dims:?} on axis {axis} for [{k}, {n}]"));
        }
        return Channel;
    }
    let blocks = k.checked_div(grid.block).filter(|blocks| blocks.checked_mul(grid.block) == Some(k));
    if axis != 0 || blocks.is_none_or(|blocks| dims != Some(&[blocks, n])) {
        wrong(format!("scales {dims:?} of blocks of {} on axis {axis} for [{k}, {n}]", grid.block));
    }
    Block(grid.block)
}

/// Zero points: written for int4, and symmetric where there are several scales.
fn check_zeros(graph: &Graph<'_>, node: &NodeProto, grid: Grid<'_>, scales: Scales, found: &mut Found) {
    let Some(zeros) = graph.zeros(grid) else {
        return found.add(&list::UNREADABLE_NUMBERS, place(node), format!("zero points of \"{}\"", grid.scale));
    };
    let none = grid.zero.is_none();
    if grid.element == I4 && !matches!(scales, Block(_)) {
        if none || !zeros.is_all(0.0) {
            let what =
                if none { "no zero point".into() } else { format!("zero points {} to {}", zeros.min, zeros.max) };
            found.add(&list::INT4_ZERO_POINT, place(node), what);
        }
    } else if scales != Tensor && !zeros.is_all(if grid.element == U8 { 128.0 } else { 0.0 }) {
        let what = format!("zero points {} to {} of {}", zeros.min, zeros.max, grid.element.name());
        found.add(&list::CHANNEL_ZERO_POINT, place(node), what);
    }
}

/// Scales of blocks that are themselves integers with a scale, from the node that makes them.
fn check_block_scales(graph: &Graph<'_>, node: &NodeProto, outer: &NodeProto, scales: Scales, found: &mut Found) {
    let inner = graph.operand(outer, 0);
    let stored = inner.and_then(|inner| inner.tensor).filter(|_| is(outer, "DequantizeLinear"));
    let Some(stored) = stored else {
        return found.add(&list::BLOCK_SCALES, place(node), format!("{} makes the scales", place(outer)));
    };
    let what = if Element::of(stored.data_type) != Some(U8) {
        Element::of(stored.data_type).map_or("nothing".into(), Element::name)
    } else if !matches!(scales, Block(32 | 64)) {
        format!("two scales {}", scales.name())
    } else {
        match graph.range(&stored.name) {
            Some(range) if range.min >= 1.0 && range.max <= 16.0 => return,
            Some(range) => format!("{} to {}", range.min, range.max),
            None => return found.add(&list::UNREADABLE_NUMBERS, place(node), format!("scales \"{}\"", stored.name)),
        }
    };
    found.add(&list::BLOCK_SCALES, place(node), what);
}

impl Scales {
    fn name(self) -> String {
        match self {
            Tensor => "per tensor".into(),
            Channel => "per channel".into(),
            Block(numbers) => format!("in blocks of {numbers}"),
        }
    }
}
