//! The weights of two modules, number by number: what prompts never touch is compared too.

use rayon::prelude::*;

use diffulex_compiler::ir::{
    Module, Node, Op, Operand, Stage, Weight, WeightError, WeightExpr, WeightSource, WeightType,
};
use diffulex_compiler::quant::{self, Encoded};

use super::Check;

/// Numbers that are decoded at a time.
const CHUNK: usize = 1 << 18;

/// Compares each weight of `other` with what it stands for in the source, each as its encoding keeps it: they must be
/// equal to the bit. That is the weight of the same name; for the second copy of a tied table the table, for a gain that
/// took the scale of attention the two together, for the tables of the rotation their formula. There may be no bias that
/// the source has not, and no other eps.
///
/// # Errors
/// When the numbers of a weight cannot be had.
pub fn compare(
    (source, numbers): (&Module, &dyn WeightSource),
    (other, others): (&Module, &dyn WeightSource),
) -> Result<Check, WeightError> {
    let found: Vec<(Weight, &Weight)> =
        other.weights.iter().filter_map(|w| Some((on_grid_of(w, origin(source, w)?), w))).collect();
    // What was read from an artifact is rounded already; what stands in memory would be when it is written.
    let stored = matches!(other.stage, Stage::Read(_));
    let differences: Vec<Option<String>> =
        found.par_iter().map(|(a, b)| difference((a, numbers), (b, others), stored)).collect::<Result<_, _>>()?;
    let first =
        differences.into_iter().flatten().next().or_else(|| added(source, other)).or_else(|| eps(source, other));
    let compared = found.len();
    Ok(Check::Weights { compared, of: other.weights.len(), passed: first.is_none() && compared > 0, difference: first })
}

/// A weight of the source as it is stored where `stored` is, if that is on a grid.
fn on_grid_of(stored: &Weight, weight: Weight) -> Weight {
    match stored.grid {
        None => weight,
        grid => {
            let ty = WeightType::new(stored.ty.encoding, weight.ty.shape);
            Weight { ty, grid, ..weight }
        }
    }
}

/// A bias that the source has not.
fn added(source: &Module, other: &Module) -> Option<String> {
    let bias = |node: &Node| match (&node.op, node.args.as_slice()) {
        (Op::Linear, [_, _, Operand::Weight(bias)]) => Some(*bias),
        _ => None,
    };
    let biases = other.nodes.iter().filter_map(bias).map(|id| other.weight(id));
    let unknown = biases.into_iter().find(|bias| origin(source, bias).is_none())?;
    Some(format!("`{}` is added to a product that has no bias in the source", unknown.name))
}

/// The eps of a norm that is another one in the source.
fn eps(source: &Module, other: &Module) -> Option<String> {
    let all = |module: &Module| {
        let eps = |node: &Node| if let Op::RmsNorm { eps } = node.op { Some(eps) } else { None };
        module.nodes.iter().filter_map(eps).collect::<Vec<f32>>()
    };
    let (mut source, other) = (all(source), all(other));
    source.dedup();
    let wrong = other.into_iter().find(|eps| !source.contains(eps))?;
    Some(format!("a norm has eps {wrong:e} instead of {:e}", source.first()?))
}

/// What a weight stands for in the source.
fn origin(source: &Module, weight: &Weight) -> Option<Weight> {
    let named = |name: &str| source.weight_id(name).map(|id| source.weight(id).clone());
    let formula = |expr| Some(Weight { expr, ..weight.clone() });
    let theta = || {
        let computed = |n: &Node| if let Op::RopeCos { theta, .. } = n.op { Some(theta) } else { None };
        let tabled = |w: &Weight| if let WeightExpr::RopeCos(theta) = w.expr { Some(theta) } else { None };
        source.nodes.iter().find_map(computed).or_else(|| source.weights.iter().find_map(tabled))
    };
    let scale =
        || source.nodes.iter().find_map(|n| if let Op::Attention { scale } = n.op { Some(scale) } else { None });
    match (weight.name.as_str(), weight.name.rsplit_once('.')) {
        ("rope.cos", _) => formula(WeightExpr::RopeCos(theta()?)),
        ("rope.sin", _) => formula(WeightExpr::RopeSin(theta()?)),
        (name, Some((gain, "scaled"))) => match named(name) {
            None => formula(WeightExpr::Scale(Box::new(named(gain)?.expr), scale()?)),
            known => known,
        },
        // A reader numbers names that occur again.
        (name, Some((table, number))) if number.parse::<u32>().is_ok() => named(name).or_else(|| named(table)),
        (name, _) => named(name),
    }
}

/// The first number that differs, in words; `stored` says that those of `b` are as its encoding keeps them.
fn difference(
    (a, numbers): (&Weight, &dyn WeightSource),
    (b, others): (&Weight, &dyn WeightSource),
    stored: bool,
) -> Result<Option<String>, WeightError> {
    if a.ty.shape != b.ty.shape {
        return Ok(Some(format!("`{}` is {}, not {}", b.name, b.ty, a.ty)));
    }
    let (rows, columns) = (a.ty.rows(), a.ty.columns());
    let step = (CHUNK / columns.max(1)).max(1);
    for start in (0..rows).step_by(step) {
        let range = start..rows.min(start + step);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        a.expr.rows(numbers, columns, range.clone(), &mut x)?;
        b.expr.rows(others, columns, range, &mut y)?;
        let (x, y) = (kept(a, &x), if stored { y } else { kept(b, &y) });
        if let Some(at) = x.iter().zip(&y).position(|(x, y)| x.to_bits() != y.to_bits()) {
            let (row, column) = (start + at / columns, at % columns);
            return Ok(Some(format!("`{}`, row {row}, column {column}: {} instead of {}", b.name, y[at], x[at])));
        }
    }
    Ok(None)
}

/// The numbers as a weight keeps them; what it cannot keep stays as it is, and differs.
fn kept(weight: &Weight, numbers: &[f32]) -> Vec<f32> {
    let (encoding, columns) = (weight.ty.encoding, weight.ty.columns());
    let (mut rows, mut kept) = (Encoded { grid: weight.grid, ..Encoded::default() }, Vec::new());
    match quant::encode(encoding, weight.search, columns, numbers, &mut rows) {
        Ok(()) => rows.rows(encoding, columns).decode(&mut kept),
        Err(_) => kept.extend_from_slice(numbers),
    }
    kept
}
