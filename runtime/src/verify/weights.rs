//! The matrices of two modules, number by number: what prompts never touch is compared too.

use rayon::prelude::*;

use diffulex_compiler::ir::{Encoding, Module, Weight, WeightError, WeightSource};
use diffulex_compiler::quant;

use super::Check;

/// Numbers that are decoded at a time.
const CHUNK: usize = 1 << 18;

/// Compares the matrices that both modules have under the same name, each as its encoding keeps it. They must be equal
/// to the bit.
///
/// # Errors
/// When the numbers of a weight cannot be had.
pub fn compare(
    (source, numbers): (&Module, &dyn WeightSource),
    (other, others): (&Module, &dyn WeightSource),
) -> Result<Check, WeightError> {
    let matrices: Vec<&Weight> = other.weights.iter().filter(|w| w.ty.shape.len() > 1).collect();
    let pair = |w: &&Weight| source.weight_id(&w.name).map(|id| source.weight(id));
    let found: Vec<(&Weight, &Weight)> = matrices.iter().filter_map(|w| Some((pair(w)?, *w))).collect();
    let differences: Vec<Option<String>> =
        found.par_iter().map(|(a, b)| difference(a, numbers, b, others)).collect::<Result<_, _>>()?;
    let (compared, first) = (found.len(), differences.into_iter().flatten().next());
    Ok(Check::Weights { compared, of: matrices.len(), passed: first.is_none() && compared > 0, difference: first })
}

/// The first number that differs, in words.
fn difference(
    a: &Weight,
    numbers: &dyn WeightSource,
    b: &Weight,
    others: &dyn WeightSource,
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
        let (x, y) = (kept(a.ty.encoding, &x), kept(b.ty.encoding, &y));
        if let Some(at) = x.iter().zip(&y).position(|(x, y)| x.to_bits() != y.to_bits()) {
            let (row, column) = (start + at / columns, at % columns);
            return Ok(Some(format!("`{}`, row {row}, column {column}: {} instead of {}", b.name, y[at], x[at])));
        }
    }
    Ok(None)
}

/// The numbers as an encoding keeps them; what it cannot keep stays as it is, and differs.
fn kept(encoding: Encoding, numbers: &[f32]) -> Vec<f32> {
    let (mut bytes, mut kept) = (Vec::new(), Vec::new());
    match quant::encode(encoding, numbers, &mut bytes) {
        Ok(()) => quant::decode(encoding, &bytes, &mut kept),
        Err(_) => kept.extend_from_slice(numbers),
    }
    kept
}
