//! Proving an artifact equal to its source, and anything equal to recordings.

mod recordings;
mod verdict;
mod words;

pub use recordings::{Recordings, recordings};
pub use verdict::Verdict;
pub use words::describe;

use std::path::{Path, PathBuf};

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::Encoding;
use diffulex_runtime::chat::{Chat, Message, Variables};
use diffulex_runtime::generate::Algorithm;
use diffulex_runtime::session::{Attention, Session};
use diffulex_runtime::verify::numbers::{self, Purpose};
use diffulex_runtime::verify::{Check, Limits, replies, weights};
use diffulex_targets::artifact::Manifest;

use crate::Error;
use crate::build::Digests;
use crate::subject::{self, EngineChoice, Opened};

/// Prompts that every artifact is compared on.
const PROMPTS: [&str; 4] = [
    "What is 27 + 58?",
    "Tell me a story about a fox and a lantern.",
    "Hello! Who are you, and what can you do?",
    "Name three things that are blue, and say why.",
];
/// Shares of a sequence that are masked, from its end on.
const NOISE: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// Lengths of the shortest sequences of a comparison.
const FEW: [usize; 5] = [1, 2, 5, 8, 9];
/// Longest sequence of a comparison.
const LENGTH: usize = 96;
/// New tokens of a compared reply, about.
const REPLY: usize = 48;

/// Gets each check as it is finished.
pub type Found<'a> = dyn FnMut(Check) + 'a;

/// The structure of an artifact's folder: every digest of its manifest.
///
/// # Errors
/// When the manifest itself cannot be read.
pub fn structure(folder: &Path, found: &mut Found<'_>) -> Result<(), Error> {
    let manifest = Manifest::read(folder)?;
    let problem = manifest.check(folder, u64::MAX).err().map(|e| e.to_string());
    let passed = problem.is_none();
    found(Check::Structure { what: format!("{} files of {}", manifest.files.len(), manifest.name), problem, passed });
    Ok(())
}

/// How an artifact is held against its checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// What runs the artifact.
    pub engine: EngineChoice,
    /// Largest error of a logit, as a share of the largest logit of its case. The limits that each check has count where
    /// they are tighter.
    pub tolerance: Option<f32>,
    /// A departing reply names its row whichever it is.
    pub explain: bool,
}

/// Checks that a tolerance is one.
///
/// # Errors
/// When it is below 0 or no number.
pub(crate) fn tolerable(tolerance: Option<f32>) -> Result<(), Error> {
    match tolerance {
        Some(share) if share.is_nan() || share < 0.0 => {
            Err(Error::Usage(format!("a tolerance is a share of the largest logit, 0 or more; {share} is none")))
        }
        _ => Ok(()),
    }
}

/// An artifact against the checkpoint it was made from, on prompts and on masked blocks:
///
/// 1. against the checkpoint with its weights rounded as they are in the artifact: equal but for the order of sums. An
///    artifact that rounds every value is taken without these roundings for that;
/// 2. against the checkpoint itself, where the artifact rounds: what the encoding costs;
/// 3. with an outside engine, that engine against ours on the same artifact;
/// 4. greedy replies, token by token, as in 1.
///
/// Before all that the matrices themselves, number by number, since prompts touch only a few rows of the token table.
///
/// # Errors
/// When one of them cannot be run.
pub fn artifact(artifact: &Opened, checkpoint: &Path, how: &Comparison, found: &mut Found<'_>) -> Result<(), Error> {
    let Comparison { engine, tolerance, explain } = how;
    tolerable(*tolerance)?;
    let source = subject::checkpoint(checkpoint, artifact.block)?;
    let rounded = subject::checkpoint_like(checkpoint, artifact.block, &artifact.module)?;
    let known = artifact.generation.as_ref().or(source.generation.as_ref());
    let generation = known.map_err(|why| Error::Usage(format!("no masked block can be fed: {why}")))?;
    let attention = Attention::from(generation);
    let session = |opened: &Opened, choice| Ok::<_, Error>(Session::new(opened.engine(choice)?, attention)?);
    let mut exact = session(&rounded, &EngineChoice::Tract)?;
    let mut other = session(artifact, engine)?;
    let unrounded = artifact.unrounded()?;
    let prompts = prompts(artifact.text.as_deref().or(source.text.as_deref()), other.shape().vocab)?;
    let greedy = Algorithm::try_from(&Generation { temperature: 0.0, ..generation.clone() })?;
    let room = greedy.room(other.shape());
    let cases = cases(&prompts, generation.mask_id, LENGTH.min(room).min(other.shape().max_cache));

    let engine_name = other.engine();
    let theirs = (&artifact.module, artifact.source.as_ref());
    found(weights::compare((&rounded.module, rounded.source.as_ref()), theirs)?);
    let exactly = Limits::same_weights(&artifact.module);
    let outside = matches!(engine, EngineChoice::OnnxRuntime(_));
    let rounds = artifact.module.rounds_any_tokens() || outside && exactly != Limits::between_engines(&artifact.module);
    let mut compare = |source: &mut Session, other: &mut Session, purpose, what: &str, limits: Limits| {
        let limits = limits.within(*tolerance);
        for (name, tokens) in &cases {
            let name = format!("{name}{what}");
            found(Check::Numbers(numbers::compare(source, other, (&name, purpose), tokens, limits)?));
        }
        Ok::<(), Error>(())
    };
    match &unrounded {
        // ONNX Runtime computes in the floats of the file, which may be halves: it is held against ours below.
        None if matches!(engine, EngineChoice::OnnxRuntime(_)) => {
            let mut tract = session(artifact, &EngineChoice::Tract)?;
            compare(&mut exact, &mut tract, Purpose::Exactness, "", exactly)?;
        }
        None => compare(&mut exact, &mut other, Purpose::Exactness, "", exactly)?,
        // Where every value is rounded nothing else is exact: the graph is judged without the roundings.
        Some(plain) => {
            let mut other = session(plain, &EngineChoice::Tract)?;
            let limits = Limits::same_weights(&plain.module);
            compare(&mut exact, &mut other, Purpose::Exactness, ", values not rounded", limits)?;
        }
    }
    let matrices = || artifact.module.weights.iter().filter(|w| w.ty.shape.len() > 1);
    if rounds || matrices().any(|w| w.ty.encoding != Encoding::F32) {
        let mut source = session(&source, &EngineChoice::Tract)?;
        compare(&mut source, &mut other, Purpose::Cost, ", cost of the encoding", Limits::of(&artifact.module))?;
    }
    if *engine != EngineChoice::Tract {
        let limits = Limits::between_engines(&artifact.module);
        let mut tract = session(artifact, &EngineChoice::Tract)?;
        compare(&mut tract, &mut other, Purpose::Engine, &format!(", {engine_name} against tract"), limits)?;
    }
    for (name, tokens) in &prompts {
        // Half of the room is the answer's.
        let tokens = &tokens[..tokens.len().min((room / 2).max(1))];
        let mut algorithm = greedy.clone();
        algorithm.fit(tokens.len(), other.shape());
        algorithm.shorten(REPLY);
        found(replies::compare(&mut exact, &mut other, name, &algorithm, tokens, *explain, !rounds)?);
    }
    Ok(())
}

