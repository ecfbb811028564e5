//! Finds the layers of a flat module, so that it prints and compares like the one it was made from.
//!
//! A node belongs to layer 3 for sure when it reads a weight `layers.3.…` or a cache of that layer. Between the layers
//! lie values that everything later depends on: the *cuts*, nodes that no edge passes by. A layer ends with the first
//! cut after its last sure node. When that does not work out, the module stays flat.

use std::collections::HashMap;

use diffulex_compiler::ir::{Module, NodeId, Op, Operand, Weight, WeightId, verify};

use crate::naming::rename;

/// The module with its nodes in layers and with names that say something.
pub(crate) fn arrange(module: Module) -> Module {
    let layered = layers(&module).map(|layers| rebuild(&module, &layers)).filter(|layered| verify(layered).is_ok());
    layered.unwrap_or_else(|| rebuild(&module, &vec![Spot { group: 0, layer: None }; module.nodes.len()]))
}

/// Where a node goes: groups stand one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    group: u32,
    layer: Option<u32>,
}

/// Groups: inputs and what depends on positions and mask only; the token embedding; the layers; the rest.
fn layers(module: &Module) -> Option<Vec<Spot>> {
    let count = module.cache.layers;
    let stream = stream(module)?;
    let &[logits] = module.outputs.as_slice() else { return None };
    let main = ancestors(module, logits);
    if stream.iter().zip(&main).any(|(stream, main)| stream & !main) {
        return None;
    }
    let cuts = cuts(module, &stream);
    let sure = sure(module, &stream)?;

    // For each layer its first and its last node; layer 0 begins after the first cut, the token embedding.
    let mut next_cut = cuts.iter().copied();
    let mut start = next_cut.next()?;
    let mut spots: Vec<Spot> =
        stream.iter().map(|&s| Spot { group: if s { count + 2 } else { 0 }, layer: None }).collect();
    spots.get_mut(start as usize)?.group = 1;
    for layer in 0..count {
        let (first, last) = *sure.get(&layer)?;
        if first <= start {
            return None;
        }
        let end = next_cut.find(|&cut| cut >= last)?;
        for id in start + 1..=end {
            if stream[id as usize] {
                spots[id as usize] = Spot { group: layer + 2, layer: Some(layer) };
            }
        }
        start = end;
    }
    Some(spots)
}

/// Which nodes depend on the tokens; `None` unless all of them come from one embedding.
fn stream(module: &Module) -> Option<Vec<bool>> {
    let tokens = Operand::Node(module.input("tokens")?);
    let mut stream = vec![false; module.nodes.len()];
    let mut roots = 0;
    for (id, node) in module.iter() {
        let inherited = node.args.iter().any(|arg| matches!(arg, Operand::Node(arg) if stream[arg.0 as usize]));
        let root = node.args.contains(&tokens);
        roots += usize::from(root);
        if node.args.iter().any(|arg| matches!(arg, Operand::Cache(_))) && !inherited {
            return None;
        }
        stream[id.0 as usize] = inherited || root;
    }
    (roots == 1).then_some(stream)
}

fn ancestors(module: &Module, of: NodeId) -> Vec<bool> {
    let mut found = vec![false; module.nodes.len()];
    found[of.0 as usize] = true;
    for (id, node) in module.iter().rev() {
        if !found[id.0 as usize] {
            continue;
        }
        for arg in &node.args {
            if let Operand::Node(arg) = arg {
                found[arg.0 as usize] = true;
            }
        }
    }
    found
}

/// The nodes of the stream that no edge of the stream passes by, in order.
fn cuts(module: &Module, stream: &[bool]) -> Vec<u32> {
    let mut last_use = vec![0; module.nodes.len()];
    for (id, node) in module.iter().filter(|(id, _)| stream[id.0 as usize]) {
        for arg in &node.args {
            if let Operand::Node(arg) = arg {
                last_use[arg.0 as usize] = id.0;
            }
        }
    }
    let mut reach = 0;
    let mut cuts = Vec::new();
    for id in (0..module.nodes.len() as u32).filter(|&id| stream[id as usize]) {
        if reach <= id {
            cuts.push(id);
        }
        reach = reach.max(last_use[id as usize]);
    }
    cuts
}

/// First and last sure node of each layer; `None` when a node would belong to two.
fn sure(module: &Module, stream: &[bool]) -> Option<HashMap<u32, (u32, u32)>> {
    let mut sure: HashMap<u32, (u32, u32)> = HashMap::new();
    for (id, node) in module.iter() {
        let mut layers = node.args.iter().filter_map(|arg| match arg {
            Operand::Weight(id) => layer_of(module.weight(*id)).filter(|&layer| layer < module.cache.layers),
            Operand::Cache(cache) => Some(cache.layer),
            Operand::Node(_) => None,
        });
        let Some(layer) = layers.next() else { continue };
        if !stream[id.0 as usize] || layers.any(|other| other != layer) {
            return None;
        }
        sure.entry(layer).and_modify(|(_, last)| *last = id.0).or_insert((id.0, id.0));
    }
    Some(sure)
}

/// `layers.3.mlp.up_proj` → 3.
fn layer_of(weight: &Weight) -> Option<u32> {
    weight.name.strip_prefix("layers.")?.split_once('.')?.0.parse().ok()
}

/// The nodes in the order of their groups, and with names.
fn rebuild(module: &Module, spots: &[Spot]) -> Module {
    let mut order: Vec<usize> = (0..module.nodes.len()).collect();
    order.sort_by_key(|&i| (module.nodes[i].op != Op::Input, spots[i].group, i));
    let mut place = vec![NodeId(0); order.len()];
    for (new, &old) in (0..).zip(&order) {
        place[old] = NodeId(new);
    }
    let mut made = module.clone();
    made.nodes.clear();
    for &old in &order {
        let mut node = module.nodes[old].clone();
        for arg in &mut node.args {
            if let Operand::Node(id) = arg {
                *id = place[id.0 as usize];
            }
        }
        node.layer = spots[old].layer;
        made.nodes.push(node);
    }
    made.outputs.iter_mut().for_each(|id| *id = place[id.0 as usize]);
    sort_weights(&mut made);
    rename(&mut made);
    made
}

/// Weights in the order of their first use, those of a layer together: before the layers, in them, behind them.
fn sort_weights(module: &mut Module) {
    let count = module.weights.len();
    let behind = (module.nodes.iter().rposition(|n| n.layer.is_some())).map_or(0, |last| last + 1);
    let mut first_use = vec![usize::MAX; count];
    for (i, node) in module.nodes.iter().enumerate() {
        for arg in &node.args {
            if let Operand::Weight(id) = arg {
                let slot = &mut first_use[id.0 as usize];
                *slot = (*slot).min(i);
            }
        }
    }
    let group = |i: usize| match layer_of(&module.weights[i]) {
        Some(layer) => (1, layer),
        None if first_use[i] < behind => (0, 0),
        None => (2, 0),
    };
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&i| (group(i), first_use[i], i));
    let mut place = vec![WeightId(0); count];
    for (new, &old) in (0..).zip(&order) {
        place[old] = WeightId(new);
    }
    module.weights = order.iter().map(|&i| module.weights[i].clone()).collect();
    for arg in module.nodes.iter_mut().flat_map(|n| &mut n.args) {
        if let Operand::Weight(id) = arg {
            *id = place[id.0 as usize];
        }
    }
}
