//! Recipes of every family: what they build, what `show` foretells, what is refused.

use super::{Place, Ran, fixture, root, snapshot};

/// A recipe `tiny.toml` of a family's tiny checkpoint.
pub(crate) fn place(family: &str) -> Place {
    let place = Place::new();
    let recipe = format!(
        "extends = \"{}/recipes/families/{family}.toml\"\nname = \"tiny\"\n\n[model]\ncheckpoint = \"tiny\"\n\n[shape]\n\
         prefill = 192\ncache = 192\n\n[matrix]\ntarget = [\"xnnpack\"]\nquant = [\"f32\", \"f16\"]\n",
        root().display()
    );
    std::fs::write(place.path("tiny.toml"), recipe).unwrap();
    std::fs::remove_file(place.path("tiny")).unwrap();
    std::os::unix::fs::symlink(fixture(family).join("tiny"), place.path("tiny")).unwrap();
    place
}

/// Bytes of the artifact of each scheme, as `show` foretells them.
fn foretold(shown: &Ran) -> Vec<(String, u64)> {
    let rows = shown.out.lines().filter_map(|line| line.strip_prefix("# xnnpack "));
    let row = |row: &str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        Some((words[0].to_string(), words[1].replace(',', "").parse().ok()?))
    };
    rows.filter_map(row).collect()
}

