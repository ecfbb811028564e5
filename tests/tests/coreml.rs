//! The Core ML target: a module, legal for it, as a package, and back.
//!
//! The judge of a rewriting is the interpreter. The judge of a package is `tests/judges/coreml`, which shares no code with
//! the product: it executes a package by the format's own rules, and has coremltools load it.
//!
//! What Linux cannot show: whether Apple's compiler and runtime accept a package, on which unit an operation runs, how fast
//! and in how much memory, how errors of `fp16` add up there, and how states and functions behave on a device. That is
//! what `check.swift` beside each package is for.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "coreml/check.rs"]
mod check;
#[path = "coreml/judge.rs"]
mod judge;

mod decoder;
mod parts;
#[path = "coreml/shapes.rs"]
mod shapes;

use std::path::{Path, PathBuf};

use diffulex_compiler::ir::interpret::{Array, Inputs};
use diffulex_compiler::ir::{Encoding, Module, WeightSource, interpret, print};
use diffulex_targets::coreml::{
    Attention, Deployment, Interface, Metadata, Nibbles, Norm, Options, Package, Packages, legalize, read, text,
};
use diffulex_targets::raise::raise;
use diffulex_targets::{Content, EmitError, Work};
use half::f16;

use decoder::{Model, Numbers, Random, SDAR, assert_same, inputs, models, module};
use judge::{Judge, Tensors, given_tensors, halves, integers, made_tensors, singles};

macro_rules! assert_snapshot {
    ($name:expr, $value:expr) => {
        insta::with_settings!({ snapshot_path => "../../snapshots/targets", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $value);
        })
    };
}

/// A model whose filters have groups of 128.
const WIDE: Model = Model { heads: 8, kv: 4, dim: 16, hidden: 128, inner: 256, layers: 2, vocab: 61, ..SDAR };

