//! Values: how many axes they have, of which sizes, in which precision.

use super::facts::{Facts, is_flexible, shape, sizes, tensor, values_of};
use super::{Found, rules};
use crate::coreml::read::Place;
use crate::coreml::schema::MAX_RANK;
use crate::coreml::schema::program::{Content, DataType, Operation, ValueKind};

/// The smallest number of `fp16` that has all its digits, 2^-14.
const NORMAL: f32 = 1.0 / 16_384.0;

/// What concerns the inputs.
pub(super) fn check(facts: &Facts<'_>, found: &mut Found) {
    for input in facts.inputs {
        let Some(ty) = tensor(input.r#type.as_ref()) else { continue };
        let place = || facts.inside(&Place::Feature(input.name.clone()));
        if ty.dimensions.len() > MAX_RANK {
            found.add(&rules::HIGH_RANK, place, || shape(ty));
        }
        let is_state = matches!(input.r#type.as_ref().and_then(|ty| ty.kind.as_ref()), Some(ValueKind::State(_)));
        if is_flexible(ty) && !is_state {
            found.add(&rules::FLEXIBLE_SHAPE, place, || format!("an input of {}", shape(ty)));
        }
    }
}

/// What concerns one operation.
pub(super) fn check_operation<'a>(
    facts: &Facts<'a>,
    operation: &'a Operation,
    place: impl Fn() -> String + Copy,
    found: &mut Found,
) {
    let kind = operation.r#type.as_str();
    for result in &operation.outputs {
        let Some(ty) = tensor(result.r#type.as_ref()) else { continue };
        if ty.dimensions.len() > MAX_RANK {
            found.add(&rules::HIGH_RANK, place, || shape(ty));
        }
        if kind.starts_with("gather") && ty.dimensions.len() == MAX_RANK {
            found.add(&rules::GATHER_RANK, place, || shape(ty));
        }
        let computed = kind != "const" && ty.data_type == DataType::Float32 as i32;
        // Up to version 6, outputs are `fp32`.
        if computed && !facts.outputs.contains(result.name.as_str()) {
            found.add(&rules::SINGLE_PRECISION, place, || format!("`{kind}` in fp32"));
        }
    }
    if kind == "reduce_mean" && facts.version < 7 && facts.operand(operation, "x").is_some_and(is_flexible) {
        found.add(&rules::FLEXIBLE_MEAN, place, || "a mean of a flexible value".into());
    }
    for value in values_of(operation) {
        let Some(ty) = tensor(value.r#type.as_ref()) else { continue };
        let immediate = matches!(value.content, Some(Content::Immediate(_)));
        if immediate && ty.data_type == DataType::Float16 as i32 && !ty.dimensions.is_empty() {
            found.add(&rules::HALF_VECTOR, place, || format!("fp16{}", shape(ty)));
        }
    }
    if let Some(epsilon) = facts.half(operation, "epsilon").filter(|epsilon| *epsilon > 0.0 && *epsilon < NORMAL) {
        found.add(&rules::ROUNDED_EPSILON, place, || format!("it is {epsilon:e}"));
    }
    for (x, y) in [("x", "y"), ("y", "x")] {
        if let Some(scale) = facts.half(operation, y).filter(|_| kind == "mul")
            && let Some(Some(width)) = facts.operand(operation, x).and_then(|ty| sizes(ty).last().copied())
            && let Some(exact) = rounded_root(scale, width)
        {
            found.add(&rules::ROUNDED_SCALE, place, || format!("{scale:e} for {exact:e}"));
        }
    }
}

/// `1/sqrt(width)`, where `scale` is that number but for rounding.
fn rounded_root(scale: f32, width: u64) -> Option<f64> {
    let (exact, scale) = (1.0 / (width as f64).sqrt(), f64::from(scale));
    // Half of the last of 11 digits in base 2.
    (scale != exact && (scale - exact).abs() <= exact / 2048.0).then_some(exact)
}
