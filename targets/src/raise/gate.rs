//! `x · sigmoid(x)` → `silu %x`; with the other half as a factor → `swiglu %x`.

use diffulex_compiler::ir::{Node, Op, Operand};

use super::{Found, View};

pub(super) fn silu(view: &View<'_>, root: &Node) -> Option<Found> {
    gated(view, root).map(|x| (Op::Silu, vec![x]))
}

pub(super) fn swiglu(view: &View<'_>, root: &Node) -> Option<Found> {
    let &[a, b] = root.args.as_slice() else { return None };
    if root.op != Op::Mul {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(gate, up)| {
        let gate = view
            .node(gate)
            .and_then(|node| if node.op == Op::Silu { node.args.first().copied() } else { gated(view, node) })?;
        let (x, start, middle) = half(view, gate)?;
        let (same, from, end) = half(view, up)?;
        let whole = view.module.operand_type(x).width()? == end;
        (same == x && start == 0 && from == middle && end == 2 * middle && whole).then_some((Op::Swiglu, vec![x]))
    })
}

/// `x`, if the node is `x · sigmoid(x)`.
fn gated(view: &View<'_>, node: &Node) -> Option<Operand> {
    let &[a, b] = node.args.as_slice() else { return None };
    if node.op != Op::Mul {
        return None;
    }
    let gates = |x: Operand, gate: Operand| view.under(gate, &Op::Sigmoid) == Some(x);
    if gates(a, b) { Some(a) } else { gates(b, a).then_some(b) }
}

/// What a slice of the last axis cuts, and where.
fn half(view: &View<'_>, operand: Operand) -> Option<(Operand, u32, u32)> {
    let node = view.node(operand)?;
    let (Op::Slice { axis, start, end }, &[x]) = (&node.op, node.args.as_slice()) else { return None };
    (*axis as usize + 1 == node.ty.shape.len()).then_some((x, *start, *end))
}
