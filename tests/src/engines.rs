//! Every way in which a checkpoint can run: the same cases go through all of them.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::ir::{Module, Sizes};
use diffulex_compiler::passes;
use diffulex_compiler::quant::Scheme;
use diffulex_edge::subject::{self, EngineChoice};
use diffulex_runtime::engine::{Engine, EngineShape};
use diffulex_runtime::executorch;
use diffulex_runtime::tract::TractEngine;
use diffulex_runtime::tract_onnx::TractOnnx;
use diffulex_targets::{Content, EmitError, Metadata, Target, Work, onnx, xnnpack};

use crate::reference::Reference;

/// The plain reference, our engine on the checkpoint, our engine on the `.pte` read back, tract's reader of ONNX files on
/// an `.onnx`, and ExecuTorch on the `.pte` where it is installed: all for f32 weights, so all must agree.
pub fn all(checkpoint: &Path, max_tokens: usize, max_cache: usize) -> Vec<Box<dyn Engine>> {
    let pte = pte(checkpoint, max_tokens, max_cache, &Scheme::F32);
    let mut engines: Vec<Box<dyn Engine>> = vec![
        Box::new(Reference::open(checkpoint, max_tokens, max_cache)),
        tract(checkpoint, max_tokens, max_cache),
        subject::artifact(&pte).unwrap().engine(&EngineChoice::Tract).unwrap(),
        tract_onnx(checkpoint, max_tokens, max_cache, &Scheme::F32, &onnx::Options::default()),
    ];
    engines.extend(executorch(&pte));
    engines
}

/// Our engine on the weights of a checkpoint.
pub fn tract(checkpoint: &Path, max_tokens: usize, max_cache: usize) -> Box<dyn Engine> {
    let checkpoint = Arc::new(Checkpoint::open(checkpoint).unwrap());
    let wanted = ["fuse-qkv", "fuse-gate-up", "fuse-swiglu", "select-rows", "drop-dead"];
    let module = module(&checkpoint, max_tokens, max_cache, &wanted, &Scheme::F32);
    Box::new(TractEngine::new(&module, checkpoint).unwrap())
}

/// tract's reader of ONNX files on the file of a checkpoint.
pub fn tract_onnx(
    checkpoint: &Path,
    max_tokens: usize,
    max_cache: usize,
    scheme: &Scheme,
    options: &onnx::Options,
) -> Box<dyn Engine> {
    let folder = tempfile::tempdir().unwrap();
    let (path, shape) = onnx(checkpoint, max_tokens, max_cache, scheme, options, folder.path());
    Box::new(TractOnnx::open(&path, shape).unwrap())
}

/// Writes the `.onnx` of a checkpoint, with its data, into a folder. Gives its path and the sizes of its engine.
pub fn onnx(
    checkpoint: &Path,
    max_tokens: usize,
    max_cache: usize,
    scheme: &Scheme,
    options: &onnx::Options,
    folder: &Path,
) -> (PathBuf, EngineShape) {
    let (checkpoint, target) = (Checkpoint::open(checkpoint).unwrap(), Target::Onnx(options.clone()));
    let module = module(&checkpoint, max_tokens, max_cache, target.passes(), scheme);
    let legal = target.legalize(&module).unwrap();
    let files = onnx::Files::new(&legal, "tiny", &Metadata::default(), options).unwrap();
    let mut make = |name: &str, content: Content<'_>| {
        let mut out = BufWriter::new(std::fs::File::create(folder.join(name)).unwrap());
        content(&mut out)?;
        out.flush().map_err(EmitError::Io)
    };
    files.write::<EmitError>(Work::new(&checkpoint), &mut make, &mut |_, _| {}).unwrap();
    let shape = EngineShape {
        max_tokens,
        max_cache,
        layers: module.cache.layers as usize,
        kv_heads: module.cache.kv_heads as usize,
        head_dim: module.cache.head_dim as usize,
        vocab: module.nodes[module.outputs[0].0 as usize].ty.shape.last().and_then(|dim| dim.known()).unwrap() as usize,
    };
    (folder.join("tiny.onnx"), shape)
}

