//! Core ML packages, `.mlpackage`: one ML Program whose function `main` is the step graph.
//!
//! * [`legalize`]: a module in terms of the operations of an ML Program;
//! * [`Package`]: a legal module to files;
//! * [`lint()`]: what devices are known to do badly with a package, on disk or only planned;
//! * [`read()`]: a package to a module; [`text()`]: a package to text;
//! * `schema`: the messages in such files.

mod emit;
mod legal;
mod lint;
mod options;
mod read;
mod schema;
#[cfg(test)]
mod small;

pub use emit::{EmitError, Metadata, Package};
pub use legal::legalize;
pub use lint::{LINTS, Lint, Rule, Severity, lint};
pub use options::{Attention, Deployment, Interface, Nibbles, Norm, Options};
pub use read::{Artifact, Fault, Place, ReadError, read, text};

/// Name of the target in recipes and stages.
pub const NAME: &str = "coreml";

/// Version of what this product adds to the format: its own metadata, the names of inputs and outputs.
pub const FORMAT_VERSION: u32 = 1;
