//! The library: what stands in memory, what is written, and verdicts as data.

use std::ops::ControlFlow;

use diffulex_edge::{Dtype, Error, Export, Model, TargetName, load, open, quantize, verify};
use diffulex_runtime::verify::Check;

use super::{Place, fixture};

/// Compiles and writes one artifact; both are proven, with the same report.
fn whole_way(family: &str, export: &Export, name: &str) {
    let place = Place::new();
    let checkpoint = load(fixture(family).join("tiny")).unwrap();
    assert_eq!(checkpoint.config().family.name(), family);
    let compiled = export.compile(&checkpoint).unwrap();
    let verdict = verify(&compiled, &checkpoint, None).unwrap();
    assert!(verdict.passed(), "{family}, {export:?}: {verdict}");
    let exported = export.write(&checkpoint, place.path(name)).unwrap();
    assert_eq!(export.report(&checkpoint).unwrap(), exported.report);
    assert!(exported.bytes > 0 && exported.path.exists());
    let mut artifact = open(&exported.path).unwrap();
    assert_eq!(artifact.settings().unwrap().family.name(), family);
    if artifact.text.is_none() {
        let error = artifact.model().err().expect("a bare artifact has no tokenizer").to_string();
        assert!(error.contains(name) && error.contains("has no tokenizer beside it"), "{error}");
        artifact = artifact.tokenizer(checkpoint.folder());
    }
    let verdict = verify(&artifact, &checkpoint, None).unwrap();
    assert!(verdict.passed() && verdict.distance().is_some(), "{family}, {export:?}: {verdict}");
}

#[test]
fn every_family_goes_the_whole_way() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        whole_way(family, &Export::of(Dtype::Int8), "m.pte");
    }
}

#[test]
fn every_target_goes_the_whole_way() {
    let of = |target, dtype| Export { dtype, ..Export::to(target) };
    whole_way("sdar", &of(TargetName::Xnnpack, Dtype::Int8Tokens8), "m.pte");
    whole_way("sdar", &of(TargetName::Coreml, Dtype::Int4), "m.mlpackage");
    whole_way("sdar", &of(TargetName::Onnx, Dtype::F32), "m.onnx");
    whole_way("sdar", &Export::to(TargetName::Qnn), "m.qnn");
}

#[test]
fn a_tolerance_narrows_limits_and_names_the_check() {
    let checkpoint = load(fixture("sdar/tiny")).unwrap();
    let exact = quantize(&checkpoint, Dtype::F32).unwrap();
    assert!(verify(&exact, &checkpoint, Some(1e-5)).unwrap().passed());
    // A wide one widens nothing.
    let usual = verify(&exact, &checkpoint, None).unwrap();
    let wide = verify(&exact, &checkpoint, Some(10.0)).unwrap();
    assert!(usual.numbers().zip(wide.numbers()).all(|(a, b)| a.limits == b.limits) && usual.numbers().count() > 0);
    let rounded = quantize(&checkpoint, Dtype::F16).unwrap();
    let verdict = verify(&rounded, &checkpoint, Some(1e-7)).unwrap();
    let costs = verdict.failed().filter(|check| matches!(check, Check::Numbers(_)));
    assert!(costs.count() > 0 && verdict.to_string().contains("cost of the encoding"), "{verdict}");
    for wrong in [-1.0, f32::NAN] {
        let error = verify(&exact, &checkpoint, Some(wrong)).expect_err("no tolerance");
        assert!(matches!(&error, Error::Usage(text) if text.contains("0 or more")), "{error}");
    }
    let place = Place::new();
    place.run("build tiny.toml --only f16").ok();
    let verify = |tolerance| place.run(&format!("verify artifacts/tiny-xnnpack-f16 --tolerance {tolerance}"));
    verify("0.02").ok();
    let narrow = verify("1e-7");
    assert!(narrow.status == 1 && narrow.out.contains("FAILED numbers"), "{}{}", narrow.out, narrow.err);
    verify("-1").failed(2, &["a share of the largest logit"]);
}

#[test]
fn wrong_weights_in_memory_are_found() {
    let checkpoint = load(fixture("sdar/tiny")).unwrap();
    let mut module = quantize(&checkpoint, Dtype::Int8).unwrap();
    let gate = |layer: u32| format!("layers.{layer}.self_attn.o_proj");
    let id = |name: &str| module.module.weight_id(name).unwrap().0 as usize;
    let (first, second) = (id(&gate(0)), id(&gate(1)));
    module.module.weights[first].expr = module.module.weights[second].expr.clone();
    let verdict = verify(&module, &checkpoint, None).unwrap();
    assert!(!verdict.passed() && verdict.to_string().contains(&format!("`{}`", gate(0))), "{verdict}");
}

#[test]
fn an_answer_can_be_stopped() {
    let place = Place::new();
    place.run("build tiny.toml --only f32").ok();
    let mut model = Model::open(place.path("artifacts/tiny-xnnpack-f32")).unwrap();
    let whole = model.ask("Hello").unwrap();
    let mut pieces = 0;
    let stopped = model.ask_streaming("Hello", |_| {
        pieces += 1;
        ControlFlow::Break(())
    });
    let stopped = stopped.unwrap();
    assert!(stopped.trace.passes.len() < whole.trace.passes.len() && whole.text.starts_with(&stopped.text));
    assert!(pieces > 0);
    assert!(Model::open(place.path("tiny.toml")).is_err_and(|error| error.to_string().contains("must be built first")));
}
