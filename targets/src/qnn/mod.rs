//! QDQ models in ONNX for the Hexagon Tensor Processor (HTP), run by ONNX Runtime with the QNN execution provider.
//!
//! * [`wanted`] says which ranges calibration must find, [`round()`] rounds every value of a module of [`crate::onnx`];
//! * [`check()`]: what in a model is refused by the provider, leaves the HTP, or computes something else there;
//! * [`socs`]: the chips that such models are for.

mod groups;
mod plan;
mod round;
mod rules;
pub mod socs;
#[cfg(test)]
mod tests;

pub(crate) use plan::check_file;
pub use plan::{Broken, check_chips, plan};
pub use round::{RangeOf, Rounding, round, unrounded, wanted};
pub use rules::{Effect, External, RULES, Rule, Violation, check};
pub use socs::Soc;

use crate::onnx;

/// Name of the target in recipes and stages.
pub const NAME: &str = "qnn";

/// Ending of a bundle's folder.
pub const EXTENSION: &str = "qnn";

/// Name of a bundle's graph, without the ending of its file.
pub const GRAPH: &str = "model";

/// What a bundle can be asked to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What values are rounded to; all floats are `f16` where they are not.
    pub rounding: Option<Rounding>,
    /// Numbers of tokens, beside the module's bound, that a step can have: a graph for each.
    pub lengths: Vec<u32>,
    /// The chips that it must run on.
    pub socs: Vec<&'static Soc>,
}

impl Options {
    /// How its files are written.
    pub(crate) fn onnx(&self) -> onnx::Options {
        onnx::Options {
            half: self.rounding.is_none(),
            shapes: onnx::Shapes::Static(self.lengths.clone()),
            form: onnx::Form::Qnn,
        }
    }
}
