//! The Core ML target: a module, legal for it, as a package, and back.
//!
//! The judge of a rewriting is the interpreter. The judges of a package are the program `tests/engines/coreml.py`, which
//! executes it by the format's own rules, and coremltools: both run where `DIFFULEX_COREML_PYTHON` names a Python that has
//! coremltools, numpy and safetensors.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod decoder;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::{CacheId, CacheKind, Encoding, Module, WeightSource, interpret};
use diffulex_targets::coreml::{Attention, Deployment, Metadata, Nibbles, Norm, Options, Package, legalize};
use half::f16;

use decoder::{Model, Numbers, SDAR, assert_same, inputs, models, module};

/// A model whose filters have groups of 128.
const WIDE: Model = Model { heads: 8, kv: 4, dim: 16, hidden: 128, inner: 256, layers: 2, vocab: 61, ..SDAR };

/// All that a package can hold, each in a model that allows it.
fn cases() -> Vec<(String, Model, Options)> {
    let half = |model: Model| Model { encoding: Encoding::F16, ..model };
    let plain = Options::default();
    let mut cases: Vec<(String, Model, Options)> = Vec::new();
    for (i, model) in models().into_iter().enumerate() {
        cases.push((format!("model-{i}"), half(model), plain));
    }
    let more = [
        ("single-norm", Options { norm: Norm::Single, ..plain }),
        ("fused-attention", Options { attention: Attention::Fused, ..plain }),
        ("split-head", Options { split_rows: Some(25), ..plain }),
        ("ios15", Options { deployment: Deployment::Ios15, ..plain }),
        ("ios15-single-norm", Options { deployment: Deployment::Ios15, norm: Norm::Single, ..plain }),
        ("fused-single", Options { attention: Attention::Fused, norm: Norm::Single, ..plain }),
    ];
    cases.extend(more.map(|(name, options)| (name.to_string(), half(SDAR), options)));
    for encoding in [Encoding::Int8Row, Encoding::Int4Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128] {
        let model = Model { encoding, ..WIDE };
        cases.push((encoding.name().to_string(), model, plain));
        cases.push((format!("{encoding}-split"), model, Options { split_rows: Some(20), ..plain }));
        let fused = Options { attention: Attention::Fused, ..plain };
        cases.push((format!("{encoding}-tied"), Model { tied: true, biased: true, fused: false, ..model }, fused));
        if encoding.is_int4() {
            cases.push((format!("{encoding}-offset"), model, Options { nibbles: Nibbles::Unsigned, ..plain }));
        }
    }
    cases
}

/// Inputs that are numbers of `fp16`, with a mask that is finite there.
fn half_inputs(model: Model, seed: u64) -> Inputs {
    let mut given = inputs(model, model.t, model.c, seed);
    let round = |array: &mut Array| {
        array.data.iter_mut().for_each(|x| *x = f16::from_f32(x.max(-1e4)).to_f32());
    };
    round(given.values.get_mut("mask").unwrap());
    given.caches.values_mut().for_each(round);
    given
}

fn write(legal: &Module, numbers: &dyn WeightSource, options: &Options, folder: &Path) {
    let metadata = Metadata { generation: None, recipe_digest: "sha256:0123".into() };
    let package = Package::new(legal, &metadata, options).unwrap();
    package.write(numbers, folder, &mut |_, _| {}).unwrap();
    for (name, bytes) in package.files() {
        assert_eq!(std::fs::metadata(folder.join(name)).unwrap().len(), bytes, "{name}");
    }
}

// --- legal ------------------------------------------------------------------------------------------------------------

#[test]
fn a_legal_module_computes_the_same() {
    for (name, model, options) in cases() {
        let (source, numbers) = (module(model), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        let given = half_inputs(model, 7);
        let expected = interpret(&source, &numbers, &given).unwrap();
        let found = interpret(&legal, &numbers, &given).unwrap();
        // Gains and the tables of the rotation are rounded to fp16.
        assert_same(&name, &found, &expected, 5e-3);
    }
}

// --- outside judges ---------------------------------------------------------------------------------------------------

#[test]
fn judges_agree() {
    let Some(python) = std::env::var_os("DIFFULEX_COREML_PYTHON") else { return };
    let folder = std::env::var_os("DIFFULEX_COREML_KEEP").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let folder = folder.unwrap_or_else(|| temporary.path().into());
    for (name, model, options) in cases() {
        let (source, numbers) = (module(model), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        let package = folder.join(format!("{name}.mlpackage"));
        write(&legal, &numbers, &options, &package);
        let given = half_inputs(model, 7);
        let expected = interpret(&legal, &numbers, &given).unwrap();
        let wide = options.deployment == Deployment::Ios15;
        let inputs = folder.join(format!("{name}.inputs.safetensors"));
        std::fs::write(&inputs, safetensors(&given_tensors(model, &given, wide))).unwrap();
        let outputs = folder.join(format!("{name}.outputs.safetensors"));
        std::fs::write(&outputs, safetensors(&made_tensors(model, &expected))).unwrap();
        // Scales are rounded to fp16.
        let limit = if model.encoding.is_float() { "2e-5" } else { "2e-2" };
        let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/coreml.py");
        let judge = std::env::var_os("DIFFULEX_COREML_JUDGE").map_or(judge, PathBuf::from);
        let done = Command::new(&python)
            .arg(judge)
            .arg(&package)
            .args(["--max-error", limit, "--inputs"])
            .arg(&inputs)
            .arg("--outputs")
            .arg(&outputs)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{name}: {said}");
        println!("{name}: {}", said.lines().last().unwrap_or_default());
    }
}

/// A tensor as safetensors has it: element type, shape, bytes.
type Tensor = (&'static str, Vec<usize>, Vec<u8>);

fn halves(array: &Array, wide: bool) -> Tensor {
    if wide {
        return singles(array);
    }
    let bytes = array.data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    ("F16", array.shape.clone(), bytes)
}

fn singles(array: &Array) -> Tensor {
    ("F32", array.shape.clone(), array.data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn integers(array: &Array) -> Tensor {
    ("I32", array.shape.clone(), array.data.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect())
}

/// The arrays of all layers, one after another.
fn stacked(model: Model, of: impl Fn(CacheId) -> Array, kind: CacheKind) -> Array {
    let layers: Vec<Array> = (0..model.layers).map(|layer| of(CacheId { layer, kind })).collect();
    let mut shape = layers[0].shape.clone();
    shape.insert(0, layers.len());
    Array { shape, data: layers.into_iter().flat_map(|a| a.data).collect() }
}

fn given_tensors(model: Model, given: &Inputs, wide: bool) -> BTreeMap<String, Tensor> {
    let cache = |kind| stacked(model, |id| given.caches[&id].clone(), kind);
    let tensors = [
        ("input_ids", integers(&given.values["tokens"])),
        ("position_ids", integers(&given.values["positions"])),
        ("attn_mask", halves(&given.values["mask"], wide)),
        ("k_cache", halves(&cache(CacheKind::K), wide)),
        ("v_cache", halves(&cache(CacheKind::V), wide)),
    ];
    tensors.map(|(name, tensor)| (format!("call0.{name}"), tensor)).into()
}

fn made_tensors(model: Model, made: &Outputs) -> BTreeMap<String, Tensor> {
    let rows = |kind| stacked(model, |id| made.new_rows[&id].clone(), kind);
    let tensors = [
        ("logits", singles(&made.values[0])),
        ("k_new", singles(&rows(CacheKind::K))),
        ("v_new", singles(&rows(CacheKind::V))),
    ];
    tensors.map(|(name, tensor)| (format!("call0.{name}"), tensor)).into()
}

fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
