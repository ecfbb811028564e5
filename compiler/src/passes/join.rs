//! Joining several linears over one value into one: shared by `fuse-qkv` and `fuse-gate-up`.

use super::rewrite::Rewriter;
use crate::ir::build::BuildError;
use crate::ir::{Module, NodeId, Op, Operand, Weight, WeightExpr, WeightId, WeightType};

/// Why these linears cannot become one; `None` when they can.
pub(super) fn reason_against(module: &Module, linears: &[NodeId]) -> Option<String> {
    if linears.len() < 2 {
        return Some("no other linear reads the same value".into());
    }
    let first = module.node(linears[0]);
    for &other in &linears[1..] {
        let other = module.node(other);
        if other.layer != first.layer {
            return Some("they stand in different layers".into());
        }
        if other.args.len() != first.args.len() {
            return Some("one has a bias and another has none".into());
        }
        for i in 1..first.args.len() {
            let (Some(a), Some(b)) = (weight(module, first.args[i]), weight(module, other.args[i])) else {
                return Some("a weight is computed by the graph".into());
            };
            if a.ty.encoding != b.ty.encoding {
                return Some(format!("`{}` is {} but `{}` is {}", a.name, a.ty.encoding, b.name, b.ty.encoding));
            }
        }
    }
    None
}

/// The joined linear.
pub(super) fn linear(rewriter: &mut Rewriter<'_>, linears: &[NodeId]) -> Result<NodeId, BuildError> {
    let module = rewriter.old;
    let first = module.node(linears[0]);
    let mut args = vec![rewriter.operand(first.args[0])?];
    for i in 1..first.args.len() {
        let parts: Vec<&Weight> = linears.iter().filter_map(|&id| weight(module, module.node(id).args[i])).collect();
        args.push(Operand::Weight(rows(rewriter, &parts)?));
    }
    let names: Vec<&str> = linears.iter().map(|&id| module.node(id).name.as_str()).collect();
    let separator = if names.iter().all(|n| n.len() == 1) { "" } else { "_" };
    rewriter.new.node(&names.join(separator), Op::Linear, args)
}

/// The part of the joined linear that `member` made.
pub(super) fn slice(
    rewriter: &mut Rewriter<'_>,
    whole: NodeId,
    linears: &[NodeId],
    member: NodeId,
) -> Result<NodeId, BuildError> {
    let module = rewriter.old;
    let width = |id: NodeId| module.node(id).ty.width().unwrap_or(0);
    let start: u32 = linears.iter().take_while(|&&id| id != member).map(|&id| width(id)).sum();
    let axis = module.node(member).ty.shape.len() as u32 - 1;
    let op = Op::Slice { axis, start, end: start + width(member) };
    rewriter.new.node(&module.node(member).name, op, [whole.into()])
}

/// A weight with the rows of all `parts`, named after them.
fn rows(rewriter: &mut Rewriter<'_>, parts: &[&Weight]) -> Result<WeightId, BuildError> {
    let bias = parts.iter().all(|w| w.name.ends_with(".bias"));
    let names: Vec<&str> = parts.iter().map(|w| w.name.strip_suffix(".bias").unwrap_or(&w.name)).collect();
    let name = format!("{}{}", joined_name(&names), if bias { ".bias" } else { "" });
    let mut shape = parts[0].ty.shape.clone();
    shape[0] = parts.iter().map(|w| w.ty.shape[0]).sum();
    let expr = WeightExpr::Rows(parts.iter().map(|w| w.expr.clone()).collect());
    rewriter.new.weight(&name, WeightType::new(parts[0].ty.encoding, shape), expr)
}

/// `a.q_proj`, `a.k_proj`, `a.v_proj` → `a.qkv_proj`; `gate_proj`, `up_proj` → `gate_up_proj`.
fn joined_name(names: &[&str]) -> String {
    let start = names[0].rfind('.').map_or(0, |dot| dot + 1);
    let stem = |name: &str| {
        let local = &name[name.rfind('.').map_or(0, |dot| dot + 1)..];
        local.strip_suffix("_proj").unwrap_or(local).to_string()
    };
    let stems: Vec<String> = names.iter().map(|n| stem(n)).collect();
    let separator = if stems.iter().all(|s| s.len() == 1) { "" } else { "_" };
    format!("{}{}_proj", &names[0][..start], stems.join(separator))
}

fn weight(module: &Module, operand: Operand) -> Option<&Weight> {
    match operand {
        Operand::Weight(id) => Some(module.weight(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::joined_name;

    #[test]
    fn joined_names() {
        let qkv = ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj"];
        assert_eq!(joined_name(&qkv), "layers.0.self_attn.qkv_proj");
        assert_eq!(joined_name(&["mlp.gate_proj", "mlp.up_proj"]), "mlp.gate_up_proj");
    }
}
