//! Parameters that have defaults, and must be spelled out all the same.

use super::facts::Facts;
use super::{Found, rules};
use crate::coreml::schema::program::Operation;

/// Those that Apple's own writer never leaves out, with the specification version that brought them. Not here: operands,
/// and what that writer leaves out itself (strides and masks of slices, offsets of blocks, masks of attention, gains of
/// norms).
const PARAMETERS: &[(&str, &[(&str, i32)])] = &[
    ("clip", &[("alpha", 6), ("beta", 6)]),
    ("concat", &[("axis", 6), ("interleave", 6)]),
    ("conv", &[("strides", 6), ("pad_type", 6), ("pad", 6), ("dilations", 6), ("groups", 6)]),
    ("expand_dims", &[("axes", 6)]),
    ("gather", &[("axis", 6), ("batch_dims", 7), ("validate_indices", 8)]),
    ("gather_along_axis", &[("axis", 6), ("validate_indices", 8)]),
    ("gelu", &[("mode", 6)]),
    ("layer_norm", &[("axes", 6), ("epsilon", 6)]),
    ("linear", &[("bias", 6)]),
    ("matmul", &[("transpose_x", 6), ("transpose_y", 6)]),
    ("reduce_argmax", &[("axis", 6), ("keep_dims", 6), ("output_dtype", 8)]),
    ("reduce_max", &[("axes", 6), ("keep_dims", 6)]),
    ("reduce_mean", &[("axes", 6), ("keep_dims", 6)]),
    ("reduce_min", &[("axes", 6), ("keep_dims", 6)]),
    ("reduce_sum", &[("axes", 6), ("keep_dims", 6)]),
    ("rsqrt", &[("epsilon", 6)]),
    ("scatter", &[("axis", 6), ("mode", 6), ("validate_indices", 8)]),
    ("softmax", &[("axis", 6)]),
    ("split", &[("axis", 6)]),
    ("squeeze", &[("axes", 6)]),
    ("stack", &[("axis", 6)]),
    (
        "topk",
        &[("k", 6), ("axis", 6), ("ascending", 6), ("sort", 7), ("return_indices", 7), ("output_indices_dtype", 8)],
    ),
];

/// Every parameter that is left out.
pub(super) fn check<'a>(
    facts: &Facts<'a>,
    operation: &'a Operation,
    place: impl Fn() -> String + Copy,
    found: &mut Found,
) {
    let Some((_, parameters)) = PARAMETERS.iter().find(|(kind, _)| *kind == operation.r#type) else { return };
    for (key, since) in *parameters {
        if facts.version >= *since && !operation.inputs.contains_key(*key) {
            found.add(&rules::OMITTED_PARAMETER, place, || format!("`{key}` is left out"));
        }
    }
}
