//! The ranges of a build's values: from a file beside an earlier artifact, or from running the model over texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::ir::{self, Module, WeightSource};
use diffulex_compiler::quant::GridType;
use diffulex_compiler::recipe::qnn::RangeMethod;
use diffulex_compiler::recipe::{self, Diagnostic, Diagnostics, Located, Qnn};
use diffulex_runtime::calibrate::{Method, Ranges, Wanted, calibrate};
use diffulex_runtime::chat::{Chat, Message};
use diffulex_targets::qnn::{self, Rounding};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::job::{Event, Job};
use crate::Error;

/// The file.
pub(super) const CALIBRATION: &str = "calibration.json";
/// The largest such file that is read.
const LARGEST: u64 = 256 << 20;
/// Tokens of texts where there is no tokenizer, and how many texts.
const RANDOM: (u64, u64) = (120, 4);

/// What is kept beside an artifact, so that the next build need not look again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Calibration {
    /// Digest of the module, its weights, the texts and the method.
    key: String,
    /// What was seen.
    ranges: Ranges,
}

impl Calibration {
    /// The ranges of the values of a legal module: those of an earlier build in `job.earlier`, where they are of the same
    /// module and texts, or new ones.
    ///
    /// # Errors
    /// When the texts cannot be had, or the model cannot run.
    pub(super) fn of(
        job: &Job,
        asked: &Qnn,
        module: &Module,
        rounding: Rounding,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Calibration, Error> {
        let texts = tokens(job, &lines(asked)?)?;
        let method = match asked.method.value {
            RangeMethod::MinMax => Method::MinMax,
            RangeMethod::Percentile => Method::Percentile(asked.percentile.value),
            RangeMethod::Mse => Method::Mse,
        };
        let key = key(job, module, &texts, &format!("{method:?} {rounding:?}"));
        if let Some(known) = job.earlier.as_deref().and_then(read).filter(|known| known.key == key) {
            return Ok(known);
        }
        let (nodes, weights) = qnn::wanted(module);
        let mut levels = [rounding.values, rounding.cache, GridType::U16].map(GridType::levels).to_vec();
        levels.sort_unstable();
        levels.dedup();
        let wanted = Wanted { nodes: &nodes, weights: &weights, method, levels: &levels };
        let source: Arc<dyn WeightSource> = job.checkpoint.clone();
        let ranges = calibrate(module, &source, &wanted, &texts, &job.generation, &mut |pass, passes| {
            observe(Event::Calibrating { pass, passes });
        })?;
        Ok(Calibration { key, ranges })
    }

    /// The range of a place, for numbers of that type.
    pub(super) fn range(&self, place: &str, ty: GridType) -> Option<(f32, f32)> {
        let range = self.ranges.places.get(place)?.ranges.get(&ty.levels())?;
        Some((range.low(), range.high()))
    }

    /// The text of the file.
    pub(super) fn to_json(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|error| Error::Usage(format!("{CALIBRATION}: {error}")))
    }
}

/// The file that an earlier build left; one that is damaged only costs time.
fn read(folder: &Path) -> Option<Calibration> {
    let file = folder.join(CALIBRATION);
    let small = file.metadata().ok().filter(|found| found.is_file() && found.len() <= LARGEST);
    serde_json::from_slice(&small.and_then(|_| std::fs::read(&file).ok())?).ok()
}

/// Digest of all that ranges depend on.
fn key(job: &Job, module: &Module, texts: &[Vec<u32>], how: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(ir::print(module));
    hash.update(how);
    for (name, digest) in &job.inputs {
        hash.update(format!("\n{name} {digest}"));
    }
    for text in texts {
        hash.update(format!("\n{text:?}"));
    }
    hash.update(format!("\n{:?}", job.generation));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file of texts that a build names, as it is written and where it lies, if it is there.
pub(super) fn file(build: &recipe::Build) -> Option<(String, PathBuf)> {
    let recipe::Target::Qnn(asked) = &build.target.value else { return None };
    let path = path(asked.file.as_ref()?);
    path.is_file().then(|| (asked.file.as_ref().map(|file| file.value.clone()).unwrap_or_default(), path))
}

/// Where a file that a recipe names lies: beside the recipe.
fn path(file: &Located<String>) -> PathBuf {
    file.origin.file().folder().join(&file.value)
}

/// What the recipe has the model read: questions and answers in turn.
fn lines(asked: &Qnn) -> Result<Vec<String>, Error> {
    let Some(file) = &asked.file else { return Ok(asked.texts.iter().map(|text| text.value.clone()).collect()) };
    let path = path(file);
    let refuse = |what: String| {
        let refusal = Diagnostic::refusal("calibration::file", format!("{}: {what}", path.display()));
        Error::Recipe(Diagnostics(vec![refusal.label(&file.origin, "lines of text are expected there")]))
    };
    let found = path.metadata().map_err(|error| refuse(error.to_string()))?;
    if !found.is_file() || found.len() > 16 << 20 {
        return Err(refuse("is no file, or one of more than 16 MiB".into()));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect();
    if lines.is_empty() { Err(refuse("has no line".into())) } else { Ok(lines) }
}

/// Texts as token ids: each question in chat form, with its answer and the end token behind it; random ids where there is
/// no tokenizer.
fn tokens(job: &Job, lines: &[String]) -> Result<Vec<Vec<u32>>, Error> {
    let folder = job.checkpoint.folder();
    if !folder.join("tokenizer.json").exists() {
        let vocab = u64::from(job.checkpoint.config().decoder.vocab);
        let id = |i: u64| ((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % vocab;
        let text = |seed: u64| (0..RANDOM.0).map(|i| id(seed * RANDOM.0 + i) as u32).collect();
        return Ok((0..RANDOM.1).map(text).collect());
    }
    let chat = Chat::open(folder)?;
    let end = job.generation.end_ids.first();
    let conversation = |turn: &[String]| {
        let mut ids = match (&chat.template, turn.first()) {
            (Some(_), Some(question)) => {
                let message = Message { role: "user".into(), content: question.clone() };
                chat.prompt(&[message], &Default::default())?.1
            }
            _ => chat.tokenizer.encode(turn.first().map_or("", String::as_str))?,
        };
        if let Some(answer) = turn.get(1) {
            ids.extend(chat.tokenizer.encode(answer)?);
            ids.extend(end);
        }
        Ok(ids)
    };
    lines.chunks(2).map(conversation).collect()
}
