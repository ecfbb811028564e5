//! What is to be built: one plan for each cell of a recipe's matrix.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{Family, Generation, Reuse};
use diffulex_compiler::recipe::{self, Recipe};

use diffulex_targets::artifact;

use super::agreement;
use super::digests::{Digests, Progress};
use super::emit;
use super::freshness::{self, Freshness};
use super::job::{Job, check, target};
use crate::Error;

/// Where to look and what to take.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `key=value` texts that override the recipe.
    pub overrides: Vec<String>,
    /// Folder of downloaded checkpoints.
    pub models: Option<PathBuf>,
    /// Folder that artifacts are written to.
    pub out: PathBuf,
    /// Only builds whose name contains this text.
    pub only: Option<String>,
}

/// One build: all that can change its bytes, and where they go.
#[derive(Debug)]
pub struct Plan {
    /// What to make.
    pub job: Job,
    /// The folder of the artifact.
    pub folder: PathBuf,
    /// Whether an earlier build can stay.
    pub freshness: Freshness,
}

/// Reads a recipe and plans its builds. `progress` is told of files whose digests are taken anew.
///
/// # Errors
/// All mistakes of the recipe together, or the first checkpoint that cannot be used.
pub fn plan<'a>(path: &Path, options: &Options, progress: &'a mut Progress<'a>) -> Result<Vec<Plan>, Error> {
    let Recipe { builds, .. } = recipe::load(path, &options.overrides)?;
    let names: Vec<String> = builds.iter().map(|b| b.name.clone()).collect();
    let wanted = |b: &recipe::Build| options.only.as_ref().is_none_or(|text| b.name.contains(text));
    let builds: Vec<recipe::Build> = builds.into_iter().filter(wanted).collect();
    if builds.is_empty() {
        let only = options.only.as_deref().unwrap_or_default();
        return Err(Error::Usage(format!("no build's name contains `{only}`; there are {}", names.join(", "))));
    }
    let mut checkpoints: BTreeMap<PathBuf, Arc<Checkpoint>> = BTreeMap::new();
    let mut digests = Digests::open(&options.out, progress);
    let mut plans = Vec::new();
    for build in builds {
        let folder = build.model.resolve(options.models.as_deref())?;
        let checkpoint = match checkpoints.get(&folder) {
            Some(known) => known.clone(),
            None => {
                let opened = Arc::new(Checkpoint::open(&folder)?);
                checkpoints.insert(folder, opened.clone());
                opened
            }
        };
        let inputs = inputs(&checkpoint, &mut digests)?;
        let folder = options.out.join(target(&build).folder(&build.name));
        let job = Job::new(build, checkpoint, inputs, Some(folder.clone()))?;
        let freshness = freshness::of(&job.build, &job.inputs, &folder, &mut digests);
        // Beside others lies what the next build goes on with.
        if freshness == Freshness::Fresh {
            artifact::sweep(&folder);
        }
        plans.push(Plan { job, folder, freshness });
    }
    digests.save();
    Ok(plans)
}

/// What a host must know: the tokens of the checkpoint, the rest as the recipe says.
fn generation(build: &recipe::Build, checkpoint: &Checkpoint) -> Result<Generation, Error> {
    let family = checkpoint.config().family;
    let end_ids = checkpoint.end_ids()?;
    if end_ids.is_empty() {
        let (folder, texts) = (checkpoint.folder().display(), family.facts().end_texts.join(" or "));
        return Err(Error::Usage(format!(
            "{folder}: neither config.json nor generation_config.json has `eos_token_id`, and the tokenizer's files \
             list no {texts}"
        )));
    }
    let generation = with_tokens(build, family, checkpoint.mask_id()?, end_ids);
    agreement::check_generation(build, &generation)?;
    Ok(generation)
}

/// What a recipe says of generation, with the tokens of a checkpoint.
pub(super) fn with_tokens(build: &recipe::Build, family: Family, mask_id: u32, end_ids: Vec<u32>) -> Generation {
    let g = &build.generate;
    Generation {
        family,
        attention: family.facts().attention,
        logits: family.facts().logits,
        block: build.shape.block.value,
        mask_id,
        end_ids,
        algorithm: g.algorithm.value,
        strategy: g.strategy.as_ref().map(|v| v.value),
        steps: g.steps.as_ref().map(|v| v.value),
        threshold: g.threshold.value.clone(),
        small_block: g.small_block.as_ref().map(|v| v.value),
        reuse: g.reuse.as_ref().map_or(Reuse::None, |v| v.value),
        window: g.window.as_ref().map(|v| v.value),
        eps: g.eps.as_ref().map(|v| v.value as f32),
        alg_temp: g.alg_temp.as_ref().map(|v| v.value as f32),
        guidance: g.guidance.as_ref().map(|v| v.value as f32),
        temperature: g.temperature.value as f32,
        top_k: g.top_k.value,
        top_p: g.top_p.value as f32,
        max_tokens: g.max_tokens.value,
        seed: g.seed.value,
    }
}

/// Digests of the files of a checkpoint that a build reads.
pub(crate) fn inputs(checkpoint: &Checkpoint, digests: &mut Digests<'_>) -> Result<BTreeMap<String, String>, Error> {
    let folder = checkpoint.folder();
    let small = Plan::TEXT_FILES.iter().chain(&["config.json", "generation_config.json"]).map(|name| folder.join(name));
    let files = small.filter(|f| f.exists()).chain(checkpoint.files().map(Path::to_path_buf));
    files
        .map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, digests.of(&file)?))
        })
        .collect()
}

impl Job {
    /// Holds a recipe against its checkpoint, whose files have the digests `inputs`, and against its target.
    ///
    /// # Errors
    /// Everything in which they disagree.
    pub fn new(
        build: recipe::Build,
        checkpoint: Arc<Checkpoint>,
        inputs: BTreeMap<String, String>,
        earlier: Option<PathBuf>,
    ) -> Result<Job, Error> {
        check(&build)?;
        agreement::check(&build, &checkpoint)?;
        let generation = generation(&build, &checkpoint)?;
        Ok(Job { build, checkpoint, generation, inputs, earlier })
    }
}

impl Plan {
    /// Where the artifact itself lies.
    pub fn artifact(&self) -> PathBuf {
        self.folder.join(emit::artifact_name(&self.job))
    }

    /// Files of a checkpoint that go into an artifact's folder as they are, where they exist.
    pub const TEXT_FILES: [&str; 5] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
    ];
}
