//! Recipes as files: every fixture gives exactly the mistakes its comments announce.
//!
//! `# error: CODE TEXT` above a line expects a diagnostic of that code at that line whose printed form holds TEXT.
//! At the end of a file it expects one that concerns the file as a whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use std::fs;
use std::path::{Path, PathBuf};

use diffulex_compiler::generation::{Family, Generation, Reuse};
use diffulex_compiler::recipe::{self, Diagnostic, Diagnostics, Mistake, Recipe};
use diffulex_edge::build::Network;
use proptest::prelude::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recipes");
const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes");
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots/diagnostics");

fn load(path: impl AsRef<Path>, overrides: &[&str]) -> Result<Recipe, Diagnostics> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    recipe::load(path.as_ref(), &overrides)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

/// The recipes of a folder, sorted.
fn recipes_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// One `# error:` comment; `line` is `None` for a mistake of the file as a whole.
#[derive(Debug)]
struct Expected {
    file: PathBuf,
    line: Option<usize>,
    code: String,
    text: String,
}

impl Expected {
    fn fits(&self, diagnostic: &Diagnostic) -> bool {
        let Some(origin) = diagnostic.origin() else { return false };
        same_file(Path::new(origin.file().name()), &self.file)
            && (!origin.is_whole()).then(|| origin.line()) == self.line
            && diagnostic.code() == self.code
            && diagnostic.render(false).contains(&self.text)
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    fs::canonicalize(a).unwrap() == fs::canonicalize(b).unwrap()
}

/// The comments of a file and of those it extends.
fn expectations(path: &Path) -> Vec<Expected> {
    let mut expected = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(file) = next.take().filter(|file| file.is_file() && !seen.iter().any(|seen| same_file(seen, file))) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if let Some(comment) = line.trim_start().strip_prefix("# error: ") {
                let (code, text) = comment.split_once(' ').unwrap_or((comment, ""));
                let below = lines[index..].iter().position(|line| !line.trim_start().starts_with("# error: "));
                let line = below.map(|below| index + below + 1);
                expected.push(Expected { file: file.clone(), line, code: code.into(), text: text.trim_end().into() });
            }
        }
        let parent = lines.iter().find_map(|line| line.strip_prefix("extends = \"")?.strip_suffix('"'));
        next = parent.map(|parent| file.with_file_name(parent));
        seen.push(file);
    }
    expected
}

/// Compares the mistakes of a recipe with its comments and says what differs.
fn check(path: &Path) -> Result<(), String> {
    let mut found = load(path, &[]).err().map_or_else(Vec::new, |mistakes| mistakes.0);
    let mut problems = String::new();
    for expected in expectations(path) {
        match found.iter().position(|diagnostic| expected.fits(diagnostic)) {
            Some(index) => drop(found.remove(index)),
            None => problems += &format!("not reported: {expected:?}\n"),
        }
    }
    for diagnostic in found {
        problems += &format!("not expected:\n{diagnostic}\n");
    }
    if problems.is_empty() { Ok(()) } else { Err(format!("{}\n{problems}", path.display())) }
}

#[test]
fn fixtures_give_the_mistakes_they_announce() {
    let fixtures = recipes_in(FIXTURES);
    assert!(fixtures.len() > 15, "the fixtures are missing");
    let problems: Vec<String> = fixtures.iter().filter_map(|path| check(path).err()).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn mistakes_follow_the_lines_and_then_come_those_of_the_file() {
    let mistakes = load(fixture("missing-keys.toml"), &[]).expect_err("the recipe has mistakes");
    let places: Vec<_> =
        mistakes.0.iter().filter_map(Diagnostic::origin).map(|origin| (origin.is_whole(), origin.line())).collect();
    assert!(places.is_sorted() && places.len() == mistakes.0.len(), "{places:?}");
    assert!(!places[0].0 && places[places.len() - 1].0);
}

/// The checker itself: a mistake without a comment and a comment without a mistake both fail.
#[test]
fn the_checker_notices_both_kinds_of_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let parent = fixture("parents/complete.toml");
    fs::write(&path, format!("extends = {:?}\nwibble = 1\n", parent.display().to_string())).unwrap();
    assert!(check(&path).unwrap_err().contains("not expected:"));
    fs::write(&path, format!("extends = {:?}\n# error: recipe::unknown-key\n[shape]\n", parent)).unwrap();
    assert!(check(&path).unwrap_err().contains("not reported:"));
}