/// All that a package can hold, each in a model that allows it.
fn cases() -> Vec<(String, Model, Options)> {
    let half = |model: Model| Model { encoding: Encoding::F16, ..model };
    let plain = Options::default();
    let mut cases: Vec<(String, Model, Options)> = Vec::new();
    for (i, model) in models().into_iter().enumerate() {
        cases.push((format!("model-{i}"), half(model), plain.clone()));
    }
    let more = [
        ("single-norm", Options { norm: Norm::Single, ..plain.clone() }),
        ("fused-attention", Options { attention: Attention::Fused, ..plain.clone() }),
        ("split-head", Options { split_rows: Some(25), ..plain.clone() }),
        ("ios15", Options { deployment: Deployment::Ios15, ..plain.clone() }),
        ("ios15-single-norm", Options { deployment: Deployment::Ios15, norm: Norm::Single, ..plain.clone() }),
        ("fused-single", Options { attention: Attention::Fused, norm: Norm::Single, ..plain.clone() }),
    ];
    cases.extend(more.map(|(name, options)| (name.to_string(), half(SDAR), options)));
    let split = Options { split_rows: Some(25), ..plain.clone() };
    cases.push(("split-tied".into(), half(Model { tied: true, ..SDAR }), split));
    for encoding in [Encoding::Int8Row, Encoding::Int4Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128] {
        let model = Model { encoding, ..WIDE };
        cases.push((encoding.name().to_string(), model, plain.clone()));
        cases.push((format!("{encoding}-split"), model, Options { split_rows: Some(20), ..plain.clone() }));
        let fused = Options { attention: Attention::Fused, ..plain.clone() };
        cases.push((format!("{encoding}-tied"), Model { tied: true, biased: true, fused: false, ..model }, fused));
        if encoding.is_int4() {
            cases.push((format!("{encoding}-offset"), model, Options { nibbles: Nibbles::Unsigned, ..plain.clone() }));
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
    let packages = Packages::new(legal, "m", &metadata, options).unwrap();
    let mut make = |name: &str, content: Content<'_>| {
        let path = folder.join(name.strip_prefix("m.mlpackage/").expect("one package"));
        std::fs::create_dir_all(path.parent().unwrap())?;
        content(&mut std::fs::File::create(path)?)?;
        Ok::<(), EmitError>(())
    };
    packages.write(Work::new(numbers), &mut make, &mut |_, _| {}).unwrap();
    for (name, bytes) in package.files() {
        assert_eq!(std::fs::metadata(folder.join(name)).unwrap().len(), bytes, "{name}");
    }
}

// --- legal ------------------------------------------------------------------------------------------------------------

#[test]
fn a_legal_module_computes_the_same() {
    for (name, model, options) in cases() {
        let (mut source, numbers) = (module(model), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        for weight in &mut source.weights {
            (weight.search, weight.ty.encoding) =
                legal.weight_id(&weight.name).map(|id| legal.weight(id)).map(|w| (w.search, w.ty.encoding)).unwrap();
        }
        let given = half_inputs(model, 7);
        let expected = interpret(&source, &numbers, &given).unwrap();
        let found = interpret(&legal, &numbers, &given).unwrap();
        // Gains and the tables of the rotation are rounded to fp16.
        assert_same(&name, &found, &expected, 5e-3);
    }
}

#[test]
fn what_core_ml_lacks_is_refused_by_name() {
    let refused = |model: Model, options: Options, expected: &str, nearest: Option<&str>| {
        let refusal = legalize(&module(model), &options).unwrap_err();
        assert_eq!(refusal.to_string(), expected);
        assert_eq!(refusal.nearest().as_deref(), nearest);
    };
    let plain = Options::default();
    let with = |encoding| Model { encoding, ..WIDE };
    let filters = Some("f16 or int8.row or int4.g32 or int4.g64 or int4.g128 or int4.row");
    for encoding in [Encoding::F32, Encoding::BF16] {
        let expected = format!("@embed_tokens: this target cannot use {encoding} for a table");
        refused(with(encoding), plain.clone(), &expected, filters);
    }
    let old = |deployment| Options { deployment, ..plain.clone() };
    refused(
        with(Encoding::Int4Row),
        old(Deployment::Ios17),
        "@embed_tokens: a weight in int4 needs ios18, and ios17 is asked for",
        Some("ios18"),
    );
    refused(
        with(Encoding::Int8Row),
        old(Deployment::Ios15),
        "@embed_tokens: a weight in int8 needs ios16, and ios15 is asked for",
        Some("ios16"),
    );
    refused(
        with(Encoding::F16),
        Options { attention: Attention::Fused, ..old(Deployment::Ios16) },
        "layers.0 %mix.mixed: fused attention needs ios18, and ios16 is asked for",
        Some("ios18"),
    );
    refused(
        with(Encoding::F16),
        Options { interface: Interface::State, ..old(Deployment::Ios16) },
        "cache: a cache that the package keeps needs ios18, and ios16 is asked for",
        Some("ios18"),
    );
    refused(
        Model { c: 7, ..with(Encoding::F16) },
        Options { interface: Interface::State, ..plain.clone() },
        "cache: 8 tokens a step do not fit a cache of 7 that the package keeps",
        None,
    );
    refused(
        Model { hidden: 96, ..with(Encoding::Int4G64) },
        plain.clone(),
        "@embed_tokens: rows of 96 numbers cannot be cut into groups of 64",
        None,
    );
    refused(
        Model { hidden: 5, ..with(Encoding::Int4Row) },
        plain,
        "@embed_tokens: rows of 5 numbers, an odd number, cannot be int4.row for a table",
        Some("int8.row"),
    );
}

#[test]
fn a_package_asks_for_the_lowest_version_that_suffices() {
    let version = |encoding, options: &Options| {
        let legal = legalize(&module(Model { encoding, ..WIDE }), options).unwrap();
        Package::new(&legal, &Metadata::default(), options).unwrap().version()
    };
    for deployment in Deployment::ALL.iter().copied() {
        let options = Options { deployment, ..Options::default() };
        assert_eq!(version(Encoding::F16, &options), if deployment == Deployment::Ios15 { 6 } else { 7 });
        if deployment >= Deployment::Ios16 {
            assert_eq!(version(Encoding::Int8Row, &options), 7);
        }
        if deployment >= Deployment::Ios18 {
            assert_eq!(version(Encoding::Int4Row, &options), 9);
            assert_eq!(version(Encoding::F16, &Options { attention: Attention::Fused, ..options.clone() }), 9);
            assert_eq!(version(Encoding::F16, &Options { interface: Interface::State, ..options.clone() }), 9);
        }
    }
}

/// Which lints there are, and when, stands in the tests of the lints; here is what recipes can do about them.
#[test]
fn lints_follow_the_options() {
    let lints = |model: Model, options: &Options| {
        let legal = legalize(&module(model), options).unwrap();
        let package = Package::new(&legal, &Metadata::default(), options).unwrap();
        package.lints().into_iter().map(|lint| lint.name).collect::<Vec<_>>()
    };
    let plain = Options::default();
    let half = Model { encoding: Encoding::F16, ..WIDE };
    let newer = Options { attention: Attention::Fused, ..plain.clone() };
    assert_eq!(lints(half, &plain), ["coreml::rounded-epsilon"]);
    assert_eq!(lints(half, &newer), ["coreml::fused-attention"]);
    // 1/sqrt(8) is not exact, 1/sqrt(16) is.
    let narrow = Model { dim: 8, heads: 16, ..half };
    assert_eq!(lints(narrow, &plain), ["coreml::rounded-epsilon", "coreml::rounded-scale"]);
    let huge = Model { vocab: 70_000, layers: 1, ..half };
    assert_eq!(lints(huge, &plain), ["coreml::large-filter", "coreml::large-dimension", "coreml::rounded-epsilon"]);
    let split = Options { split_rows: Some(65_536), ..plain.clone() };
    assert_eq!(lints(huge, &split), ["coreml::large-dimension", "coreml::rounded-epsilon"]);
    let kept = Options { interface: Interface::State, ..plain.clone() };
    let width = Model { dim: 32, heads: 4, t: 16, c: 32, ..half };
    assert_eq!(lints(width, &kept), ["coreml::run-time-offset", "coreml::rounded-scale"]);
}

// --- emit -------------------------------------------------------------------------------------------------------------

#[test]
fn the_same_module_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, options) in cases() {
        let files = [1, 2].map(|i| {
            let folder = folder.path().join(format!("{name}-{i}"));
            let legal = legalize(&module(model), &options).unwrap();
            write(&legal, &Numbers::random(model, 1), &options, &folder);
            let package = Package::new(&legal, &Metadata::default(), &options).unwrap();
            package.files().map(|(name, _)| std::fs::read(folder.join(name)).unwrap())
        });
        assert!(files[0] == files[1], "{name}");
    }
}

