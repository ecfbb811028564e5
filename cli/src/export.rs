//! A recipe for one checkpoint and one artifact, made in memory: what `export` builds.

use std::path::Path;
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::Family;
use diffulex_compiler::recipe::{self, Recipe, TargetName};

use crate::Error;
use crate::build::{Digests, Job, inputs};

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

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The checkpoint's folder.
    pub checkpoint: &'a Path,
    /// The file to be written; the recipe is named after it.
    pub output: &'a Path,
    /// The target.
    pub target: TargetName,
    /// The quantization scheme: a name of `base.toml`, or `float32`, `float16`, `bfloat16`.
    pub dtype: &'a str,
    /// `key=value` texts that override what the family's recipe says.
    pub overrides: &'a [String],
}

impl Request<'_> {
    /// The name of the scheme.
    fn scheme(&self) -> &str {
        match self.dtype {
            "float32" => "f32",
            "float16" => "f16",
            "bfloat16" => "bf16",
            other => other,
        }
    }

    /// The recipe: the family's, with the block length that the checkpoint states, and no longer than its positions.
    ///
    /// # Errors
    /// When the checkpoint cannot be read, or the overrides make no recipe.
    pub fn recipe(&self) -> Result<Recipe, Error> {
        self.recipe_of(&Checkpoint::open(self.checkpoint)?)
    }

    fn recipe_of(&self, checkpoint: &Checkpoint) -> Result<Recipe, Error> {
        let keys = self.overrides.iter().filter_map(|text| text.split_once('=')).map(|(key, _)| key.trim());
        if let Some(key) = keys.into_iter().find(|key| SAID_BY_FLAGS.contains(key)) {
            return Err(Error::Usage(format!("`--set {key}=…` would say what the flags of `export` say already")));
        }
        let config = checkpoint.config();
        let load = |own: &str, overrides: &[String]| {
            recipe::load_texts(&[BASE, family(config.family), ("export", own)], overrides)
        };
        let own = self.own();
        let usual = load(&own, &[])?;
        let Some(build) = usual.builds.first() else { return Ok(usual) };
        let block = config.block.unwrap_or(build.shape.block.value).max(1);
        let fit = |length: u32| length.min(config.max_positions) / block * block;
        if config.max_positions < block {
            let (folder, positions) = (self.checkpoint.display(), config.max_positions);
            return Err(Error::Usage(format!("{folder}: knows {positions} positions, fewer than a block of {block}")));
        }
        let (prefill, cache) = (fit(build.shape.prefill.value), fit(build.shape.cache.value));
        let own = format!("{own}\n[shape]\nblock = {block}\nprefill = {prefill}\ncache = {cache}\n");
        Ok(load(&own, self.overrides)?)
    }

    /// What only this recipe says.
    fn own(&self) -> String {
        // Text in JSON is text in TOML, but for one sign.
        let text = |text: &str| serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f");
        // A recipe looks for checkpoints beside itself, wherever it is put.
        let checkpoint = std::path::absolute(self.checkpoint).unwrap_or_else(|_| self.checkpoint.into());
        format!(
            "name = {}\n\n[model]\ncheckpoint = {}\n\n[matrix]\ntarget = [{}]\nquant = [{}]\n",
            text(&self.name()),
            text(&checkpoint.to_string_lossy()),
            text(self.target.name()),
            text(self.scheme())
        )
    }

    /// The output's name with the signs that the name of a recipe may have.
    fn name(&self) -> String {
        let stem = self.output.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
        let mut name: String = stem.chars().map(plain).take(64).collect();
        while name.contains("..") {
            name = name.replace("..", ".");
        }
        let name = name.trim_start_matches(['.', '_', '-']);
        if name.is_empty() { "model".into() } else { name.into() }
    }

    /// The job of the recipe.
    ///
    /// # Errors
    /// As [`Request::recipe`], and when the recipe does not fit the checkpoint.
    pub fn job(&self) -> Result<Job, Error> {
        let checkpoint = Arc::new(Checkpoint::open(self.checkpoint)?);
        let recipe = self.recipe_of(&checkpoint)?;
        let build = recipe.builds.into_iter().next().ok_or_else(|| Error::Usage("nothing is to be exported".into()))?;
        // What a bundle's calibration was made of is told by digests.
        let digests = match self.target {
            TargetName::Qnn => inputs(&checkpoint, &mut Digests::open(Path::new(""), &mut |_, _, _| {}))?,
            _ => Default::default(),
        };
        Job::new(build, checkpoint, digests, Some(self.output.into()))
    }
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
        for (output, name) in [
            ("out/Model.pte", "model"),
            ("SDAR 1.7B (chat).pte", "sdar-1.7b--chat-"),
            ("..x...y.pte", "x.y"),
            ("---.pte", "model"),
        ] {
            let (checkpoint, overrides) = (Path::new("c"), &[]);
            let target = TargetName::Xnnpack;
            let request = Request { checkpoint, output: Path::new(output), target, dtype: "f16", overrides };
            assert_eq!(request.name(), name);
        }
    }
}
