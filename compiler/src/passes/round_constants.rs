//! `round-constants`: vectors are stored in f16, and so are the tables of the rotation, for targets that compute in it.
//!
//! The rotation is a formula up to here; a row of its table for each position that a step can have takes its place.

use super::rewrite::Rewriter;
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{Dim, Encoding, Module, NodeId, Op, Operand, WeightExpr, WeightType};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut rounded = module.clone();
    for weight in rounded.weights.iter_mut().filter(|w| w.ty.shape.len() < 2 && w.ty.encoding != Encoding::F16) {
        notes.push(Note::done(format!("@{}", weight.name), format!("{} → {}", weight.ty.encoding, Encoding::F16)));
        weight.ty.encoding = Encoding::F16;
    }
    let module = Rewriter::new(&rounded).run(|rewriter, _, node| {
        let (name, dim, expr) = match node.op {
            Op::RopeCos { dim, theta } => ("rope.cos", dim, WeightExpr::RopeCos(theta)),
            Op::RopeSin { dim, theta } => ("rope.sin", dim, WeightExpr::RopeSin(theta)),
            _ => return Ok(None),
        };
        notes.push(Note::done(node.place(), format!("a table in {}", Encoding::F16)));
        let positions = rewriter.operand(node.args[0])?;
        table(rewriter, &node.name, (name, dim, expr), positions).map(Some)
    })?;
    Ok(Proposal { module: (!notes.is_empty()).then_some(module), notes })
}

/// A row of a table for each position: `[1, T, dim]`, then `[1, 1, T, dim]`.
fn table(
    rewriter: &mut Rewriter<'_>,
    node: &str,
    (name, dim, expr): (&str, u32, WeightExpr),
    positions: Operand,
) -> Result<NodeId, BuildError> {
    let bounds = rewriter.old.bounds;
    // `verify` keeps both bounds below 2^24.
    let ty = WeightType::new(Encoding::F16, [(bounds.c + bounds.t) as u32, dim]);
    let table = rewriter.new.weight(name, ty, expr)?;
    let rows = rewriter.new.node(&format!("{node}.rows"), Op::Embed, [positions, table.into()])?;
    let one = Dim::fixed(1);
    rewriter.new.node(node, Op::Reshape { shape: vec![one, one, Dim::T, Dim::fixed(dim)] }, [rows.into()])
}
