//! The ends of a weight's numbers.

use diffulex_compiler::ir::{Encoding, Weight, WeightError, WeightSource, WeightType};
use diffulex_compiler::quant::{Encoded, Search};
use rayon::prelude::*;

/// Numbers looked at together, about.
const CHUNK: usize = 1 << 18;

/// The smallest and the largest number of a weight before it is rounded to its encoding. All cores look at some rows
/// each and give them back, so that little of the weight is in memory at any time. A weight without numbers has 0.
///
/// # Errors
/// When the numbers cannot be had, or one is not finite.
pub fn weight_range(weight: &Weight, source: &dyn WeightSource) -> Result<(f32, f32), WeightError> {
    let exact = Weight {
        ty: WeightType { encoding: Encoding::F32, ..weight.ty.clone() },
        search: Search::Max,
        ..weight.clone()
    };
    let (rows, columns) = (exact.ty.rows(), exact.ty.columns());
    let step = (CHUNK / columns.max(1)).max(1);
    let ends = (0..rows).into_par_iter().step_by(step).map_init(Default::default, |(numbers, encoded), start| {
        let range = start..rows.min(start + step);
        let encoded: &mut Encoded = encoded;
        exact.encode(source, range.clone(), numbers, encoded)?;
        // Reading brings back some of the pages before.
        exact.expr.release(source, columns, start.saturating_sub(step)..range.end);
        Ok(ends(numbers))
    });
    let both = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
    let (low, high) = ends.try_reduce(|| NOTHING, |a, b| Ok(both(a, b)))?;
    if low <= high { Ok((low + 0.0, high + 0.0)) } else { Ok((0.0, 0.0)) }
}

const NOTHING: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);

fn ends(numbers: &[f32]) -> (f32, f32) {
    numbers.iter().fold(NOTHING, |(low, high), &x| (low.min(x), high.max(x)))
}
