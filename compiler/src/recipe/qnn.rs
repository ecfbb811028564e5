//! `[target.qnn]` and `[calibration]`: what a bundle for Qualcomm's HTP is made for, and how the ends of its values are
//! found.

use super::diagnostic::Diagnostic;
use super::inherit::Settings;
use super::source::{Located, Origin};
use crate::choice::choices;

choices! {
    /// How the ends of a value are found among those that calibration saw.
    RangeMethod {
        /// The least and the largest.
        MinMax = "min-max",
        /// The share `calibration.percentile` of them lies between.
        Percentile = "percentile",
        /// The smallest sum of squared errors, of rounding and of clipping.
        Mse = "mse",
    }
}

/// `[target.qnn]`, and `[calibration]`, which it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Qnn {
    /// The chips that context binaries are made for, by any of their names.
    pub socs: Located<Vec<Located<String>>>,
    /// Whether they are made, where Qualcomm's libraries are installed.
    pub contexts: Located<bool>,
    /// Numbers of tokens that a step can have, beside `shape.prefill`: a graph for each.
    pub lengths: Option<Located<Vec<Located<u32>>>>,
    /// How ends of values are found.
    pub method: Located<RangeMethod>,
    /// The share of numbers that lie between the ends, in percent, for [`RangeMethod::Percentile`].
    pub percentile: Located<f64>,
    /// What the model reads meanwhile: a question, its answer, a question, its answer, …
    pub texts: Located<Vec<Located<String>>>,
    /// A file of such lines instead, beside the recipe.
    pub file: Option<Located<String>>,
}

impl Qnn {
    /// What the recipe says, which `asked` needs.
    pub(super) fn read(settings: &Settings, asked: &Origin, out: &mut Vec<Diagnostic>) -> Option<Qnn> {
        let socs = settings.need("target.qnn.socs", Some(asked), out);
        let contexts = settings.need("target.qnn.contexts", Some(asked), out);
        let method = settings.need("calibration.method", Some(asked), out);
        let percentile = settings.need("calibration.percentile", Some(asked), out);
        let texts = settings.need("calibration.texts", Some(asked), out);
        Some(Qnn {
            socs: socs?,
            contexts: contexts?,
            lengths: settings.optional("target.qnn.lengths"),
            method: method?,
            percentile: percentile?,
            texts: texts?,
            file: settings.optional("calibration.file"),
        })
    }
}
