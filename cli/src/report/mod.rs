//! What a build became: each weight with its encoding, its bytes and its error, and what the model lost by it.
//!
//! A build leaves `report.json` in the artifact's folder; a verification leaves `verification.json` beside it.

mod html;
mod text;
mod timings;

pub use html::page;
pub use text::{summary, weights};
pub use timings::{Clock, Timings};

use std::fs;
use std::path::Path;

use diffulex_compiler::ir::well_named;
use diffulex_compiler::quant::Cost;
use diffulex_runtime::verify::numbers::{Numbers, Purpose};
use diffulex_targets::artifact::{self, Manifest};
use serde::{Deserialize, Serialize};

use crate::verify::Verdict;
use crate::{Error, subject};

/// Name of a build's report in an artifact's folder.
pub const REPORT: &str = "report.json";
/// Name of the last verification of an artifact's folder. It is no file of the manifest.
pub const VERIFICATION: &str = "verification.json";
/// Largest report that is read.
const MAX_BYTES: u64 = 64 << 20;

/// What a build made of the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Every weight of the artifact, in the order of the file.
    pub weights: Vec<Cost>,
}

/// What a verification found, for one artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// SHA-256 of the artifact that was verified.
    pub artifact: String,
    /// The engine that ran it.
    pub engine: String,
    /// Checks made.
    pub checks: usize,
    /// Checks that failed.
    pub failed: usize,
    /// The distance from the checkpoint as it is, over prompts and masked blocks.
    pub distance: Option<Distance>,
}

/// How far the logits of an artifact are from those of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distance {
    /// Rows compared.
    pub rows: usize,
    /// Mean divergence (KL, in nats) from the checkpoint's distribution.
    pub kl: f64,
    /// Share of rows with the same best token.
    pub top1: f64,
    /// Largest error of a logit, as a share of the largest logit of its case.
    pub worst: f64,
}

/// An artifact's folder with all that is known of it.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Its manifest.
    pub manifest: Manifest,
    /// The report of its build; an older program wrote none.
    pub report: Option<Report>,
    /// Its last verification, if the artifact is still the same.
    pub verification: Option<Verification>,
}

impl Report {
    /// The text of `report.json`: one weight a line.
    pub fn to_json(&self) -> String {
        // Structs of numbers and words always have a JSON form.
        let lines = self.weights.iter().map(|w| format!("  {}", serde_json::to_string(w).unwrap_or_default()));
        format!("{{\"weights\": [\n{}\n]}}\n", lines.collect::<Vec<_>>().join(",\n"))
    }

    /// What is wrong with a report that may come from anywhere.
    fn fault(&self) -> Option<String> {
        let bounded = |w: &Cost| {
            let numbers = w.shape.iter().map(|&n| u64::from(n)).try_fold(1u64, u64::checked_mul);
            let layer = text::layer(&w.name).map_or(0, |(layer, _)| layer);
            let finite = w.sqnr.is_none_or(|sqnr| sqnr.abs() < 1e4) && w.worst.is_finite() && w.largest.is_finite();
            let (small, named) = (numbers.is_some_and(|n| n < 1 << 40) && w.bytes < 1 << 44, w.name.len() < 256);
            well_named(&w.name) && named && layer < 1024 && finite && small && !w.shape.is_empty()
        };
        let wrong = self.weights.iter().position(|weight| !bounded(weight));
        wrong.map(|i| format!("weight {i} has a name or numbers that no weight has"))
    }

    /// Bits that a number of the model takes, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        let numbers: u64 = self.weights.iter().map(Cost::numbers).sum();
        let bytes: u64 = self.weights.iter().map(|w| w.bytes).sum();
        8.0 * bytes as f64 / numbers.max(1) as f64
    }
}

impl Verification {
    /// What was found of the artifact of a manifest.
    pub fn new(manifest: &Manifest, engine: &str, found: &Verdict) -> Verification {
        Verification {
            artifact: digest(manifest),
            engine: engine.into(),
            checks: found.checks.len(),
            failed: found.failed().count(),
            distance: found.distance(),
        }
    }
}

impl Distance {
    /// The distance over several comparisons, each weighing as much as it has rows; those against the checkpoint as it
    /// is, or where the artifact rounds nothing, all.
    pub fn of<'a>(all: impl Iterator<Item = &'a Numbers> + Clone) -> Option<Distance> {
        let wanted = |purpose| all.clone().filter(move |n| n.purpose == purpose);
        let purpose = if wanted(Purpose::Cost).next().is_some() { Purpose::Cost } else { Purpose::Exactness };
        let rows: usize = wanted(purpose).map(|n| n.rows).sum();
        let mean = |f: &dyn Fn(&Numbers) -> f32| {
            wanted(purpose).map(|n| f64::from(f(n)) * n.rows as f64).sum::<f64>() / rows.max(1) as f64
        };
        let share = |n: &Numbers| f64::from(n.max_error) / f64::from(n.max_logit.max(f32::MIN_POSITIVE));
        (rows > 0).then(|| Distance {
            rows,
            kl: mean(&|n| n.kl),
            top1: mean(&|n| n.top1),
            worst: wanted(purpose).map(share).fold(0.0, f64::max),
        })
    }
}

impl Reported {
    /// Reads what lies in an artifact's folder.
    ///
    /// # Errors
    /// When the manifest or one of the reports is damaged.
    pub fn open(folder: &Path) -> Result<Reported, Error> {
        let manifest = Manifest::read(folder)?;
        manifest.check(folder, subject::CHECKED)?;
        let report: Option<Report> = read(&folder.join(REPORT))?;
        if let Some(what) = report.as_ref().and_then(Report::fault) {
            return Err(Error::Usage(format!("{}: {what}; build the artifact again", folder.join(REPORT).display())));
        }
        // A verdict that cannot be read is none: verifying again makes another.
        let same = |v: &Verification| v.artifact == digest(&manifest) && v.engine.chars().all(char::is_alphanumeric);
        let verification = read(&folder.join(VERIFICATION)).unwrap_or_default().filter(same);
        Ok(Reported { manifest, report, verification })
    }
}

/// Keeps what a verification found beside the artifact.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(folder: &Path, verification: &Verification) -> Result<(), Error> {
    let file = folder.join(VERIFICATION);
    // A struct of numbers and words always has a JSON form.
    let text = serde_json::to_string_pretty(verification).unwrap_or_default() + "\n";
    artifact::write_alone(&file, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}

/// The digest of the artifact itself.
fn digest(manifest: &Manifest) -> String {
    manifest.artifact_files().map(|(_, file)| file.sha256.as_str()).collect::<Vec<_>>().join(" ")
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    let size = match fs::metadata(file) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => return Err(Error::Usage(format!("{}: is no file", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(file)(error)),
    };
    let damaged = |what: String| Error::Usage(format!("{}: is no report of a build: {what}", file.display()));
    if size > MAX_BYTES {
        return Err(damaged(format!("it has {size} bytes")));
    }
    let text = fs::read(file).map_err(Error::io(file))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| damaged(e.to_string()))
}