#[test]
fn artifacts_have_the_size_that_show_foretells() {
    let families = ["sdar", "fast_dllm_v2", "dream", "llada"];
    let tiny = families.map(|family| (place(family), "tiny.toml".to_string(), "tiny"));
    let demo = (Place::new(), format!("{}/recipes/demo.toml", root().display()), "demo");
    for (place, recipe, name) in tiny.into_iter().chain([demo]) {
        let sizes = foretold(&place.run(&format!("show {recipe}")).ok());
        let schemes: Vec<String> = sizes.iter().map(|(scheme, _)| format!("\"{scheme}\"")).collect();
        let few = [r#""8da8w""#, r#""bf16""#, r#""f16""#, r#""full-f16""#, r#""f32""#, r#""int4""#, r#""int8""#];
        assert!(few.iter().all(|few| schemes.iter().any(|scheme| scheme == few)), "{recipe}: {schemes:?}");
        place.run(&format!("build {recipe} --set matrix.quant=[{}]", schemes.join(","))).ok();
        for (scheme, bytes) in sizes {
            let file = place.path(&format!("artifacts/{name}-xnnpack-{scheme}/{name}-xnnpack-{scheme}.pte"));
            assert_eq!(file.metadata().unwrap().len(), bytes, "{recipe} {scheme}");
            place.run(&format!("show {}", file.display())).ok();
        }
    }
}

#[test]
fn sizes_are_known_without_a_checkpoint() {
    let place = Place::new();
    let recipes = root().join("recipes");
    let shown = place.run(&format!("show {}/fast-dllm-v2-1.5b.toml", recipes.display())).ok();
    snapshot("show-recipe-of-a-model", &shown.out);
    // The same sizes, once from the recipe and once from config.json; the ids of tokens may differ in length.
    let own = foretold(&place.run("show tiny.toml").ok());
    let sizes = "{vocab=384,hidden=64,layers=3,heads=4,kv_heads=2,head_dim=32,intermediate=176,tied=false}";
    let stated = foretold(&place.run(&format!("show tiny.toml --set model.sizes={sizes}")).ok());
    let near = |((a, own), (b, stated)): (&(String, u64), &(String, u64))| a == b && own.abs_diff(*stated) <= 128;
    assert!(own.len() == 7 && own.iter().zip(&stated).all(near), "{own:?} {stated:?}");
    let huge = "{vocab=16777216,hidden=1048576,layers=9,heads=64,kv_heads=64,head_dim=64,intermediate=9,tied=true}";
    let refused = place.run(&format!("show tiny.toml --set model.sizes={huge}")).ok().out;
    assert!(refused.contains("refused: @embed_tokens: too many numbers"), "{refused}");
    let nowhere = place.run("show tiny.toml --set model.checkpoint=gone").ok().out;
    assert!(nowhere.contains("sizes are not known: there is neither `[model.sizes]` nor a checkpoint folder `gone`"));
}

#[test]
fn a_recipe_must_agree_with_its_checkpoint() {
    let place = place("llada");
    place.run("build tiny.toml --set generate.sampler=shifted").failed(
        1,
        &["error[generate::sampler]: row i of family `llada` names token i", "would shift every token by one"],
    );
    place.run("build tiny.toml --set generate.algorithm=dream.diffusion_generate").failed(
        1,
        &["error[generate::algorithm]: `dream.diffusion_generate` does not", "write `algorithm = \"llada.gsai\"`"],
    );
    place.run("build tiny.toml --set generate.strategy=entropy --set generate.algorithm=llada.gsai").failed(
        1,
        &[
            "error[generate::setting]: `strategy` is entropy, which this algorithm does not know",
            "not with this algorithm",
        ],
    );
    place.run("build tiny.toml --set model.family=dream").failed(1, &["the checkpoint is of family `llada`"]);
    place.run("build tiny.toml --set shape.cache=1024").failed(1, &["the model knows 512 positions"]);
    let sizes = "{vocab=352,hidden=64,layers=4,heads=4,kv_heads=4,head_dim=16,intermediate=192,tied=true}";
    place.run(&format!("build tiny.toml --set model.sizes={sizes}")).failed(
        1,
        &[
            "error[model::sizes]: the checkpoint's config.json makes it `layers = 3`",
            "help: write `layers = 3`",
            "`tied = false`",
        ],
    );
    let shifted = self::place("fast_dllm_v2");
    shifted
        .run("build tiny.toml --set generate.sampler=aligned --set shape.block=16")
        .failed(1, &["row i of family `fast_dllm_v2` names token i + 1", "write `block = 32`"]);
    shifted
        .run("build tiny.toml --set generate.algorithm=diffulex.canvas")
        .failed(1, &["`diffulex.canvas` does not generate with family `fast_dllm_v2`"]);
}

/// Everything that was recorded of the original code, on a folder or a file.
fn recordings(family: &str) -> String {
    let file = |name: &str| fixture(&format!("{family}/{name}")).display().to_string();
    let logits = if family == "sdar" { "logits_block4" } else { "logits" };
    format!(
        "--reference {} --trajectories {} --conversations {}",
        file(&format!("{logits}.safetensors")),
        file("trajectories.json"),
        file("chat.json")
    )
}

#[test]
fn recordings_hold_for_checkpoints_and_artifacts() {
    for (family, runs) in [("sdar", 14), ("fast_dllm_v2", 15), ("dream", 17), ("llada", 13)] {
        let (place, recordings) = (place(family), recordings(family));
        place.run("build tiny.toml").ok();
        let f32 = "artifacts/tiny-xnnpack-f32";
        std::fs::copy(place.path(f32).join("tiny-xnnpack-f32.pte"), place.path("bare.pte")).unwrap();
        for subject in ["tiny", f32, "bare.pte --tokenizer tiny"] {
            let out = place.run(&format!("verify {subject} {recordings} --explain")).ok().out;
            assert_eq!(out.matches("ok     trajectory").count(), runs, "{subject}: {out}");
            assert_eq!(out.matches("ok     conversation").count(), 3, "{subject}: {out}");
            assert!(out.matches("ok     logits").count() >= 8, "{subject}: {out}");
        }
        // What the artifacts themselves are compared by: matrices, logits under noise, replies.
        let verified = place.run("verify tiny.toml --explain").ok().out;
        assert_eq!(verified.matches("ok     reply").count(), 8, "{verified}");
        assert!(!verified.contains("FAILED"));
    }
}

#[test]
fn departures_are_explained() {
    let place = place("dream");
    let text = std::fs::read_to_string(fixture("dream/trajectories.json")).unwrap();
    let mut runs: serde_json::Value = serde_json::from_str(&text).unwrap();
    runs["trajectories"].as_array_mut().unwrap().truncate(1);
    let run = &mut runs["trajectories"][0];
    run["rows"] = serde_json::Value::Null;
    let (pass, position) = (run["accepted"][3][0].clone(), run["accepted"][3][1].as_u64().unwrap());
    run["accepted"][3][2] = 7.into();
    std::fs::write(place.path("runs.json"), runs.to_string()).unwrap();
    let plain = place.run("verify tiny --trajectories runs.json").failed(1, &[]).out;
    let row = position - 1;
    assert!(plain.contains(&format!("maskgit_plus_16: pass {pass}, row {row}: it accepts")), "{plain}");
    let explained = place.run("verify tiny --trajectories runs.json --explain").failed(1, &[]).out;
    snapshot("explained-departure", &explained);
    let json = place.run("verify tiny --trajectories runs.json --message-format json").failed(1, &[]).out;
    let check: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&check["departure"]["row"], &check["departure"]["recorded"]["token"]), (&row.into(), &7.into()));

    let mut talks: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("dream/chat.json")).unwrap()).unwrap();
    talks[1]["answer_text"] = "something else".into();
    talks[2]["messages"][0]["content"] = "Another question?".into();
    std::fs::write(place.path("talks.json"), talks.to_string()).unwrap();
    let out = place.run("verify tiny --conversations talks.json").failed(1, &[]).out;
    assert!(out.contains("not \"something else\"") && out.contains("the prompt differs from byte"), "{out}");
    // Recordings of another family, and of a model with another mask, are told apart before anything runs.
    let other = format!("verify tiny --trajectories {}", fixture("llada/trajectories.json").display());
    let out = place.run(&other).failed(1, &[]).out;
    assert_eq!(out.matches("is recorded, but the model is of family dream").count(), 13, "{out}");
    runs["trajectories"][0]["accepted"][3][2] = 0.into();
    runs["trajectories"][0]["params"]["mask_id"] = 9.into();
    runs["mask_id"] = 9.into();
    std::fs::write(place.path("runs.json"), runs.to_string()).unwrap();
    let out = place.run("verify tiny --trajectories runs.json").failed(1, &[]).out;
    assert!(out.contains("the recording's mask token is 9, the model's 345"), "{out}");

    std::fs::remove_file(place.path("tiny")).unwrap();
    std::os::unix::fs::symlink(fixture("dream/tiny-sharded-bf16"), place.path("tiny")).unwrap();
    place.run("verify tiny --conversations talks.json").failed(2, &["give its folder with `--tokenizer`"]);
}

