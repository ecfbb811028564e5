//! A recipe for one checkpoint and one artifact, made in memory: what `export` builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::Family;
use diffulex_compiler::recipe::{self, Dtype, Recipe, TargetName};
use diffulex_targets::coreml::Lint;
use diffulex_targets::raise;

use crate::build::{self, Compiled, Digests, Event, Job, MakeContext, inputs};
use crate::report::Report;
use crate::subject::Opened;
use crate::{Error, subject};

/// The recipe that every other starts from.
const BASE: (&str, &str) = ("base.toml", include_str!("../../recipes/base.toml"));

/// The recipe of a family, which builds on [`BASE`].
const fn family(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Sdar => ("families/sdar.toml", include_str!("../../recipes/families/sdar.toml")),
        Family::FastDllmV2 => ("families/fast_dllm_v2.toml", include_str!("../../recipes/families/fast_dllm_v2.toml")),
        Family::Dream => ("families/dream.toml", include_str!("../../recipes/families/dream.toml")),
        Family::Llada => ("families/llada.toml", include_str!("../../recipes/families/llada.toml")),
    }
}

/// Keys whose values the flags give.
const SAID_BY_FLAGS: [&str; 6] = ["name", "model", "model.checkpoint", "matrix", "matrix.target", "matrix.quant"];

/// One artifact that is to be made of a checkpoint.
///
/// ```
/// use diffulex_edge::{Dtype, Export, TargetName};
///
/// let usual = Export::default();
/// assert_eq!((usual.target, usual.dtype), (TargetName::Xnnpack, Dtype::F16));
/// let short = Export { overrides: vec!["shape.cache=256".into()], ..Export::of(Dtype::Int8) };
/// # let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sdar/tiny");
/// let module = short.compile(&diffulex_edge::load(tiny)?)?.module;
/// assert_eq!(module.bounds.c, 256);
/// # Ok::<(), diffulex_edge::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// What it is made for.
    pub target: TargetName,
    /// How weights are stored, and what is multiplied with them.
    pub dtype: Dtype,
    /// Chips that a bundle for Qualcomm's HTP is for, such as `8 Elite`; without one, those of `recipes/base.toml`.
    pub socs: Vec<String>,
    /// `key=value` texts that override what the family's recipe says, such as `shape.cache=1024`.
    pub overrides: Vec<String>,
    /// Lints that keep the artifact from being written, or `warnings` for all.
    pub deny: Vec<String>,
}

/// An artifact that was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Where it lies.
    pub path: PathBuf,
    /// What became of each weight.
    pub report: Report,
    /// Its size.
    pub bytes: u64,
    /// What devices are known to do badly with it.
    pub lints: Vec<Lint>,
}

/// Why the library makes no context binaries for Qualcomm's chips.
const NO_CONTEXTS: &str = "the program makes them, each in a process of its own";

impl Default for Export {
    fn default() -> Export {
        Export::to(TargetName::Xnnpack)
    }
}

impl Export {
    /// For a target, in what is usual there: `f16`, or `w8a16` for Qualcomm's HTP.
    pub fn to(target: TargetName) -> Export {
        let dtype = if target == TargetName::Qnn { Dtype::W8A16 } else { Dtype::F16 };
        Export { target, dtype, socs: vec![], overrides: vec![], deny: vec![] }
    }

    /// In a scheme, for XNNPACK or, where the scheme rounds every value, for Qualcomm's HTP.
    pub fn of(dtype: Dtype) -> Export {
        let target = if dtype.rounds_values() { TargetName::Qnn } else { TargetName::Xnnpack };
        Export { dtype, ..Export::to(target) }
    }

