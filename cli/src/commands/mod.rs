//! One file a command. Each gives `true` when it did what it was asked and all was well, `false` when it found a failure
//! and has told of it.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod chat;
pub(crate) mod clean;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod export;
mod flags;
mod folders;
mod lints;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use diffulex_edge::answer::Model;
use diffulex_edge::onnxruntime::OnnxRuntime;
use diffulex_edge::subject::{EngineChoice, Opened};
use diffulex_edge::{Error, build as builds, report};
use diffulex_runtime::executorch;
use diffulex_runtime::generate::{End, Trace};
use diffulex_targets::artifact::{self, MANIFEST, Manifest};
use diffulex_targets::qnn::{Soc, socs};
use indicatif::ProgressBar;

use crate::args::{Engine, EngineName, Places};
use crate::terminal::{bytes_bar, note};

/// Where recipes find checkpoints and builds go.
fn options(places: &Places) -> builds::Options {
    builds::Options {
        overrides: places.overrides.clone(),
        models: places.models.clone(),
        out: places.out.clone(),
        only: places.only.clone(),
        contexts: context::missing().is_ok(),
    }
}

/// Plans the builds of recipes, and of folders of recipes: those of recipes that can be used, and what is wrong with the
/// others.
fn planned(paths: &[PathBuf], places: &Places) -> Result<(Vec<builds::Plan>, Vec<Error>), Error> {
    let (options, bar) = (options(places), bytes_bar("reading"));
    let mut reading = reading(&bar);
    let mut planner = builds::Planner::new(&options, &mut reading);
    let (mut plans, mut mistakes) = (Vec::new(), Vec::new());
    for recipe in builds::recipes(paths)? {
        match planner.plan(&recipe) {
            Ok(more) => plans.extend(more),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if plans.is_empty() && mistakes.is_empty() {
        mistakes.push(planner.nothing());
    }
    bar.finish_and_clear();
    Ok((plans, mistakes))
}

/// Draws how far the reading of a large file is.
fn reading(bar: &ProgressBar) -> impl FnMut(&Path, u64, u64) {
    move |file, done, size| {
        bar.set_prefix(format!("reading {}", file.file_name().unwrap_or_default().display()));
        bar.set_length(size);
        bar.set_position(done);
    }
}

/// Plans the builds of a recipe, with a bar while large files are read.
fn plans(recipe: &Path, places: &Places) -> Result<Vec<builds::Plan>, Error> {
    let bar = bytes_bar("reading");
    let planned = builds::plan(recipe, &options(places), &mut reading(&bar));
    bar.finish_and_clear();
    planned
}

/// Writes the page about some artifacts' folders.
fn write_report(file: &Path, folders: &[PathBuf]) -> Result<(), Error> {
    if let Some(other) = folders.iter().find(|folder| !folder.join(MANIFEST).is_file()) {
        let why = "is no artifact's folder, and only such a folder has a report; `build` makes one from a recipe";
        return Err(Error::Usage(format!("{}: {why}", other.display())));
    }
    let subjects = folders.iter().map(|folder| report::Reported::open(folder)).collect::<Result<Vec<_>, _>>()?;
    write_page(file, &report::page(&subjects))
}

/// Writes a page, and says so.
fn write_page(file: &Path, page: &str) -> Result<(), Error> {
    artifact::write_alone(file, |out| out.write_all(page.as_bytes()))?;
    note(&format!("wrote {}", file.display()));
    Ok(())
}

/// Refuses flags that speak of recipes where there is none.
fn recipes_only(places: &Places) -> Result<(), Error> {
    match places.overrides.is_empty() && places.only.is_none() {
        true => Ok(()),
        false => Err(Error::Usage("`--set` and `--only` change a recipe; this is none".into())),
    }
}

/// What was opened with the tokenizer that was asked for, given by its folder or by itself.
fn with_tokenizer(asked: Option<&Path>, opened: Opened) -> Result<Opened, Error> {
    let Some(asked) = asked else { return Ok(opened) };
    let is_file = asked.file_name().is_some_and(|name| name == "tokenizer.json") && asked.is_file();
    let folder = if is_file { asked.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")) } else { asked };
    match folder.join("tokenizer.json").is_file() {
        true => Ok(opened.tokenizer(folder)),
        false => Err(Error::Usage(format!(
            "`--tokenizer {}`: is neither a folder with tokenizer.json nor that file; nothing is downloaded",
            asked.display()
        ))),
    }
}

/// Tells of an answer that is not whole; whether it was cut for want of positions.
fn note_end(model: &Model, trace: &Trace) -> bool {
    let cut = model.was_cut(trace);
    if cut {
        let (tokens, room) = (trace.answer().len(), model.room());
        note(&format!("the answer was cut to {tokens} tokens: more do not fit the {room} positions of this build"));
    }
    if trace.undecided > 0 && trace.end == End::Length {
        let left = trace.undecided;
        note(&format!("the algorithm left {left} positions undecided, as the original does with these settings"));
    }
    cut
}

/// The engine that was asked for, for what was opened.
fn engine(asked: &Engine, opened: &Opened) -> Result<EngineChoice, Error> {
    if let (Some(_), false) = (&asked.soc, asked.name == EngineName::Qnn) {
        return Err(Error::Usage("`--soc` chooses a chip for `--engine qnn`".into()));
    }
    match asked.name {
        EngineName::Tract => Ok(EngineChoice::Tract),
        EngineName::TractOnnx => Ok(EngineChoice::TractOnnx),
        EngineName::Executorch => {
            let folders = engine_folders();
            let found = folders.iter().map(|folder| executorch::library_path(folder)).find(|library| library.exists());
            found.map(EngineChoice::ExecuTorch).ok_or_else(|| not_installed("ExecuTorch", &folders))
        }
        EngineName::Onnxruntime => Ok(EngineChoice::OnnxRuntime(onnx_runtime(None)?)),
        EngineName::Qnn => {
            let chips = chips(opened);
            let name = asked.soc.as_ref().or(chips.first()).map_or("SM8650", String::as_str);
            let soc = socs::find(name).map_err(|error| Error::Usage(error.to_string()))?;
            Ok(EngineChoice::OnnxRuntime(onnx_runtime(Some(soc))?))
        }
    }
}

/// The chips that the recipe of a bundle names.
fn chips(opened: &Opened) -> Vec<String> {
    let folder = opened.artifact.as_deref().and_then(Path::parent);
    let manifest = folder.and_then(|folder| Manifest::read(folder).ok());
    // A list of texts in TOML is one in JSON.
    let listed = manifest.and_then(|manifest| serde_json::from_str(manifest.recipe.get("target.socs")?).ok());
    listed.unwrap_or_default()
}

/// The installation of ONNX Runtime, for the HTP of a chip or for the CPU.
fn onnx_runtime(soc: Option<&'static Soc>) -> Result<OnnxRuntime, Error> {
    let folders: Vec<PathBuf> = engine_folders().iter().map(|folder| folder.join("qnn")).collect();
    match folders.iter().find(|folder| folder.is_dir()) {
        Some(folder) => OnnxRuntime::find(folder, soc),
        None => Err(not_installed("ONNX Runtime", &folders)),
    }
}

fn not_installed(what: &str, looked: &[PathBuf]) -> Error {
    let looked: Vec<String> = looked.iter().map(|folder| folder.display().to_string()).collect();
    Error::Usage(format!(
        "{what} is not installed: run `tests/engines/setup.sh` of the source tree, or name the folder it filled in \
         DIFFULEX_ENGINES (looked in {})",
        looked.join(", ")
    ))
}

/// Where outside engines may lie: where the environment says, else beside the program or one folder up, as in `target`.
fn engine_folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("DIFFULEX_ENGINES") {
        return vec![folder.into()];
    }
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().skip(1).take(2).map(|folder| folder.join("engines")).collect()
}

/// Draws how far a build is.
fn show_progress(bar: &ProgressBar, event: &builds::Event<'_>) {
    match event {
        builds::Event::Calibrating { pass, passes } => {
            bar.set_message(format!("calibrating, pass {pass} of {passes}"));
            bar.tick();
        }
        builds::Event::Written { bytes, total } => {
            bar.set_message("");
            bar.set_length(*total);
            bar.set_position(*bytes);
        }
        _ => {}
    }
}
