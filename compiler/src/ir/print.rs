//! The printed form of a module: made to be read, compared and parsed back.
//!
//! One node a line, names instead of numbers, types in a fixed column, identical layers printed once
//! (`layers.{i} for i in 0..28 carry %x`, split into ranges where they differ). A layer hands one value to the next:
//! its last node, printed as `next OP …` and known to the next layer, and to what follows, by the name after `carry`.

use std::collections::HashSet;
use std::fmt::Write;

use super::graph::{CacheId, MAX_LAYERS, Module, Node, Operand, Weight};
use super::op::Op;
use super::types::write_list;
use super::weights::WeightExpr;
use crate::quant::{Grid, Search};

/// Column of the colon before the type of a node.
const NODE_TYPE: usize = 76;
/// Column of the colon before the type of a weight.
const WEIGHT_TYPE: usize = 46;

/// The printed form. [`super::parse()`] reads it back.
pub fn print(module: &Module) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_module(&mut out, module);
    out
}

fn write_module(out: &mut String, module: &Module) -> std::fmt::Result {
    let scope = Scope { module, weights: module.weights.iter().map(|w| w.name.as_str()).collect() };
    writeln!(out, "module {:?} stage {}", module.name, module.stage.name())?;
    write!(out, "dims T = {}, C = {}", module.bounds.t, module.bounds.c)?;
    if module.bounds.r > 0 {
        write!(out, ", R = {}", module.bounds.r)?;
    }
    out.push_str("\n\nweights {\n");
    write_weights(out, module)?;
    out.push_str("}\n\n");
    writeln!(out, "cache k, v : {} for layers.{{i}} in 0..{}\n", module.cache.ty(), module.cache.layers)?;

    out.push_str("graph step(");
    let inputs = module.nodes.iter().take_while(|n| n.op == Op::Input);
    for (i, input) in inputs.clone().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        write!(out, "{separator}%{}: {}", input.name, input.ty)?;
    }
    out.push_str(") {\n");
    write_nodes(out, &scope, &module.nodes[inputs.count()..])?;
    out.push_str("  return ");
    for (i, id) in module.outputs.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        write!(out, "{separator}%{}", module.node(*id).name)?;
    }
    out.push_str("\n}\n");
    Ok(())
}

/// What operands may name.
struct Scope<'a> {
    module: &'a Module,
    weights: HashSet<&'a str>,
}

fn write_weights(out: &mut String, module: &Module) -> std::fmt::Result {
    let layer_of = |w: &Weight| split_layer(&w.name).map(|(layer, _)| layer);
    for group in module.weights.chunk_by(|a, b| layer_of(a).is_some() && layer_of(b).is_some()) {
        if layer_of(&group[0]).is_none() {
            weight_line(out, "  ", &group[0], None);
            continue;
        }
        let layers = group.chunk_by(|a, b| layer_of(a) == layer_of(b)).map(|weights| {
            let layer = layer_of(&weights[0]).unwrap_or_default();
            let mut text = String::new();
            weights.iter().for_each(|w| weight_line(&mut text, "    ", w, Some(layer)));
            (layer, text)
        });
        for (from, to, text) in runs(layers) {
            writeln!(out, "  layers.{{i}} for i in {from}..{to} {{\n{text}  }}")?;
        }
    }
    Ok(())
}

fn weight_line(out: &mut String, indent: &str, weight: &Weight, layer: Option<u32>) {
    let name = split_layer(&weight.name).map_or(weight.name.as_str(), |(_, local)| local);
    let start = format!("{indent}{name}");
    let _ = write!(out, "{start:WEIGHT_TYPE$}: {}", weight.ty);
    if weight.search != Search::Max {
        let _ = write!(out, " by {}", weight.search);
    }
    if let Some(grid) = &weight.grid {
        let _ = write!(out, " on {{{}}}", grid_text(grid));
    }
    if weight.expr != WeightExpr::Stored(weight.name.clone()) {
        out.push_str(" = ");
        write_expr(out, &weight.expr, layer);
    }
    out.push('\n');
}

fn write_expr(out: &mut String, expr: &WeightExpr, layer: Option<u32>) {
    match expr {
        WeightExpr::Stored(name) => match (split_layer(name), layer) {
            (Some((of, local)), Some(here)) if of == here => out.push_str(local),
            (_, Some(_)) => out.extend(["/", name]),
            (_, None) => out.push_str(name),
        },
        WeightExpr::Rows(parts) => {
            out.push_str("rows(");
            for (i, part) in parts.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_expr(out, part, layer);
            }
            out.push(')');
        }
        WeightExpr::Scale(inner, factor) => {
            out.push_str("scale(");
            write_expr(out, inner, layer);
            out.extend([", ", &number(factor), ")"]);
        }
        WeightExpr::Fill(value) => out.extend(["fill(", &number(value), ")"]),
        WeightExpr::RopeCos(theta) => out.extend(["rope_cos(", &number(theta), ")"]),
        WeightExpr::RopeSin(theta) => out.extend(["rope_sin(", &number(theta), ")"]),
    }
}

