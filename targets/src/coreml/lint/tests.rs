//! For each lint a package that has it and one that has not: most are good packages with one place changed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;

use diffulex_compiler::ir::Encoding;

use super::*;
use crate::coreml::schema::program::{
    Argument, Binding, Bound, DataType, Dimension, NamedValueType, Numbers, Operation, RepeatedBytes, ValueKind,
};
use crate::coreml::small::{self, Parts, tensor_of};
use crate::coreml::{Attention, Deployment, Interface, Metadata, Norm, Options, Package};

/// A package of version 7 with one lint: its epsilon.
fn plain() -> Parts {
    Parts::new(Encoding::F16, &Options::default())
}

fn names(parts: &Parts) -> Vec<&'static str> {
    let lints = check(&parts.model, &[parts.weights.len() as u64]);
    lints.into_iter().map(|lint| lint.name).collect()
}

/// The lints that a change adds to a plain package.
#[track_caller]
fn added(parts: fn() -> Parts, change: impl FnOnce(&mut Parts)) -> Vec<Lint> {
    let (before, mut after) = (names(&parts()), parts());
    change(&mut after);
    let lints = check(&after.model, &[after.weights.len() as u64]);
    lints.into_iter().filter(|lint| !before.contains(&lint.name)).collect()
}

#[track_caller]
fn adds(parts: fn() -> Parts, name: &str, place: &str, change: impl FnOnce(&mut Parts)) {
    let lints = added(parts, change);
    let found: Vec<_> = lints.iter().map(|lint| (lint.name, lint.place.as_str())).collect();
    assert_eq!(found, [(name, place)]);
}

fn state() -> Parts {
    Parts::new(Encoding::F16, &Options { interface: Interface::State, ..Options::default() })
}

fn grouped() -> Parts {
    Parts::new(Encoding::Int4G32, &Options::default())
}

/// Axes of these sizes; 0 where the size is unknown.
fn axes(sizes: &[u64]) -> Vec<Dimension> {
    sizes.iter().copied().map(small::axis).collect()
}

/// Declares the result of an operation to have these axes.
fn shaped(operation: &mut Operation, sizes: &[u64]) {
    operation.result().dimensions = axes(sizes);
    operation.result().rank = sizes.len() as i64;
}

#[test]
fn the_table_is_the_list() {
    let table: Vec<String> =
        include_str!("mod.rs").lines().filter(|line| line.starts_with("//! | `")).map(String::from).collect();
    let list = LINTS.map(|rule| format!("//! | `{}` | {} | {} |", rule.name, rule.severity.name(), rule.meaning));
    assert_eq!(table, list);
    let word = |c: char| c.is_ascii_lowercase() || c == '-';
    assert!(LINTS.iter().all(|rule| rule.name.strip_prefix("coreml::").is_some_and(|name| name.chars().all(word))));
}

#[test]
fn a_lint_says_what_and_where_and_how_often() {
    let options = Options::default();
    let legal = small::legal(Encoding::F16, &options);
    let found = Package::new(&legal, &Metadata::default(), &options).unwrap().lints();
    let [lint] = &found[..] else { panic!("{found:?}") };
    assert_eq!((lint.name, lint.severity, lint.count), ("coreml::rounded-epsilon", Severity::Note, 2));
    assert!(lint.place.starts_with("operation "), "{}", lint.place);
    assert!(lint.place.ends_with(", `layer_norm` of \"layers_0_in_normed\""), "{}", lint.place);
    assert!(lint.reason.starts_with("it is 1.013279e-6: from version 8 on"), "{}", lint.reason);
}

/// What is on disk has the lints of what was planned.
#[test]
fn a_folder_has_lints() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = state();
    parts.write(folder.path());
    assert_eq!(lint(folder.path()).unwrap(), check(&parts.model, &[parts.weights.len() as u64]));
    // Also where the reader does not know what it is.
    parts.operation("softmax", 0).r#type = "swish".into();
    parts.write(folder.path());
    assert!(super::super::read(folder.path()).is_err());
    assert_eq!(lint(folder.path()).unwrap().len(), names(&state()).len());
    std::fs::remove_file(folder.path().join(crate::coreml::schema::WEIGHT_PATH)).unwrap();
    assert!(lint(folder.path()).is_err());
}

