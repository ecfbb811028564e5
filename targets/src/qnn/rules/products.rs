//! MatMul of two computed operands, and what it makes of a weight.

use onnx_protobuf::NodeProto;

use super::graph::{Graph, is, place};
use super::numbers::Element::{self, I8, I16, U8, U16};
use super::{Found, list};
use crate::qnn::Soc;

/// Types that go together.
const PAIRS: [(Element, Element); 8] =
    [(U16, U8), (U16, I8), (U16, I16), (U16, U16), (I16, I16), (I16, I8), (U8, U8), (I8, I8)];

pub(super) fn check<'a>(graph: &Graph<'a>, node: &'a NodeProto, soc: Option<&Soc>, found: &mut Found) {
    if !is(node, "MatMul") {
        return;
    }
    let (a, b) = (graph.read_grid(node, 0), graph.read_grid(node, 1));
    for grid in [a, b].into_iter().flatten().filter(|grid| grid.element == I16) {
        match graph.zeros(grid) {
            Some(zeros) if zeros.is_all(0.0) => {}
            Some(zeros) => found.add(&list::ASYMMETRIC_INT16, place(node), format!("zero point {}", zeros.max)),
            None => found.add(&list::UNREADABLE_NUMBERS, place(node), format!("zero point of \"{}\"", grid.scale)),
        }
    }
    if graph.operand(node, 1).is_some_and(|b| b.constant) {
        let other = |a: Element| graph.written_grids(node).find(|result| result.element != a);
        if let Some(a) = a
            && let Some(result) = other(a.element)
        {
            let what = format!("{} from {}", result.element.name(), a.element.name());
            found.add(&list::MATMUL_OUTPUT, place(node), what);
        }
    } else if let (Some(a), Some(b)) = (a, b) {
        let (a, b) = (a.element, b.element);
        if (a, b) == (U16, U16) {
            found.add(&list::DYNAMIC_U16, place(node), "uint16 by uint16");
        } else if !PAIRS.contains(&(a, b)) {
            found.add(&list::DYNAMIC_PAIR, place(node), format!("{} by {}", a.name(), b.name()));
        }
        if let Some(soc) = soc.filter(|soc| b == I16 && !soc.multiplies_int16()) {
            found.add(&list::INT16_PRODUCT, place(node), format!("{} by int16 on {soc}", a.name()));
        }
    }
}