/// The `.pte` of a checkpoint, in the folder for temporary files of these tests.
pub fn pte(checkpoint: &Path, max_tokens: usize, max_cache: usize, scheme: &Scheme) -> PathBuf {
    // `dream-tiny`
    let parts: Vec<_> = checkpoint.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    let name = format!("{}-{}", parts[1], parts[0]);
    let folder = target().join("tmp/pte");
    std::fs::create_dir_all(&folder).unwrap();
    let Scheme { weights, table, activations, search, .. } = scheme;
    let path = folder.join(format!("{name}-{max_tokens}-{max_cache}-{weights}-{table}-{activations}-{search}.pte"));
    let (checkpoint, target) = (Checkpoint::open(checkpoint).unwrap(), Target::Xnnpack(xnnpack::Options::default()));
    let module = module(&checkpoint, max_tokens, max_cache, target.passes(), scheme);
    let legal = target.legalize(&module).unwrap();
    // Tests run side by side and may want the same file: each writes its own and renames it.
    let own = tempfile::NamedTempFile::new_in(&folder).unwrap();
    let mut out = BufWriter::new(own.as_file());
    let (metadata, options) = (xnnpack::Metadata::default(), xnnpack::Options::default());
    xnnpack::emit(&legal, &checkpoint, &metadata, &options, &mut out, &mut |_, _| {}).unwrap();
    out.flush().unwrap();
    drop(out);
    own.persist(&path).unwrap();
    path
}

/// ExecuTorch on a `.pte`. Where it is not installed, says so on the error stream, past the test runner's capture; with
/// `DIFFULEX_REQUIRE_ENGINES` set, as in CI, that is a failure.
pub fn executorch(pte: &Path) -> Option<Box<dyn Engine>> {
    let library = library()?;
    Some(Box::new(executorch::ExecuTorch::open(pte, &library).unwrap()))
}

/// The library of the ExecuTorch engine, where `tests/engines/setup.sh` left it.
pub fn library() -> Option<PathBuf> {
    installed("ExecuTorch", executorch::library_path(&target().join("engines")))
}

/// A Python with coremltools, where `tests/engines/setup.sh` left it: it runs `tests/judges/coreml`.
pub fn coremltools() -> Option<PathBuf> {
    installed("coremltools", target().join("engines/coremltools/bin/python"))
}

/// A Python with ONNX Runtime and Qualcomm's HTP, where `tests/engines/setup.sh` left it: it runs `tests/judges/onnx`.
pub fn qnn() -> Option<PathBuf> {
    installed("qnn", target().join("engines/qnn/bin/python"))
}

/// ONNX Runtime with Qualcomm's HTP: those of the Python environment that `DIFFULEX_QNN` names, or where
/// `tests/engines/setup.sh` left them.
#[cfg(feature = "qnn")]
pub fn onnxruntime() -> Option<diffulex_runtime::onnxruntime::Libraries> {
    let folder = std::env::var_os("DIFFULEX_QNN").map_or_else(|| target().join("engines/qnn"), PathBuf::from);
    let folder = installed("qnn", folder)?;
    Some(diffulex_runtime::onnxruntime::Libraries::find(&folder).unwrap())
}

/// A file of an outside engine, if it is there.
fn installed(engine: &str, file: PathBuf) -> Option<PathBuf> {
    if file.exists() {
        return Some(file);
    }
    assert!(std::env::var_os("DIFFULEX_REQUIRE_ENGINES").is_none(), "{} is missing", file.display());
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    // Written to the stream itself: the test runner captures only what the print macros write.
    let told = writeln!(std::io::stderr(), "SKIPPED in {test}: {engine} is not installed; run tests/engines/setup.sh");
    told.unwrap();
    None
}

/// Cargo's output folder.
fn target() -> PathBuf {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside, PathBuf::from)
}

fn module(checkpoint: &Checkpoint, t: usize, c: usize, wanted: &[&str], scheme: &Scheme) -> Module {
    let decoder = &checkpoint.config().decoder;
    let module = decoder.import("tiny", Sizes { t, c, r: 0 }, &|name| checkpoint.tensor_type(name)).unwrap();
    passes::run(module, wanted, scheme, &mut |_| {}).unwrap()
}
