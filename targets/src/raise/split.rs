//! Filters that were split by their rows, because there are limits to what a device takes: one filter again.

use diffulex_compiler::ir::{Module, NodeId, Op, Operand, Weight, WeightExpr, WeightId, WeightType};

/// Marks the name of a part; the row that it begins with follows.
pub(crate) const PART: &str = ".rows_";

/// Makes one `linear` of each concatenation of `linear`s that are given the same value.
pub(super) fn join(module: &mut Module) {
    for id in (0..module.nodes.len() as u32).map(NodeId) {
        if let Some((x, filters, biases)) = parts(module, id) {
            let mut args = vec![x, joined(module, &filters)];
            if !biases.is_empty() {
                args.push(joined(module, &biases));
            }
            let node = &mut module.nodes[id.0 as usize];
            (node.op, node.args) = (Op::Linear, args);
        }
    }
}

/// What all parts are given, their filters, and their biases where all have one.
fn parts(module: &Module, id: NodeId) -> Option<(Operand, Vec<WeightId>, Vec<WeightId>)> {
    let node = module.node(id);
    let Op::Concat { axis } = node.op else { return None };
    if axis as usize + 1 != node.ty.shape.len() {
        return None;
    }
    let (mut given, mut filters, mut biases) = (None, Vec::new(), Vec::new());
    for arg in &node.args {
        let Operand::Node(part) = arg else { return None };
        let part = module.node(*part);
        let (Op::Linear, [x, Operand::Weight(filter), bias @ ..]) = (&part.op, part.args.as_slice()) else {
            return None;
        };
        if given.replace(*x).is_some_and(|before| before != *x) {
            return None;
        }
        filters.push(*filter);
        match bias {
            [] => {}
            [Operand::Weight(bias)] => biases.push(*bias),
            _ => return None,
        }
    }
    let alike = |ids: &[WeightId]| {
        let kind = |id: &WeightId| {
            let Weight { ty, search, grid, .. } = module.weight(*id);
            (ty.encoding, ty.shape.get(1..).map(<[u32]>::to_vec), *search, *grid)
        };
        ids.windows(2).all(|pair| kind(&pair[0]) == kind(&pair[1]))
    };
    let all = biases.is_empty() || biases.len() == filters.len();
    (all && filters.len() > 1 && alike(&filters) && alike(&biases)).then_some((given?, filters, biases))
}

/// Adds a weight that consists of others, called after the first.
fn joined(module: &mut Module, parts: &[WeightId]) -> Operand {
    let all: Vec<&Weight> = parts.iter().map(|id| module.weight(*id)).collect();
    let Weight { name, ty, search, grid, .. } = all[0];
    let base = name.rsplit_once(PART).map_or(format!("{name}.joined"), |(name, _)| name.to_string());
    let mut shape = ty.shape.clone();
    shape[0] = all.iter().map(|part| part.ty.shape[0]).sum();
    let expr = WeightExpr::Rows(all.iter().map(|part| part.expr.clone()).collect());
    // A table that is also the head stands there as a whole, too: then a number follows.
    let mut name = base.clone();
    for number in 2.. {
        match module.weight_id(&name) {
            Some(known) if module.weight(known).expr == expr => return Operand::Weight(known),
            Some(_) => name = format!("{base}.{number}"),
            None => break,
        }
    }
    let weight = Weight { name, ty: WeightType::new(ty.encoding, shape), search: *search, grid: *grid, expr };
    module.weights.push(weight);
    Operand::Weight(WeightId(module.weights.len() as u32 - 1))
}