#[test]
fn every_recipe_of_the_product_loads() {
    let recipes = recipes_in(RECIPES);
    assert!(recipes.iter().any(|path| path.ends_with("demo.toml")));
    for path in recipes.iter().filter(|path| !path.ends_with("base.toml")) {
        let recipe = load(path, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(Some(recipe.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
    }
}

#[test]
fn every_value_shows_the_file_it_came_from() {
    let recipe = load(fixture("valid.toml"), &["shape.prefill=512"]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let shown: Vec<String> =
        recipe.values().iter().map(|value| format!("{} = {} # {}", value.key, value.value, value.origin)).collect();
    let shown = shown.join("\n").replace(FIXTURES, "recipes");
    let expected = "\
name = \"valid-1.0_x\" # recipes/valid.toml:3
model.family = \"sdar\" # recipes/valid.toml:5
model.checkpoint = \"some/folder\" # recipes/valid.toml:6
shape.block = 32 # recipes/valid.toml:9
shape.prefill = 512 # --set
shape.cache = 131072 # recipes/valid.toml:11
generate.algorithm = \"sdar.block_diffusion_generate\" # recipes/parents/complete.toml:13
";
    assert!(shown.starts_with(expected), "{shown}");
    let expected = "
generate.seed = 18446744073709551615 # recipes/valid.toml:16
quant.f16.weights = \"f16\" # recipes/parents/complete.toml:28
quant.f32.weights = \"f32\" # recipes/parents/complete.toml:25
quant.mixed.weights = \"f16\" # recipes/valid.toml:19
quant.mixed.keep.bf16 = [\"embed_tokens\"] # recipes/valid.toml:20
quant.mixed.keep.f32 = [\"lm_head\", \"*norm*\"] # recipes/valid.toml:20
matrix.target = [\"xnnpack\"] # recipes/parents/complete.toml:31
matrix.quant = [\"f16\", \"mixed\"] # recipes/valid.toml:23
matrix.except = [{ quant = \"f16\" }] # recipes/valid.toml:24
target.xnnpack.alignment = 128 # recipes/parents/complete.toml:35
target.xnnpack.select_rows = false # recipes/parents/complete.toml:36";
    assert!(shown.ends_with(expected), "{shown}");
}

/// Compares a printed text with `snapshots/diagnostics/<name>.snap`.
fn assert_printed(name: &str, result: Result<Recipe, Diagnostics>) {
    let mistakes = result.expect_err("the recipe has mistakes");
    let printed = mistakes.render(false).replace(FIXTURES, "recipes");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, printed));
}

#[test]
fn two_mistakes_of_one_file_print_together() {
    assert_printed("two-mistakes", load(fixture("sdar-phone.toml"), &[]));
}

#[test]
fn files_that_cannot_be_read_print_with_the_line_that_asks_for_them() {
    assert_printed("extends-missing", load(fixture("extends-missing.toml"), &[]));
    assert_printed("extends-cycle", load(fixture("extends-cycle.toml"), &[]));
}

#[test]
fn overrides_print_as_their_own_source() {
    let overrides = ["shape.cache=510", "generate.strategy=sequentail", "matrix.quant=[\"f16\", \"f61\"]", "seed=1"];
    assert_printed("overrides", load(fixture("valid.toml"), &overrides));
}

#[test]
fn what_is_no_override_is_refused() {
    for (text, code) in [
        ("cache", "recipe::override"),
        ("=1", "recipe::override"),
        ("[shape]=1", "recipe::override"),
        ("a b=1", "recipe::override"),
        ("extends=x.toml", "recipe::override"),
        ("extends.x=1", "recipe::override"),
        ("matrix.quant=[\"f16\"", "recipe::syntax"),
        ("shape=", "recipe::wrong-type"),
        ("shape.cache=", "recipe::wrong-type"),
    ] {
        let mistakes = load(fixture("valid.toml"), &[text]).expect_err(text);
        assert!(matches!(&mistakes.0[..], [one] if one.code() == code), "{text}: {mistakes}");
    }
}

/// What a folder with one recipe of these bytes gives.
fn only_mistake(bytes: &[u8]) -> Mistake {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    fs::write(&path, bytes).unwrap();
    let mistakes = load(&path, &[]).expect_err("the recipe has a mistake");
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
    mistakes.0[0].mistake.clone()
}

#[test]
fn hostile_files_give_one_clear_mistake() {
    let why = |mistake| match mistake {
        Mistake::Unreadable { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(only_mistake(b"name = \"x\"\n# \xff\n")), "is not UTF-8 text (line 2)");
    assert_eq!(why(only_mistake(&vec![b'#'; (1 << 20) + 1])), "is larger than 1024 KiB");
    let nested = ["x = ", &"[".repeat(100_000)].concat();
    assert!(matches!(only_mistake(nested.as_bytes()), Mistake::Syntax { .. }));
    let dotted = ["a", &".a".repeat(100_000), " = 1"].concat();
    assert!(matches!(only_mistake(dotted.as_bytes()), Mistake::Syntax { .. }));
}

/// Byte order mark and carriage returns, as Windows editors leave them, do not show in excerpts.
#[test]
fn line_ends_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let print = |text: String| {
        fs::write(&path, text).unwrap();
        load(&path, &[]).expect_err("a mistake").to_string()
    };
    let text = "name = 3\nextends = \"gone.toml\"\n[shape]\nblock = 0\n";
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(print(text.into()), print(windows));
}

#[cfg(unix)]
#[test]
fn devices_and_folders_are_not_recipes() {
    for (path, why) in [("/dev/zero", "is not a regular file"), ("/", "is a folder, not a recipe")] {
        let mistakes = load(path, &[]).expect_err("not a recipe");
        assert!(matches!(&mistakes.0[..], [one] if one.to_string().contains(why)), "{mistakes}");
    }
}

#[test]
fn a_long_chain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..40 {
        let text = format!("extends = \"{}.toml\"\n", index + 1);
        fs::write(folder.path().join(format!("{index}.toml")), text).unwrap();
    }
    let mistakes = load(folder.path().join("0.toml"), &[]).expect_err("too deep");
    assert!(matches!(mistakes.0[..], [Diagnostic { mistake: Mistake::ExtendsTooDeep { limit: 16 }, .. }]));
}

#[test]
fn many_mistakes_are_counted_and_the_first_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let text: String = (0..60).map(|index| format!("wibble{index} = 1\n")).collect();
    fs::write(&path, format!("extends = {:?}\n{text}", fixture("parents/complete.toml"))).unwrap();
    let mistakes = load(&path, &[]).expect_err("sixty mistakes");
    assert_eq!(mistakes.0.len(), 60);
    let printed = mistakes.to_string();
    assert!(printed.contains("`wibble0`") && printed.ends_with("… and 10 more mistakes"), "{printed}");
}

/// The texts of all fixtures and recipes.
fn corpus() -> Vec<String> {
    [FIXTURES, RECIPES].into_iter().flat_map(recipes_in).map(|path| fs::read_to_string(path).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of a recipe's text, loading and printing end without a panic.
    #[test]
    fn mangled_recipes_never_panic(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, "[\\[\\]{}\"'=.,#\\n\\r\\té🦀a0-]{0,3}"), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let texts = corpus();
        let mut text: Vec<char> = pick.get(&texts).chars().collect();
        for (place, remove, insert) in edits {
            let start = place.index(text.len() + 1);
            let end = (start + remove).min(text.len());
            text.splice(start..end, insert.chars());
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len() + 1));
        }
        let text: String = text.into_iter().collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        fs::create_dir(folder.path().join("parents")).unwrap();
        fs::copy(fixture("parents/complete.toml"), folder.path().join("parents/complete.toml")).unwrap();
        fs::write(&path, &text).unwrap();
        match load(&path, &[]) {
            Ok(recipe) => prop_assert!(!recipe.builds.is_empty()),
            Err(mistakes) => {
                prop_assert!(!mistakes.0.is_empty());
                prop_assert!(mistakes.render(false).contains("error["));
                prop_assert!(mistakes.render(true).contains("\x1b["));
            }
        }
    }

    /// The same for `--set`.
    #[test]
    fn mangled_overrides_never_panic(text in "[a-z.]{0,8}[=\\[ ]?[\\[{\"'é🦀]?.{0,8}") {
        if let Err(mistakes) = load(fixture("valid.toml"), &[&text]) {
            prop_assert!(mistakes.render(false).contains("--set"), "{}", mistakes);
        }
    }
}

#[test]
fn a_family_has_the_same_defaults_with_and_without_a_recipe() {
    for &family in Family::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        let parent = format!("{RECIPES}/families/{family}.toml");
        let rest = "name = \"x\"\nmodel.checkpoint = \"x\"\nmatrix = { target = [\"xnnpack\"], quant = [\"f16\"] }";
        fs::write(&path, format!("extends = {parent:?}\n{rest}\n")).unwrap();
        let build = load(&path, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}")).builds.remove(0);
        assert_eq!(build.model.family.as_deref(), Some(&family));
        let ours = Generation::defaults(family, None, 0, vec![]);
        let g = build.generate;
        let written = Generation {
            logits: *g.sampler,
            block: *build.shape.block,
            algorithm: *g.algorithm,
            strategy: g.strategy.map(|v| *v),
            steps: g.steps.map(|v| *v),
            threshold: g.threshold.to_vec(),
            small_block: g.small_block.map(|v| *v),
            reuse: g.reuse.map_or(Reuse::None, |v| *v),
            window: g.window.map(|v| *v),
            eps: g.eps.map(|v| *v as f32),
            alg_temp: g.alg_temp.map(|v| *v as f32),
            guidance: g.guidance.map(|v| *v as f32),
            temperature: *g.temperature as f32,
            top_k: *g.top_k,
            top_p: *g.top_p as f32,
            max_tokens: *g.max_tokens,
            seed: *g.seed,
            // Not for a recipe to say.
            family,
            attention: ours.attention,
            mask_id: ours.mask_id,
            end_ids: ours.end_ids.clone(),
        };
        assert_eq!(written, ours);
        assert!(family.facts().algorithms.contains(&ours.algorithm));
    }
}

/// Parameters, tensors and bytes of the checkpoints that have a recipe, as their publishers count them.
#[test]
fn the_sizes_of_recipes_are_those_of_the_published_checkpoints() {
    let bytes = |bytes: u64| (bytes / 2, None);
    for (name, (parameters, tensors)) in [
        ("sdar-1.7b", bytes(4_063_479_808)),
        ("sdar-4b", bytes(8_822_848_512)),
        ("sdar-8b", bytes(16_381_470_720)),
        ("fast-dllm-v2-1.5b", (1_543_714_304, Some(338))),
        ("fast-dllm-v2-7b", (7_615_616_512, Some(339))),
        ("dream-v0-instruct-7b", (7_615_616_512, Some(339))),
        ("llada-8b-instruct", (8_015_581_184, Some(291))),
    ] {
        let recipe = load(format!("{RECIPES}/{name}.toml"), &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let network = Network::of(&recipe, None).unwrap();
        let found = network.parameters();
        assert_eq!((found.0, tensors.map(|_| found.1)), (parameters, tensors), "{name}");
        assert_eq!(network.published_bytes(), 2 * parameters);
    }
}
