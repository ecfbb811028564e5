//! Diffusion language models on the devices people hold: the library behind the program of the same name.
//!
//! Three calls do what the program does:
//!
//! 1. [`build::plan`] reads a recipe and says, for each artifact, whether it is fresh or why not; [`build::run`] makes it.
//! 2. [`verify::artifact`] compares an artifact with the checkpoint it was made from.
//! 3. [`subject::open`] turns a recipe's artifact, a bare artifact or a checkpoint into a module that an engine runs;
//!    [`answer::Model`] answers prompts with it.
//!
//! The steps themselves live in the crates below: `diffulex-compiler` (checkpoint and recipe to module),
//! `diffulex-targets` (module to artifact and back), `diffulex-runtime` (module to text). Nothing in the library prints.

pub mod answer;
pub mod bench;
pub mod build;
mod error;
pub mod export;
pub mod onnxruntime;
pub mod report;
pub mod subject;
pub mod verify;

pub use answer::{Answer, Model};
pub use diffulex_compiler::checkpoint::Checkpoint;
pub use diffulex_compiler::recipe::{Dtype, TargetName};
pub use error::Error;
pub use export::{Export, Exported};
pub use subject::Opened;
pub use verify::{Comparison, Verdict};


use std::path::Path;
use std::sync::Arc;

/// Opens a checkpoint: a Hugging Face folder with config.json and safetensors. Tensors are mapped, not read.
///
/// # Errors
/// Names the file, and the tensor, that is missing or wrong.
pub fn load(folder: impl AsRef<Path>) -> Result<Arc<Checkpoint>, Error> {
    Ok(Arc::new(Checkpoint::open(folder.as_ref())?))
}

/// Opens an artifact's folder, a bare artifact or a checkpoint, to be verified or to answer.
///
/// # Errors
/// When the path stands for something else, or what it stands for is damaged.
pub fn open(path: impl AsRef<Path>) -> Result<Opened, Error> {
    subject::open(path.as_ref(), None)
}

/// A checkpoint with its weights rounded as a scheme says, in memory: see [`Export::compile`], and [`Export::report`] for
/// what that costs.
///
/// # Errors
/// As [`Export::compile`].
pub fn quantize(checkpoint: &Arc<Checkpoint>, dtype: Dtype) -> Result<Opened, Error> {
    Export::of(dtype).compile(checkpoint)
}

/// Holds an artifact, or what was compiled in memory, against its checkpoint: weights number by number, logits on prompts
/// and on masked blocks, greedy replies token by token. `tolerance` is the largest error of a logit, as a share of the
/// largest logit of its case; the limits that each check has count where they are tighter, and always without it.
///
/// # Errors
/// When the comparison cannot be carried out; what it finds stands in the verdict.
pub fn verify(artifact: &Opened, checkpoint: &Checkpoint, tolerance: Option<f32>) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    let how = Comparison { tolerance, ..Comparison::default() };
    verify::artifact(artifact, checkpoint.folder(), &how, &mut |check| verdict.checks.push(check))?;
    Ok(verdict)
}
