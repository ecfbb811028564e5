//! The program as its users see it: what it prints, its exit status, the files it leaves.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod artifacts;
mod builds;
mod chat;
mod coreml;
mod families;
mod help;
mod kill;
mod library;
mod onnx;
mod qnn;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with a recipe of the tiny SDAR checkpoint, in which the program runs.
struct Place {
    folder: tempfile::TempDir,
}

/// What the program did.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

impl Place {
    fn new() -> Place {
        Place::with("quant = [\"f32\", \"f16\"]")
    }

    fn with(matrix: &str) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        let root = root();
        let recipe = format!(
            "extends = \"{}/recipes/families/sdar.toml\"\nname = \"tiny\"\n\n[model]\ncheckpoint = \"tiny\"\n\n[shape]\n\
             prefill = 32\ncache = 128\n\n[matrix]\ntarget = [\"xnnpack\"]\n{matrix}\n",
            root.display()
        );
        std::fs::write(place.path("tiny.toml"), recipe).unwrap();
        std::os::unix::fs::symlink(fixture("sdar/tiny"), place.path("tiny")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diffulex-edge"));
        command.args(args.split(' ')).current_dir(self.folder.path()).env_remove("DIFFULEX_MODELS");
        command
    }

    /// Runs the program; arguments are split at blanks.
    fn run(&self, args: &str) -> Ran {
        self.ran(self.command(args).output().unwrap())
    }

