//! QDQ models in ONNX for the Hexagon Tensor Processor (HTP), run by ONNX Runtime with the QNN execution provider.
//!
//! * [`check()`]: what in a model is refused by the provider, leaves the HTP, or computes something else there;
//! * [`socs`]: the chips that such models are for.

mod rules;
pub mod socs;

pub use rules::{Effect, External, RULES, Rule, Violation, check};
pub use socs::Soc;

/// Name of the target in recipes and stages.
pub const NAME: &str = "qnn";
