//! `select-rows`: the head is computed for chosen rows only.
//!
//! A denoising pass needs logits at masked positions, a storing pass at none; the head is a quarter of the work of a
//! small model. The rows are gathered before the last norm, which then works on fewer rows too.

use super::rewrite::{Rewriter, node_of};
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{DType, Dim, Module, NodeId, Op, Operand, ValueType};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let logits = match module.outputs[..] {
        [logits] => logits,
        _ => return Ok(none(module, "there is not exactly one output")),
    };
    if module.bounds.r > 0 {
        return Ok(none(module, "the rows are selected already"));
    }
    let Some((norm, residual)) = last_norm(module, logits) else {
        return Ok(none(module, "the output is not a linear over a norm of [1, T, H], with no other reader of either"));
    };

    let mut rewriter = Rewriter::new(module);
    let last_input = module.nodes.iter().take_while(|n| n.op == Op::Input).count();
    let mut rows = None;
    rewriter.new.bound_rows();
    let new = rewriter.run(|rewriter, id, node| {
        if id.0 as usize + 1 == last_input {
            let input = rewriter.copy(node)?;
            rows = Some(rewriter.new.input("rows", ValueType::new(DType::I32, [Dim::R])));
            return Ok(Some(input));
        }
        let (Some(rows), true) = (rows, id == norm) else { return Ok(None) };
        let x = rewriter.operand(residual)?;
        let picked = rewriter.new.node("x.rows", Op::GatherRows, [x, rows.into()])?;
        rewriter.new.node(&node.name, node.op.clone(), [picked.into(), node.args[1]]).map(Some)
    })?;
    let note = Note::done(module.node(logits).place(), "computed for `rows` only");
    Ok(Proposal { module: Some(new), notes: vec![note] })
}

/// The norm before the head, and what it reads, where nothing else needs all rows of the norm or of the head.
fn last_norm(module: &Module, logits: NodeId) -> Option<(NodeId, Operand)> {
    let uses = module.uses();
    let head = module.node(logits);
    let (norm, node) = node_of(module, head.args.first())?;
    let fits = matches!(node.ty.shape[..], [one, Dim::T, _] if one == Dim::fixed(1));
    let plain = head.op == Op::Linear && matches!(node.op, Op::RmsNorm { .. }) && fits;
    (plain && uses[norm.0 as usize] == 1 && uses[logits.0 as usize] == 1).then(|| (norm, node.args[0]))
}

fn none(module: &Module, why: &str) -> Proposal {
    let place = module.outputs.first().map_or("return".to_string(), |&id| module.node(id).place());
    Proposal { module: None, notes: vec![Note::not(place, why)] }
}
