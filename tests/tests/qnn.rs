//! Bundles for Qualcomm's HTP: small models of all families and odd ones, in every recipe, judged by `tests/judges/onnx` on
//! ONNX Runtime's CPU and on the emulator of the HTP.
//!
//! What Linux cannot show: whether a device gives the numbers of the emulator, how fast and in how much memory.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod decoder;
#[path = "onnx/judge.rs"]
mod judge;
#[path = "qnn/make.rs"]
mod make;
#[path = "onnx/steps.rs"]
mod steps;

use std::path::PathBuf;

use diffulex_compiler::ir::{CacheKind, Encoding, Op};
use diffulex_edge::subject::{self, EngineChoice, Opened};
use diffulex_runtime::engine::{Engine, EngineShape};
use diffulex_runtime::tract::TractEngine;
use serde_json::{Value, json};

use decoder::{Model, SDAR};
use judge::Judge;
use make::{FAMILIES, ODD, RECIPES, Recipe, Source, W8A16, made};
use steps::{Step, given, made as answers, padding_costs, steps as session_steps};

/// A file of a bundle, opened by our own engine.
struct File {
    path: PathBuf,
    opened: Opened,
    engine: Box<dyn Engine>,
}

impl File {
    fn open(path: PathBuf) -> File {
        let opened = subject::artifact(&path).unwrap();
        let engine = opened.engine(&EngineChoice::Tract).unwrap();
        File { path, opened, engine }
    }

    fn shape(&self) -> EngineShape {
        self.engine.shape().clone()
    }

    fn theta(&self) -> f64 {
        let theta = |op: &Op| if let Op::RopeCos { theta, .. } = op { Some(*theta) } else { None };
        self.opened.module.nodes.iter().find_map(|node| theta(&node.op)).unwrap()
    }

    /// The step of each grid that new rows lie on, by the name of the output.
    fn grids(&self) -> Vec<(String, f32)> {
        let module = &self.opened.module;
        let mut found = Vec::new();
        for (cache, mut id) in module.new_rows() {
            // Behind the rounding they are only moved.
            let scale = loop {
                let node = module.node(id);
                match (&node.op, node.args.first()) {
                    (Op::FakeQuantize(grid), _) => break Some(grid.scale),
                    (_, Some(diffulex_compiler::ir::Operand::Node(before))) if node.op != Op::Linear => id = *before,
                    _ => break None,
                }
            };
            let kind = if cache.kind == CacheKind::K { "k" } else { "v" };
            found.extend(scale.map(|scale| (format!("new_{kind}_{}", cache.layer), scale)));
        }
        found
    }
}

/// One bundle before the judge.
struct Trial {
    name: String,
    recipe: &'static Recipe,
    /// For the most tokens, and for half as many.
    files: Vec<File>,
    /// What the judge is asked, in the order of its reports.
    asked: Vec<Asked>,
}

/// What a report is about.
struct Asked {
    file: usize,
    what: &'static str,
}

impl Trial {
    fn new(name: &str, recipe: &'static Recipe, source: &Source, folder: &std::path::Path) -> Trial {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let files = made(source, recipe, &folder).into_iter().map(File::open).collect();
        Trial { name: name.into(), recipe, files, asked: vec![] }
    }

