//! Checkpoint and recipe in, quantized [`Module`](ir::Module) out.
//!
//! The way of a weight, in reading order:
//!
//! 1. [`recipe`] reads TOML and gives one `Build` a matrix cell; every value remembers where it was written.
//! 2. [`checkpoint`] opens a Hugging Face folder: the configuration, and the tensors, mapped and checked but not read.
//! 3. [`models`] turns the configuration into a [`Module`](ir::Module), stage *imported*.
//! 4. [`passes`] is the flat list that fuses it; after each pass [`ir::verify()`] judges the result.
//! 5. [`quant`] says what each weight's numbers become as bytes; `passes::quantize` decides which weight gets what.
//!
//! What stands between the steps is the [`ir`]: a graph of a few hundred nodes without a single number in it. Weights
//! are expressions, evaluated rows by rows when a target writes or an engine packs them.
//!
//! Absent on purpose: artifact formats (only `targets` knows them), tract, printing, the environment.

pub mod checkpoint;
mod choice;
pub mod generation;
pub mod ir;
pub mod math;
pub mod models;
pub mod passes;
pub mod quant;
pub mod recipe;