#[test]
fn options_and_encodings() {
    let of = |encoding, options: &Options| names(&Parts::new(encoding, options));
    let plain = Options::default();
    let old = Options { deployment: Deployment::Ios15, ..plain };
    assert_eq!(of(Encoding::F16, &plain), ["coreml::rounded-epsilon"]);
    assert_eq!(of(Encoding::F16, &old), ["coreml::rounded-epsilon"]);
    assert_eq!(of(Encoding::F16, &Options { norm: Norm::Single, ..plain }), ["coreml::single-precision"]);
    assert_eq!(of(Encoding::F16, &Options { norm: Norm::Single, ..old }), ["coreml::single-precision"]);
    // Version 9: the epsilon is one of fp32.
    let fused = Options { attention: Attention::Fused, ..plain };
    assert_eq!(of(Encoding::F16, &fused), ["coreml::fused-attention"]);
    let kept = Options { interface: Interface::State, ..plain };
    assert_eq!(of(Encoding::F16, &kept), ["coreml::state-width", "coreml::update-length", "coreml::run-time-offset"]);
    assert_eq!(of(Encoding::Int8Row, &plain), ["coreml::compressed-filter", "coreml::rounded-epsilon"]);
    assert_eq!(of(Encoding::Int4Row, &plain), ["coreml::compressed-filter"]);
    assert_eq!(of(Encoding::Int4G32, &plain), ["coreml::compressed-filter", "coreml::grouped-scales"]);
}

#[test]
fn parameters() {
    for (kind, key) in [("gather", "batch_dims"), ("softmax", "axis"), ("concat", "interleave"), ("linear", "bias")] {
        let lints = added(plain, |p| drop(p.operation(kind, 0).inputs.remove(key)));
        assert_eq!(lints.len(), 1);
        assert_eq!((lints[0].name, lints[0].count), ("coreml::omitted-parameter", 1));
        assert!(lints[0].reason.starts_with(&format!("`{key}` is left out: ")), "{}", lints[0].reason);
    }
    // What Apple's own writer leaves out, and what a version does not have yet.
    assert_eq!(added(plain, |p| drop(p.operation("slice_by_index", 0).inputs.remove("stride"))), []);
    assert!(!plain().operation("gather", 0).inputs.contains_key("validate_indices"));
}

