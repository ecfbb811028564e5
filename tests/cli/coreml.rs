//! Core ML packages: builds, exports, lints, refusals, proofs.

use std::fs;
use std::path::Path;

use super::{Place, fixture, snapshot};

/// A place whose recipe builds packages.
fn place(schemes: &str) -> Place {
    let place = Place::with(&format!("quant = [{schemes}]"));
    let recipe = fs::read_to_string(place.path("tiny.toml")).unwrap().replace("xnnpack", "coreml");
    fs::write(place.path("tiny.toml"), recipe).unwrap();
    place
}

/// All files below a folder, with their content.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        match path.is_dir() {
            true => files.extend(tree(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes))),
            false => files.push((name, fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn packages_of_every_family_are_proven() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = super::families::place(family);
        let matrix = "--set matrix.target=[\"coreml\"] --set matrix.quant=[\"f16\",\"int8\",\"int4\"]";
        for (keys, builds) in [
            ("", 3),
            ("--set target.coreml.interface=state --set target.coreml.norm=single", 3),
            ("--set target.coreml.parts=2 --set target.coreml.shapes=functions --set target.coreml.lengths=[64]", 3),
            ("--only int4 --set target.coreml.nibbles=unsigned --set target.coreml.split_rows=100", 1),
            ("--only f16 --set target.coreml.deployment=ios15 --set target.coreml.shapes=range", 1),
        ] {
            let keys = if keys.is_empty() { String::new() } else { format!(" {keys}") };
            let said = place.run(&format!("verify tiny.toml {matrix}{keys}")).ok().out;
            assert_eq!(said.matches("all equal\n").count(), builds, "{family} {keys}: {said}");
            assert!(said.contains("verified: ") && !said.contains("FAILED"), "{family} {keys}: {said}");
        }
        let said = place.run("run artifacts/tiny-coreml-int4 --prompt Hello --max-tokens 8 --stats").ok();
        assert!(said.err.contains("passes"), "{}{}", said.out, said.err);
    }
}

#[test]
fn the_same_inputs_make_the_same_packages() {
    let keys = "--set target.coreml.parts=3 --set target.coreml.shapes=enumerated";
    let made = [1, 2].map(|threads| {
        let place = place("\"f16\", \"int4\"");
        let mut command = place.command(&format!("build tiny.toml {keys}"));
        let output = command.env("RAYON_NUM_THREADS", threads.to_string()).output().unwrap();
        place.ran(output).ok();
        tree(&place.path("artifacts/tiny-coreml-int4"))
    });
    let names: Vec<&str> = made[0].iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"tiny-coreml-int4-3-of-3.mlpackage/Manifest.json") && names.contains(&"check.swift"));
    assert!(made[0] == made[1], "{names:?}");
}

#[test]
fn what_core_ml_lacks_is_refused_with_its_place() {
    let place = place("\"f16\"");
    let mut said = String::new();
    for keys in [
        "matrix.quant=[\"bf16\"]",
        "matrix.quant=[\"8da8w\"]",
        "matrix.quant=[\"int4\"] --set target.coreml.deployment=ios17",
        "target.coreml.deployment=ios16 --set target.coreml.interface=state",
        "target.coreml.interface=state --set target.coreml.shapes=range",
        "target.coreml.shapes=functions --set target.coreml.lengths=[8,64]",
        "target.coreml.lengths=[8]",
        "target.coreml.parts=4",
    ] {
        let refused = place.run(&format!("build tiny.toml --set {keys}")).failed(1, &["error[", "help: "]);
        said.push_str(&format!("$ --set {keys}\n{}\n", refused.err));
    }
    snapshot("coreml-refusals", &said);
    assert!(!place.path("artifacts/tiny-coreml-f16").exists());
    place.run("build tiny.toml --set target.coreml.norm=double").failed(1, &["\"half\" or \"single\""]);
}

#[test]
fn lints_are_told_and_can_be_denied() {
    let place = place("\"int4\"");
    let grouped = "--set quant.int4.group=32 --set quant.int4.keep.int8=[\"*.down_proj\"]";
    place
        .run(&format!("build tiny.toml {grouped} --deny coreml::grouped-scales"))
        .failed(1, &["denied[coreml::grouped-scales]: ", "Neural Engine"]);
    place
        .run(&format!("build tiny.toml {grouped} --set matrix.quant=[\"f16\",\"int4\"] --deny warnings"))
        .failed(1, &["denied[coreml::grouped-scales]"]);
    assert!(!place.path("artifacts/tiny-coreml-int4").exists() && !place.path("artifacts/tiny-coreml-f16").exists());
    place.run("build tiny.toml --deny coreml::nothing").failed(1, &["no lint `coreml::nothing`", "coreml::high-rank"]);
    let built = place.run(&format!("build tiny.toml {grouped} --deny coreml::fused-attention")).ok();
    assert!(built.err.contains("warning[coreml::grouped-scales]"), "{}", built.err);
    // A build that is fresh has the same lints.
    place.run(&format!("build tiny.toml {grouped} --deny warnings")).failed(1, &["denied[coreml::grouped-scales]"]);
    let shown = place.run("show artifacts/tiny-coreml-int4").ok().out;
    assert!(shown.contains("\nwarning[coreml::grouped-scales]: ") && shown.contains("note[coreml::"), "{shown}");
    place.run("show artifacts/tiny-coreml-int4 --deny warnings").failed(1, &["denied[coreml::grouped-scales]"]);
    let json = place.run("build tiny.toml --set target.coreml.parts=2 --message-format json").ok().out;
    let lint = json.lines().find(|line| line.contains("\"reason\":\"lint\"")).unwrap();
    assert!(lint.contains("\"place\":\"part 1, ") && lint.contains("\"severity\":\"note\""), "{lint}");
}