#[test]
fn answers_of_every_family() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = place(family);
        place.run("build tiny.toml --only f32").ok();
        let answer = |subject: &str| place.run(&format!("run {subject} --prompt Hello --max-tokens 20")).ok().out;
        let checkpoint = answer("tiny");
        assert_eq!(checkpoint, answer("artifacts/tiny-xnnpack-f32"), "{family}");
        assert_eq!(checkpoint, answer("artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte --tokenizer tiny"), "{family}");
        let long = "word,".repeat(600);
        place
            .run(&format!("run tiny.toml --only f32 --prompt {long}"))
            .failed(1, &["leaves no room for an answer: this build holds 192 positions"]);
    }
}

#[test]
fn originals_run_by_their_names() {
    let place = place("llada");
    let passes = |args: &str| {
        let err = place.run(&format!("run tiny --prompt Hello --stats {args}")).ok().err;
        err.split(" in ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let own = "--algorithm llada.gsai --max-tokens 32 --block 16";
    assert_eq!(passes(&format!("{own} --steps 12")), 12, "every pass of the original");
    assert_eq!(passes(&format!("{own} --steps 12 --guidance 1.5")), 12);
    assert!(passes("--algorithm llada.nv_dual --max-tokens 32 --block 16 --threshold 0.1") <= 6);
    assert_eq!(passes("--algorithm llada.nv --max-tokens 32 --block 16 --steps 8 --strategy random"), 8);
    let run = |args: &str| place.run(&format!("run tiny --prompt Hello {args}"));
    run("--algorithm llada").failed(1, &["--algorithm: there is no `llada`", "llada.gsai"]);
    run("--algorithm dream.diffusion_generate").failed(1, &["dream.diffusion_generate is not made for llada"]);
    run(&format!("{own} --steps 7")).failed(1, &["the number of blocks 2 must divide steps 7 (steps is --steps)"]);
    run(&format!("{own} --top-k 5")).failed(1, &["--top-k has no meaning for llada.gsai", "--guidance"]);
    run("--algorithm llada.gsai --max-tokens 30 --block 16 --steps 30").failed(
        1,
        &["block_length 16 must divide gen_length 30 (gen_length is --max-tokens, block_length is --block)"],
    );
    run("--guidance 3").failed(1, &["--guidance has no meaning for diffulex.canvas, which takes --block, --window"]);
    run("--reuse block").failed(1, &["reuse is block, but diffulex.canvas knows none, prefix, dual"]);
    run("--algorithm llada.nv --steps 8 --threshold 0.5").failed(1, &["two ways to choose"]);
    run("--strategy entropy --algorithm llada.gsai").failed(1, &["strategy is entropy", "low_confidence, random"]);

    let dream = self::place("dream");
    let run = |args: &str| dream.run(&format!("run tiny --prompt Hello --stats --max-tokens 24 {args}")).ok().err;
    for alg in ["origin", "maskgit_plus", "topk_margin", "entropy"] {
        let err = run(&format!("--algorithm dream.diffusion_generate --steps 10 --strategy {alg} --alg-temp 0.5"));
        assert!(err.contains(" in 10 passes"), "{err}");
    }
    let left = run("--algorithm dream.diffusion_generate_block --block 8 --steps 3");
    assert!(left.contains("the algorithm left 21 positions undecided"), "{left}");
    run("--algorithm dream.diffusion_generate_block --block 8 --strategy confidence_threshold --reuse prefix");
    let sdar = self::place("sdar");
    sdar.run("run tiny --prompt x --block 8").failed(1, &["trained for blocks of 4"]);
}

#[test]
fn gaps_are_filled() {
    for family in ["dream", "llada"] {
        let place = place(family);
        place.run("build tiny.toml --only f32").ok();
        let fill = |subject: &str, args: &str| {
            let mut command = place.command(format!("run {subject} --length 9 --stats {args}").trim_end());
            command.args(["--prefix", "The small"]);
            place.ran(command.output().unwrap()).ok()
        };
        let source = fill("tiny", "--suffix garden");
        assert!(source.err.contains("9 tokens in "), "{}", source.err);
        assert_eq!(source.out, fill("artifacts/tiny-xnnpack-f32", "--suffix garden").out);
        assert_ne!(source.out, fill("tiny", "--suffix Numbers").out, "what follows counts");
        fill("tiny", "");
        place.run("run tiny --suffix end --length 4").ok();
        place.run("run tiny --prefix a --suffix b").failed(2, &["--length"]);
        place.run("run tiny --prefix a --length 4 --prompt b").failed(2, &["--prompt"]);
        place.run("run artifacts/tiny-xnnpack-f32 --prefix a --length 300").failed(1, &["this build holds 192"]);
    }
    place("sdar").run("run tiny --prefix a --suffix b --length 4").failed(1, &["sees nothing behind a gap"]);
}
