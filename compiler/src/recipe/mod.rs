//! Recipes: TOML files in, [`Build`]s out. Every value remembers the file and the bytes it came from.
//!
//! 1. `read` opens the recipe and the ones it `extends`, and turns each `--set` into one more layer.
//! 2. `inherit` holds each layer against the table in `schema` (`check` judges single values) and merges it over
//!    those before it: tables key by key, everything else as a whole.
//! 3. `typed` turns the effective values into the parts of a build and finds the ones that contradict each other.
//! 4. `matrix` multiplies targets and quantization schemes, less the exceptions, into builds.
//!
//! No step stops at a mistake: [`load`] returns all of them together. A recipe is not trusted: size, depth and
//! length have limits, and nothing in it leads to a panic. Nothing here knows what a target can do; whoever refuses
//! a value points at it with [`Diagnostic::refusal`] and the value's [`Origin`].

mod build;
mod check;
mod choice;
pub mod coreml;
mod diagnostic;
mod inherit;
mod matrix;
mod mistake;
pub mod qnn;
mod read;
mod schema;
mod source;
mod suggest;
mod typed;
mod value;

use std::path::Path;
use std::sync::Arc;

pub use build::{Build, Generate, Model, QuantScheme, Shape, Sizes, Target};
pub use choice::{Dtype, Numbers, TargetName};
pub use coreml::Coreml;
pub use diagnostic::{Diagnostic, Diagnostics, Label, Note, Severity};
pub use mistake::Mistake;
pub use qnn::Qnn;
pub use source::{Located, Origin, SourceFile};
pub use suggest::near_miss;

/// A recipe without mistakes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The product's name.
    pub name: Located<String>,
    /// One build for each cell of the matrix, never empty.
    pub builds: Vec<Build>,
    /// Every scheme of `[quant]`, also those that the matrix leaves out, by name.
    pub schemes: Vec<QuantScheme>,
    /// The texts it was read from: the recipe, its parent, …, then each `--set`.
    pub files: Vec<Arc<SourceFile>>,
    values: Vec<EffectiveValue>,
}

/// One value of a recipe after inheritance, as `show` prints it.
#[derive(Clone, Debug)]
pub struct EffectiveValue {
    /// The dotted key.
    pub key: String,
    /// The value as TOML, on one line.
    pub value: String,
    /// Where it was written; its `Display` is `file:line`.
    pub origin: Origin,
}

impl Recipe {
    /// Every effective value but those of targets that are not built, in the order of the schema.
    pub fn values(&self) -> &[EffectiveValue] {
        &self.values
    }
}

/// Reads the recipe at `path` with `overrides`, the texts `key=value` of `--set`.
///
/// # Errors
/// Every mistake of the recipe, of the recipes it extends and of the overrides.
pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe, Diagnostics> {
    let mut mistakes = Vec::new();
    let chain = read::chain(path, overrides, &mut mistakes);
    finish(chain, mistakes)
}

/// Reads a recipe that is no file: `(name, text)`, where each text builds on the one before it, with overrides as in
/// [`load`]. Relative paths start from the current folder.
///
/// # Errors
/// As [`load`].
pub fn load_texts(texts: &[(&str, &str)], overrides: &[String]) -> Result<Recipe, Diagnostics> {
    let mut mistakes = Vec::new();
    let chain = read::texts(texts, overrides, &mut mistakes);
    finish(chain, mistakes)
}