#[test]
fn an_export_is_the_package_of_its_recipe() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = Place::new();
        std::os::unix::fs::symlink(fixture(&format!("{family}/tiny")), place.path(family)).unwrap();
        let export = format!("export --hf-model-path {family} --output-path out/m.mlpackage --backend coreml");
        for (dtype, scheme) in [("float16", "f16"), ("int8", "int8"), ("int4", "int4")] {
            let said = place.run(&format!("{export} --dtype {dtype}")).ok().out;
            assert!(said.contains("out/m.mlpackage: "), "{said}");
            let recipe = place.run(&format!("{export} --dtype {dtype} --print-recipe")).ok().out;
            let recipe = recipe.replace("HERE", &place.path("").to_string_lossy()).replace("//", "/");
            fs::write(place.path("printed.toml"), recipe).unwrap();
            place.run("build printed.toml --out built").ok();
            let built = format!("built/m-coreml-{scheme}/m-coreml-{scheme}.mlpackage");
            let (built, exported) = (tree(&place.path(&built)), tree(&place.path("out/m.mlpackage")));
            assert!(exported.len() == 3 && built == exported, "{family} {dtype}");
            assert!(place.run(&format!("verify out/m.mlpackage --against {family}")).ok().out.contains("verified: "));
        }
        place.run(&format!("{export} --dtype bfloat16")).failed(1, &["coreml cannot use bf16", "weights = \"f16\""]);
        place.run(&format!("{export} --deny coreml::rounded-epsilon")).failed(1, &["denied[coreml::rounded-epsilon]"]);
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "{family}");
    }
}

#[test]
fn an_export_replaces_packages_only() {
    let place = Place::new();
    let export =
        |output: &str| place.run(&format!("export --hf-model-path tiny --backend coreml --output-path {output}"));
    fs::create_dir_all(place.path("mine.mlpackage/letters")).unwrap();
    export("mine.mlpackage").failed(1, &["mine.mlpackage: holds `letters`"]);
    fs::create_dir_all(place.path("empty.mlpackage/Data")).unwrap();
    export("empty.mlpackage").failed(1, &["empty.mlpackage: is in the way"]);
    fs::write(place.path("file.mlpackage"), "dear").unwrap();
    export("file.mlpackage").failed(1, &["file.mlpackage"]);
    export("m.pte").failed(1, &["m.pte: the name of a Core ML package ends in `.mlpackage`"]);
    assert!(place.path("mine.mlpackage/letters").exists() && !place.path("m.pte").exists());
    let chain = "m.mlpackage --set target.coreml.parts=2";
    export(chain).ok();
    export(chain).ok();
    fs::write(place.path("m-2-of-2.mlpackage/mine.txt"), "dear").unwrap();
    export(chain).failed(1, &["m-2-of-2.mlpackage: holds `mine.txt`"]);
    fs::remove_file(place.path("m-2-of-2.mlpackage/mine.txt")).unwrap();
    assert!(place.run("verify m-2-of-2.mlpackage --against tiny").ok().out.contains("verified: "));
    fs::remove_dir_all(place.path("m-1-of-2.mlpackage")).unwrap();
    place.run("run m-2-of-2.mlpackage --tokenizer tiny --prompt Hello").failed(1, &["part 1 of 2 is not there"]);
}

#[test]
fn a_package_can_be_read() {
    let place = place("\"int8\"");
    place.run("build tiny.toml --set target.coreml.parts=3").ok();
    let mil = place.run("show artifacts/tiny-coreml-int8 --mil").ok().out;
    assert_eq!(mil.matches("specification version 7").count(), 3, "{mil}");
    assert!(mil.contains("gives hidden_out: fp16") && mil.contains("constexpr_affine_dequantize("), "{mil}");
    let ir = place.run("show artifacts/tiny-coreml-int8 --ir").ok().out;
    assert!(ir.contains("stage read coreml") && ir.contains("int8.row"), "{ir}");
    place.run("show tiny --mil").failed(1, &["tiny"]);
    place
        .run("verify artifacts/tiny-coreml-int8 --block 4 --against tiny --engine executorch")
        .failed(2, &["ExecuTorch"]);
}

/// One changed number is found by the comparison of the weights alone, behind digests that fit.
#[test]
fn a_changed_number_is_found() {
    let place = place("\"int8\"");
    place.run("build tiny.toml").ok();
    let package = "artifacts/tiny-coreml-int8/tiny-coreml-int8.mlpackage";
    let file = place.path(&format!("{package}/Data/com.apple.CoreML/weights/weight.bin"));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    place.run("verify artifacts/tiny-coreml-int8 --against tiny").failed(1, &[]);
    let said = place.run(&format!("verify {package} --against tiny --block 4")).failed(1, &[]).out;
    assert!(said.contains("FAILED weights"), "{said}");
    // The bias of the head, which has none: its zeros are the last record.
    bytes[middle] ^= 1;
    let end = bytes.len();
    assert_eq!(bytes[end - 64..], [0; 64]);
    bytes[end - 2..].copy_from_slice(&[0x8e, 0x06]);
    fs::write(&file, &bytes).unwrap();
    let said = place.run(&format!("verify {package} --against tiny --block 4")).failed(1, &[]).out;
    assert!(said.contains("that has no bias in the source"), "{said}");
    bytes.truncate(middle);
    fs::write(&file, &bytes).unwrap();
    place.run(&format!("show {package}")).failed(1, &["weight record at "]);
}
