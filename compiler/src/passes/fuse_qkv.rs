//! `fuse-qkv`: linears that read the same value and go straight into heads become one linear and slices.

use super::rewrite::Rewriter;
use super::{Note, Proposal, join};
use crate::ir::build::BuildError;
use crate::ir::{Module, NodeId, Op};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut groups: Vec<Vec<NodeId>> = Vec::new();
    let into_heads = |id: NodeId| {
        let mut users = module.nodes.iter().filter(|n| n.args.contains(&id.into())).peekable();
        users.peek().is_some() && users.all(|n| matches!(n.op, Op::Heads { .. }))
    };
    for (id, node) in module.iter().filter(|(_, n)| n.op == Op::Linear) {
        if !into_heads(id) {
            continue;
        }
        let same_input = |g: &&mut Vec<NodeId>| {
            let first = module.node(g[0]);
            first.args[0] == node.args[0] && first.layer == node.layer
        };
        match groups.iter_mut().find(same_input) {
            Some(group) => group.push(id),
            None => groups.push(vec![id]),
        }
    }
    groups.retain(|group| {
        let place = module.node(group[0]).place();
        let refused = join::reason_against(module, group);
        let joined = refused.is_none();
        notes.push(match refused {
            Some(why) => Note::not(place, why),
            None => Note::done(place, format!("joined {} projections", group.len())),
        });
        joined
    });
    if groups.is_empty() {
        return Ok(Proposal { module: None, notes });
    }

    let mut joined = vec![None; groups.len()];
    let module = Rewriter::new(module).run(|rewriter, id, _| {
        let Some(g) = groups.iter().position(|g| g.contains(&id)) else { return Ok(None) };
        let whole = match joined[g] {
            Some(whole) => whole,
            None => *joined[g].insert(join::linear(rewriter, &groups[g])?),
        };
        join::slice(rewriter, whole, &groups[g], id).map(Some)
    })?;
    Ok(Proposal { module: Some(module), notes })
}
