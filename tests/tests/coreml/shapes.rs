//! Steps of several numbers of tokens: ranges, lists, and a function for each.

use diffulex_compiler::passes;
use diffulex_compiler::quant::Scheme;
use diffulex_targets::coreml::{Artifact, Shapes};

use std::collections::BTreeMap;

use super::judge::Tensor;
use super::*;

pub(super) const ALL: [Shapes; 4] = [Shapes::Static, Shapes::Range, Shapes::Enumerated, Shapes::Functions];

/// These options with other shapes.
fn with(options: &Options, shapes: Shapes, lengths: &[u32]) -> Options {
    Options { shapes, lengths: lengths.into(), ..options.clone() }
}

/// A model, options for static shapes, and the lengths of a list beside the bound. Each shape of the tests of packages
/// that has more than one token.
fn flexible_cases() -> Vec<(String, Model, Options, Vec<u32>)> {
    let several = cases().into_iter().filter(|(_, model, _)| model.t > 1);
    several.map(|(name, model, options)| (name, model, options, vec![1, 2, model.t as u32 - 1])).collect()
}

/// The module of a model whose steps say which rows need logits.
fn module_of_rows(model: Model) -> Module {
    passes::run(module(model), &["select-rows"], &Scheme::F32, &mut |_| {}).unwrap()
}

/// A step of `t` tokens, with `r` rows where there are rows.
fn step(model: Model, t: usize, r: usize) -> Inputs {
    let mut given = half_inputs(Model { t, ..model }, 7 + t as u64);
    if r > 0 {
        let rows = (0..r).map(|i| (i * 3 % t) as f32).collect();
        given.values.insert("rows".into(), Array { shape: vec![r], data: rows });
    }
    given
}

fn write_and_read(legal: &Module, numbers: &Numbers, options: &Options, package: &Path) -> Artifact {
    write(legal, numbers, options, package);
    read(package).unwrap_or_else(|e| panic!("{}: {e}", package.display()))
}

