//! Rewrites a module into what an ML Program can say, node by node.
//!
//! The walk is `crate::rewrite`; what becomes of each node stands in `rules`, what is refused, and why, in `limits` and
//! `shapes`.
//!
//! A legal module is written in `f32`, and its package computes in `fp16`: that is the element type of every value of an
//! ML Program here, so none is named. Casts to and from `f16` therefore vanish. Vectors and tables of formulas are
//! stored in `f16`.

mod limits;
mod rules;
mod shapes;
mod version;

use diffulex_compiler::ir::{Encoding, Module, Stage, verify};

use super::chain::split;
use super::{Interface, Options};
use crate::refusal::Refusal;
use crate::rewrite::{Limits, Rows, check_step, rewrite};
pub(super) use shapes::lengths;
pub(super) use version::version;

/// The module as Core ML can express it, stage `legal coreml`.
///
/// # Errors
/// Names the first node or weight that Core ML, the deployment target, or the shape of a step does not allow.
pub fn legalize(module: &Module, options: &Options) -> Result<Module, Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    check_step(module, Rows::Numbered)?;
    let mut header = Module::new(&module.name, Stage::Legal(super::NAME.into()), module.bounds, module.cache);
    header.weights = limits::check_weights(module)?;
    let limits = Limits { constants: Encoding::F16, joined: usize::MAX };
    let legal = rewrite(module, header, limits, &|walk, node, args| rules::node(walk, options, node, args))?;
    check(&legal, options)?;
    Ok(legal)
}

/// Checks that a module is one that [`legalize`] could have made.
pub(super) fn check(module: &Module, options: &Options) -> Result<(), Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    check_step(module, Rows::Numbered)?;
    limits::check_nodes(module)?;
    if options.interface == Interface::State {
        limits::check_kept(module)?;
    }
    version(module, options)?;
    if options.parts != 1 {
        split(module, options.parts)?;
    }
    lengths(module, options)?;
    match limits::check_weights(module)?.iter().zip(&module.weights).find(|(legal, weight)| legal != weight) {
        Some((_, weight)) => Err(Refusal::Encoding {
            place: format!("@{}", weight.name),
            encoding: weight.ty.encoding,
            role: "vector",
            nearest: &[Encoding::F16],
        }),
        None => Ok(()),
    }
}
