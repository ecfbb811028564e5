//! `build`, `list` and `clean` as tools that people and machines live with.

use super::{Place, files, fixture, root, snapshot};

/// What is printed, without what differs from run to run.
fn settled(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        for key in ["seconds", "memory"] {
            if object[key].is_number() {
                object[key] = "N".into();
            }
        }
        object.to_string() + "\n"
    });
    lines.collect()
}

#[test]
fn every_reason_is_told() {
    let place = Place::new();
    place.run("build tiny.toml --only f16").ok();
    std::fs::remove_file(place.path("tiny")).unwrap();
    copy(&fixture("sdar/tiny"), &place.path("tiny"));
    let text = std::fs::read_to_string(place.path("tiny/generation_config.json")).unwrap();
    std::fs::write(place.path("tiny/generation_config.json"), text + " ").unwrap();
    std::fs::write(place.path("tiny/LICENSE"), "terms").unwrap();
    std::fs::write(place.path("artifacts/tiny-xnnpack-f16/generation.json"), "{}").unwrap();
    let args = "build tiny.toml --only f16 --set shape.cache=64 --set generate.seed=7 --explain --dry-run";
    let said = place.run(args).ok().out;
    snapshot("explain-freshness", &said.replace(|c: char| c.is_ascii_digit(), "N"));
    let said = place.run(&args.replace(" --explain", "")).ok().out;
    assert!(said.contains("stale: generate.seed 0 → 7, and 4 more; would take"), "{said}");
    place.run("build --explain tiny.toml").failed(2, &["write `--explain` behind the recipes"]);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for (name, bytes) in files(from) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn machines_are_told_everything() {
    let place = Place::new();
    let json = " --message-format json";
    let mut said = settled(&place.run(&format!("build tiny.toml --dry-run{json}")).ok().out);
    for args in ["build tiny.toml -j 1", "build tiny.toml", "list tiny.toml", "list"] {
        said += &format!("# {args}\n{}", settled(&place.run(&format!("{args}{json}")).ok().out));
    }
    std::fs::write(place.path("wrong.toml"), "extends = \"tiny.toml\"\nname = 3\n").unwrap();
    let failed = place.run(&format!("build wrong.toml tiny.toml --keep-going{json}"));
    assert_eq!(failed.status, 1);
    said += &format!("# build wrong.toml tiny.toml --keep-going\n{}", settled(&failed.out));
    snapshot("messages", &said.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    // Each of them stands in the list of messages.
    let list = std::fs::read_to_string(root().join("recipes/ci/README.md")).unwrap();
    for line in said.lines().filter(|line| !line.starts_with('#')) {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        for word in object.keys().chain([&object["reason"].as_str().unwrap().to_string()]) {
            assert!(word == "reason" || list.contains(&format!("`{word}`")), "{word} of {line}");
        }
    }
}

#[test]
fn folders_and_several_recipes_are_built_at_once() {
    let place = Place::new();
    let recipe = std::fs::read_to_string(place.path("tiny.toml")).unwrap();
    std::fs::create_dir(place.path("all")).unwrap();
    std::os::unix::fs::symlink(fixture("sdar/tiny"), place.path("all/tiny")).unwrap();
    std::fs::write(place.path("all/one.toml"), recipe.replace("\"tiny\"\n\n[model]", "\"one\"\n\n[model]")).unwrap();
    std::fs::write(place.path("all/two.toml"), "extends = \"one.toml\"\nname = \"two\"\n").unwrap();
    std::fs::write(place.path("all/shared.toml"), "[shape]\ncache = 64\n").unwrap();
    let built = place.run("build all tiny.toml -j 3").ok().out;
    for name in ["one-xnnpack-f32", "one-xnnpack-f16", "two-xnnpack-f32", "tiny-xnnpack-f16"] {
        assert!(built.contains(&format!("{name}: built")), "{built}");
    }
    // Any number at once gives the same bytes.
    place.run("build all tiny.toml -j 1 --out alone").ok();
    for name in ["one-xnnpack-f32", "one-xnnpack-f16", "two-xnnpack-f32", "two-xnnpack-f16", "tiny-xnnpack-f16"] {
        let made = |out: &str| files(&place.path(&format!("{out}/{name}")));
        assert!(made("artifacts").len() > 5 && made("artifacts") == made("alone"), "{name}");
    }
    // Two recipes cannot write the same artifact.
    std::fs::write(place.path("twin.toml"), recipe).unwrap();
    place.run("build tiny.toml twin.toml").failed(1, &["tiny.toml", "twin.toml", "both have a build tiny-xnnpack-f32"]);
    place.run("build ir-is-no-folder").failed(1, &["ir-is-no-folder", "No such file"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.run("build empty").failed(1, &["empty: holds no recipe"]);
}

#[test]
fn what_cannot_fit_is_refused_with_numbers() {
    let place = Place::new();
    let refused = place.run("build tiny.toml --memory 10M");
    let refused = refused.failed(1, &["tiny-xnnpack-f32 needs about", "of memory and may take 10.00 MiB", "--memory"]);
    assert!(!place.path("artifacts/tiny-xnnpack-f32").exists(), "{}", refused.out);
    place.run("build tiny.toml --memory 2G").ok();
    for wrong in ["lots", "-1", "0", "5X"] {
        let said = place.run(&format!("build tiny.toml --memory={wrong}"));
        assert!(said.status == 2 && said.err.contains("is no size"), "{wrong}: {}", said.err);
    }
    place.run("build tiny.toml -j 0").failed(2, &["0 is not in 1..=1024"]);
}

#[test]
fn locked_builds_come_out_as_locked() {
    let place = Place::new();
    place.run("build tiny.toml --locked").failed(1, &["tiny-xnnpack-f32: it is not locked", "recipes.lock"]);
    assert!(!place.path("artifacts/tiny-xnnpack-f32").exists());
    place.run("build tiny.toml").ok();
    let lock = std::fs::read_to_string(place.path("recipes.lock")).unwrap();
    assert!(lock.contains("[build.tiny-xnnpack-f16.outputs]") && lock.contains("\"model.safetensors\" = "), "{lock}");
    // The same machine, another folder; overrides are nothing to lock.
    place.run("build tiny.toml --locked").ok();
    place.run("build tiny.toml --locked --out elsewhere").ok();
    place.run("build tiny.toml --set shape.cache=64 --out overridden").ok();
    assert_eq!(std::fs::read_to_string(place.path("recipes.lock")).unwrap(), lock);
    place.run("build tiny.toml --locked --set shape.cache=64").failed(1, &["values of its recipe"]);
    // Another result: the older artifact stays.
    let before = files(&place.path("artifacts/tiny-xnnpack-f32"));
    let digest = lock.split("\"tiny-xnnpack-f32.pte\" = \"").nth(1).unwrap()[..64].to_string();
    std::fs::write(place.path("recipes.lock"), lock.replace(&digest, &"0".repeat(64))).unwrap();
    place.run("build tiny.toml --locked").failed(1, &["it is not what is locked: tiny-xnnpack-f32.pte differs"]);
    let said = place.run("build tiny.toml --locked --force --keep-going");
    let said =
        said.failed(1, &["tiny-xnnpack-f32: what was built is not what is locked: tiny-xnnpack-f32.pte differs"]);
    assert!(said.out.contains("tiny-xnnpack-f16: built"), "{}", said.out);
    assert!(files(&place.path("artifacts/tiny-xnnpack-f32")) == before);
    // Other inputs.
    std::fs::remove_file(place.path("tiny")).unwrap();
    copy(&fixture("sdar/tiny"), &place.path("tiny"));
    std::fs::write(place.path("tiny/LICENSE"), "terms").unwrap();
    std::fs::write(place.path("recipes.lock"), &lock).unwrap();
    place.run("build tiny.toml --locked").failed(1, &["another checkpoint: LICENSE is new"]);
    std::fs::write(place.path("recipes.lock"), "[build\n").unwrap();
    place.run("build tiny.toml --locked").failed(1, &["recipes.lock: is damaged", "remove it"]);
}

#[test]
fn the_manifest_tells_origin_and_license() {
    let place = Place::new();
    std::fs::remove_file(place.path("tiny")).unwrap();
    copy(&fixture("sdar/tiny"), &place.path("tiny"));
    std::fs::write(place.path("tiny/README.md"), "---\nlicense: mit\nbase_model: A/b\n---\n# Tiny\n").unwrap();
    std::fs::write(place.path("tiny/LICENSE.txt"), "terms").unwrap();
    place.run("build tiny.toml --only f16 --set model.origin=\"A/tiny\"").ok();
    let folder = place.path("artifacts/tiny-xnnpack-f16");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let origin = serde_json::json!({ "name": "A/tiny", "license": "mit", "base_models": ["A/b"] });
    assert_eq!(manifest["origin"], origin);
    assert_eq!(std::fs::read_to_string(folder.join("LICENSE.txt")).unwrap(), "terms");
    assert!(manifest["files"]["LICENSE.txt"].is_object() && manifest["checkpoint"]["README.md"].is_string());
    let shown = place.run("show artifacts/tiny-xnnpack-f16").ok().out;
    assert!(shown.contains("origin     A/tiny, license mit, made from A/b"), "{shown}");
}

#[test]
fn artifacts_are_listed_and_cleaned() {
    let place = Place::new();
    place.run("build tiny.toml").ok();
    std::fs::create_dir(place.path("artifacts/letters")).unwrap();
    std::fs::write(place.path("artifacts/letters/dear"), "you").unwrap();
    std::fs::create_dir(place.path("artifacts/.gone.building")).unwrap();
    let listed = place.run("list").ok().out;
    assert!(listed.contains("tiny-xnnpack-f16") && !listed.contains("letters"), "{listed}");
    let would = place.run("clean tiny.toml --only f32 --dry-run").ok().out;
    assert!(would.contains("would remove artifacts/tiny-xnnpack-f32"), "{would}");
    assert!(place.path("artifacts/tiny-xnnpack-f32").exists());
    place.run("clean tiny.toml --only f32").ok();
    assert!(!place.path("artifacts/tiny-xnnpack-f32").exists() && place.path("artifacts/tiny-xnnpack-f16").exists());
    place.run("clean").ok();
    let left: Vec<String> = std::fs::read_dir(place.path("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".digests.json")
        .collect();
    assert_eq!(left, ["letters"]);
    assert!(place.run("clean").ok().err.contains("nothing to remove"));
}

#[test]
fn the_timeline_has_passes_and_weights() {
    let place = Place::new();
    place.run("build tiny.toml --timings timings.html").ok();
    let page = std::fs::read_to_string(place.path("timings.html")).unwrap();
    for part in ["<title>fuse-qkv:", "<title>embed_tokens:", "tiny-xnnpack-f16", "What took longest"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_workflow_of_the_documentation_works() {
    let place = Place::new();
    place.run("build tiny.toml --out first").ok();
    let text = std::fs::read_to_string(root().join("recipes/ci/github-actions.yml")).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_diffulex-edge")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for step in ["Build", "Verify"] {
        let script = script(&text, step);
        let done = std::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(place.folder.path())
            .envs([
                ("PATH", path.as_str()),
                ("RECIPE", "tiny.toml"),
                ("MODELS", "models"),
                ("NAME", "tiny-xnnpack-f16"),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{step}: {said}");
    }
    for file in ["timings.html", "report.html", "build.jsonl", "verify.jsonl"] {
        assert!(place.path(file).metadata().unwrap().len() > 100, "{file}");
    }
    assert!(script(&text, "Ask which builds there are").contains("diffulex-edge list $RECIPES"));
}

/// The lines that a step of a workflow runs.
fn script(text: &str, step: &str) -> String {
    let behind = text.split(&format!("name: {step}\n")).nth(1).unwrap_or_else(|| panic!("no step {step}"));
    let lines = behind.lines().skip_while(|line| line.trim() != "run: |").skip(1);
    lines.take_while(|line| line.starts_with("          ")).map(|line| line.to_string() + "\n").collect()
}
