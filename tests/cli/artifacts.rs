//! What is made beside a recipe's folder: exports, reports, timings.

use std::fs;

use super::{Place, fixture, snapshot};

#[test]
fn an_export_is_what_its_recipe_builds() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = Place::new();
        std::os::unix::fs::symlink(fixture(&format!("{family}/tiny")), place.path(family)).unwrap();
        for (dtype, scheme) in
            [("bfloat16", "bf16"), ("float16", "f16"), ("float32", "f32"), ("int8", "int8"), ("int4", "int4")]
        {
            let export = format!("export --hf-model-path {family} --output-path out/Model.pte --dtype {dtype}");
            let said = place.run(&format!("{export} --backend xnnpack")).ok().out;
            assert!(said.contains("out/Model.pte: ") && said.contains("layers.*.mlp.down_proj"), "{said}");
            let recipe = place.run(&format!("{export} --print-recipe")).ok().out;
            // The printed recipe names the checkpoint by its whole path, so it may lie anywhere.
            let recipe = recipe.replace("HERE", &place.path("").to_string_lossy());
            fs::write(place.path("printed.toml"), recipe.replace("//", "/")).unwrap();
            place.run("build printed.toml --out built").ok();
            let built =
                fs::read(place.path(&format!("built/model-xnnpack-{scheme}/model-xnnpack-{scheme}.pte"))).unwrap();
            assert!(built == fs::read(place.path("out/Model.pte")).unwrap(), "{family} {dtype}");
            let against = format!("verify out/Model.pte --against {family}");
            assert!(place.run(&against).ok().out.contains("verified: "), "{family} {dtype}");
            fs::remove_dir_all(place.path("built")).unwrap();
        }
    }
}

#[test]
fn an_exported_chain_is_whole() {
    let place = Place::new();
    let export = "export --hf-model-path tiny --output-path out/m.mlpackage --backend coreml --dtype f16 \
                  --set target.coreml.parts=2";
    // The second time it replaces the first.
    for _ in 0..2 {
        place.run(export).ok();
        let names = fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>().len(), 2);
        assert!(place.run("verify out/m-1-of-2.mlpackage --against tiny").ok().out.contains("verified: "));
    }
}

#[test]
fn a_tied_head_in_parts_is_verified() {
    let place = Place::new();
    std::os::unix::fs::symlink(fixture("fast_dllm_v2/tiny"), place.path("fast_dllm_v2")).unwrap();
    for dtype in ["f16", "int8"] {
        let export = format!(
            "export --hf-model-path fast_dllm_v2 --output-path m.mlpackage --backend coreml --dtype {dtype} \
             --set target.coreml.split_rows=40"
        );
        place.run(&export).ok();
        let against = "verify m.mlpackage --against fast_dllm_v2";
        assert!(place.run(against).ok().out.contains("verified: "), "{dtype}");
    }
}

#[test]
fn an_export_that_cannot_be_made_leaves_nothing() {
    let place = Place::new();
    let export = |flags: &str| place.run(&format!("export --hf-model-path tiny --output-path out/m.pte {flags}"));
    export("--dtype int5").failed(2, &["invalid value 'int5' for '--dtype <NAME>'", "'int4'"]);
    export("--backend tpu").failed(2, &["tpu", "xnnpack"]);
    export("--set matrix.quant=[f32]").failed(1, &["`--set matrix.quant=…`", "flags of `export`"]);
    export("--set shape.cache=7").failed(1, &["shape.cache", "multiple"]);
    place.run("export --hf-model-path gone --output-path m.pte").failed(1, &["gone/config.json"]);
    assert!(!place.path("out").exists() && !place.path("m.pte").exists());
    fs::create_dir(place.path("folder.pte")).unwrap();
    place
        .run("export --hf-model-path tiny --output-path folder.pte")
        .failed(1, &["folder.pte", "cannot be replaced by a file"]);
    // An older file stays where a new one cannot be made.
    export("--dtype f32").ok();
    let before = fs::read(place.path("out/m.pte")).unwrap();
    super::damaged(&place, |bytes| {
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
    });
    export("--dtype int8").failed(1, &["tensor `", "NaN cannot be stored as"]);
    assert!(fs::read(place.path("out/m.pte")).unwrap() == before);
    let names: Vec<_> = fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["m.pte"]);
}

