//! `x · cos + (−b, a) · sin` for the halves `a`, `b` of `x` → `rope %x, %cos, %sin`.

use diffulex_compiler::ir::{Node, Op, Operand};

use super::{Found, View};

pub(super) fn rope(view: &View<'_>, root: &Node) -> Option<Found> {
    let &[a, b] = root.args.as_slice() else { return None };
    if root.op != Op::Add {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(straight, crossed)| {
        let crossed = view.either(crossed, &Op::Mul).into_iter().flatten();
        let (x, sin) = crossed.filter_map(|(turned, sin)| Some((quarter_turn(view, turned)?, sin))).next()?;
        let straight = view.either(straight, &Op::Mul).into_iter().flatten();
        let (_, cos) = straight.filter(|(same, _)| *same == x).find(|(_, cos)| matches!(cos, Operand::Node(_)))?;
        matches!(sin, Operand::Node(_)).then_some((Op::Rope, vec![x, cos, sin]))
    })
}

/// The value whose halves `turned` joins as `(−b, a)`.
fn quarter_turn(view: &View<'_>, turned: Operand) -> Option<Operand> {
    let node = view.node(turned)?;
    let (Op::Concat { axis: 3 }, &[minus, first]) = (&node.op, node.args.as_slice()) else { return None };
    let second = view.under(minus, &Op::Neg)?;
    let width = view.node(turned)?.ty.width()?;
    let x = view.under(first, &Op::Slice { axis: 3, start: 0, end: width / 2 })?;
    let same = view.under(second, &Op::Slice { axis: 3, start: width / 2, end: width })? == x;
    (same && view.shape(x) == node.ty.shape).then_some(x)
}