fn finish(chain: read::Chain, mut mistakes: Vec<Diagnostic>) -> Result<Recipe, Diagnostics> {
    let mut settings = inherit::Settings::new(&chain.files);
    for layer in &chain.layers {
        settings.overlay(layer, &mut mistakes);
    }
    // Where a part is unread, what seems missing may not be.
    let whole = chain.complete && !settings.is_refused("extends");
    let read = if whole { matrix::builds(&settings, &mut mistakes) } else { None };
    match read {
        Some((name, builds, schemes)) if mistakes.is_empty() => {
            let targets: Vec<TargetName> = builds.iter().map(|build| build.target.value.name()).collect();
            // What is said of targets that are not built has no effect.
            let built = |target: &str| targets.iter().any(|name| name.name() == target);
            let counts = |key: &str| match key.strip_prefix("target.").and_then(|rest| rest.split('.').next()) {
                Some(target) => built(target),
                None => !key.starts_with("calibration.") || built(TargetName::Qnn.name()),
            };
            let values = settings.in_order().into_iter().filter(|(key, _)| counts(key));
            let values = values.map(|(key, value)| EffectiveValue {
                key: key.to_owned(),
                value: value.to_string(),
                origin: value.origin.clone(),
            });
            Ok(Recipe { name, builds, schemes, values: values.collect(), files: chain.files })
        }
        _ => Err(Diagnostics::sorted(mistakes, &chain.files)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ir::Encoding;

    /// A recipe that needs no other.
    const COMPLETE: &str = r#"
        name = "x"
        model = { family = "sdar", checkpoint = "model" }
        shape = { block = 4, prefill = 64, cache = 512 }
        target.xnnpack.alignment = 128
        target.xnnpack.select_rows = false
        [generate]
        algorithm = "sdar.block_diffusion_generate"
        strategy = "sequential"
        steps = 4
        sampler = "aligned"
        threshold = [0.9, 0.8]
        temperature = 0.0
        top_k = 0
        top_p = 1.0
        max_tokens = 256
        seed = 0
        [quant]
        f32.weights = "f32"
        f16.weights = "f16"
        [matrix]
        target = ["xnnpack"]
        quant = ["f32", "f16"]
    "#;

    /// Loads `child.toml`, which extends `parent.toml`.
    fn load_pair(parent: &str, child: &str, overrides: &[&str]) -> Result<Recipe, Diagnostics> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("parent.toml"), parent).unwrap();
        let path = folder.path().join("child.toml");
        fs::write(&path, format!("extends = \"parent.toml\"\n{child}")).unwrap();
        load(&path, &overrides.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn recipe(child: &str, overrides: &[&str]) -> Recipe {
        load_pair(COMPLETE, child, overrides).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn value(recipe: &Recipe, key: &str) -> String {
        let value = recipe.values().iter().find(|value| value.key == key).expect("the key is set");
        let name = value.origin.file().name();
        format!("{} from {}", value.value, name.rsplit('/').next().unwrap_or(name))
    }

    #[test]
    fn tables_merge_and_arrays_replace() {
        let recipe = recipe("shape.cache = 1024\nmatrix.quant = [\"f16\"]\nquant.f16.keep.f32 = [\"a\"]", &[]);
        assert_eq!(value(&recipe, "shape.cache"), "1024 from child.toml");
        assert_eq!(value(&recipe, "shape.block"), "4 from parent.toml");
        assert_eq!(value(&recipe, "matrix.quant"), "[\"f16\"] from child.toml");
        assert_eq!(value(&recipe, "quant.f16.weights"), "\"f16\" from parent.toml");
        assert_eq!(value(&recipe, "quant.f16.keep.f32"), "[\"a\"] from child.toml");
    }

    #[test]
    fn an_unknown_key_tells_what_holds_without_it() {
        let notes = |child: &str| {
            let mistakes = load_pair(COMPLETE, child, &[]).expect_err("an unknown key");
            mistakes.0[0].notes.iter().map(|note| note.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(notes("shape.cahce = 1024"), ["without it `cache` stays 512"]);
        assert_eq!(notes("shape.cahce = 1024\nshape.cache = 256"), [""; 0]);
    }

    #[test]
    fn overrides_win_over_files_and_earlier_overrides() {
        let overrides = ["shape.cache=64", "shape.cache = 0x100", "name=demo", "generate={steps=2, top_p=0.5}"];
        let recipe = recipe("name = \"y\"", &overrides);
        assert_eq!(value(&recipe, "shape.cache"), "256 from --set");
        assert_eq!(value(&recipe, "name"), "\"demo\" from --set");
        assert_eq!(value(&recipe, "generate.steps"), "2 from --set");
        assert_eq!(value(&recipe, "generate.seed"), "0 from parent.toml");
        assert_eq!(recipe.builds[0].name, "demo-xnnpack-f32");
        assert_eq!(recipe.files.len(), 6);
    }

    #[test]
    fn a_text_of_several_lines_is_one_override() {
        let mistakes = load_pair(COMPLETE, "", &["name=x\nshape.cache=8"]).expect_err("no such name");
        assert!(matches!(&mistakes.0[..], [one] if one.code() == "recipe::bad-name"), "{mistakes}");
    }

    #[test]
    fn builds_are_the_matrix_less_its_exceptions() {
        let names = |child| recipe(child, &[]).builds.iter().map(|build| build.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(""), ["x-xnnpack-f32", "x-xnnpack-f16"]);
        assert_eq!(names("matrix.except = [{ quant = \"f32\" }]"), ["x-xnnpack-f16"]);
        assert_eq!(names("matrix.except = []"), ["x-xnnpack-f32", "x-xnnpack-f16"]);
    }

    #[test]
    fn the_digest_depends_on_effective_values_only() {
        let digest = |child: &str| recipe(child, &[]).builds[1].digest_hex();
        let plain = digest("");
        assert_eq!(plain.len(), 64);
        for same in [
            "# a comment\nname = \"renamed\"",
            "[shape]\ncache   = 0x200   # 512",
            "generate.temperature = 0",
            "generate.temperature = -0.0",
            "quant.half.weights = \"f16\"\nmatrix.quant = [\"f32\", \"half\"]",
            "quant.f32.keep.bf16 = [\"of another scheme\"]",
            // As config.json says.
            "model.sizes = { vocab = 9, hidden = 4, layers = 1, heads = 1, kv_heads = 1, head_dim = 2, intermediate = 3, \
             tied = true }",
        ] {
            assert_eq!(digest(same), plain, "{same}");
        }
        for other in [
            "shape.cache = 256",
            "generate.threshold = 0.9",
            "model.checkpoint = \"other\"",
            "quant.f16.keep.f32 = [\"lm_head\"]",
            "target.xnnpack.alignment = 64",
        ] {
            assert_ne!(digest(other), plain, "{other}");
        }
    }

    #[test]
    fn effective_values_are_sorted_and_nameless() {
        let recipe = recipe("", &[]);
        let values = recipe.builds[0].effective_values();
        assert!(values.is_sorted());
        let of = |key: &str| values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        assert_eq!(of("quant.weights"), Some("\"f32\""));
        assert_eq!(of("target.alignment"), Some("128"));
        assert_eq!(of("target"), Some("\"xnnpack\""));
        assert_eq!(of("name"), None);
    }

    #[test]
    fn typed_values_keep_their_place() {
        let recipe = recipe("[quant.f16.keep]\nbf16 = [\"*norm\"]\nf32 = [\"final.*\"]", &[]);
        let build = &recipe.builds[1];
        assert_eq!((*build.shape.block, *build.generate.seed), (4, 0));
        assert_eq!(*build.generate.threshold, [0.9, 0.8]);
        assert_eq!(build.target.name(), TargetName::Xnnpack);
        let encoding = build.quant.encoding_of("final.norm", false);
        assert_eq!((encoding.value, encoding.origin.line()), (Encoding::F32, 4));
        assert_eq!(*build.quant.encoding_of("layers.0.norm", false), Encoding::BF16);
        assert_eq!(*build.quant.encoding_of("lm_head", false), Encoding::F16);
    }

    #[test]
    fn a_checkpoint_lies_beside_its_recipe_or_under_models() {
        let folder = tempfile::tempdir().unwrap();
        let (recipes, models) = (folder.path().join("recipes"), folder.path().join("models"));
        fs::create_dir_all(&recipes).unwrap();
        fs::write(recipes.join("x.toml"), COMPLETE).unwrap();
        let model =
            load(&recipes.join("x.toml"), &[]).unwrap_or_else(|mistakes| panic!("{mistakes}")).builds[0].model.clone();

        let refused = model.resolve(None).expect_err("nowhere").to_string();
        assert!(refused.contains("looked for") && refused.contains("--models DIR"), "{refused}");
        fs::create_dir_all(models.join("model")).unwrap();
        assert_eq!(model.resolve(Some(&models)).ok(), Some(models.join("model")));
        fs::create_dir_all(recipes.join("model")).unwrap();
        assert_eq!(model.resolve(Some(&models)).ok(), Some(recipes.join("model")));
    }

    #[test]
    fn others_refuse_with_a_place_in_the_recipe() {
        let recipe = recipe("", &[]);
        let build = &recipe.builds[0];
        let refusal = Diagnostic::refusal("xnnpack::encoding", "XNNPACK has no f32")
            .label(&build.quant.weights.origin, "this encoding")
            .label(&build.target.origin, "asked for here")
            .note("first met at `lm_head`")
            .help("write `f16`");
        let printed = refusal.to_string();
        for part in ["error[xnnpack::encoding]: XNNPACK has no f32", "^^^^^ this encoding", "--------- asked for here"]
        {
            assert!(printed.contains(part), "{printed}");
        }
        assert!(printed.ends_with("note: first met at `lm_head`\nhelp: write `f16`"), "{printed}");
        assert!(Diagnostic::warning("x", "y").to_string().starts_with("warning[x]: y"));
    }

    #[test]
    fn examples_and_extremes_of_the_schema_are_accepted() {
        let mut child = String::new();
        // A cache is rounded where values are, and tables then are not told apart.
        for key in schema::KEYS.iter().filter(|key| !["extends", "quant.NAME.cache"].contains(&key.path)) {
            let path = key.path.replace("NAME", "f16").replace("ENCODING", "f32");
            child += &format!("{path} = {}\n", key.example);
            if let schema::Kind::Integer { min, max } | schema::Kind::PowerOfTwo { min, max } = key.kind {
                for extreme in [min, max] {
                    let set = format!("{path}={extreme}");
                    let mistakes = load_pair(COMPLETE, "", &[&set]).err().map_or_else(Vec::new, |found| found.0);
                    // A size asks for the others; a group is for int4 alone.
                    let others = ["recipe::shape", "recipe::missing-key", "recipe::no-effect"];
                    assert!(mistakes.iter().all(|mistake| others.contains(&mistake.code())), "{set}: {mistakes:?}");
                }
            }
        }
        // The example of `except` leaves out the other scheme; that of `group` is for int4.
        let child = child.replace("matrix.quant = [\"f16\"]", "matrix.quant = [\"f16\", \"f32\"]");
        recipe(&child.replace("weights = \"f16\"", "weights = \"int4\""), &[]);
    }
}
