//! A [`Module`](diffulex_compiler::ir::Module) in, text out.
//!
//! The way of a token, in reading order:
//!
//! 1. [`chat`] writes a conversation as the model's template wants it and turns it into token ids.
//! 2. [`generate`] decides, pass by pass, which tokens are fed and which proposals are accepted; [`sample`] makes the
//!    proposals from logits.
//! 3. [`session`] builds positions and mask of a pass and keeps the [`cache`] of finished blocks.
//! 4. An [`engine`] runs the step graph: [`tract`] a module, [`tract_onnx`] an ONNX file, or [`executorch`], where it is installed.
//! 5. [`verify`] runs two of them, or one against a recording, and says how far apart they are.
//! 6. [`calibrate`] runs one over texts and says between which numbers its values lie.
//!
//! Absent on purpose: recipes and file formats (an outside engine opens its own file), printing, the environment.

pub mod cache;
pub mod calibrate;
pub mod chat;
pub mod engine;
pub mod executorch;
pub mod generate;
#[cfg(feature = "qnn")]
pub mod onnxruntime;
pub mod sample;
pub mod session;
pub mod step_file;
pub mod tract;
pub mod tract_onnx;
pub mod verify;