#[test]
fn a_report_tells_what_each_weight_lost() {
    let place = Place::with("quant = [\"int8\", \"int4\"]");
    place.run("build tiny.toml --report built.html").ok();
    let shown = place.run("show artifacts/tiny-xnnpack-int8").ok().out;
    snapshot("show-quantized-artifact", &shown);
    assert!(place.run("show artifacts/tiny-xnnpack-int4").ok().out.contains("not verified since it was built"));
    place.run("verify tiny.toml --report verified.html").ok();
    let shown = place.run("show artifacts/tiny-xnnpack-int4").ok().out;
    assert!(shown.contains("verified with tract: ") && shown.contains("same best token"), "{shown}");
    for (page, verified) in [("built.html", false), ("verified.html", true)] {
        let page = fs::read_to_string(place.path(page)).unwrap();
        assert!(page.contains("tiny-xnnpack-int8") && page.contains("layers.2.mlp.down_proj"));
        assert_eq!(page.contains("not verified"), !verified);
        // Nothing is fetched: the page is whole in itself.
        assert!(!page.contains("http") && !page.contains("src="), "{page}");
    }
    // A rebuilt artifact is another one.
    place.run("build tiny.toml --only int4 --set shape.cache=64").ok();
    assert!(place.run("show artifacts/tiny-xnnpack-int4").ok().out.contains("not verified since it was built"));

    // What cannot be read is no verdict.
    fs::write(place.path("artifacts/tiny-xnnpack-int8/verification.json"), "{").unwrap();
    assert!(place.run("show artifacts/tiny-xnnpack-int8").ok().out.contains("not verified since it was built"));
    // A damaged artifact loses its good verdict.
    place.run("verify artifacts/tiny-xnnpack-int8 --against tiny").ok();
    let file = place.path("artifacts/tiny-xnnpack-int8/tiny-xnnpack-int8.pte");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(place.run("verify artifacts/tiny-xnnpack-int8 --against tiny").status, 1);
    bytes[40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert!(
        place
            .run("show artifacts/tiny-xnnpack-int8")
            .ok()
            .out
            .contains("not verified with tract: 1 of 1 checks failed")
    );
    // Reports come with artifacts, which come from anywhere.
    let report = fs::read_to_string(place.path("artifacts/tiny-xnnpack-int8/report.json")).unwrap();
    for (a, b) in [
        ("layers.2.", "layers.4294967295."),
        ("layers.2.", "<script>"),
        ("[64,", "[4294967295,4294967295,"),
        ("\"sqnr\":null", "\"sqnr\":1e308"),
    ] {
        assert!(report.contains(a), "{report}");
        let text = report.replace(a, b);
        fs::write(place.path("artifacts/tiny-xnnpack-int8/report.json"), &text).unwrap();
        let manifest = place.path("artifacts/tiny-xnnpack-int8/manifest.json");
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        json["files"]["report.json"] = serde_json::json!({ "bytes": text.len(), "sha256": sha256(&text) });
        fs::write(&manifest, json.to_string()).unwrap();
        let said = place.run("show artifacts/tiny-xnnpack-int8");
        said.failed(1, &["report.json", "build the artifact again"]);
    }
    place.run("show tiny --report x.html").failed(1, &["is no artifact's folder"]);
    assert!(!place.path("x.html").exists());
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_benchmark_times_blocks_and_whole_passes() {
    let place = Place::with("quant = [\"f32\", \"int8\"]");
    place.run("build tiny.toml").ok();
    let both = "artifacts/tiny-xnnpack-f32 artifacts/tiny-xnnpack-int8";
    let json = place.run(&format!("bench {both} --runs 3 --block 4 --cache 16 --message-format json")).ok().out;
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{json}");
    for line in &lines {
        let times = line["timing"]["milliseconds"].as_array().unwrap();
        assert!(
            line["reason"] == "bench" && times.len() == 3 && times.iter().all(|t| t.as_f64().unwrap() > 0.0),
            "{json}"
        );
    }
    assert_eq!((&lines[0]["what"], &lines[3]["what"]), (&"block".into(), &"full".into()));
    let text = place.run("bench tiny --runs 1 --block 4 --cache 999999 --rows 1").ok();
    assert!(
        text.err.contains("cut to what was built") && text.out.contains("logits of 1 of them"),
        "{}{}",
        text.out,
        text.err
    );
    place.run("bench tiny --runs 0").failed(2, &["--runs", "at least 1"]);
    place.run("bench nowhere").failed(1, &["nowhere"]);
}
