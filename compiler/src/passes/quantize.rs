//! `quantize`: every weight gets the encoding that the recipe asks for. The graph does not change.

use super::{Note, Proposal};
use crate::ir::Module;
use crate::ir::build::BuildError;
use crate::quant::Scheme;

pub(super) fn run(module: &Module, scheme: &Scheme) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut new = module.clone();
    for weight in &mut new.weights {
        let encoding = scheme.encoding(weight);
        if encoding != weight.ty.encoding {
            notes.push(Note::done(format!("@{}", weight.name), format!("{} → {encoding}", weight.ty.encoding)));
            weight.ty.encoding = encoding;
        }
    }
    Ok(Proposal { module: Some(new), notes })
}