fn write_nodes(out: &mut String, scope: &Scope<'_>, nodes: &[Node]) -> std::fmt::Result {
    for group in nodes.chunk_by(|a, b| a.layer.is_some() && b.layer.is_some()) {
        if group[0].layer.is_none() {
            node_line(out, scope, "  ", &group[0], false);
            continue;
        }
        let layers = group.chunk_by(|a, b| a.layer == b.layer).map(|nodes| {
            let carry = &nodes[nodes.len() - 1].name;
            let mut text = format!("carry %{carry} {{\n");
            let mut section = &None;
            for (i, node) in nodes.iter().enumerate() {
                if node.section != *section {
                    section = &node.section;
                    let _ = writeln!(text, "    {}:", section.as_deref().unwrap_or("_"));
                }
                node_line(&mut text, scope, "    ", node, i + 1 == nodes.len());
            }
            (nodes[0].layer.unwrap_or_default(), text)
        });
        out.push('\n');
        for (from, to, text) in runs(layers) {
            writeln!(out, "  layers.{{i}} for i in {from}..{to} {text}  }}\n")?;
        }
    }
    Ok(())
}

fn node_line(out: &mut String, scope: &Scope<'_>, indent: &str, node: &Node, next: bool) {
    let start = if next { "next".to_string() } else { format!("%{} =", node.name) };
    let mut line = format!("{indent}{start} {}", node.op.name());
    for (i, arg) in node.args.iter().enumerate() {
        line.push_str(if i == 0 { " " } else { ", " });
        write_operand(&mut line, scope, node.layer, *arg);
    }
    write_attributes(&mut line, &node.op);
    let width = NODE_TYPE.max(line.len() + 1);
    let _ = writeln!(out, "{line:width$}: {}", node.ty);
}

/// Inside a layer the layer's own weights and caches are known by their short names; another weight that such a name
/// would hide is written `@/name`.
fn write_operand(line: &mut String, scope: &Scope<'_>, layer: Option<u32>, operand: Operand) {
    let _ = match operand {
        Operand::Node(id) => write!(line, "%{}", scope.module.node(id).name),
        Operand::Cache(CacheId { layer: of, kind }) if Some(of) == layer => write!(line, "${}", kind.name()),
        Operand::Cache(cache) => write!(line, "${cache}"),
        Operand::Weight(id) => {
            let name = scope.module.weight(id).name.as_str();
            let hidden = |layer: u32| scope.weights.contains(format!("layers.{layer}.{name}").as_str());
            match (split_layer(name), layer) {
                (Some((of, local)), Some(here)) if of == here => write!(line, "@{local}"),
                (_, Some(here)) if hidden(here) => write!(line, "@/{name}"),
                _ => write!(line, "@{name}"),
            }
        }
    };
}

fn write_attributes(line: &mut String, op: &Op) {
    let _ = match op {
        Op::RopeCos { dim, theta } | Op::RopeSin { dim, theta } => {
            write!(line, " {{dim = {dim}, theta = {}}}", number(theta))
        }
        Op::RmsNorm { eps } => write!(line, " {{eps = {}}}", number(eps)),
        Op::Heads { n } => write!(line, " {{n = {n}}}"),
        Op::Attention { scale } => write!(line, " {{scale = {}}}", number(scale)),
        Op::Matmul { transpose } => write!(line, " {{transpose = {transpose}}}"),
        Op::Reshape { shape } => {
            line.push_str(" {shape = [");
            let _ = write_list(line, shape);
            write!(line, "]}}")
        }
        Op::Transpose { perm } => write!(line, " {{perm = {perm:?}}}"),
        Op::Slice { axis, start, end } => write!(line, " {{axis = {axis}, range = {start}..{end}}}"),
        Op::Concat { axis } => write!(line, " {{axis = {axis}}}"),
        Op::Cast { to } => write!(line, " {{to = {to}}}"),
        Op::FakeQuantize(grid) => write!(line, " {{{}}}", grid_text(grid)),
        Op::Input
        | Op::Embed
        | Op::Linear
        | Op::MergeHeads
        | Op::Rope
        | Op::Cached
        | Op::Silu
        | Op::Int8Token
        | Op::Swiglu
        | Op::GatherRows
        | Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Neg
        | Op::Square
        | Op::Rsqrt
        | Op::Sigmoid
        | Op::Softmax
        | Op::Mean => Ok(()),
    };
}

/// `to = uint8, scale = 0.5, zero = 128`
fn grid_text(grid: &Grid) -> String {
    format!("to = {}, scale = {}, zero = {}", grid.ty, number(&grid.scale), grid.zero)
}

/// Joins neighbours with following numbers and the same text: `(first, past the last, text)`.
fn runs(layers: impl Iterator<Item = (u32, String)>) -> Vec<(u32, u32, String)> {
    let mut runs: Vec<(u32, u32, String)> = Vec::new();
    for (layer, text) in layers {
        match runs.last_mut() {
            Some((_, to, last)) if *to == layer && *last == text => *to += 1,
            _ => runs.push((layer, layer + 1, text)),
        }
    }
    runs
}

/// `layers.3.mlp.up_proj` → `(3, "mlp.up_proj")`; nothing for numbers that are no layer's.
pub(crate) fn split_layer(name: &str) -> Option<(u32, &str)> {
    let (layer, local) = name.strip_prefix("layers.")?.split_once('.')?;
    let canonical = layer == "0" || !layer.starts_with(['0', '+']);
    let layer = layer.parse().ok().filter(|layer| *layer < MAX_LAYERS)?;
    (canonical && !local.is_empty()).then_some((layer, local))
}

/// The shorter of `1000000` and `1e6`; both read back as the same number.
fn number<T: std::fmt::Display + std::fmt::LowerExp>(x: &T) -> String {
    let (plain, exponent) = (format!("{x}"), format!("{x:e}"));
    if exponent.len() < plain.len() { exponent } else { plain }
}
