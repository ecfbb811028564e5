//! Rewrites a module into what an ONNX file can say, node by node.
//!
//! The walk is `crate::rewrite`; what becomes of each node stands in `rules`, what is refused, and why, in `limits`.
//!
//! A legal module is written in `f32`, also where all floats of its file are `f16`. It keeps `rope_cos` and `rope_sin`,
//! which are inputs of the file, and `cached`, which joins an input with an output. A filter is `linear` without a bias:
//! its numbers are stored transposed. Keys are stored transposed as well, so `matmul` takes cached keys transposed, and
//! nothing else does.

mod limits;
mod rules;

use diffulex_compiler::ir::{Encoding, Module, Stage, verify};

use super::Options;
use crate::refusal::Refusal;
use crate::rewrite::{Limits, Rows, check_step, rewrite};

/// The module as an ONNX file can express it, stage `legal onnx`, or `legal qnn` in that form.
///
/// # Errors
/// Names the first node or weight that the file has no form for.
pub fn legalize(module: &Module, options: &Options) -> Result<Module, Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    check_step(module, Rows::Numbered)?;
    let mut header = Module::new(&module.name, Stage::Legal(options.form.target().into()), module.bounds, module.cache);
    header.weights = limits::check_weights(module, options)?;
    let limits = Limits { constants: limits::vectors(options), joined: usize::MAX };
    let legal = rewrite(module, header, limits, &|walk, node, args| rules::node(walk, options, node, args))?;
    check(&legal, options)?;
    Ok(legal)
}

/// Checks that a module is one that [`legalize`] could have made.
pub(super) fn check(module: &Module, options: &Options) -> Result<(), Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    check_step(module, Rows::Numbered)?;
    limits::check_nodes(module)?;
    limits::check_lengths(module, options)?;
    match limits::check_weights(module, options)?.iter().zip(&module.weights).find(|(legal, weight)| legal != weight) {
        Some((legal, weight)) => Err(Refusal::Encoding {
            place: format!("@{}", weight.name),
            encoding: weight.ty.encoding,
            role: "vector",
            nearest: if legal.ty.encoding == Encoding::F16 { &[Encoding::F16] } else { &[Encoding::F32] },
        }),
        None => Ok(()),
    }
}