// --- read -------------------------------------------------------------------------------------------------------------

#[test]
fn a_package_reads_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, options) in cases() {
        for interface in [Interface::Explicit, Interface::State] {
            let options = Options { interface, ..options.clone() };
            let model = Model { c: model.c.max(model.t), ..model };
            if interface == Interface::State && options.deployment < Deployment::Ios18 {
                continue;
            }
            let (source, numbers) = (module(model), Numbers::random(model, 5));
            let legal = legalize(&source, &options).unwrap();
            let package = folder.path().join(format!("{name}-{interface:?}"));
            write(&legal, &numbers, &options, &package);
            let read = read(&package).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((read.interface, read.recipe_digest.as_deref()), (interface, Some("sha256:0123")));
            let given = half_inputs(model, 7);
            let expected = interpret(&legal, &numbers, &given).unwrap();
            let found = interpret(&read.module, read.source.as_ref(), &given).unwrap();
            assert_same(&name, &found, &expected, 1e-5);
            let raised = raise(&read.module, read.source.as_ref()).unwrap();
            let again = interpret(&raised, read.source.as_ref(), &given).unwrap();
            assert_same(&format!("{name}, raised"), &again, &found, 1e-5);
        }
    }
}

#[test]
fn a_raised_package_has_the_ops_of_its_family() {
    let folder = tempfile::tempdir().unwrap();
    for norm in [Norm::Half, Norm::Single] {
        let options = Options { norm, ..Options::default() };
        let model = Model { encoding: Encoding::F16, ..SDAR };
        let source = module(model);
        write(&legalize(&source, &options).unwrap(), &Numbers::random(model, 1), &options, folder.path());
        let read = read(folder.path()).unwrap();
        let raised = raise(&read.module, read.source.as_ref()).unwrap();
        let ops = |module: &Module| {
            let mut names: Vec<&str> = module.nodes.iter().map(|n| n.op.name()).collect();
            names.retain(|name| !matches!(*name, "rope_cos" | "rope_sin" | "embed" | "reshape"));
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(ops(&raised).replace("mul silu slice slice", "swiglu"), ops(&source).replace("mul silu", "swiglu"));
        if norm == Norm::Half {
            assert_snapshot!("coreml-read", print(&read.module));
        }
    }
}

#[test]
fn a_legal_module_reads_well() {
    let model = Model { encoding: Encoding::Int8Row, ..SDAR };
    assert_snapshot!("coreml-legal", print(&legalize(&module(model), &Options::default()).unwrap()));
}

#[test]
fn a_package_reads_well() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Options::default();
    let kept = Options { interface: Interface::State, norm: Norm::Single, nibbles: Nibbles::Unsigned, ..plain.clone() };
    for (name, options, encoding) in [("explicit", plain, Encoding::Int8Row), ("state", kept, Encoding::Int4G32)] {
        tiny(&options, encoding, folder.path());
        assert_snapshot!(format!("coreml-text-{name}"), text(folder.path()).unwrap());
    }
    for shapes in &shapes::ALL[1..] {
        shapes::tiny_of(*shapes, folder.path());
        assert_snapshot!(format!("coreml-text-{}", shapes.name()), text(folder.path()).unwrap());
    }
}