#[test]
fn packages_of_all_shapes_are_one_module() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, options, lengths) in flexible_cases() {
        for of_rows in [false, true] {
            let source = if of_rows { module_of_rows(model) } else { module(model) };
            let (numbers, bound) = (Numbers::random(model, 5), model.t as u32);
            let legal = legalize(&source, &options).unwrap();
            let mut first: BTreeMap<i32, (String, Vec<u8>)> = BTreeMap::new();
            for shapes in ALL {
                let listed = matches!(shapes, Shapes::Enumerated | Shapes::Functions);
                let options = with(&options, shapes, if listed { &lengths } else { &[] });
                if listed && options.deployment < Deployment::Ios18 {
                    continue;
                }
                let package = folder.path().join(format!("{name}-{shapes:?}-{of_rows}"));
                let artifact = write_and_read(&legal, &numbers, &options, &package);
                let mut expected = match shapes {
                    Shapes::Static => vec![bound],
                    Shapes::Range => vec![1, bound],
                    _ => [&lengths[..], &[bound]].concat(),
                };
                expected.sort_unstable();
                expected.dedup();
                assert_eq!((artifact.shapes, artifact.lengths), (shapes, expected), "{name}");
                // All have the numbers once. Up to version 7, the eps of a norm is rounded to fp16.
                let weights = std::fs::read(package.join("Data/com.apple.CoreML/weights/weight.bin")).unwrap();
                let found = (print(&artifact.module), weights);
                assert!(first.entry(artifact.version).or_insert_with(|| found.clone()) == &found, "{name} {shapes:?}");
                for t in [1, model.t.div_ceil(2), model.t] {
                    let given = step(model, t, if of_rows { 2 } else { 0 });
                    let expected = interpret(&legal, &numbers, &given).unwrap();
                    let found = interpret(&artifact.module, artifact.source.as_ref(), &given).unwrap();
                    let limit = if model.encoding.is_float() { 1e-5 } else { 1e-2 };
                    assert_same(&format!("{name} {shapes:?} {t}"), &found, &expected, limit);
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_work_are_refused_by_name() {
    let plain = Options::default();
    let model = Model { encoding: Encoding::F16, ..SDAR };
    let kept = Options { interface: Interface::State, ..plain.clone() };
    let old = Options { deployment: Deployment::Ios17, ..plain.clone() };
    let many: Vec<u32> = (1..=200).collect();
    let huge = Model { t: 200, c: 200, ..model };
    let one = Model { t: 1, ..model };
    let static_ones = "`static`";
    for (model, options, expected, nearest) in [
        (
            model,
            with(&kept, Shapes::Range, &[]),
            "cache: a cache that the package keeps has static shapes, and `range` is asked for",
            "`static`, or a cache that the host keeps",
        ),
        (
            model,
            with(&kept, Shapes::Functions, &[4]),
            "cache: a cache that the package keeps has static shapes, and `functions` is asked for",
            "`static`, or a cache that the host keeps",
        ),
        (
            model,
            with(&plain, Shapes::Enumerated, &[4, 9]),
            "lengths: a step of 9 tokens, where the module has 1 to 8",
            "8",
        ),
        (
            model,
            with(&plain, Shapes::Functions, &[4, 0]),
            "lengths: a step of 0 tokens, where the module has 1 to 8",
            "1",
        ),
        (
            model,
            with(&plain, Shapes::Range, &[4]),
            "lengths: a list of lengths says nothing where shapes are `range`",
            "`enumerated` or `functions`",
        ),
        (
            model,
            with(&plain, Shapes::Enumerated, &[8]),
            "shapes: shapes are `enumerated`, and all steps have 8 tokens",
            static_ones,
        ),
        (one, with(&plain, Shapes::Range, &[]), "shapes: shapes are `range`, and all steps have 1 tokens", static_ones),
        (huge, with(&plain, Shapes::Functions, &many), "lengths: 200 numbers of tokens", "128"),
        (
            model,
            with(&old, Shapes::Enumerated, &[4]),
            "shapes: a list of shapes for several inputs needs ios18, and ios17 is asked for",
            "ios18",
        ),
        (
            model,
            with(&old, Shapes::Functions, &[4]),
            "shapes: a package of several functions needs ios18, and ios17 is asked for",
            "ios18",
        ),
    ] {
        let refusal = legalize(&module(model), &options).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.nearest().as_deref()), (expected, Some(nearest)));
        let legal = legalize(&module(model), &plain).unwrap();
        Package::new(&legal, &Metadata::default(), &options).err().unwrap();
    }
}

/// A package of a tiny model with steps of 1 or 2 tokens; the model file and its bytes.
pub(super) fn tiny_of(shapes: Shapes, folder: &Path) -> (PathBuf, Vec<u8>) {
    let lengths: &[u32] = if shapes == Shapes::Range { &[] } else { &[1] };
    tiny(&with(&Options::default(), shapes, lengths), Encoding::Int8Row, folder)[1].clone()
}

#[test]
fn truncated_flexible_packages_are_errors() {
    for shapes in &ALL[1..] {
        let folder = tempfile::tempdir().unwrap();
        let (path, bytes) = tiny_of(*shapes, folder.path());
        // Each length would take minutes; the static package is cut everywhere.
        for length in (0..bytes.len()).rev().step_by(37) {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(read(folder.path()).is_err(), "{length} of {} bytes, {shapes:?}", bytes.len());
        }
    }
}

#[test]
fn flipped_bytes_of_flexible_packages_never_panic() {
    let mut random = Random(6);
    for shapes in &ALL[1..] {
        let folder = tempfile::tempdir().unwrap();
        let (path, bytes) = tiny_of(*shapes, folder.path());
        flip(&mut random, folder.path(), &path, &bytes);
    }
}

/// Bytes with the first place of `from` replaced.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn what_does_not_agree_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let check = |shapes: Shapes, change: &dyn Fn(&[u8]) -> Vec<u8>, expected: &str| {
        let (path, bytes) = tiny_of(shapes, folder.path());
        std::fs::write(&path, change(&bytes)).unwrap();
        let error = read(folder.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    // `SizeRange`: field 1 the smallest, field 2 the largest. The mask has 3 to 4 columns.
    let columns = |bytes: &[u8]| patched(bytes, &[8, 3, 16, 4], &[8, 2, 16, 4]);
    check(Shapes::Range, &columns, "feature \"attn_mask\": list of shapes is Range([[1, 1], [1, 1], [1, 2], [2, 4]])");
    let tokens = |bytes: &[u8]| patched(bytes, &[8, 1, 16, 2], &[8, 2, 16, 2]);
    check(Shapes::Range, &tokens, "feature \"input_ids\": description is");
    // `Shape`: field 1, packed. The first list is that of the tokens.
    let twice = |bytes: &[u8]| patched(bytes, &[10, 2, 1, 1], &[10, 2, 1, 2]);
    check(Shapes::Enumerated, &twice, "feature \"input_ids\": ");
    let mask = |bytes: &[u8]| patched(bytes, &[10, 4, 1, 1, 1, 3], &[10, 4, 1, 1, 1, 2]);
    check(Shapes::Enumerated, &mask, "feature \"attn_mask\": list of shapes is List([[1, 1, 2, 4], [1, 1, 1, 2]])");
    // The first step in the file is that of 1 token. The two norms of its layer change places.
    let weights = |bytes: &[u8]| {
        let offset = |name: &str| {
            let path = b"@model_path/weights/weight.bin\x10";
            let after = |from: usize, part: &[u8]| {
                from + bytes[from..].windows(part.len()).position(|found| found == part).unwrap() + part.len()
            };
            let at = after(after(0, name.as_bytes()), path);
            at..at + 2
        };
        let (a, b) = (offset("layers__0__input_layernorm"), offset("layers__0__post_attention_layernorm"));
        let mut changed = bytes.to_vec();
        changed[a.clone()].copy_from_slice(&bytes[b.clone()]);
        changed[b].copy_from_slice(&bytes[a]);
        changed
    };
    check(
        Shapes::Functions,
        &weights,
        "function \"step_1\": damaged: a weight of it is not that of function \"step_2\"",
    );
    let silu = |bytes: &[u8]| patched(bytes, b"\x0a\x04silu", b"\x0a\x04sqrt");
    check(Shapes::Functions, &silu, "function \"step_1\", operation ");
    let name = |bytes: &[u8]| patched(bytes, b"\xaa\x01\x06step_2", b"\xaa\x01\x06step_3");
    check(Shapes::Functions, &name, "model: damaged: defaultFunctionName");
}

#[test]
fn judges_agree_on_all_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    let floats = flexible_cases().into_iter().filter(|(_, model, ..)| !model.encoding.is_int4());
    for (i, (name, model, options, lengths)) in floats.enumerate() {
        let numbers = Numbers::random(model, 5);
        let of_rows = i == 1;
        let legal = if of_rows { module_of_rows(model) } else { module(model) };
        let legal = legalize(&legal, &options).unwrap();
        for shapes in &ALL[1..] {
            let listed = *shapes != Shapes::Range;
            if listed && options.deployment < Deployment::Ios18 {
                continue;
            }
            let options = with(&options, *shapes, if listed { &lengths } else { &[] });
            let package = folder.path().join(format!("{name}-{shapes:?}.mlpackage"));
            let artifact = write_and_read(&legal, &numbers, &options, &package);
            let several = *shapes == Shapes::Functions;
            let (mut given, mut made) = (Tensors::new(), Tensors::new());
            for (call, t) in [model.t, 1, model.t - 1].into_iter().enumerate() {
                // Rows are as many as the largest step has tokens, or the step of the function.
                let r = if several { t } else { model.t };
                let inputs = step(model, t, if of_rows { r } else { 0 });
                let expected = interpret(&artifact.module, artifact.source.as_ref(), &inputs).unwrap();
                let call = if several { 0 } else { call };
                let renamed =
                    |(name, tensor): (String, Tensor)| (name.replace("call0", &format!("call{call}")), tensor);
                let wide = options.deployment == Deployment::Ios15;
                given.extend(given_tensors(model, &inputs, wide).into_iter().map(renamed));
                given.extend(inputs.values.get("rows").map(|rows| (format!("call{call}.row_ids"), integers(rows))));
                made.extend(made_tensors(model, &expected).into_iter().map(renamed));
                if several {
                    judge.compare_function(&package, Some(&format!("step_{t}")), &given, &made);
                    (given, made) = Default::default();
                }
            }
            if !several {
                judge.compare(&package, &given, &made);
            }
        }
    }
    judge.agrees();
}
