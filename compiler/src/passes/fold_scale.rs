//! `fold-scale`: the attention scale moves into the gain of the query norm.
//!
//! Rotation and the dot product are linear, so `(q · s)·k = s · (q·k)`. A gain is a small vector: scaling it costs one
//! rounding to f32 a number. Without a query norm the scale stays: in a matrix it would be rounded to the encoding.

use super::rewrite::{Rewriter, node_of};
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{Encoding, Module, NodeId, Op, Operand, WeightExpr, WeightId, WeightType};

/// One attention whose scale can move.
struct Fold {
    attention: NodeId,
    /// The norm whose gain takes the scale.
    norm: NodeId,
    gain: WeightId,
    scale: f32,
}

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let uses = module.uses();
    let mut notes = Vec::new();
    let mut folds = Vec::new();
    for (id, node) in module.iter() {
        let Op::Attention { scale } = node.op else { continue };
        if scale == 1.0 {
            notes.push(Note::not(node.place(), "the scale is 1"));
            continue;
        }
        match query_norm(module, &uses, id) {
            Ok((norm, gain)) => {
                notes.push(Note::done(node.place(), format!("{scale} went into `{}`", module.weight(gain).name)));
                folds.push(Fold { attention: id, norm, gain, scale });
            }
            Err(why) => notes.push(Note::not(node.place(), why)),
        }
    }
    if folds.is_empty() {
        return Ok(Proposal { module: None, notes });
    }

    let module = Rewriter::new(module).run(|rewriter, id, node| {
        if let Some(fold) = folds.iter().find(|f| f.norm == id) {
            let gain = rewriter.old.weight(fold.gain).clone();
            let ty = WeightType::new(Encoding::F32, gain.ty.shape);
            let expr = WeightExpr::Scale(Box::new(gain.expr), fold.scale);
            let scaled = rewriter.new.weight(&format!("{}.scaled", gain.name), ty, expr)?;
            let input = rewriter.operand(node.args[0])?;
            return rewriter.new.node(&node.name, node.op.clone(), [input, scaled.into()]).map(Some);
        }
        if folds.iter().any(|f| f.attention == id) {
            let args = node.args.iter().map(|&a| rewriter.operand(a)).collect::<Result<Vec<_>, _>>()?;
            return rewriter.new.node(&node.name, Op::Attention { scale: 1.0 }, args).map(Some);
        }
        Ok(None)
    })?;
    Ok(Proposal { module: Some(module), notes })
}

/// The norm that makes the queries of an attention, when nothing else reads them on the way.
fn query_norm(module: &Module, uses: &[u32], attention: NodeId) -> Result<(NodeId, WeightId), &'static str> {
    let mut next = module.node(attention).args.first().copied();
    while let Some((id, node)) = node_of(module, next.as_ref()) {
        if uses[id.0 as usize] != 1 {
            return Err("the queries are read by something else too");
        }
        match node.op {
            Op::RmsNorm { .. } => {
                let Some(Operand::Weight(gain)) = node.args.get(1) else { break };
                return Ok((id, *gain));
            }
            Op::Rope | Op::Heads { .. } => next = node.args.first().copied(),
            _ => break,
        }
    }
    Err("the queries have no norm of their own")
}
