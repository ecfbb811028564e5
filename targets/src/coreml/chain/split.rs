//! One module into parts.

use std::ops::Range;

use diffulex_compiler::ir::{CacheShape, DType, Dim, Module, NodeId, Op, Operand, Sizes};

use super::ranges::ranges;
use super::{Copying, From, HIDDEN};
use crate::refusal::Refusal;

/// The module in `parts`, of some layers each, with about as many bytes of weights in each: the first with the table,
/// the last with the head. Layers and caches of a part are counted from 0; weights keep their names.
///
/// # Errors
/// When there are fewer layers than parts, or a layer is given more than the hidden state by those before it.
pub fn split(module: &Module, parts: u32) -> Result<Vec<Module>, Refusal> {
    if parts == 1 {
        return Ok(vec![module.clone()]);
    }
    let layers = module.cache.layers;
    if parts == 0 || parts > layers {
        let what = format!("{parts} parts of {layers} layers; each part has one layer at least");
        let nearest = parts.clamp(1, layers.max(1)).to_string();
        return Err(Refusal::Shapes { place: "parts".into(), what, nearest });
    }
    for node in &module.nodes {
        let other = |arg: &Operand| matches!(arg, Operand::Cache(cache) if Some(cache.layer) != node.layer);
        if node.layer.is_some_and(|layer| layer >= layers) || node.args.iter().any(other) {
            return Err(Refusal::Step { place: node.place(), what: "lies in another layer than its cache".into() });
        }
    }
    ranges(module, parts as usize).into_iter().map(|layers| part(module, layers)).collect()
}

/// The part that has these layers.
fn part(module: &Module, layers: Range<u32>) -> Result<Module, Refusal> {
    let (first, last) = (layers.start == 0, layers.end == module.cache.layers);
    let given = if first { None } else { Some(hidden_after(module, layers.start - 1)?) };
    let outputs = if last { module.outputs.clone() } else { vec![hidden_after(module, layers.end - 1)?] };
    let needed = needed(module, &layers, given, &outputs);
    // A part of a step that chooses rows is the one that reads them; else the last.
    let wanted = |id: NodeId| {
        let node = module.node(id);
        let kept = node.op == Op::Input && if node.name == "rows" { last } else { first };
        (needed[id.0 as usize] || kept) && Some(id) != given
    };
    let rows = module.input("rows").is_some_and(wanted);
    let bounds = Sizes { r: if rows { module.bounds.r } else { 0 }, ..module.bounds };
    let cache = CacheShape { layers: layers.end - layers.start, ..module.cache };
    let mut copying = Copying::new(Module::new(&module.name, module.stage.clone(), bounds, cache));
    let mut from = From::new(module, -i64::from(layers.start));
    if let Some(id) = given {
        from.map[id.0 as usize] = Some(copying.to.input(HIDDEN, module.node(id).ty.clone()));
    }
    for (id, node) in module.iter().filter(|(id, _)| wanted(*id)) {
        let made = if node.op == Op::Input {
            copying.to.input(&node.name, node.ty.clone())
        } else {
            let args = copying.operands(&from, id)?;
            copying.node(&from, id, args)?
        };
        from.map[id.0 as usize] = Some(made);
    }
    let missing = || Refusal::Step { place: "return".into(), what: "is made in another part".into() };
    let outputs = outputs.iter().map(|id| from.map[id.0 as usize]).collect::<Option<Vec<NodeId>>>();
    copying.finish(outputs.ok_or_else(missing)?)
}

/// The value that a layer hands on: its last.
fn hidden_after(module: &Module, layer: u32) -> Result<NodeId, Refusal> {
    let found = module.iter().rfind(|(_, node)| node.layer == Some(layer));
    let fits = |shape: &[Dim]| matches!(shape, [one, Dim::T, h] if *one == Dim::fixed(1) && h.known().is_some());
    match found {
        Some((id, node)) if fits(&node.ty.shape) && node.ty.dtype == DType::F32 => Ok(id),
        Some((_, node)) => {
            let what = format!("is {}, and only f32[1, T, H] can be handed to another part", node.ty);
            Err(Refusal::Step { place: node.place(), what })
        }
        None => Err(Refusal::Step { place: format!("layers.{layer}"), what: "has no node".into() }),
    }
}

/// The nodes of these layers, the outputs, and what they are made of: outside all layers, up to the hidden state.
fn needed(module: &Module, layers: &Range<u32>, given: Option<NodeId>, outputs: &[NodeId]) -> Vec<bool> {
    let own = |layer: Option<u32>| layer.is_some_and(|layer| layers.contains(&layer));
    let mut needed: Vec<bool> = module.nodes.iter().map(|node| own(node.layer)).collect();
    outputs.iter().for_each(|id| needed[id.0 as usize] = true);
    for (id, node) in module.iter().rev().filter(|(id, _)| Some(*id) != given) {
        if !needed[id.0 as usize] {
            continue;
        }
        for arg in &node.args {
            // A value of another layer stays out, and is missed by name.
            if let Operand::Node(read) = arg
                && module.node(*read).layer.is_none_or(|layer| layers.contains(&layer))
            {
                needed[read.0 as usize] = true;
            }
        }
    }
    needed
}
