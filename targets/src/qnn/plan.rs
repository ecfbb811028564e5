//! Holding files against the rules: before they are written, and before they are read.

use std::path::Path;

use diffulex_compiler::ir::Module;
use diffulex_compiler::quant::GridType;

use super::rules::{Effect, Violation, check};
use super::{GRAPH, Options, Soc};
use crate::emit::{EmitError, Metadata};
use crate::onnx::{self, Files, ReadError};
use crate::refusal::Refusal;

/// Plans the files of a bundle: those of a legal module whose values are rounded, if any are to be.
///
/// # Errors
/// As [`Files::new`], and when a chip does not take the graph whole and right.
pub fn plan<'a>(module: &'a Module, metadata: &Metadata, options: &Options) -> Result<Files<'a>, EmitError> {
    let files = Files::new(module, GRAPH, metadata, &options.onnx())?;
    let chips: Vec<Option<&Soc>> = match options.socs.as_slice() {
        [] => vec![None],
        some => some.iter().map(|soc| Some(*soc)).collect(),
    };
    for (model, soc) in files.models().flat_map(|model| chips.iter().map(move |soc| (model.clone(), *soc))) {
        // Numbers of filters, which lie outside, break no rule here: scales have no blocks of their own, zeros are known.
        let mut found = check(&model, &|_| None, soc);
        found.retain(|violation| violation.rule != UNREADABLE);
        if let Some(violation) = worst(found) {
            let Violation { rule, place, what, advice, .. } = violation;
            return Err(EmitError::Illegal { place, what: format!("{what}; {advice} (rule {rule})") });
        }
    }
    Ok(files)
}

/// The rule about how much a context may hold.
const SIZE: &str = "context-size";
/// The rule about tensors whose numbers cannot be looked at.
const UNREADABLE: &str = "unreadable-numbers";

/// Checks that the chips asked for can run what is asked for, before anything is calibrated.
///
/// # Errors
/// Names the first chip that cannot.
pub fn check_chips(options: &Options) -> Result<(), Refusal> {
    let Some(rounding) = options.rounding else { return Ok(()) };
    let refuse = |soc: &Soc, what: &str, nearest: &str| {
        Err(Refusal::Shapes { place: "socs".into(), what: format!("{soc} {what}"), nearest: nearest.into() })
    };
    for soc in &options.socs {
        if rounding.values == GridType::U16 && !soc.runs_wide() {
            return refuse(soc, "does not compute with values of 16 bits", "`activations = \"uint8\"`");
        }
        if rounding.cache == GridType::I16 && !soc.multiplies_int16() {
            return refuse(soc, "does not multiply with rows in int16", "`cache = \"uint8\"`");
        }
    }
    Ok(())
}

/// The first of those that nobody would notice, if there is one. How much a chip can hold is seen when it is compiled for.
fn worst(found: Vec<Violation>) -> Option<Violation> {
    found.into_iter().filter(|violation| violation.rule != SIZE).min_by_key(|violation| match violation.effect {
        Effect::Wrong => 0,
        Effect::Refused => 1,
        Effect::Cpu => 2,
        Effect::Imprecise => 3,
        Effect::Untried => 4,
    })
}

/// A file that the HTP would refuse, leave to the CPU or compute wrongly, or that nobody has seen it take.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}; {} (rule {})", .0.place, .0.what, .0.advice, .0.rule)]
pub struct Broken(pub Violation);

/// Whether a file is for the HTP, and if so, whether it and those for other numbers of tokens break no rule, as none that
/// is written here does.
///
/// # Errors
/// When a file cannot be read, or the first rule that one breaks.
pub(crate) fn check_file(path: &Path) -> Result<Result<(), Broken>, ReadError> {
    let stored = onnx::Whole::open(path)?;
    if !stored.for_htp() {
        return Ok(Ok(()));
    }
    for (other, _) in onnx::steps(path)? {
        let stored = onnx::Whole::open(&other)?;
        if let Some(violation) = worst(check(&stored.model, &|tensor| stored.external(tensor), None)) {
            return Ok(Err(Broken(violation)));
        }
    }
    Ok(Ok(()))
}
