//! Filters and tables: how they are stored, how large they are; attention.

use super::facts::{Facts, shape, sizes, tensor};
use super::{Found, rules};
use crate::coreml::schema::program::{Operation, TensorType};

/// Largest dimension of the Neural Engine.
const MAX_DIMENSION: u64 = 65_536;
/// `uint4` among the element types of the program.
const UINT4: i32 = 35;

/// What concerns one operation.
pub(super) fn check<'a>(
    facts: &Facts<'a>,
    operation: &'a Operation,
    place: impl Fn() -> String + Copy,
    found: &mut Found,
) {
    let kind = operation.r#type.as_str();
    if kind == "constexpr_blockwise_shift_scale" {
        blocks(facts, operation, place, found);
    }
    if kind == "scaled_dot_product_attention" {
        let queries = facts.operand(operation, "query").map_or("unknown shape".into(), shape);
        found.add(&rules::FUSED_ATTENTION, place, || format!("queries of {queries}"));
    }
    if kind == "const" || kind.starts_with("constexpr_") {
        return;
    }
    let filters: &[&str] = match kind {
        "linear" | "conv" => &["weight"],
        "matmul" => &["x", "y"],
        _ => &[],
    };
    for key in filters {
        let maker = facts.maker(operation, key).filter(|maker| maker.r#type.starts_with("constexpr_"));
        if let Some(maker) = maker.filter(|maker| maker.r#type != "constexpr_cast") {
            found.add(&rules::COMPRESSED_FILTER, place, || format!("`{key}` is made by `{}`", maker.r#type));
        }
    }
    let constant = |key: &&&str| {
        let maker = facts.maker(operation, key).map_or("", |maker| maker.r#type.as_str());
        maker == "const" || maker.starts_with("constexpr_")
    };
    let filter = filters.iter().filter(constant).filter_map(|key| facts.operand(operation, key));
    if let Some(ty) = filter.into_iter().find(|ty| is_large(ty)) {
        found.add(&rules::LARGE_FILTER, place, || format!("a filter of {}", shape(ty)));
    } else if let Some(ty) = facts.types_at(operation).find(|ty| is_large(ty)) {
        found.add(&rules::LARGE_DIMENSION, place, || format!("a value of {}", shape(ty)));
    }
}

fn is_large(ty: &TensorType) -> bool {
    sizes(ty).into_iter().flatten().any(|size| size > MAX_DIMENSION)
}

/// Scales of weights: along which axes there are several, and what they scale.
fn blocks<'a>(facts: &Facts<'a>, operation: &'a Operation, place: impl Fn() -> String + Copy, found: &mut Found) {
    if let Some(scale) = facts.operand(operation, "scale")
        && sizes(scale).iter().skip(1).any(|size| *size != Some(1))
    {
        let data = facts.operand(operation, "data").map_or("unknown shape".into(), shape);
        found.add(&rules::GROUPED_SCALES, place, || format!("scales of {} for {data}", shape(scale)));
    }
    let palette = facts.maker(operation, "data").filter(|maker| maker.r#type == "constexpr_lut_to_dense");
    if let Some(indices) = palette.and_then(|palette| facts.operand(palette, "indices"))
        && indices.data_type == UINT4
    {
        let result = operation.outputs.first().and_then(|result| tensor(result.r#type.as_ref()));
        let shape = result.map_or("unknown shape".into(), shape);
        found.add(&rules::PALETTE_SCALE, place, || format!("a palette for {shape}"));
    }
}