/// Prompts as token ids: in chat form where the model has a template, random ids where there is no tokenizer.
fn prompts(text: Option<&Path>, vocab: usize) -> Result<Vec<(String, Vec<u32>)>, Error> {
    let Some(folder) = text else {
        let ids = |seed: u64| (0..40).map(|i| (mix(seed * 1000 + i) % vocab as u64) as u32).collect();
        return Ok((0..PROMPTS.len() as u64).map(|seed| (format!("random ids {seed}"), ids(seed))).collect());
    };
    let chat = Chat::open(folder)?;
    let encode = |prompt: &str| match &chat.template {
        Some(_) => {
            let message = Message { role: "user".into(), content: prompt.into() };
            chat.prompt(&[message], &Variables::new()).map(|(_, ids)| ids)
        }
        None => chat.tokenizer.encode(prompt),
    };
    PROMPTS.iter().map(|prompt| Ok((prompt.to_string(), encode(prompt)?))).collect()
}

/// Each prompt as it is, and with masks at several noise levels; before that the beginning of one in lengths that take
/// different paths through kernels, which compute several rows at a time.
fn cases(prompts: &[(String, Vec<u32>)], mask: u32, length: usize) -> Vec<(String, Vec<u32>)> {
    let beginnings = prompts.iter().take(1).flat_map(|(name, tokens)| {
        let lengths = FEW.into_iter().filter(|few| *few < tokens.len().min(length));
        lengths.map(move |few| (format!("{name} ({few} tokens)"), tokens[..few].to_vec()))
    });
    let mut cases: Vec<(String, Vec<u32>)> = beginnings.collect();
    for (name, tokens) in prompts {
        let tokens = &tokens[..tokens.len().min(length)];
        cases.push((name.clone(), tokens.to_vec()));
        for (level, noise) in NOISE.iter().enumerate() {
            let masked = |i: usize| (mix((level * 4096 + i) as u64) % 1000) as f64 <= noise * 1000.0;
            let noisy = tokens.iter().enumerate().map(|(i, &t)| if masked(i) { mask } else { t }).collect();
            cases.push((format!("{name} ({}% masked)", (noise * 100.0) as u32), noisy));
        }
    }
    cases
}

/// A number that depends on `x` in no visible way (the finalizer of MurmurHash3), the same everywhere.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The checkpoint that an artifact's folder was made from, where it lies here or under `models` as the recipe named it,
/// with the same files.
///
/// # Errors
/// When the manifest cannot be read.
pub fn checkpoint_of(folder: &Path, models: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let manifest = Manifest::read(folder)?;
    let Some(written) = manifest.recipe.get("model.checkpoint") else { return Ok(None) };
    let written: String = serde_json::from_str(written).unwrap_or_else(|_| written.clone());
    let quiet = &mut |_: &Path, _, _| {};
    let mut digests = Digests::open(folder.parent().unwrap_or(folder), quiet);
    let mut same = |place: &PathBuf| {
        let equal =
            |(name, digest): (&String, &String)| digests.of(&place.join(name)).is_ok_and(|found| found == *digest);
        !manifest.checkpoint.is_empty() && manifest.checkpoint.iter().all(equal)
    };
    let mut places = [Some(PathBuf::from(&written)), models.map(|m| m.join(&written))].into_iter().flatten();
    Ok(places.find(|place| same(place)))
}
