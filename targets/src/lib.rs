//! A [`Module`] in, artifact bytes out; artifact bytes in, a [`Module`] out.
//!
//! Each target has a folder that reads alike:
//!
//! 1. `legal` rewrites a module into what the target can express, or [refuses](Refusal) it by name;
//! 2. `emit` writes the bytes, weights streamed from their source;
//! 3. `read` turns bytes, checked like the stranger's that they may be, into a module and a source of weights;
//! 4. `schema` holds the types of the file format, generated from schema files of our own.
//!
//! `emit` and `read` are written from the format document, not from each other, and share the schema only. What is read
//! back consists of a target's primitives; [`raise`] lifts it to the ops that engines like best. [`artifact`] puts
//! files on disk so that a killed build leaves nothing that looks finished.
//!
//! Absent on purpose: Hugging Face names, recipes' files, tract, anything that executes.

pub mod artifact;
pub mod coreml;
mod emit;
mod fault;
mod layers;
mod naming;
pub mod onnx;
mod open;
pub mod qnn;
pub mod raise;
mod refusal;
mod rewrite;
mod stored;
mod stream;
mod target;
pub mod xnnpack;

pub use emit::{Content, EmitError, Metadata};
pub use open::{EXTENSIONS, OpenError, Opened, open};
pub use refusal::Refusal;
pub use stream::{Watch, Work};
pub use target::{Planned, Target};

#[cfg(doc)]
use diffulex_compiler::ir::Module;
