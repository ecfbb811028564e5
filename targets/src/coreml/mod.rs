//! Core ML packages, `.mlpackage`: one ML Program whose function `main` is the step graph, or that has one function for
//! each number of tokens that a step may have.
//!
//! * [`legalize`]: a module in terms of the operations of an ML Program;
//! * [`split`], [`join`]: a module too large for one package, in parts, and whole again;
//! * [`Package`]: a legal module to files; [`Packages`]: the same in as many parts as are asked for;
//! * [`lint()`]: what devices are known to do badly with a package, on disk or only planned;
//! * [`read()`]: a package to a module; [`text()`]: a package to text;
//! * `schema`: the messages in such files.

mod chain;
mod emit;
mod legal;
mod lint;
mod options;
mod read;
mod reference;
mod schema;
#[cfg(test)]
mod small;

pub use chain::{join, split};
pub use emit::{EmitError, Metadata, Package, Packages};
pub use legal::legalize;
pub use lint::{LINTS, Lint, Rule, Severity, lint};
pub use options::{Attention, Deployment, Interface, Nibbles, Norm, Options, Shapes};
pub use read::{Artifact, Fault, Place, ReadError, folders, read, text};
pub use reference::{Call, Reference};

/// Name of the target in recipes and stages.
pub const NAME: &str = "coreml";

/// Ending of a package's name.
pub const EXTENSION: &str = "mlpackage";

/// The file that every package has at its root.
pub const MANIFEST: &str = schema::MANIFEST_PATH;

/// The folder at the root of every package that holds the rest.
pub const DATA: &str = "Data";

/// The folder of the package called `name`, or of part `number` of a chain of so many.
pub fn folder(name: &str, number: u32, of: u32) -> String {
    if of == 1 { format!("{name}.{EXTENSION}") } else { format!("{name}-{number}-of-{of}.{EXTENSION}") }
}

/// Version of what this product adds to the format: its own metadata, the names of inputs and outputs.
pub const FORMAT_VERSION: u32 = 1;