/// A package of a tiny model, and its files by name.
fn tiny(options: &Options, encoding: Encoding, folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let model =
        Model { layers: 1, heads: 2, kv: 1, dim: 16, hidden: 32, inner: 32, vocab: 5, t: 2, c: 2, encoding, ..SDAR };
    let legal = legalize(&module(model), options).unwrap();
    write(&legal, &Numbers::random(model, 1), options, folder);
    let package = Package::new(&legal, &Metadata::default(), options).unwrap();
    let path = |name: &str| folder.join(name);
    package.files().map(|(name, _)| (path(name), std::fs::read(path(name)).unwrap())).into()
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in tiny(&Options::default(), Encoding::Int4G32, folder.path()) {
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            // The manifest ends with a line break that nothing needs.
            let whole = path.ends_with("Manifest.json") && length + 1 == bytes.len();
            assert_eq!(read(folder.path()).is_ok(), whole, "{length} of {} bytes of {}", bytes.len(), path.display());
        }
        std::fs::write(&path, &bytes).unwrap();
    }
}

/// Flipped bytes give an error or another module that keeps the rules; never a panic, never gigabytes, never minutes.
#[test]
fn flipped_bytes_never_panic() {
    let state = Options { interface: Interface::State, ..Options::default() };
    let old = Options { deployment: Deployment::Ios15, norm: Norm::Single, ..Options::default() };
    let mut random = Random(5);
    for (options, encoding) in
        [(Options::default(), Encoding::Int8Row), (state, Encoding::Int4G32), (old, Encoding::F16)]
    {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in tiny(&options, encoding, folder.path()) {
            flip(&mut random, folder.path(), &path, &bytes);
        }
        read(folder.path()).unwrap();
    }
}

/// Reads a package with changed bytes in one of its files, many times.
#[track_caller]
fn flip(random: &mut Random, folder: &Path, path: &Path, bytes: &[u8]) {
    let cases = std::env::var("DIFFULEX_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let mut read_back = 0;
    for _ in 0..cases {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ 1 << random.below(8),
                _ => random.next() as u8,
            };
        }
        std::fs::write(path, &bytes).unwrap();
        if let Ok(read) = read(folder) {
            raise(&read.module, read.source.as_ref()).unwrap();
            read_back += 1;
        }
    }
    std::fs::write(path, bytes).unwrap();
    assert!(read_back < cases, "{}", path.display());
}

// --- outside judges ---------------------------------------------------------------------------------------------------

#[test]
fn judges_agree() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    for (name, model, options) in cases() {
        let (source, numbers) = (module(model), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        let package = folder.path().join(format!("{name}.mlpackage"));
        write(&legal, &numbers, &options, &package);
        let (given, read) = (half_inputs(model, 7), read(&package).unwrap());
        let expected = interpret(&read.module, read.source.as_ref(), &given).unwrap();
        let wide = options.deployment == Deployment::Ios15;
        judge.compare(&package, &given_tensors(model, &given, wide), &made_tensors(model, &expected));
        let options = Options { interface: Interface::State, ..options.clone() };
        let model = Model { c: model.c.max(model.t), ..model };
        if options.deployment >= Deployment::Ios18 {
            let package = folder.path().join(format!("{name}-state.mlpackage"));
            write(&legalize(&module(model), &options).unwrap(), &numbers, &options, &package);
            judge.check(&package);
        }
    }
    judge.agrees();
}

