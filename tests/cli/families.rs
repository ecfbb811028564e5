//! Recipes of every family: what they build, what `show` foretells, what is refused.

use super::{Place, Ran, fixture, root, snapshot};

/// A recipe `tiny.toml` of a family's tiny checkpoint.
fn place(family: &str) -> Place {
    let place = Place::new();
    let recipe = format!(
        "extends = \"{}/recipes/families/{family}.toml\"\nname = \"tiny\"\n\n[model]\ncheckpoint = \"tiny\"\n\n[shape]\n\
         prefill = 128\ncache = 128\n\n[matrix]\ntarget = [\"xnnpack\"]\nquant = [\"f32\", \"f16\"]\n",
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
        assert_eq!(sizes.iter().map(|(scheme, _)| scheme.as_str()).collect::<Vec<_>>(), ["f16", "f32"]);
        place.run(&format!("build {recipe}")).ok();
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
    assert!(own.len() == 2 && own.iter().zip(&stated).all(near), "{own:?} {stated:?}");
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
