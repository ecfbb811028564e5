//! The rules that every module keeps. They are checked after every pass and after every reading; a module that breaks
//! one after a pass is a bug of ours.
//!
//! * **Order**: inputs come first; operands come before their users; outputs exist.
//! * **Types**: each node has the type that `infer` gives for its operands; each operand is of a kind its op takes.
//! * **Bounds**: T is at least 1, C at least 1; R is set exactly when an input `rows` exists.
//! * **Weights**: names are unique; no axis is 0; table and gain operands are weights, never values.
//! * **Caches**: each layer has exactly one `cached $k` and one `cached $v`, with rows of the declared shape.
//! * **Names**: letters, digits, `_`, `-`, `.`; unique within a layer and outside the layers.
//! * **Layers**: nodes of a layer stand together, layers ascend. A layer hands on one value, its last; from then on
//!   that value hides an earlier one of the same name outside the layers. So every operand and every output is the
//!   value that its name stands for at that point.
//! * **Stage**: an imported module has stored weights only; sections stand inside layers only.

use std::collections::{HashMap, HashSet};

use super::graph::{CacheKind, Module, Node, NodeId, Operand, Stage};
use super::infer::infer;
use super::op::Op;
use super::types::ValueType;
use super::weights::WeightExpr;

/// A broken rule: which, where, how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct VerifyError {
    /// The rule, one word of the list above in lower case.
    pub rule: &'static str,
    /// The node, weight or cache.
    pub place: String,
    /// How the rule is broken.
    pub what: String,
}

/// Checks every rule.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(module: &Module) -> Result<(), VerifyError> {
    bounds(module)?;
    weights(module)?;
    let mut names = HashSet::new();
    for (id, node) in module.iter() {
        let at = |rule, what| Err(VerifyError { rule, place: node.place(), what });
        if let Err((rule, what)) = order(module, id, node).and_then(|()| types(module, node)) {
            return at(rule, what);
        }
        if !well_named(&node.name) {
            return at("names", "the name has signs that a name cannot have".into());
        }
        if !names.insert((node.layer, &node.name)) {
            return at("names", "the name is taken".into());
        }
        if node.section.is_some() && node.layer.is_none() {
            return at("stage", "a section outside all layers".into());
        }
    }
    if let Some(id) = module.outputs.iter().find(|id| id.0 as usize >= module.nodes.len()) {
        return Err(broken("order", "return", format!("there is no node {}", id.0)));
    }
    caches(module)?;
    layers(module)
}

fn broken(rule: &'static str, place: impl Into<String>, what: impl Into<String>) -> VerifyError {
    VerifyError { rule, place: place.into(), what: what.into() }
}

fn bounds(module: &Module) -> Result<(), VerifyError> {
    let sizes = module.bounds;
    let fail = |what: &str| Err(broken("bounds", "dims", what));
    if !well_named(&module.name) {
        return Err(broken("names", "module", format!("`{}` is not a name", module.name)));
    }
    if sizes.t == 0 || sizes.c == 0 {
        return fail("T and C are at least 1");
    }
    if (sizes.r > 0) != module.input("rows").is_some() {
        return fail("R is set exactly when there is an input `rows`");
    }
    if sizes.r > sizes.t || sizes.t.max(sizes.c) > 1 << 24 {
        return fail("R is at most T, and neither T nor C exceeds 2^24");
    }
    Ok(())
}

fn weights(module: &Module) -> Result<(), VerifyError> {
    let mut names = HashSet::new();
    for weight in &module.weights {
        let at = |rule, what: &str| Err(broken(rule, format!("@{}", weight.name), what));
        if !well_named(&weight.name) {
            return at("names", "the name has signs that a name cannot have");
        }
        if !names.insert(&weight.name) {
            return at("weights", "the name is taken");
        }
        if weight.ty.shape.is_empty() || weight.ty.shape.contains(&0) {
            return at("weights", "an axis of 0, or no axis at all");
        }
        if module.stage == Stage::Imported && !matches!(weight.expr, WeightExpr::Stored(_)) {
            return at("stage", "an imported weight is a stored tensor");
        }
    }
    Ok(())
}

