//! Names for the nodes of a module that was read from bytes, which hold none.
//!
//! A node is called after its weight (`%q_proj`), the cache that it feeds (`%k.new`, `%k.all`) or its op (`%softmax`),
//! with a number where that is taken. The value that a layer hands on is `%x` in every layer.

use std::collections::{HashMap, HashSet};

use diffulex_compiler::ir::{CacheKind, Module, Node, NodeId, Op, Operand};

/// The value that is carried from layer to layer.
const CARRIED: &str = "x";

/// Names all nodes but the inputs. Those inside layers come first, since none of them may be the name of an outer value.
pub(crate) fn rename(module: &mut Module) {
    let new_rows: HashMap<NodeId, CacheKind> = module.new_rows().map(|(cache, id)| (id, cache.kind)).collect();
    let outputs: HashSet<NodeId> = module.outputs.iter().copied().collect();
    let layers: Vec<Option<u32>> = module.nodes.iter().map(|n| n.layer).collect();
    let layered = layers.iter().any(Option::is_some);
    let tokens = module.input("tokens").map(Operand::Node);
    let carried = |i: usize, node: &Node| match layers[i] {
        Some(_) => layers.get(i + 1) != Some(&layers[i]),
        None => layered && node.op == Op::Embed && node.args.first().copied() == tokens,
    };
    let mut names: Vec<String> = vec![String::new(); layers.len()];
    let mut taken = Taken::default();
    for inside in [true, false] {
        for (i, node) in module.nodes.iter().enumerate().filter(|(_, n)| n.layer.is_some() == inside) {
            let id = NodeId(i as u32);
            names[i] = match node.op {
                Op::Input => node.name.clone(),
                _ if carried(i, node) => CARRIED.into(),
                _ if outputs.contains(&id) => taken.free(node.layer, "logits"),
                _ => {
                    let rows = new_rows.get(&id).map(|kind| format!("{}.new", kind.name()));
                    let weightless = rows.is_none() && node.args.iter().all(|arg| matches!(arg, Operand::Node(_)));
                    let mut base = rows.unwrap_or_else(|| base_name(module, node));
                    if !inside && (weightless || taken.inside.contains(&base)) {
                        base = after_operand(node, &names, base);
                    }
                    taken.free(node.layer, &base)
                }
            };
        }
    }
    module.nodes.iter_mut().zip(names).for_each(|(node, name)| node.name = name);
}

/// Names in use: per layer, and those inside any layer for the values outside.
#[derive(Default)]
struct Taken {
    names: HashSet<(Option<u32>, String)>,
    inside: HashSet<String>,
    next: HashMap<(Option<u32>, String), u32>,
}

impl Taken {
    /// `name`, or `name.2`, `name.3` … if it is taken.
    fn free(&mut self, layer: Option<u32>, name: &str) -> String {
        let key = (layer, name.to_string());
        let mut number = self.next.get(&key).copied().unwrap_or(1);
        let found = loop {
            let candidate = if number == 1 { name.to_string() } else { format!("{name}.{number}") };
            number += 1;
            let reserved = matches!(candidate.as_str(), CARRIED | "tokens" | "positions" | "mask");
            let inside = layer.is_none() && self.inside.contains(&candidate);
            if !reserved && !inside && self.names.insert((layer, candidate.clone())) {
                break candidate;
            }
        };
        self.next.insert(key, number);
        if layer.is_some() {
            self.inside.insert(found.clone());
        }
        found
    }
}

/// `%cos.reshape`: an outer value without a name of its own, called after what it is made of.
fn after_operand(node: &Node, names: &[String], base: String) -> String {
    let operand = node.args.iter().find_map(|arg| match arg {
        Operand::Node(id) => names.get(id.0 as usize).filter(|name| !name.is_empty() && name.len() < 32),
        _ => None,
    });
    operand.map_or(base.clone(), |name| format!("{name}.{base}"))
}

/// A word for what a node makes: after its weight, if it has one, else after its op.
fn base_name(module: &Module, node: &Node) -> String {
    if let (Op::Cached, Some(Operand::Cache(cache))) = (&node.op, node.args.first()) {
        return format!("{}.all", cache.kind.name());
    }
    let weight = node.args.iter().find_map(|arg| match arg {
        Operand::Weight(id) => Some(module.weight(*id).name.as_str()),
        _ => None,
    });
    let starts_well = |part: &&str| part.starts_with(|c: char| c.is_ascii_alphabetic());
    let word = weight.and_then(|name| name.split('.').rfind(starts_well));
    word.unwrap_or(node.op.name()).to_string()
}
