//! What is to be built: one plan for each cell of a recipe's matrix.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{Family, Generation, Reuse};
use diffulex_compiler::recipe::{self, Recipe};

use diffulex_targets::artifact::{self, Manifest};

use super::agreement;
use super::calibrate;
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
    /// Whether context binaries can be made here: then builds that lack theirs are stale.
    pub contexts: bool,
}

/// One build: all that can change its bytes, and where they go.
#[derive(Debug)]
pub struct Plan {
    /// The recipe it is a build of.
    pub recipe: PathBuf,
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
/// All mistakes of the recipe together, or the first checkpoint that cannot be used; and when no build is wanted.
pub fn plan<'a>(path: &Path, options: &'a Options, progress: &'a mut Progress<'a>) -> Result<Vec<Plan>, Error> {
    let mut planner = Planner::new(options, progress);
    let plans = planner.plan(path)?;
    if plans.is_empty() { Err(planner.nothing()) } else { Ok(plans) }
}

/// Plans the builds of several recipes; a checkpoint that several of them name is looked at once.
pub struct Planner<'a> {
    options: &'a Options,
    checkpoints: BTreeMap<PathBuf, (Arc<Checkpoint>, BTreeMap<String, String>)>,
    digests: Digests<'a>,
    /// The builds so far: the folder of each, and the recipe it is from.
    taken: BTreeMap<PathBuf, PathBuf>,
    /// Names of the builds that are not wanted.
    unwanted: Vec<String>,
}

impl<'a> Planner<'a> {
    /// No recipe is planned yet.
    pub fn new(options: &'a Options, progress: &'a mut Progress<'a>) -> Planner<'a> {
        let digests = Digests::open(&options.out, progress);
        Planner { options, checkpoints: BTreeMap::new(), digests, taken: BTreeMap::new(), unwanted: Vec::new() }
    }

    /// Plans those builds of a recipe that are wanted.
    ///
    /// # Errors
    /// All mistakes of the recipe together, the first checkpoint that cannot be used, or a build whose artifact would
    /// stand where that of another recipe does.
    pub fn plan(&mut self, path: &Path) -> Result<Vec<Plan>, Error> {
        let Recipe { builds, .. } = recipe::load(path, &self.options.overrides)?;
        let mut plans = Vec::new();
        for build in builds {
            if self.options.only.as_ref().is_some_and(|text| !build.name.contains(text)) {
                self.unwanted.push(build.name);
                continue;
            }
            plans.push(self.build(path, build)?);
        }
        Ok(plans)
    }

    /// Says that no build of any recipe was wanted.
    pub fn nothing(&self) -> Error {
        let only = self.options.only.as_deref().unwrap_or_default();
        Error::Usage(format!("no build's name contains `{only}`; there are {}", self.unwanted.join(", ")))
    }

    fn build(&mut self, path: &Path, build: recipe::Build) -> Result<Plan, Error> {
        let folder = self.options.out.join(target(&build).folder(&build.name));
        if let Some(other) = self.taken.insert(folder.clone(), path.into()) {
            let (name, path, other) = (&build.name, path.display(), other.display());
            let what = "give one of them another `name`, or build it into another folder with `--out`";
            return Err(Error::Usage(format!("{path} and {other} both have a build {name}: {what}")));
        }
        let (checkpoint, inputs) = self.checkpoint(build.model.resolve(self.options.models.as_deref())?)?;
        let file = calibrate::file(&build);
        let reads = file.into_iter().map(|(name, file)| Ok((name, self.digests.of(&file)?)));
        let reads = reads.collect::<Result<_, Error>>()?;
        let job = Job { reads, ..Job::new(build, checkpoint, inputs, Some(folder.clone()))? };
        let freshness = freshness::of(&job, &folder, self.options.contexts, &mut self.digests);
        // Beside others lies what the next build goes on with.
        if freshness == Freshness::Fresh {
            artifact::sweep(&folder);
        }
        Ok(Plan { recipe: path.into(), job, folder, freshness })
    }

    /// The checkpoint in a folder, with the digests of its files.
    fn checkpoint(&mut self, folder: PathBuf) -> Result<(Arc<Checkpoint>, BTreeMap<String, String>), Error> {
        if let Some(known) = self.checkpoints.get(&folder) {
            return Ok(known.clone());
        }
        let checkpoint = Arc::new(Checkpoint::open(&folder)?);
        let inputs = inputs(&checkpoint, &mut self.digests)?;
        self.checkpoints.insert(folder, (checkpoint.clone(), inputs.clone()));
        Ok((checkpoint, inputs))
    }
}

/// The folders that the artifacts of a recipe's builds have; no checkpoint is looked at.
///
/// # Errors
/// All mistakes of the recipe together.
pub fn folders(recipe: &Path, options: &Options) -> Result<Vec<PathBuf>, Error> {
    let builds = recipe::load(recipe, &options.overrides)?.builds;
    let wanted = |build: &recipe::Build| options.only.as_ref().is_none_or(|text| build.name.contains(text));
    let folder = |build: recipe::Build| options.out.join(target(&build).folder(&build.name));
    Ok(builds.into_iter().filter(wanted).map(folder).collect())
}

/// The artifacts in an output folder, by name; folders that are none are passed over.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn artifacts(out: &Path) -> Result<Vec<(PathBuf, Manifest)>, Error> {
    let entries = match std::fs::read_dir(out).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(Error::io(out))?,
    };
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let folders = entries.into_iter().map(|entry| entry.path()).filter(|path| !hidden(path));
    let mut found: Vec<(PathBuf, Manifest)> =
        folders.filter_map(|folder| Manifest::read(&folder).ok().map(|manifest| (folder, manifest))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Takes over what is known of artifacts that were just built, so that nobody reads them again to see that they are fresh.
pub fn learn(out: &Path, plans: &[&Plan]) {
    let quiet = &mut |_: &Path, _, _| {};
    let mut digests = Digests::open(out, quiet);
    for plan in plans {
        let files = Manifest::read(&plan.folder).map_or_else(|_| BTreeMap::new(), |manifest| manifest.files);
        files.iter().for_each(|(name, file)| digests.learn(&plan.folder.join(name), &file.sha256));
    }
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
    let facts = ["config.json", "generation_config.json", "README.md"].map(|name| checkpoint.folder().join(name));
    let facts = facts.into_iter().filter(|file| file.exists());
    let files = texts(checkpoint).into_iter().chain(facts).chain(checkpoint.files().map(Path::to_path_buf));
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
        Ok(Job { build, checkpoint, generation, inputs, reads: BTreeMap::new(), earlier })
    }
}

/// The files of a checkpoint that go into an artifact's folder as they are: those of the tokenizer, and its license.
pub(super) fn texts(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let licenses = checkpoint.license_files();
    let names = TEXT_FILES.into_iter().chain(licenses.iter().map(String::as_str));
    names.map(|name| checkpoint.folder().join(name)).filter(|file| file.exists()).collect()
}

/// Files that tell of text.
const TEXT_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json"];

impl Plan {
    /// Where the artifact itself lies.
    pub fn artifact(&self) -> PathBuf {
        self.folder.join(emit::artifact_name(&self.job))
    }
}
