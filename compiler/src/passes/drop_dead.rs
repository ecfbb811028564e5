//! `drop-dead`: nodes and weights that nothing reads go; weights are listed in the order of their first use.

use std::collections::HashMap;

use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{Module, NodeId, Op, Operand, WeightId};

pub(super) fn run(module: &Module) -> Result<Proposal, BuildError> {
    let mut alive: Vec<bool> = module.nodes.iter().map(|n| n.op == Op::Input).collect();
    let roots = module.outputs.iter().copied().chain(module.new_rows().map(|(_, rows)| rows));
    let cached = module.iter().filter(|(_, n)| n.op == Op::Cached).map(|(id, _)| id);
    for id in roots.chain(cached) {
        alive[id.0 as usize] = true;
    }
    for (id, node) in module.iter().rev() {
        if alive[id.0 as usize] {
            let read = node.args.iter().filter_map(|a| if let Operand::Node(id) = a { Some(id) } else { None });
            read.for_each(|id| alive[id.0 as usize] = true);
        }
    }

    // A layer hands its last value on under the name that it always had, whichever value that is now: what later nodes
    // read by name stays the same.
    let in_layers = || module.iter().filter_map(|(id, node)| Some((node.layer?, id)));
    let ends: HashMap<u32, NodeId> = in_layers().collect();
    let kept: HashMap<u32, NodeId> = in_layers().filter(|(_, id)| alive[id.0 as usize]).collect();

    let mut new = Module { weights: Vec::new(), nodes: Vec::new(), ..module.clone() };
    let mut nodes = vec![NodeId(0); module.nodes.len()];
    let mut weights: Vec<Option<WeightId>> = vec![None; module.weights.len()];
    let mut notes = Vec::new();
    for (id, node) in module.iter() {
        if !alive[id.0 as usize] {
            notes.push(Note::done(node.place(), "nothing reads it"));
            continue;
        }
        let mut node = node.clone();
        if let Some(layer) = node.layer.filter(|layer| kept.get(layer) == Some(&id)) {
            node.name.clone_from(&module.node(ends[&layer]).name);
        }
        for arg in &mut node.args {
            match arg {
                Operand::Node(id) => *id = nodes[id.0 as usize],
                Operand::Weight(id) => {
                    let old = id.0 as usize;
                    *id = *weights[old].get_or_insert_with(|| {
                        new.weights.push(module.weights[old].clone());
                        WeightId(new.weights.len() as u32 - 1)
                    });
                }
                Operand::Cache(_) => {}
            }
        }
        nodes[id.0 as usize] = NodeId(new.nodes.len() as u32);
        new.nodes.push(node);
    }
    new.outputs.iter_mut().for_each(|id| *id = nodes[id.0 as usize]);
    for (weight, kept) in module.weights.iter().zip(&weights) {
        if kept.is_none() {
            notes.push(Note::done(format!("@{}", weight.name), "nothing reads it"));
        }
    }
    Ok(Proposal { module: (new != *module).then_some(new), notes })
}
