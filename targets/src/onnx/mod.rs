//! ONNX files: one graph that is the step, with its weights in a data file beside it.
//!
//! * [`legalize`]: a module in terms of the operators of ONNX;
//! * [`Files`]: a legal module to files;
//! * [`read()`]: a file to a module; [`text()`]: a file to text;
//! * `schema`: names, element types and versions that both sides share; the messages are those of `onnx-protobuf`.

mod emit;
mod legal;
mod options;
mod read;
mod schema;
#[cfg(test)]
pub(crate) mod small;
mod steps;

pub use emit::{Files, data_file};
pub use legal::legalize;
pub use options::{Form, Options, Shapes};
pub(crate) use read::Whole;
pub use read::{Artifact, Fault, Place, ReadError, read, text};
pub use steps::steps;

/// Name of the target in recipes and stages.
pub const NAME: &str = "onnx";

/// Ending of a file's name.
pub const EXTENSION: &str = "onnx";