    /// Adds what is asked about this bundle.
    fn ask(&mut self, source: &Source, judge: &mut Judge, context: bool) {
        let engine = self.files[0].opened.engine(&EngineChoice::Tract).unwrap();
        let steps = session_steps(engine, source.attention(), source.mask);
        for (i, file) in self.files.iter_mut().enumerate() {
            let (shape, theta) = (file.shape(), file.theta());
            let fitting: Vec<&Step> = steps.iter().filter(|step| step.tokens.len() <= shape.max_tokens).collect();
            for step in &fitting {
                let cost = padding_costs(step, shape.max_tokens, shape.max_cache, file.engine.as_mut());
                assert!(cost <= self.recipe.padding, "{}: padding costs {cost}", self.name);
            }
            let padded: Vec<Step> =
                fitting.iter().map(|step| step.padded(shape.max_tokens, shape.max_cache, &shape)).collect();
            let inputs = judge.store(&format!("{}-{i}-inputs", self.name), &given(&padded, &shape, theta));
            let ours = judge.store(&format!("{}-{i}-ours", self.name), &answers(&padded, file.engine.as_mut()));
            let float = (i == 0).then(|| {
                let mut float = TractEngine::new(&source.float(), source.numbers.clone()).unwrap();
                judge.store(&format!("{}-float", self.name), &answers(&padded, &mut float))
            });
            let mut ask = |what, mut options: Value| {
                options["inputs"] = json!(inputs);
                judge.add(&file.path, options);
                self.asked.push(Asked { file: i, what });
            };
            ask("ours", json!({ "outputs": ours, "min_cosine": self.recipe.ours }));
            if let Some(float) = float {
                ask("float", json!({ "outputs": float, "min_cosine": self.recipe.float }));
            }
            let mut htp = json!({ "provider": "qnn", "compare_cpu": self.recipe.htp_rows });
            if context && i == 0 {
                htp["context"] = json!(file.path.with_file_name("model_ctx.onnx"));
            }
            ask("htp", htp);
        }
    }

    /// What the judge has no word for: new rows are at most so many steps of their grid from ours, and logits of the HTP
    /// nearer than rows.
    fn check(&self, reports: &mut std::vec::IntoIter<Value>) {
        for asked in &self.asked {
            let report = reports.next().unwrap();
            if asked.what == "htp" {
                let cosine = report["cpu"]["logits"]["cosine"].as_f64().unwrap();
                assert!(cosine >= self.recipe.htp, "{}: logits have cosine {cosine} to the CPU", self.name);
            }
            if asked.what != "ours" {
                continue;
            }
            let grids = self.files[asked.file].grids();
            assert_eq!(grids.is_empty(), self.recipe.rounding.is_none(), "{}", self.name);
            for (output, scale) in grids {
                let error = report["expected"][&output]["max_error"].as_f64().unwrap();
                let steps = error / f64::from(scale);
                assert!(steps <= self.recipe.steps + 0.01, "{}: {output} is {steps} steps off", self.name);
            }
        }
    }
}

fn judged(trials: Vec<Trial>, judge: Judge) {
    let mut reports = judge.agrees().into_iter();
    trials.iter().for_each(|trial| trial.check(&mut reports));
    assert!(reports.next().is_none());
}

#[test]
fn every_family_in_every_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    let mut trials = Vec::new();
    for (i, family) in FAMILIES.into_iter().enumerate() {
        let source = Source::family(family);
        for (j, recipe) in RECIPES.iter().enumerate() {
            let mut trial = Trial::new(&format!("{}-{}", family.name(), recipe.name), recipe, &source, folder.path());
            // Each recipe is compiled for one family.
            trial.ask(&source, &mut judge, j % FAMILIES.len() == i);
            trials.push(trial);
        }
    }
    judged(trials, judge);
}

#[test]
fn odd_models() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(folder.path()) else { return };
    let mut trials = Vec::new();
    for (i, model) in decoder::models().into_iter().enumerate() {
        let model = Model { encoding: Encoding::Int8Row, ..model };
        let source = Source::random(model);
        let mut trial = Trial::new(&format!("odd-{i}"), &ODD, &source, folder.path());
        trial.ask(&source, &mut judge, false);
        trials.push(trial);
    }
    judged(trials, judge);
}

#[test]
fn all_lengths_share_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::random(Model { vocab: 612, encoding: Encoding::Int8Row, ..SDAR });
    let files = made(&source, &W8A16, folder.path());
    assert_eq!(files.len(), 2);
    let data: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(data.len(), 3, "{data:?}");
    let bytes = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let shared = bytes(&folder.path().join("model.data"));
    assert!(shared > 0);
    // Both name all of it: a file that is cut is refused by both.
    let cut = std::fs::OpenOptions::new().write(true).open(folder.path().join("model.data")).unwrap();
    cut.set_len(shared - 1).unwrap();
    assert!(files.iter().all(|file| subject::artifact(file).is_err()));
}
