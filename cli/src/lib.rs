//! Diffusion language models on the devices people hold: the library behind the program of the same name.
//!
//! A checkpoint becomes an artifact, the artifact is proven equal to it, and answers:
//!
//! ```
//! use diffulex_edge::{Dtype, Export, load, open, quantize, verify};
//!
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/demo/model");
//! # let folder = tempfile::tempdir().unwrap();
//! # let pte = folder.path().join("model.pte");
//! // A folder from Hugging Face: its family, its sizes, its tensors.
//! let checkpoint = load(model)?;
//! println!("{}, {} layers", checkpoint.config().family, checkpoint.config().decoder.layers);
//!
//! // What int8 would cost it; nothing is written.
//! let int8 = Export::of(Dtype::Int8).report(&checkpoint)?;
//! println!("{:.2} bits a weight", int8.bits_per_weight());
//!
//! // Compiled and written: an ExecuTorch program with half floats.
//! let exported = Export::of(Dtype::F16).write(&checkpoint, &pte)?;
//! println!("{} bytes", exported.bytes);
//!
//! // Read back from its bytes and held against the checkpoint. A bare file needs a tokenizer.
//! let artifact = open(&pte)?.tokenizer(checkpoint.folder());
//! let verdict = verify(&artifact, &checkpoint, None)?;
//! assert!(verdict.passed(), "{verdict}");
//!
//! let answer = artifact.model()?.ask("What is 27 + 58?")?;
//! assert!(answer.text.contains("85"));
//! println!("{} ({:.1} tokens a pass)", answer.text, answer.trace.tokens_per_pass());
//! # Ok::<(), diffulex_edge::Error>(())
//! ```
//!
//! # From Python
//!
//! | there | here |
//! |---|---|
//! | `model, model_type, config = load_hf_model(path)` | [`load(path)?`](load): [`Checkpoint`], whose [`config()`](Checkpoint::config) has `family`, `decoder` and more |
//! | `ExportConfig(output_path, backend, dtype, quantization)` | [`Export`] `{ target, dtype, ..Export::default() }` |
//! | `DiffuLexExporter(config).export(model, example_inputs)` | [`export.write(&checkpoint, path)?`](Export::write); a step takes any length up to `shape.prefill`, so no example is needed |
//! | `BackendType.XNNPACK`, `QuantizationType.FP16` | [`TargetName::Xnnpack`], [`Dtype::F16`] |
//! | `quantize_model(model, dtype="int8")` | [`quantize(&checkpoint, Dtype::Int8)?`](quantize), to be run and verified; [`Export::report`] says what it costs |
//! | `DiffusionEngine.from_pte(path, model_type)` | [`Model::open(path)?`](Model::open); an artifact knows its family |
//! | `engine.generate(…)` | [`model.ask(question)?`](Model::ask), [`Model::ask_streaming`]; temperature and the like: [`Opened::settings`] |
//! | `verify_model(path, tolerance=1e-5)` | [`verify(&artifact, &checkpoint, Some(1e-5))?`](verify()): [`Verdict`] |
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use diffulex_edge::{Dtype, load, quantize, verify};
//!
//! # let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sdar/tiny");
//! let checkpoint = load(tiny)?;
//! let mut quantized = quantize(&checkpoint, Dtype::Int8)?;
//!
//! // Within what int8 may cost, but not within 1e-4 of the largest logit; the verdict says which check is not.
//! assert!(verify(&quantized, &checkpoint, None)?.passed());
//! let verdict = verify(&quantized, &checkpoint, Some(1e-4))?;
//! let first = verdict.numbers().find(|numbers| !numbers.passed).expect("a check fails");
//! assert!(first.case.ends_with("cost of the encoding") && first.max_error > 1e-4 * first.max_logit);
//!
//! // Text comes as soon as it is settled.
//! quantized.settings()?.max_tokens = 8;
//! let mut streamed = String::new();
//! let answer = quantized.model()?.ask_streaming("Hello!", |text| {
//!     streamed.push_str(text);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(answer.text, streamed);
//! # Ok::<(), diffulex_edge::Error>(())
//! ```
//!
//! # The map
//!
//! | module | what it does |
//! |---|---|
//! | [`build`] | recipes: [`build::plan`] says for each artifact whether it is fresh or why not, [`build::run`] makes its folder |
//! | [`export`] | a recipe for one checkpoint and one artifact, made in memory: [`Export`] |
//! | [`subject`] | what a path stands for; [`Opened`]: anything that an engine can run |
//! | [`mod@verify`] | comparisons with a checkpoint or with recordings: [`Comparison`], [`Verdict`] |
//! | [`answer`] | tokenizer, template, session and algorithm of one model: [`Model`] |
//! | [`conversation`] | questions and answers one after the other, for a chat: [`conversation::Conversation`] |
//! | [`frame`], [`harmless`] | what a screen shows of an answer that is forming, and how none of it can harm the screen |
//! | [`demo`] | the demo model, which is inside the program |
//! | [`report`] | what each weight became, as data, text or a page |
//! | [`mod@bench`] | times of steps |
//! | [`onnxruntime`] | ONNX Runtime as an engine, where it is installed |
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

use std::path::Path;
use std::sync::Arc;

pub use answer::{Answer, Model};
pub use diffulex_compiler::checkpoint::Checkpoint;
pub use diffulex_compiler::recipe::{Dtype, TargetName};
pub use error::Error;
pub use export::{Export, Exported};
pub use subject::Opened;
pub use verify::{Comparison, Verdict};

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

/// The program of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
