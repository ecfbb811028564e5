//! The rules that every module keeps. They are checked after every pass and after every reading; a module that breaks
//! one after a pass is a bug of ours.
//!
//! * **Order**: inputs come first and read nothing; operands come before their users; there is an output, and outputs
//!   exist.
//! * **Types**: each node has the type that `infer` gives for its operands; each operand is of a kind its op takes:
//!   table, gain and matrix of a linear are weights, never values. Numbers in attributes are finite.
//! * **Bounds**: T and C are at least 1 and at most 2^24, R is at most T. R is set exactly when an input `rows` exists,
//!   and types speak of R only then.
//! * **Weights**: names are unique; no axis is 0; a weight has at most 2^40 numbers. Expressions are at most 16 deep,
//!   join at least one part, hold finite numbers, and make rotary tables only with an even number of columns.
//!   A weight has a grid exactly when its encoding has one scale for the whole tensor, and then one that exists.
//! * **Caches**: there are at most 1024 layers; each has exactly one `cached $k` and one `cached $v`, with rows of the
//!   declared shape.
//! * **Names**: letters, digits, `_`, `-`, `.`, but no `..`: of the module, its target, weights, stored tensors, nodes
//!   and sections (where `_` alone is none). Nodes have unique names within a layer and outside the layers.
//! * **Layers**: numbers are below 1024, inputs stand outside; nodes of a layer stand together, layers ascend. A layer
//!   hands on one value, its last; from then on that value hides an earlier one of the same name outside the layers.
//!   So every operand and every output is the value that its name stands for at that point.
//! * **Stage**: an imported module has stored weights only; sections stand inside layers only.

use std::collections::{HashMap, HashSet};

use super::graph::{CacheKind, MAX_LAYERS, Module, Node, NodeId, Operand, Stage};
use super::infer::infer;
use super::op::Op;
use super::types::ValueType;
use super::weights::WeightExpr;

/// Most numbers of a weight.
const MAX_NUMBERS: u64 = 1 << 40;

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
        if !well_named(&node.name) || node.section.as_ref().is_some_and(|s| !well_named(s) || s == "_") {
            return at("names", "the name, or that of the section, has signs that a name cannot have".into());
        }
        if !names.insert((node.layer, &node.name)) {
            return at("names", "the name is taken".into());
        }
        if node.section.is_some() && node.layer.is_none() {
            return at("stage", "a section outside all layers".into());
        }
    }
    if module.outputs.is_empty() {
        return Err(broken("order", "return", "there is no output"));
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
    let target = match &module.stage {
        Stage::Legal(target) | Stage::Read(target) => Some(target),
        Stage::Imported | Stage::Fused | Stage::Quantized => None,
    };
    if let Some(name) = [Some(&module.name), target].into_iter().flatten().find(|name| !well_named(name)) {
        return Err(broken("names", "module", format!("`{name}` is not a name")));
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
    if let Some(node) = module.nodes.iter().find(|n| sizes.r == 0 && n.ty.shape.iter().any(|d| d.r > 0)) {
        return Err(broken("bounds", node.place(), format!("is {}, but there is no R", node.ty)));
    }
    Ok(())
}

fn weights(module: &Module) -> Result<(), VerifyError> {
    let mut names = HashSet::new();
    for weight in &module.weights {
        let at = |rule, what: &str| Err(broken(rule, format!("@{}", weight.name), what));
        if !well_named(&weight.name) || !weight.expr.stored().into_iter().all(well_named) {
            return at("names", "the name, or that of a stored tensor, has signs that a name cannot have");
        }
        if !names.insert(&weight.name) {
            return at("weights", "the name is taken");
        }
        if weight.ty.shape.is_empty() || weight.ty.shape.contains(&0) {
            return at("weights", "an axis of 0, or no axis at all");
        }
        let numbers = weight.ty.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(u64::from(n)));
        if numbers.is_none_or(|n| n > MAX_NUMBERS) {
            return at("weights", "too many numbers");
        }
        if let Err(what) = weight.expr.check(&weight.ty.shape) {
            return at("weights", &what);
        }
        if weight.grid.map(|grid| grid.ty) != weight.ty.encoding.grid() {
            return at("weights", &format!("{} and its grid do not go together", weight.ty.encoding));
        }
        if let Some(Err(what)) = weight.grid.map(|grid| grid.check()) {
            return at("weights", &what);
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
    if node.op == Op::Input && !node.args.is_empty() {
        return Err(("order", "an input reads nothing".into()));
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
    if module.cache.layers > MAX_LAYERS {
        return Err(broken("caches", "cache", format!("there are at most {MAX_LAYERS} layers")));
    }
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
        if node.layer.is_some_and(|layer| layer >= MAX_LAYERS || node.op == Op::Input) {
            return fail(format!("an input in a layer, or a number above {}", MAX_LAYERS - 1));
        }
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
        let known = if layer.is_some() { &mut inner } else { &mut outer };
        known.insert(&node.name, id);
    }
    if let (Some(_), Some(last)) = (layer, module.nodes.len().checked_sub(1)) {
        outer.insert(&module.nodes[last].name, NodeId(last as u32));
    }
    match module.outputs.iter().find(|id| outer.get(module.node(**id).name.as_str()) != Some(id)) {
        Some(id) => Err(broken("layers", module.node(*id).place(), "its layer does not hand this output on")),
        None => Ok(()),
    }
}

/// Whether something may be called so: letters, digits, `_`, `-` and single `.`.
pub fn well_named(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !name.contains("..")
}
