//! Elements and ranks of what nodes make, as far as rules need them.

use onnx_protobuf::NodeProto;
use onnx_protobuf::type_proto::Tensor;

use super::graph::{Graph, int, is};
use super::numbers::{self, Element};

/// The rank that a type declares.
pub(super) fn declared_rank(ty: &Tensor) -> Option<usize> {
    ty.shape.as_ref().map(|shape| shape.dim.len())
}

/// The element of a node's results.
pub(super) fn element(graph: &Graph<'_>, node: &NodeProto) -> Option<Element> {
    let of = |i: usize| graph.operand(node, i)?.element;
    match &node.op_type[..] {
        "QuantizeLinear" => quantized_element(graph, node),
        "DequantizeLinear" => chosen(node, "output_dtype").or(of(1)),
        "Cast" => chosen(node, "to"),
        "Where" => of(1),
        _ => of(0),
    }
}

/// What a `QuantizeLinear` makes.
pub(super) fn quantized_element(graph: &Graph<'_>, node: &NodeProto) -> Option<Element> {
    let zero = graph.operand(node, 2).and_then(|zero| zero.element);
    zero.or(chosen(node, "output_dtype")).or(Some(Element::U8))
}

/// The rank of a node's results.
pub(super) fn rank(graph: &Graph<'_>, node: &NodeProto) -> Option<usize> {
    let of = |i: usize| graph.operand(node, i)?.rank;
    // The length of a list of sizes or axes.
    let length = |i: usize| usize::try_from(numbers::count(graph.operand(node, i)?.tensor?)?).ok();
    match &node.op_type[..] {
        "Reshape" => length(1),
        "Unsqueeze" => of(0)?.checked_add(length(1)?),
        "Squeeze" => of(0)?.checked_sub(length(1)?),
        "Expand" => Some(of(0)?.max(length(1)?)),
        "Gather" => of(0)?.checked_add(of(1)?)?.checked_sub(1),
        "ReduceMean" if int(node, "keepdims") == Some(0) => None,
        "MatMul" | "Add" | "Mul" | "Div" | "Sub" => Some(of(0)?.max(of(1)?)),
        "Where" => Some(of(0)?.max(of(1)?).max(of(2)?)),
        _ => of(0),
    }
}

/// Whether an axis, which may be counted from the end, is the last.
pub(super) fn is_last(axis: i64, rank: Option<usize>) -> bool {
    let last = rank.and_then(|rank| i64::try_from(rank).ok()).and_then(|rank| rank.checked_sub(1));
    axis == -1 || last == Some(axis)
}

/// The axis that a node works along, and whether it is the last of its input.
pub(super) fn along_last(graph: &Graph<'_>, node: &NodeProto) -> (i64, bool) {
    let axis = int(node, "axis").unwrap_or(-1);
    (axis, is_last(axis, graph.operand(node, 0).and_then(|x| x.rank)))
}

/// The element that an attribute names.
fn chosen(node: &NodeProto, name: &str) -> Option<Element> {
    Element::of(i32::try_from(int(node, name)?).ok()?)
}

/// Ops that move numbers and compute none.
pub(super) fn is_movement(node: &NodeProto) -> bool {
    MOVEMENTS.iter().any(|op| is(node, op))
}

/// Those that were tried.
const MOVEMENTS: [&str; 9] =
    ["Reshape", "Transpose", "Slice", "Split", "Concat", "Expand", "Tile", "Gather", "Unsqueeze"];
