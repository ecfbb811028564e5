//! Parts into one module.

use std::collections::HashMap;

use diffulex_compiler::ir::{CacheShape, Module, NodeId, Op, Operand, Sizes};

use super::{Copying, From, HIDDEN};
use crate::refusal::Refusal;

/// The module whose parts these are: the inverse of [`super::split`], but for what nothing reads and for the order of
/// weights, which are listed as they are used.
///
/// # Errors
/// When they are not parts of one module, one after another. They must be verified modules, one by one.
pub fn join(parts: &[Module]) -> Result<Module, Refusal> {
    let wrong = |i: usize, what: String| Refusal::Step { place: format!("part {}", i + 1), what };
    let [first, ..] = parts else { return Err(wrong(0, "is missing".into())) };
    let shared = |part: &Module| {
        let CacheShape { kv_heads, head_dim, .. } = part.cache;
        format!("T = {}, C = {} and heads {kv_heads} x {head_dim}", part.bounds.t, part.bounds.c)
    };
    for (i, part) in parts.iter().enumerate() {
        match (i, part.input(HIDDEN)) {
            (0, Some(_)) => {
                return Err(wrong(i, "is given the hidden state of a part before it, and there is none".into()));
            }
            (1.., None) => return Err(wrong(i, "is not given the hidden state of the part before it".into())),
            _ => {}
        }
        if shared(part) != shared(first) {
            return Err(wrong(i, format!("has {}, not those of the first", shared(part))));
        }
    }
    let bounds = Sizes { r: parts.iter().map(|part| part.bounds.r).max().unwrap_or(0), ..first.bounds };
    let layers = parts.iter().map(|part| part.cache.layers).sum();
    let cache = CacheShape { layers, ..first.cache };
    let mut copying = Copying::new(Module::new(&first.name, first.stage.clone(), bounds, cache));
    inputs(&mut copying, parts);

    let (mut shift, mut outputs) = (0, Vec::new());
    // What the parts so far make of nothing but inputs and weights.
    let mut outer: HashMap<String, NodeId> = HashMap::new();
    for (i, part) in parts.iter().enumerate() {
        let (mut from, mut made_here) = (From::new(part, shift), Vec::new());
        // Nodes that are not made anew of what an earlier part has.
        let mut own = vec![false; part.nodes.len()];
        for (id, node) in part.iter() {
            let made = if node.op == Op::Input {
                own[id.0 as usize] = node.name == HIDDEN;
                let module = copying.to.module();
                let found = if node.name == HIDDEN { handed_on(module, &outputs) } else { module.input(&node.name) };
                let found = found.filter(|made| module.node(*made).ty == node.ty);
                found.ok_or_else(|| wrong(i, format!("%{} is {}, and there is none such", node.name, node.ty)))?
            } else {
                let args = copying.operands(&from, id)?;
                let reads = |arg: &Operand| match arg {
                    Operand::Node(read) => own[read.0 as usize],
                    Operand::Weight(_) => false,
                    Operand::Cache(_) => true,
                };
                own[id.0 as usize] = node.layer.is_some() || node.args.iter().any(reads);
                let key = (!own[id.0 as usize]).then(|| format!("{:?} {args:?}", node.op));
                let made = match key.as_ref().and_then(|key| outer.get(key)) {
                    Some(&known) => known,
                    None => copying.node(&from, id, args)?,
                };
                made_here.extend(key.map(|key| (key, made)));
                made
            };
            from.map[id.0 as usize] = Some(made);
        }
        for (key, made) in made_here {
            outer.entry(key).or_insert(made);
        }
        outputs = part.outputs.iter().filter_map(|id| from.map[id.0 as usize]).collect();
        shift += i64::from(part.cache.layers);
    }
    copying.finish(outputs)
}

/// Declares the inputs of all parts, each once.
fn inputs(copying: &mut Copying, parts: &[Module]) {
    for node in parts.iter().flat_map(|part| &part.nodes).filter(|node| node.op == Op::Input && node.name != HIDDEN) {
        if copying.to.module().input(&node.name).is_none() {
            copying.to.input(&node.name, node.ty.clone());
        }
    }
}

/// What the part before hands on: its one output.
fn handed_on(module: &Module, outputs: &[NodeId]) -> Option<NodeId> {
    match outputs {
        [hidden] if module.node(*hidden).op != Op::Input => Some(*hidden),
        _ => None,
    }
}
