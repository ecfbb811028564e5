//! Rewrites a module into XNNPACK's primitives, node by node.
//!
//! The walk is `crate::rewrite`; what becomes of each node stands in `rules`, what is refused, and why, in `limits`.
//!
//! Weights keep the encoding that they have where XNNPACK can use it: `f32` and `f16` filters (with f32 maths) and token
//! tables. What is added or multiplied element by element (gains, biases) is `f32`; widening loses nothing.

mod limits;
mod rules;

use diffulex_compiler::ir::{Encoding, Module, Stage, verify};

use crate::refusal::Refusal;
use crate::rewrite::{Limits, rewrite};

/// Most operands that one concatenation joins.
const MAX_JOINED: usize = 5;

/// The module as XNNPACK can express it, stage `legal xnnpack`.
///
/// # Errors
/// Names the first node or weight that XNNPACK, or the shape of a step, does not allow.
pub fn legalize(module: &Module) -> Result<Module, Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    limits::check_step(module)?;
    let mut header = Module::new(&module.name, Stage::Legal(super::NAME.into()), module.bounds, module.cache);
    header.weights = limits::check_weights(module)?;
    let legal = rewrite(module, header, Limits { constants: Encoding::F32, joined: MAX_JOINED }, &rules::node)?;
    check(&legal)?;
    Ok(legal)
}

/// Checks that a module is one that [`legalize`] could have made.
pub(super) fn check(module: &Module) -> Result<(), Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    limits::check_step(module)?;
    limits::check_nodes(module)?;
    match limits::check_weights(module)?.iter().zip(&module.weights).find(|(legal, weight)| legal != weight) {
        Some((legal, weight)) => Err(Refusal::Encoding {
            place: format!("@{}", weight.name),
            encoding: weight.ty.encoding,
            role: "vector",
            nearest: if legal.ty.encoding == Encoding::F32 { &[Encoding::F32] } else { &[] },
        }),
        None => Ok(()),
    }
}
