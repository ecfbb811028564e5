//! ExecuTorch `.pte` files whose method `forward` is the step graph: three embeddings, then one XNNPACK delegate.
//!
//! * [`legalize`]: a module in terms of XNNPACK's nodes;
//! * [`emit()`]: a legal module to bytes;
//! * [`read()`]: bytes to a module;
//! * `schema`: the two flatbuffers in such a file.

mod emit;
mod legal;
mod read;
mod schema;

pub use emit::{EmitError, Metadata, Options, Program, emit};
pub use legal::legalize;
pub use read::{Artifact, Constant, Fault, Methods, Place, ReadError, read, read_bytes};

/// Name of the target in recipes and stages.
pub const NAME: &str = "xnnpack";

/// Ending of a file's name.
pub const EXTENSION: &str = "pte";

/// Version of what this product adds to the format: its own metadata, the order of inputs and outputs.
pub const FORMAT_VERSION: i64 = 1;
