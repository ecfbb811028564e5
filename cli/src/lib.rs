//! Diffusion language models on the devices people hold: the library behind the program of the same name.
//!
//! Three calls do what the program does:
//!
//! 1. [`build::plan`] reads a recipe and says, for each artifact, whether it is fresh or why not; [`build::run`] makes it.
//! 2. [`verify::artifact`] compares an artifact with the checkpoint it was made from.
//! 3. [`subject::open`] turns a recipe's artifact, a bare artifact or a checkpoint into a module that an engine runs;
//!    [`answer::Model`] answers prompts with it, [`conversation::Conversation`] one after the other.
//!
//! The steps themselves live in the crates below: `diffulex-compiler` (checkpoint and recipe to module),
//! `diffulex-targets` (module to artifact and back), `diffulex-runtime` (module to text). Nothing in the library prints.

pub mod answer;
pub mod bench;
pub mod build;
pub mod conversation;
pub mod demo;
mod error;
pub mod export;
pub mod frame;
pub mod harmless;
pub mod onnxruntime;
pub mod report;
pub mod subject;
pub mod verify;

pub use error::Error;