#[test]
fn ranks() {
    let lints = added(plain, |p| shaped(p.operation("softmax", 0), &[1; 6]));
    assert_eq!(lints.len(), 1);
    assert_eq!((lints[0].name, lints[0].reason.split(':').next()), ("coreml::high-rank", Some("[1, 1, 1, 1, 1, 1]")));
    assert!(lints[0].place.ends_with("`softmax` of \"layers_0_mix_softmax\""), "{}", lints[0].place);
    adds(plain, "coreml::high-rank", "feature \"input_ids\"", |p| {
        tensor_of(&mut p.function().inputs[0].r#type).dimensions = axes(&[1; 6]);
    });
    let gathers = added(plain, |p| shaped(p.operation("gather", 0), &[1; 5]));
    assert_eq!(gathers.iter().map(|lint| lint.name).collect::<Vec<_>>(), ["coreml::gather-rank"]);
    assert_eq!(added(plain, |p| shaped(p.operation("softmax", 0), &[1; 5])), []);
    assert_eq!(added(plain, |p| shaped(p.operation("gather", 0), &[1; 4])), []);
}

#[test]
fn states() {
    let shape = |p: &mut Parts, sizes: &[u64]| {
        for input in &mut p.function().inputs {
            let state = matches!(input.r#type.as_ref().unwrap().kind, Some(ValueKind::State(_)));
            if state {
                tensor_of(&mut input.r#type).dimensions = axes(sizes);
            }
        }
    };
    adds(state, "coreml::flexible-state", "feature \"k_state\"", |p| shape(p, &[2, 1, 1, 0, 64]));
    let mut wide = state();
    shape(&mut wide, &[2, 1, 1, 3, 64]);
    assert_eq!(names(&wide), ["coreml::update-length", "coreml::run-time-offset"]);
    // Sixteen rows, at a place that is a constant.
    let updates = (0..).take_while(|i| p_has(&mut state(), "slice_update", *i)).count();
    assert_eq!(updates, 4);
    for i in 0..updates {
        let rows = wide.operation("slice_update", i).name_of("update").clone();
        let result = |operation: &&mut Operation| operation.outputs.first().is_some_and(|result| result.name == rows);
        shaped(wide.block().operations.iter_mut().find(result).unwrap(), &[1, 1, 1, 16, 64]);
    }
    assert_eq!(names(&wide), ["coreml::run-time-offset"]);
    let constant = wide.operation("const", 0).outputs[0].name.clone();
    for i in 0..updates {
        for key in ["begin", "end"] {
            wide.operation("slice_update", i).name_of(key).clone_from(&constant);
        }
    }
    assert_eq!(names(&wide), [""; 0]);
    // A program that goes round in circles.
    let mut round = state();
    let own = round.operation("slice_update", 0).outputs[0].name.clone();
    *round.operation("slice_update", 0).name_of("x") = own;
    assert!(names(&round).contains(&"coreml::run-time-offset"));
}

fn p_has(parts: &mut Parts, kind: &str, i: usize) -> bool {
    parts.block().operations.iter().filter(|operation| operation.r#type == kind).nth(i).is_some()
}

#[test]
fn palettes() {
    let palette = |dtype: i32| {
        move |p: &mut Parts| {
            let weight = p.operation("constexpr_blockwise_shift_scale", 0);
            let mut indices = weight.value_of("data").clone();
            tensor_of(&mut indices.r#type).data_type = dtype;
            let argument = |bound| Argument { arguments: vec![Binding { bound: Some(bound) }] };
            let made = Operation {
                r#type: "constexpr_lut_to_dense".into(),
                inputs: BTreeMap::from([("indices".to_string(), argument(Bound::Value(indices)))]),
                outputs: vec![NamedValueType { name: "palette".into(), ..weight.outputs[0].clone() }],
                attributes: BTreeMap::new(),
            };
            weight.inputs.insert("data".into(), argument(Bound::Name("palette".into())));
            p.block().operations.insert(0, made);
        }
    };
    let lints = added(grouped, palette(35));
    assert_eq!(lints.iter().map(|lint| lint.name).collect::<Vec<_>>(), ["coreml::palette-scale"]);
    assert_eq!(added(grouped, palette(38)), []);
}

#[test]
fn sizes() {
    let of = |bytes: &[u64]| check(&Model::default(), bytes).into_iter().map(|lint| lint.name).collect::<Vec<_>>();
    assert_eq!(of(&[1 << 31]), ["coreml::engine-memory"]);
    assert_eq!(of(&[(1 << 31) + 1]), ["coreml::large-weights", "coreml::engine-memory"]);
    assert_eq!(of(&[1_500_000_000]), [""; 0]);
    assert_eq!(of(&[1_000_000_000, 1_000_000_000]), ["coreml::engine-memory"]);
    assert_eq!(of(&[u64::MAX, u64::MAX]), ["coreml::large-weights", "coreml::engine-memory"]);

    // The head, then what it makes.
    let head = |p: &mut Parts, rows: u64| {
        let named = |operation: &&mut Operation| operation.outputs.iter().any(|result| result.name == "lm_head");
        shaped(p.block().operations.iter_mut().find(named).unwrap(), &[rows, 64]);
    };
    let lints = added(plain, |p| head(p, 65_537));
    assert_eq!(lints.len(), 1);
    assert_eq!(lints[0].name, "coreml::large-filter");
    assert!(
        lints[0].place.ends_with("`linear` of \"logits\"") && lints[0].reason.starts_with("a filter of [65537, 64]: ")
    );
    assert_eq!(added(plain, |p| head(p, 65_536)), []);
    let lints = added(plain, |p| shaped(p.operation("softmax", 0), &[1, 1, 2, 65_537]));
    // Its result is an operand of the next operation.
    assert_eq!((lints[0].name, lints[0].count, lints.len()), ("coreml::large-dimension", 2, 1));
    assert_eq!(added(plain, |p| shaped(p.operation("softmax", 0), &[1, 1, 2, 65_536])), []);
}

#[test]
fn flexible_shapes() {
    let open = |p: &mut Parts| {
        tensor_of(&mut p.function().inputs[0].r#type).dimensions = axes(&[1, 0]);
        if p_has(p, "reduce_mean", 0) {
            let square = p.operation("reduce_mean", 0).name_of("x").clone();
            let named = |operation: &&mut Operation| operation.outputs.iter().any(|result| result.name == square);
            shaped(p.block().operations.iter_mut().find(named).unwrap(), &[1, 0, 64]);
        }
    };
    adds(plain, "coreml::flexible-shape", "feature \"input_ids\"", open);
    let single = Options { norm: Norm::Single, ..Options::default() };
    let mut old = Parts::new(Encoding::F16, &Options { deployment: Deployment::Ios15, ..single });
    open(&mut old);
    assert_eq!(names(&old), ["coreml::flexible-shape", "coreml::flexible-mean", "coreml::single-precision"]);
    let mut new = Parts::new(Encoding::F16, &single);
    open(&mut new);
    assert_eq!(names(&new), ["coreml::flexible-shape", "coreml::single-precision"]);
}

#[test]
fn several_functions() {
    adds(plain, "coreml::several-functions", "program", |p| {
        let more = p.function().clone();
        p.model.ml_program.as_mut().unwrap().functions.insert("more".into(), more);
    });
    let mut two = plain();
    let more = two.function().clone();
    two.model.ml_program.as_mut().unwrap().functions.insert("more".into(), more);
    let lints = check(&two.model, &[]);
    let epsilon = lints.iter().find(|lint| lint.name == "coreml::rounded-epsilon").unwrap();
    assert!(epsilon.place.starts_with("function \"main\", operation ") && epsilon.count == 4, "{epsilon:?}");
}

#[test]
fn numbers_in_the_program() {
    let vector = |dtype: DataType| {
        move |p: &mut Parts| {
            let ty = tensor_of(&mut p.constant("fp16_bf800000").r#type);
            (ty.data_type, ty.rank, ty.dimensions) = (dtype as i32, 1, axes(&[1]));
        }
    };
    let lints = added(plain, vector(DataType::Float16));
    assert_eq!(lints.iter().map(|lint| (lint.name, lint.count)).collect::<Vec<_>>(), [("coreml::half-vector", 1)]);
    assert_eq!(added(plain, vector(DataType::Int32)), []);
}

#[test]
fn rounded_numbers() {
    // The scale is 1/4 for a width of 16, which is exact.
    let wide = |width: u64, scale: u16| {
        move |p: &mut Parts| {
            let scaled = p
                .block()
                .operations
                .iter()
                .position(|operation| operation.outputs.iter().any(|result| result.name == "layers_0_mix_scaled"));
            let operation = &mut p.block().operations[scaled.unwrap()];
            let (x, y) = (operation.name_of("x").clone(), operation.name_of("y").clone());
            *small::numbers_of(p.constant(&y)) = Numbers::Bytes(RepeatedBytes { values: scale.to_le_bytes().into() });
            let named = |operation: &&mut Operation| operation.outputs.iter().any(|result| result.name == x);
            shaped(p.block().operations.iter_mut().find(named).unwrap(), &[1, 1, 2, width]);
        }
    };
    let lints = added(plain, wide(128, 0x2da8));
    assert_eq!(lints.iter().map(|lint| lint.name).collect::<Vec<_>>(), ["coreml::rounded-scale"]);
    assert!(lints[0].reason.starts_with("8.8378906e-2 for 8.838834764831843e-2: "), "{}", lints[0].reason);
    assert_eq!(added(plain, wide(64, 0x3000)), []);
    // Another epsilon, one that fp16 has.
    let mut coarse = plain();
    let epsilon = coarse.operation("layer_norm", 0).name_of("epsilon").clone();
    *small::numbers_of(coarse.constant(&epsilon)) =
        Numbers::Bytes(RepeatedBytes { values: 0x1400u16.to_le_bytes().into() });
    assert_eq!(names(&coarse), [""; 0]);
}