/// Damage that no structure shows: the numbers do.
#[test]
fn judges_see_silent_damage() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    let model = Model { encoding: Encoding::Int4G32, ..WIDE };
    let explicit = folder.path().join("explicit.mlpackage");
    write(
        &legalize(&module(model), &Options::default()).unwrap(),
        &Numbers::random(model, 5),
        &Options::default(),
        &explicit,
    );
    let (given, read) = (half_inputs(model, 7), read(&explicit).unwrap());
    let made = interpret(&read.module, read.source.as_ref(), &given).unwrap();
    let (given, made) = (given_tensors(model, &given, false), made_tensors(model, &made));
    for damage in ["swapped_nibbles", "scales_along_the_other_axis"] {
        let package = judge.damaged(&explicit, damage);
        judge.compare(&package, &given, &made);
    }
    let kept = folder.path().join("state.mlpackage");
    let (given, made) = three_steps(Encoding::F16, &kept);
    let package = judge.damaged(&kept, "stale_read_of_a_state");
    judge.compare(&package, &given, &made);
    for report in judge.reports() {
        assert_eq!(report["verdict"], "different", "{report}");
    }
}

/// A package that keeps its cache: two blocks one after another, then the second once more with other tokens.
#[test]
fn judges_agree_on_states() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    for encoding in [Encoding::F16, Encoding::Int4G32] {
        let package = folder.path().join(format!("{encoding}.mlpackage"));
        let (given, made) = three_steps(encoding, &package);
        judge.compare(&package, &given, &made);
    }
    let manifest = folder.path().join(format!("{}.mlpackage/Manifest.json", Encoding::F16));
    let before = std::fs::read(&manifest).unwrap();
    judge.agrees();
    // coremltools writes the manifest of a package that it opens: it is the one that was there.
    assert_eq!(String::from_utf8(before), String::from_utf8(std::fs::read(&manifest).unwrap()));
}

/// The judge on packages good and broken, written by coremltools.
#[test]
fn the_judge_is_judged() {
    if let Some(judge) = Judge::found(Path::new("")) {
        judge.run("self_tests", &[]);
    }
}

/// Writes a package that keeps its cache; gives the inputs and logits of three steps.
fn three_steps(encoding: Encoding, package: &Path) -> (Tensors, Tensors) {
    let model = Model { t: 4, c: 12, encoding, ..WIDE };
    let (source, numbers) = (module(model), Numbers::random(model, 5));
    let options = Options { interface: Interface::State, ..Options::default() };
    write(&legalize(&source, &options).unwrap(), &numbers, &options, package);
    let read = read(package).unwrap();
    let (mut given, mut made) = (Tensors::new(), Tensors::new());
    let mut caches = half_inputs(model, 7).caches;
    for (call, start) in [0, 4, 4].into_iter().enumerate() {
        let mut step = half_inputs(model, 20 + call as u64);
        // A step sees what was committed before it, and itself.
        let mask = |kept: usize| move |i: usize| if i % kept < start || i % kept >= 12 { 0.0 } else { -1e4 };
        step.values.get_mut("mask").unwrap().data = (0..4 * 16).map(mask(16)).collect();
        step.caches.clone_from(&caches);
        let out = interpret(&read.module, read.source.as_ref(), &step).unwrap();
        let own = |i: usize| if i % 12 < start + 4 { 0.0 } else { -1e4 };
        let mask = Array { shape: vec![1, 1, 4, 12], data: (0..4 * 12).map(own).collect() };
        for (name, tensor) in [
            ("input_ids", integers(&step.values["tokens"])),
            ("position_ids", integers(&step.values["positions"])),
            ("attn_mask", halves(&mask, false)),
            ("write_pos", integers(&Array { shape: vec![1], data: vec![start as f32] })),
        ] {
            given.insert(format!("call{call}.{name}"), tensor);
        }
        made.insert(format!("call{call}.logits"), singles(&out.values[0]));
        if call == 0 {
            for (id, cache) in &mut caches {
                let (rows, width) = (&out.new_rows[id].data, model.dim as usize);
                for head in 0..model.kv as usize {
                    let block = head * 12 * width..(head * 12 + 4) * width;
                    cache.data[block].copy_from_slice(&rows[head * 4 * width..(head + 1) * 4 * width]);
                }
            }
        }
    }
    (given, made)
}