    /// What would be written, in memory: a module that can be run and verified.
    ///
    /// # Errors
    /// When the target refuses something, or the overrides make no recipe.
    pub fn compile(&self, checkpoint: &Arc<Checkpoint>) -> Result<Opened, Error> {
        let job = self.job(checkpoint, None)?;
        let Compiled { module, .. } = build::compile(&job, None, &mut |_| {})?;
        let text = subject::text_of(checkpoint.folder());
        Ok(Opened {
            name: job.build.name,
            module: raise::raise(&module, checkpoint.as_ref())?,
            source: checkpoint.clone(),
            family: Some(job.generation.family),
            block: Some(job.generation.block),
            generation: Ok(job.generation),
            text,
            artifact: None,
        })
    }

    /// What becomes of each weight: its encoding, its bytes and its error. All are computed, nothing is written.
    ///
    /// # Errors
    /// As [`Export::compile`], and when a weight cannot be evaluated or stored.
    pub fn report(&self, checkpoint: &Arc<Checkpoint>) -> Result<Report, Error> {
        let job = self.job(checkpoint, None)?;
        let Compiled { module, .. } = build::compile(&job, None, &mut |_| {})?;
        build::weigh(&job, &module)
    }

    /// Writes the artifact: a file, for Core ML a package and for the HTP a bundle. What was there before stays until it
    /// is whole.
    ///
    /// # Errors
    /// As [`Export::compile`], when it has a lint that is denied, and when it cannot be written.
    pub fn write(&self, checkpoint: &Arc<Checkpoint>, path: impl AsRef<Path>) -> Result<Exported, Error> {
        self.write_observed(checkpoint, path.as_ref(), Err(NO_CONTEXTS), &mut |_| {})
    }

    /// The same with context binaries, if `contexts` makes them, told step by step.
    ///
    /// # Errors
    /// As [`Export::write`], and when a context binary cannot be made.
    pub fn write_observed(
        &self,
        checkpoint: &Arc<Checkpoint>,
        path: &Path,
        contexts: Result<&MakeContext<'_>, &str>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Exported, Error> {
        build::lints::known(&self.deny)?;
        let job = self.job(checkpoint, Some(path))?;
        let mut lints = Vec::new();
        let (report, bytes) = build::export(&job, path, &self.deny, contexts, &mut |event| {
            if let Event::Lints(found) = event {
                lints = found.to_vec();
            }
            observe(event);
        })?;
        Ok(Exported { path: path.into(), report, bytes, lints })
    }

    /// The recipe, named after the artifact's path: the family's, with the block length that the checkpoint states, and no
    /// longer than its positions.
    ///
    /// # Errors
    /// When the overrides make no recipe.
    pub fn recipe(&self, checkpoint: &Checkpoint, path: &Path) -> Result<Recipe, Error> {
        let keys = self.overrides.iter().filter_map(|text| text.split_once('=')).map(|(key, _)| key.trim());
        if let Some(key) = keys.into_iter().find(|key| SAID_BY_FLAGS.contains(key)) {
            return Err(Error::Usage(format!("`--set {key}=…` would say what the flags of `export` say already")));
        }
        let mut overrides = self.overrides.clone();
        if !self.socs.is_empty() {
            if self.target != TargetName::Qnn {
                return Err(Error::Usage("`--soc` names a chip for `--backend qnn`".into()));
            }
            // A list of texts in JSON is one in TOML.
            overrides.push(format!("target.qnn.socs={}", serde_json::json!(self.socs)));
        }
        let config = checkpoint.config();
        let load = |own: &str, overrides: &[String]| {
            recipe::load_texts(&[BASE, family(config.family), ("export", own)], overrides)
        };
        let own = self.own(checkpoint.folder(), path);
        let usual = load(&own, &[])?;
        let Some(build) = usual.builds.first() else { return Ok(usual) };
        let block = config.block.unwrap_or(build.shape.block.value).max(1);
        let fit = |length: u32| length.min(config.max_positions) / block * block;
        if config.max_positions < block {
            let (folder, positions) = (checkpoint.folder().display(), config.max_positions);
            return Err(Error::Usage(format!("{folder}: knows {positions} positions, fewer than a block of {block}")));
        }
        let (prefill, cache) = (fit(build.shape.prefill.value), fit(build.shape.cache.value));
        let own = format!("{own}\n[shape]\nblock = {block}\nprefill = {prefill}\ncache = {cache}\n");
        Ok(load(&own, &overrides)?)
    }

