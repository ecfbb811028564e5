//! `fuse-gate-up`: `silu(linear(x, gate)) · linear(x, up)` computes both linears as one.

use super::rewrite::{Rewriter, node_of};
use super::{Note, Proposal, join};
use crate::ir::build::BuildError;
use crate::ir::{Module, Node, NodeId, Op};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut pairs: Vec<[NodeId; 2]> = Vec::new();
    for (_, node) in module.iter().filter(|(_, n)| n.op == Op::Mul) {
        let Some((gate, up)) = gate_and_up(module, node) else { continue };
        let refused = if gate == up {
            Some("gate and up are one value".into())
        } else if module.node(gate).args[0] != module.node(up).args[0] {
            Some("gate and up read different values".into())
        } else {
            join::reason_against(module, &[gate, up])
        };
        match refused {
            Some(why) => notes.push(Note::not(node.place(), why)),
            None => {
                notes.push(Note::done(node.place(), "joined gate and up"));
                pairs.push([gate, up]);
            }
        }
    }
    if pairs.is_empty() {
        return Ok(Proposal { module: None, notes });
    }

    let mut joined = vec![None; pairs.len()];
    let module = Rewriter::new(module).run(|rewriter, id, _| {
        let Some(p) = pairs.iter().position(|p| p.contains(&id)) else { return Ok(None) };
        let whole = match joined[p] {
            Some(whole) => whole,
            None => *joined[p].insert(join::linear(rewriter, &pairs[p])?),
        };
        join::slice(rewriter, whole, &pairs[p], id).map(Some)
    })?;
    Ok(Proposal { module: Some(module), notes })
}

/// The linears behind `mul(silu(gate), up)`.
fn gate_and_up(module: &Module, mul: &Node) -> Option<(NodeId, NodeId)> {
    let (_, silu) = node_of(module, mul.args.first()).filter(|(_, n)| n.op == Op::Silu)?;
    let (gate, _) = node_of(module, silu.args.first()).filter(|(_, n)| n.op == Op::Linear)?;
    let (up, _) = node_of(module, mul.args.get(1)).filter(|(_, n)| n.op == Op::Linear)?;
    Some((gate, up))
}
