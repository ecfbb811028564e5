//! `fuse-swiglu`: `silu(first half of x) · second half of x` becomes `swiglu x`.

use super::rewrite::{Rewriter, node_of};
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{Module, Node, NodeId, Op};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for (id, node) in module.iter().filter(|(_, n)| n.op == Op::Mul) {
        let Some((_, silu)) = node_of(module, node.args.first()).filter(|(_, n)| n.op == Op::Silu) else { continue };
        match halves(module, silu, node) {
            Ok(whole) => {
                found.push((id, whole));
                notes.push(Note::done(node.place(), "became swiglu"));
            }
            Err(why) => notes.push(Note::not(node.place(), why)),
        }
    }
    if found.is_empty() {
        return Ok(Proposal { module: None, notes });
    }
    let module = Rewriter::new(module).run(|rewriter, id, node| {
        let Some((_, whole)) = found.iter().find(|(mul, _)| *mul == id) else { return Ok(None) };
        let whole = rewriter.operand((*whole).into())?;
        rewriter.new.node(&node.name, Op::Swiglu, [whole]).map(Some)
    })?;
    Ok(Proposal { module: Some(module), notes })
}

/// The value whose halves are multiplied.
fn halves(module: &Module, silu: &Node, mul: &Node) -> Result<NodeId, &'static str> {
    let not_slices = "gate and up are not slices of one value (fuse-gate-up makes them so)";
    let slice = |operand| {
        let (_, node) = node_of(module, operand)?;
        let Op::Slice { axis, start, end } = node.op else { return None };
        let (whole, _) = node_of(module, node.args.first())?;
        Some((whole, axis, start, end))
    };
    let (Some((a, axis, zero, middle)), Some((b, axis_b, start, end))) =
        (slice(silu.args.first()), slice(mul.args.get(1)))
    else {
        return Err(not_slices);
    };
    let ty = &module.node(a).ty;
    if a != b || axis != axis_b || axis as usize + 1 != ty.shape.len() {
        return Err(not_slices);
    }
    if zero != 0 || start != middle || end - start != middle || ty.width() != Some(end) {
        return Err("the slices are not the two halves");
    }
    Ok(a)
}