    /// What only this recipe says.
    fn own(&self, checkpoint: &Path, path: &Path) -> String {
        // Text in JSON is text in TOML, but for one sign.
        let text = |text: &str| serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f");
        // A recipe looks for checkpoints beside itself, wherever it is put.
        let checkpoint = std::path::absolute(checkpoint).unwrap_or_else(|_| checkpoint.into());
        format!(
            "name = {}\n\n[model]\ncheckpoint = {}\n\n[matrix]\ntarget = [{}]\nquant = [{}]\n",
            text(&name(path)),
            text(&checkpoint.to_string_lossy()),
            text(self.target.name()),
            text(self.dtype.name())
        )
    }

    /// The job of the recipe; without a path nothing is to be written.
    ///
    /// # Errors
    /// As [`Export::recipe`], and when the recipe does not fit the checkpoint.
    fn job(&self, checkpoint: &Arc<Checkpoint>, path: Option<&Path>) -> Result<Job, Error> {
        let recipe = self.recipe(checkpoint, path.unwrap_or(Path::new(IN_MEMORY)))?;
        let build = recipe.builds.into_iter().next().ok_or_else(|| Error::Usage("nothing is to be exported".into()))?;
        // What a bundle's calibration was made of is told by digests.
        let digests = match self.target {
            TargetName::Qnn => inputs(checkpoint, &mut Digests::forgetful(&mut |_, _, _| {}))?,
            _ => Default::default(),
        };
        Job::new(build, checkpoint.clone(), digests, path.map(Path::to_path_buf))
    }
}

/// What a module is named after that is not written.
const IN_MEMORY: &str = "model";

/// A path's name with the signs that the name of a recipe may have.
fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    let mut name: String = stem.chars().map(plain).take(64).collect();
    while name.contains("..") {
        name = name.replace("..", ".");
    }
    let name = name.trim_start_matches(['.', '_', '-']);
    if name.is_empty() { IN_MEMORY.into() } else { name.into() }
}

/// A recipe as TOML that needs no other, without the schemes that it does not use.
pub fn printed(recipe: &Recipe) -> String {
    let used: Vec<&str> = recipe.builds.iter().map(|build| build.quant.name.value.as_str()).collect();
    let unused = |key: &str| {
        let scheme = key.strip_prefix("quant.").and_then(|rest| rest.split('.').next());
        scheme.is_some_and(|scheme| !used.contains(&scheme))
    };
    let values = recipe.values().iter().filter(|value| !unused(&value.key));
    values.map(|value| format!("{} = {}\n", value.key, value.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_named_after_the_output() {
        for (output, expected) in [
            ("out/Model.pte", "model"),
            ("SDAR 1.7B (chat).pte", "sdar-1.7b--chat-"),
            ("..x...y.pte", "x.y"),
            ("---.pte", "model"),
        ] {
            assert_eq!(name(Path::new(output)), expected);
        }
    }

    #[test]
    fn every_scheme_of_the_base_recipe_has_a_name() {
        let own = Export::default().own(Path::new("c"), Path::new("m"));
        let recipe = recipe::load_texts(&[BASE, family(Family::Sdar), ("export", &own)], &[]).unwrap();
        let mut schemes: Vec<&str> = recipe.schemes.iter().map(|scheme| scheme.name.value.as_str()).collect();
        let mut names = Dtype::NAMES.to_vec();
        schemes.sort_unstable();
        names.sort_unstable();
        assert_eq!(schemes, names);
        for scheme in &recipe.schemes {
            let grid = scheme.activations.as_ref().is_some_and(|a| a.value.grid().is_some());
            assert_eq!(Dtype::from_name(&scheme.name.value).map(Dtype::rounds_values), Some(grid), "{scheme:?}");
        }
    }
}