fn order(module: &Module, id: NodeId, node: &Node) -> Result<(), (&'static str, String)> {
    if node.op == Op::Input && id.0 > 0 && module.node(NodeId(id.0 - 1)).op != Op::Input {
        return Err(("order", "inputs come first".into()));
    }
    for arg in &node.args {
        let known = match arg {
            Operand::Node(arg) => arg < &id,
            Operand::Weight(arg) => (arg.0 as usize) < module.weights.len(),
            Operand::Cache(cache) => cache.layer < module.cache.layers,
        };
        if !known {
            return Err(("order", format!("reads {arg:?}, which does not come before it")));
        }
    }
    Ok(())
}

fn types(module: &Module, node: &Node) -> Result<(), (&'static str, String)> {
    if node.op == Op::Input {
        return Ok(());
    }
    for (i, arg) in node.args.iter().enumerate() {
        let wanted = match (&node.op, i) {
            (Op::Embed | Op::RmsNorm { .. }, 1) | (Op::Linear, 1 | 2) => matches!(arg, Operand::Weight(_)),
            (Op::Cached, 0) => matches!(arg, Operand::Cache(_)),
            (Op::Add | Op::Sub | Op::Mul | Op::Div, _) => !matches!(arg, Operand::Cache(_)),
            _ => matches!(arg, Operand::Node(_)),
        };
        if !wanted {
            return Err(("types", format!("`{}` cannot take {arg:?} as operand {i}", node.op.name())));
        }
    }
    let args: Vec<ValueType> = node.args.iter().map(|&a| module.operand_type(a)).collect();
    match infer(&node.op, &args) {
        Ok(ty) if ty == node.ty => Ok(()),
        Ok(ty) => Err(("types", format!("is declared {} but makes {ty}", node.ty))),
        Err(what) => Err(("types", what)),
    }
}

fn caches(module: &Module) -> Result<(), VerifyError> {
    let mut seen = HashMap::new();
    for node in module.nodes.iter().filter(|n| n.op == Op::Cached) {
        if let Some(Operand::Cache(cache)) = node.args.first() {
            *seen.entry(*cache).or_insert(0) += 1;
        }
    }
    for layer in 0..module.cache.layers {
        for kind in [CacheKind::K, CacheKind::V] {
            let times = seen.get(&super::CacheId { layer, kind }).copied().unwrap_or(0);
            if times != 1 {
                return Err(broken("caches", format!("${}.{layer}", kind.name()), format!("is used {times} times")));
            }
        }
    }
    Ok(())
}

/// Walks the graph as a reader of the printed form does: at every point a name stands for the latest value of that
/// name outside the layers or, first, in the current layer; when a layer ends, only its last value stays known.
fn layers(module: &Module) -> Result<(), VerifyError> {
    let mut outer: HashMap<&str, NodeId> = HashMap::new();
    let mut inner: HashMap<&str, NodeId> = HashMap::new();
    let (mut layer, mut done) = (None, None);
    for (id, node) in module.iter() {
        let fail = |what: String| Err(broken("layers", node.place(), what));
        if node.layer != layer {
            if layer.is_some() {
                done = layer;
                let last = NodeId(id.0 - 1);
                outer.insert(&module.node(last).name, last);
                inner.clear();
            }
            if node.layer.is_some() && node.layer <= done {
                return fail("its layer ended before, or the layers do not ascend".into());
            }
            layer = node.layer;
        }
        for arg in &node.args {
            let Operand::Node(arg) = arg else { continue };
            let read = module.node(*arg);
            if inner.get(read.name.as_str()).or(outer.get(read.name.as_str())) != Some(arg) {
                return fail(format!("reads {}, which is not known by that name here", read.place()));
            }
        }
        if layer.is_some() { inner.insert(&node.name, id) } else { outer.insert(&node.name, id) };
    }
    if let (Some(_), Some(last)) = (layer, module.nodes.len().checked_sub(1)) {
        outer.insert(&module.nodes[last].name, NodeId(last as u32));
    }
    match module.outputs.iter().find(|id| outer.get(module.node(**id).name.as_str()) != Some(id)) {
        Some(id) => Err(broken("layers", module.node(*id).place(), "its layer does not hand this output on")),
        None => Ok(()),
    }
}

fn well_named(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !name.contains("..")
}
