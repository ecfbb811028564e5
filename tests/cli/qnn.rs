//! Bundles for Qualcomm's HTP: builds, calibration kept, exports, refusals, proofs.

use std::fs;

use super::{Place, files, fixture};

/// A place whose recipe builds bundles; without Qualcomm's libraries.
fn place(schemes: &str) -> Place {
    let place = Place::with(&format!("quant = [{schemes}]"));
    let recipe = fs::read_to_string(place.path("tiny.toml")).unwrap().replace("xnnpack", "qnn");
    fs::write(place.path("tiny.toml"), recipe).unwrap();
    place
}

#[test]
fn bundles_of_every_family_are_proven_without_any_library() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = super::families::place(family);
        let schemes = ["w8a16", "w8a16-kv16", "w4a16", "w8a8", "f16"];
        let quant = serde_json::json!(schemes);
        let keys = format!("--set matrix.target=[\"qnn\"] --set matrix.quant={quant} --set target.qnn.contexts=false");
        let asked = format!("verify tiny.toml {keys}");
        let said = place.run(&asked).ok().out;
        assert_eq!(said.matches("all equal\n").count(), schemes.len(), "{family}: {said}");
        assert!(said.contains("verified: ") && !said.contains("FAILED"), "{family}: {said}");
        let said = place.run("run artifacts/tiny-qnn-w8a16.qnn --prompt Hello --max-tokens 8 --stats").ok();
        assert!(said.err.contains("passes"), "{}{}", said.out, said.err);
    }
}

#[test]
fn a_build_without_libraries_says_so_and_keeps_its_calibration() {
    let place = place("\"w8a16\"");
    let mut command = place.command("build tiny.toml");
    let said = place.ran(command.env("DIFFULEX_ENGINES", place.path("none")).output().unwrap()).ok();
    assert!(said.err.contains("tiny-qnn-w8a16: no context binaries: ONNX Runtime is not installed"), "{}", said.err);
    let folder = place.path("artifacts/tiny-qnn-w8a16.qnn");
    place.run("build tiny.toml --set target.qnn.contexts=false").ok();
    let first = files(&folder);

    // The same again, byte for byte, and from the ranges that were kept: others there become others here.
    place.run("build tiny.toml --force --set target.qnn.contexts=false").ok();
    let same = |name: &str| name.starts_with("model") || name == "calibration.json";
    let kept = |all: &[(String, Vec<u8>)]| all.iter().filter(|(name, _)| same(name)).cloned().collect::<Vec<_>>();
    assert!(kept(&first) == kept(&files(&folder)));
    let file = folder.join("calibration.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let range = &mut told["ranges"]["places"]["%logits"]["ranges"]["65536"];
    assert!(!range.is_null(), "{text}");
    *range = serde_json::json!([-1000.0, 1000.0]);
    fs::write(&file, told.to_string()).unwrap();
    place.run("build tiny.toml --force --set target.qnn.contexts=false").ok();
    assert!(kept(&first) != kept(&files(&folder)));
    // Other texts are looked at anew.
    place.run("build tiny.toml --set calibration.texts=[\"Hello\"] --set target.qnn.contexts=false").ok();
    assert!(fs::read(&file).unwrap() != text.as_bytes());
}

#[test]
fn what_the_htp_cannot_do_is_refused_with_a_place() {
    let place = place("\"w8a16\"");
    for (keys, parts) in [
        ("--set target.qnn.socs=[\"SM865\"]", ["error[qnn::soc]", "did you mean `SM8650`?"]),
        ("--set target.qnn.socs=[\"SM8350\"]", ["does not compute with values of 16 bits", "activations = \"uint8\""]),
        (
            "--set target.qnn.socs=[\"sm8450\"] --set quant.w8a16.cache=int16",
            ["does not multiply with rows in int16", "help:"],
        ),
        ("--set quant.w8a16.cache=uint16", ["are not multiplied with rows in uint16", "cache = \"int16\""]),
        ("--set matrix.quant=[\"int8\"]", ["error[qnn::activations]", "activations = \"uint16\""]),
        ("--set matrix.target=[\"xnnpack\"]", ["error[quant::activations]", "build it for `qnn`"]),
        ("--set target.qnn.lengths=[4096]", ["a step of 4096 tokens", "error["]),
        ("--set calibration.file=none.txt", ["error[calibration::file]", "none.txt"]),
    ] {
        place.run(&format!("build tiny.toml {keys}")).failed(1, &parts);
    }
    let checkpoint = fixture("sdar/tiny");
    let export = format!("export --hf-model-path {} --output-path", checkpoint.display());
    place.run(&format!("{export} x.onnx --backend qnn")).failed(1, &["ends in `.qnn`"]);
    place.run(&format!("{export} x.pte --soc sm8650")).failed(1, &["`--soc` names a chip for `--backend qnn`"]);
}