    /// Paths of this machine are replaced, so that what is printed can be compared.
    fn ran(&self, output: Output) -> Ran {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let root = root().to_string_lossy().into_owned();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&folder, "HERE").replace(&root, "ROOT");
        Ran { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    fn ok(self) -> Ran {
        assert_eq!(self.status, 0, "{}{}", self.out, self.err);
        self
    }

    /// Ended with `status`, and the error stream holds each of `parts`.
    fn failed(self, status: i32, parts: &[&str]) -> Ran {
        assert_eq!(self.status, status, "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }
}

/// Compares with a file of `snapshots/cli`.
fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("snapshots/cli"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.unwrap();
        (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())
    };
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(entry).collect();
    files.sort();
    files
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let place = Place::new();
    snapshot("show-recipe", &place.run("show tiny.toml --set shape.cache=64").ok().out);
    place.run("build tiny.toml --only f16").ok();
    let shown = place.run("show artifacts/tiny-xnnpack-f16").ok().out;
    snapshot("show-artifact", &shown);
    snapshot("show-checkpoint", &place.run("show tiny").ok().out);
}

#[test]
fn a_build_is_fresh_until_something_changes() {
    let place = Place::new();
    let built = place.run("build tiny.toml").ok().out;
    assert!(built.contains("tiny-xnnpack-f32: built") && built.contains("(not built yet)"), "{built}");
    assert_eq!(place.run("build tiny.toml").ok().out, "tiny-xnnpack-f32: fresh\ntiny-xnnpack-f16: fresh\n");
    let stale = place.run("build tiny.toml --only f16 --set shape.cache=64").ok().out;
    assert!(stale.contains("(stale: shape.cache 128 → 64)"), "{stale}");
    std::fs::remove_file(place.path("artifacts/tiny-xnnpack-f32/tokenizer.json")).unwrap();
    let json = place.run("build tiny.toml --only f32 --message-format json").ok().out;
    assert!(json.contains(r#""reason":"build-finished""#) && json.contains("tokenizer.json is missing"), "{json}");
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    let (a, b) = (Place::new(), Place::new());
    for place in [&a, &b] {
        place.run("build tiny.toml").ok();
    }
    for build in ["artifacts/tiny-xnnpack-f32", "artifacts/tiny-xnnpack-f16"] {
        let (a, b) = (files(&a.path(build)), files(&b.path(build)));
        assert!(a.len() >= 5 && a == b, "{build}: {:?}", a.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

#[test]
fn the_ir_can_be_looked_at_everywhere() {
    let place = Place::new();
    let imported = place.run("build tiny.toml --only f16 --stop-after import").ok().out;
    assert!(imported.starts_with("module \"tiny-xnnpack-f16\" stage imported\n"), "{imported}");
    place.run("build tiny.toml --only f16 --dump-ir ir").ok();
    let dumped = files(&place.path("ir/tiny-xnnpack-f16"));
    let names: Vec<&str> = dumped.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["01-import", "02-fold-scale", "03-fuse-qkv", "04-fuse-gate-up", "05-fuse-swiglu", "06-drop-dead"];
    let expected = expected.iter().chain(&["07-quantize", "08-legal"]).map(|name| format!("{name}.ir"));
    assert_eq!(names, expected.collect::<Vec<_>>());
    for (name, text) in &dumped {
        let text = std::str::from_utf8(text).unwrap();
        let module = diffulex_compiler::ir::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(diffulex_compiler::ir::print(&module), text, "{name}");
    }
    snapshot(
        "explain",
        &place.run("build tiny.toml --only f16 --explain fold-scale").ok().out.replace(" in 0.0 s", ""),
    );
    place.run("build tiny.toml --stop-after fuse-kqv").failed(1, &["no pass `fuse-kqv`", "fuse-qkv"]);
    let left = place.run("build tiny.toml --only f16 --stop-after select-rows").ok();
    assert!(left.err.contains("xnnpack does not ask for select-rows"), "{}", left.err);
    assert!(left.out.contains("stage fused") && left.out.contains("= swiglu "), "{}", left.out);
    let shown = place.run("show artifacts/tiny-xnnpack-f16 --ir").ok().out;
    assert!(shown.contains("= attention ") && shown.contains("layers.{i} for i in 0..3"), "{shown}");
}

#[test]
fn verify_speaks_to_machines_and_people() {
    let place = Place::new();
    let said = place.run("verify tiny.toml").ok().out;
    assert!(said.ends_with("checks passed\n") && said.contains("ok     reply"), "{said}");
    let (logits, runs) = (fixture("sdar/logits_block4.safetensors"), fixture("sdar/trajectories.json"));
    for subject in ["tiny", "artifacts/tiny-xnnpack-f32", "artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte"] {
        let args = format!(
            "verify {subject} --block 4 --reference {} --trajectories {} --message-format json",
            logits.display(),
            runs.display()
        );
        let lines: Vec<serde_json::Value> =
            place.run(&args).ok().out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let reasons = |reason: &str| lines.iter().filter(|line| line["reason"] == reason).count();
        assert_eq!((reasons("logits"), reasons("trajectory"), reasons("verify-finished")), (8, 14, 1), "{subject}");
        let last = lines.last().unwrap();
        assert_eq!((&last["passed"], &last["failed"]), (&true.into(), &0.into()));
    }
}

#[test]
fn quantized_artifacts_equal_what_the_source_rounds_to() {
    let place = Place::with(
        "quant = [\"int8\", \"8da8w\", \"mixed\"]\n\n[quant.mixed]\nweights = \"int4\"\ngroup = 64\n\
         activations = \"dynamic-int8\"\ntable = \"f32\"\nkeep = { int8 = [\"lm_head\", \"*.mlp.*\"] }",
    );
    let said = place.run("verify tiny.toml").ok().out;
    for scheme in ["int8", "8da8w", "mixed"] {
        assert!(said.contains(&format!("tiny-xnnpack-{scheme}")), "{said}");
        let shown = place.run(&format!("show artifacts/tiny-xnnpack-{scheme} --ir")).ok().out;
        assert_eq!(shown.contains("int8_token"), scheme != "int8", "{shown}");
        assert_eq!(shown.contains("int4.g64[64, 128]"), scheme == "mixed", "{shown}");
        let answer = place.run(&format!("run artifacts/tiny-xnnpack-{scheme} --prompt Hello --max-tokens 8")).ok();
        assert!(!answer.out.is_empty(), "{scheme}");
    }
    // One bit of a scale is enough to be found.
    let file = place.path("artifacts/tiny-xnnpack-int8/tiny-xnnpack-int8.pte");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    let scale = (0..end - 3).rev().step_by(4).find(|&at| bytes[at + 3] == 0x3c).expect("a scale about 0.01");
    bytes[scale] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let said = place.run("verify artifacts/tiny-xnnpack-int8/tiny-xnnpack-int8.pte --against tiny");
    assert!(said.status == 1 && said.out.contains("FAILED weights"), "{}", said.out);
}

#[test]
fn verify_finds_what_is_wrong() {
    let place = Place::new();
    place.run("build tiny.toml --only f32").ok();
    // A recorded run with one token changed.
    let text = std::fs::read_to_string(fixture("sdar/trajectories.json")).unwrap();
    let mut runs: serde_json::Value = serde_json::from_str(&text).unwrap();
    runs["trajectories"][0]["accepted"][2][2] = 7.into();
    std::fs::write(place.path("runs.json"), runs.to_string()).unwrap();
    let said = place.run("verify tiny --trajectories runs.json");
    assert_eq!(said.status, 1);
    assert!(said.out.contains("FAILED trajectory  sequential: pass 3, row 2: it accepts"), "{}", said.out);
    // An artifact of another checkpoint.
    let said = place
        .run(&format!("verify artifacts/tiny-xnnpack-f32 --against {}", fixture("sdar/tiny-sharded-bf16").display()));
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("departs in layer 0"), "{}", said.out);
    // A flipped byte in a weight: the digests find it, and so do the numbers.
    let pte = place.path("artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte");
    let mut bytes = std::fs::read(&pte).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle + 3] ^= 0x40;
    std::fs::write(&pte, bytes).unwrap();
    let said = place.run("verify artifacts/tiny-xnnpack-f32 --against tiny");
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("FAILED structure") && said.out.contains("SHA-256 differs"), "{}", said.out);
    place.run("run artifacts/tiny-xnnpack-f32 --prompt x").failed(1, &["content changed"]);
    std::fs::copy(&pte, place.path("bare.pte")).unwrap();
    let said = place.run("verify bare.pte --against tiny");
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("FAILED weights") && said.out.contains("FAILED numbers"), "{}", said.out);
    // Numbers that are none are found too, and are a failure like others.
    let mut bytes = std::fs::read(&pte).unwrap();
    bytes[middle..middle + 8].fill(0xff);
    std::fs::write(place.path("bare.pte"), bytes).unwrap();
    let said = place.run("verify bare.pte --against tiny");
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("FAILED structure   bare.pte") && said.out.contains("not finite"), "{}", said.out);
    std::fs::write(place.path("bare.pte"), &std::fs::read(&pte).unwrap()[..4096]).unwrap();
    let said = place.run("verify bare.pte --against tiny --message-format json");
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains(r#""reason":"structure""#) && said.out.contains("verify-finished"), "{}", said.out);
    // A reader that goes away does not turn a failure into a success.
    let mut child = place.command("verify bare.pte --against tiny").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // What cannot be carried out is not a failed check.
    place.run("verify nowhere").failed(2, &["nowhere"]);
    place.run("verify tiny --reference runs.json").failed(2, &["runs.json", "no safetensors file"]);
    place.run("verify tiny").failed(2, &["--reference"]);
}

#[test]
fn run_answers() {
    let place = Place::new();
    let first = place.run("run tiny.toml --verify --prompt Hello --max-tokens 8 --stats").ok();
    assert!(first.err.contains("verified: ") && first.err.contains("tokens a second"), "{}", first.err);
    assert!(first.err.contains("building tiny-xnnpack-f32 (not built yet)"), "{}", first.err);
    let again = place.run("run artifacts/tiny-xnnpack-f32 --prompt Hello --max-tokens 8").ok();
    assert_eq!(first.out, again.out, "artifact and recipe answer alike");
    let source = place.run("run tiny --prompt Hello --max-tokens 8").ok();
    assert_eq!(first.out, source.out, "artifact and checkpoint answer alike");
    let seeded = |seed: u32| {
        let args = format!("run tiny --prompt Hello --max-tokens 24 --temperature 1.5 --seed {seed}");
        place.run(&args).ok().out
    };
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
    let pte = "artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte";
    std::fs::copy(place.path(pte), place.path("bare.pte")).unwrap();
    place.run("run bare.pte --prompt x").failed(1, &["bare.pte", "--tokenizer"]);
    for bare in ["bare.pte --tokenizer tiny", pte] {
        assert_eq!(first.out, place.run(&format!("run {bare} --prompt Hello --max-tokens 8")).ok().out);
    }
    let cut = place.run(&format!("run {pte} --prompt Hello --max-tokens 999")).ok();
    assert!(cut.err.contains("the answer was cut to"), "{}", cut.err);
    place.run("run tiny").failed(1, &["nothing to answer", "--prompts", "--suffix"]);
    place.run("run tiny --prompt x --max-tokens -1").failed(2, &["invalid value '-1' for '--max-tokens <N>'"]);
    std::fs::write(place.path("asked.jsonl"), "{\"prompt\": \"Hello\"}\n\n{\"prompt\": \"Good day\"}\n").unwrap();
    let answers = place.run("run tiny --prompts asked.jsonl --max-tokens 8").ok().out;
    let answers: Vec<serde_json::Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["answer"].as_str().unwrap(), first.out.trim_end_matches('\n'));
    place.run("run tiny --prompt x --temperature 3").failed(1, &["--temperature is 3", "between 0 and 2"]);
    place.run("run tiny --prompt x --strategy best").failed(1, &["--strategy: there is no `best`", "sequential"]);
    let long = "word,".repeat(600);
    place
        .run(&format!("run tiny.toml --prompt {long}"))
        .failed(1, &["leaves no room for an answer: this build holds 128 positions"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command("run tiny --prompt Hello --max-tokens 64")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = place.ran(child.wait_with_output().unwrap());
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let place = Place::with("quant = [\"g64\"]\n\n[quant.g64]\nweights = \"int4\"\ngroup = 64");
    snapshot("refused-encoding", &place.run("build tiny.toml").failed(1, &[]).err);
    snapshot(
        "wrong-override",
        &place.run("build tiny.toml --set shape.cahce=64 --set matrix.quant=[]").failed(1, &[]).err,
    );
    let other = Place::with("quant = [\"f16\"]\n\n[quant.f16]\nkeep = { f32 = [\"lm_haed\"] }");
    other.run("build tiny.toml").failed(1, &["quant::keep", "`lm_haed` names no matrix"]);
    let groups = Place::with("quant = [\"8da4w\"]");
    snapshot("refused-group", &groups.run("build tiny.toml").failed(1, &[]).err);
    let longer = Place::new();
    longer.run("build tiny.toml --set shape.cache=1024").failed(1, &["shape::cache", "the model knows 512 positions"]);
    longer.run("build tiny.toml --set shape.block=8").failed(1, &["shape::block", "write `block = 4`"]);
    longer.run("build tiny.toml --only int4").failed(1, &["int4", "tiny-xnnpack-f16"]);
    longer.run("build nowhere.toml").failed(1, &["nowhere.toml"]);
    let json = longer.run("build nowhere.toml --message-format json").failed(1, &[]).out;
    let error: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(error["reason"] == "error" && error["message"].as_str().unwrap().contains("nowhere.toml"), "{json}");
    longer.run("run tiny.toml --prompt x --engine none").failed(2, &["tract", "executorch"]);
}

/// A copy of the tiny checkpoint that can be damaged.
fn damaged(place: &Place, change: impl Fn(&mut Vec<u8>)) {
    std::fs::remove_file(place.path("tiny")).unwrap();
    std::fs::create_dir(place.path("tiny")).unwrap();
    for (name, mut bytes) in files(&fixture("sdar/tiny")) {
        if name == "model.safetensors" {
            change(&mut bytes);
        }
        std::fs::write(place.path("tiny").join(name), bytes).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let cut = Place::new();
    damaged(&cut, |bytes| bytes.truncate(bytes.len() - 1));
    cut.run("build tiny.toml").failed(1, &["model.safetensors", "cut short"]);
    assert!(!cut.path("artifacts/tiny-xnnpack-f32").exists());
    let infinite = Place::new();
    damaged(&infinite, |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    infinite.run("build tiny.toml").failed(1, &["cannot be stored"]);
    let left: Vec<_> = std::fs::read_dir(infinite.path("artifacts")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".digests.json"), "{left:?}");
}

#[test]
fn a_killed_build_leaves_the_old_artifact_or_the_new_one() {
    let place = Place::new();
    place.run("build tiny.toml --only f32").ok();
    for i in 0..40u64 {
        let cache = if i % 2 == 0 { 64 } else { 128 };
        let mut child =
            place.command(&format!("build tiny.toml --only f32 --set shape.cache={cache} --force")).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(i * i * 25));
        child.kill().unwrap();
        child.wait().unwrap();
        let whole = place.run("verify artifacts/tiny-xnnpack-f32 --block 4 --against tiny").ok();
        assert!(whole.out.contains("ok     structure"), "{}", whole.out);
    }
    place.run("build tiny.toml --only f32 --force").ok();
    let mut left: Vec<_> = files_of(&place.path("artifacts"));
    left.sort();
    assert_eq!(left, [".digests.json", "tiny-xnnpack-f32"]);
}

#[test]
fn an_artifact_is_proven_against_rounded_weights() {
    let place = Place::new();
    place.run("build tiny.toml --only f16").ok();
    let pte = "artifacts/tiny-xnnpack-f16/tiny-xnnpack-f16.pte";
    let said = place.run(&format!("verify {pte} --against tiny")).ok().out;
    assert!(said.contains("cost of the encoding"), "{said}");
    // Two rows of the token table change places, of tokens that no prompt uses.
    damaged(&place, |bytes| {
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let tensor = &json["model.embed_tokens.weight"];
        let row = 4 * tensor["shape"][1].as_u64().unwrap() as usize;
        let start = header + tensor["data_offsets"][0].as_u64().unwrap() as usize;
        let (a, b) = bytes[start + 380 * row..start + 382 * row].split_at_mut(row);
        a.swap_with_slice(b);
    });
    let said = place.run(&format!("verify {pte} --against tiny"));
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("FAILED weights     `embed_tokens`, row 380"), "{}", said.out);
    place.run(&format!("show {pte} --set a=b")).failed(1, &["`--set` and `--only` change a recipe"]);
}

fn files_of(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}
