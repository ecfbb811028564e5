//! What a path stands for, and opening it: a recipe's artifact, a bare artifact or a checkpoint becomes a module, the
//! numbers of its weights, and what a host must know.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{self, Family, Generation};
use diffulex_compiler::ir::{DType, Encoding, Module, Op, Sizes, WeightSource};
use diffulex_compiler::passes;
use diffulex_compiler::quant::{self, Activations, Scheme};
use diffulex_runtime::engine::{Engine, EngineShape};
use diffulex_runtime::executorch::ExecuTorch;
use diffulex_runtime::generate::Behaviour;
use diffulex_runtime::session::Attention;
use diffulex_runtime::tract::TractEngine;
use diffulex_runtime::tract_onnx::TractOnnx;
use diffulex_targets::artifact::{MANIFEST, Manifest};
use diffulex_targets::{EXTENSIONS, OpenError, coreml, onnx, qnn, raise};

use crate::Error;
use crate::answer::Model;
use crate::onnxruntime::OnnxRuntime;

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TOML file.
    Recipe,
    /// An artifact's folder, with a manifest.
    Bundle,
    /// A bare artifact.
    Artifact,
    /// A Hugging Face folder.
    Checkpoint,
}

/// Something that can be run.
pub struct Opened {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub module: Module,
    /// The numbers of its weights.
    pub source: Arc<dyn WeightSource>,
    /// The family; a bare artifact of another writer may not tell.
    pub family: Option<Family>,
    /// What a host must know, or why it is not known: a bare artifact of another writer may lack it, and a checkpoint
    /// without its tokenizer.
    pub generation: Result<Generation, String>,
    /// The block length that the model itself states; where it does not, that of `generation` is the family's.
    pub block: Option<u32>,
    /// The folder with tokenizer and chat template, where there is one.
    pub text: Option<PathBuf>,
    /// The file that an outside engine opens, where there is one.
    pub artifact: Option<PathBuf>,
}

/// What runs a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The engine inside this program.
    #[default]
    Tract,
    /// The engine inside this program, with the reader of ONNX files that comes with it.
    TractOnnx,
    /// ExecuTorch behind this library.
    ExecuTorch(PathBuf),
    /// ONNX Runtime, on its CPU or on Qualcomm's HTP.
    OnnxRuntime(OnnxRuntime),
}

/// Looks at a path.
///
/// # Errors
/// When it is none of the things a path can stand for.
pub fn kind(path: &Path) -> Result<Kind, Error> {
    let found = path.metadata().map_err(Error::io(path))?;
    let ending = path.extension().and_then(|e| e.to_str());
    match ending {
        Some("toml") if found.is_file() => Ok(Kind::Recipe),
        _ if path.join(MANIFEST).is_file() => Ok(Kind::Bundle),
        Some(ending) if EXTENSIONS.contains(&ending) => Ok(Kind::Artifact),
        _ if path.join("config.json").is_file() => Ok(Kind::Checkpoint),
        _ => Err(Error::Usage(format!(
            "{}: is neither a recipe (.toml), an artifact (.pte, .mlpackage, .onnx), an artifact's folder (with {MANIFEST}) nor a \
             checkpoint (with config.json)",
            path.display()
        ))),
    }
}

/// Opens an artifact's folder, a bare artifact or a checkpoint. Recipes are built first: see [`crate::build`].
///
/// # Errors
/// When the path stands for something else, or what it stands for is damaged.
pub fn open(path: &Path, block: Option<u32>) -> Result<Opened, Error> {
    match kind(path)? {
        Kind::Bundle => bundle(path),
        Kind::Artifact => artifact(path),
        Kind::Checkpoint => checkpoint(path, block),
        Kind::Recipe => Err(Error::Usage(format!("{}: a recipe must be built first", path.display()))),
    }
}

/// A folder that has a tokenizer.
pub(crate) fn text_of(folder: &Path) -> Option<PathBuf> {
    folder.join("tokenizer.json").is_file().then(|| folder.to_path_buf())
}

const NOT_SAID: &str =
    "the artifact says neither its mask token nor how to generate; run the folder or the recipe it came from";

/// Opens a bare artifact.
///
/// # Errors
/// Names what is wrong with the file.
pub fn artifact(file: &Path) -> Result<Opened, Error> {
    let wrong = |error| match error {
        OpenError::Io(error) => Error::io(file)(error),
        error => Error::Read { file: file.into(), error: Box::new(error) },
    };
    let read = diffulex_targets::open(file).map_err(wrong)?;
    let module = raise::raise(&read.module, read.source.as_ref())?;
    let block = read.generation.as_ref().map(|g| g.block);
    Ok(Opened {
        name: read.module.name.clone(),
        module,
        source: read.source,
        family: read.generation.as_ref().map(|g| g.family),
        generation: read.generation.ok_or_else(|| NOT_SAID.into()),
        block,
        text: file.parent().and_then(text_of),
        artifact: Some(file.into()),
    })
}

/// Files up to this size are held against their digest whenever a folder is opened; `verify` checks all.
pub(crate) const CHECKED: u64 = 64 << 20;

/// Opens an artifact's folder.
///
/// # Errors
/// When a file is not what the manifest says, or the artifact is damaged.
pub fn bundle(folder: &Path) -> Result<Opened, Error> {
    let manifest = Manifest::read(folder)?;
    manifest.check(folder, CHECKED)?;
    let opened = artifact(&folder.join(&manifest.artifact))?;
    let text = text_of(folder);
    let file = folder.join("generation.json");
    let generation = match std::fs::read(&file) {
        Ok(text) => Ok(serde_json::from_slice(&text).map_err(|e| Error::Usage(format!("{}: {e}", file.display())))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => opened.generation,
        Err(error) => return Err(Error::io(file)(error)),
    };
    Ok(Opened {
        name: manifest.name,
        family: generation.as_ref().ok().map(|g: &Generation| g.family),
        block: generation.as_ref().ok().map(|g| g.block),
        generation,
        text,
        ..opened
    })
}

/// Tokens one step of a checkpoint takes at most, where a longer sequence can be fed in several.
const CHECKPOINT_STEP: usize = 1024;
/// The same where it cannot, because every token sees every other.
const CHECKPOINT_SEQUENCE: usize = 8192;
/// Cached positions of a checkpoint at most, where config.json knows no bound; caches grow as they are filled.
const CHECKPOINT_CACHE: usize = 1 << 20;

/// Opens a checkpoint, fused but with its weights as they are: the source that artifacts are compared with.
///
/// # Errors
/// Names what is wrong with the checkpoint.
pub fn checkpoint(folder: &Path, block: Option<u32>) -> Result<Opened, Error> {
    imported(folder, block, &["fuse-qkv", "fuse-gate-up", "fuse-swiglu", "select-rows", "drop-dead"], &Scheme::F32)
}

/// The same with every weight rounded as it is in `artifact`: what the artifact must equal but for the order of sums.
///
/// # Errors
/// Names what is wrong with the checkpoint.
pub fn checkpoint_like(folder: &Path, block: Option<u32>, artifact: &Module) -> Result<Opened, Error> {
    let matrices = artifact.weights.iter().filter(|w| w.ty.shape.len() > 1);
    // What lies on a grid is put there below.
    let plain = |encoding: Encoding| if encoding.grid().is_some() { Encoding::F32 } else { encoding };
    let keep: Vec<(String, Encoding)> = matrices.map(|w| (w.name.clone(), plain(w.ty.encoding))).collect();
    // Names that the artifact does not have, because another program wrote it, are rounded as most of its bytes are.
    let least = keep.iter().map(|(_, encoding)| *encoding).max().unwrap_or(Encoding::F32);
    let activations = match artifact.rounds_tokens() {
        true => Activations::DynamicInt8,
        false if artifact.has_values(DType::F16) => Activations::F16,
        false => Activations::Float,
    };
    let scheme = Scheme { weights: least, table: least, activations, search: artifact.search(), keep };
    let mut wanted = shaped_like(artifact);
    wanted.push("quantize");
    let mut opened = imported(folder, block, &wanted, &scheme)?;
    stored_like(artifact, &mut opened.module);
    if artifact.weight_id("rope.cos").is_some_and(|id| artifact.weight(id).ty.encoding == Encoding::F16) {
        let module = passes::run(opened.module, &["round-constants"], &scheme, &mut |_| {}).map_err(Box::new)?;
        opened.module = with_numbers_of(artifact, module);
    }
    Ok(opened)
}

/// Stores vectors, and what lies on a grid, as `artifact` does.
fn stored_like(artifact: &Module, module: &mut Module) {
    for weight in &mut module.weights {
        let known = artifact.weight_id(&weight.name).map(|id| artifact.weight(id));
        if let Some(theirs) = known.filter(|theirs| theirs.grid.is_some() || theirs.ty.shape.len() == 1) {
            (weight.ty.encoding, weight.grid) = (theirs.ty.encoding, theirs.grid);
        }
    }
}

/// The passes that leave every number as it is and bring a checkpoint to the matrices of `artifact`.
fn shaped_like(artifact: &Module) -> Vec<&'static str> {
    let find = |ending: &str| artifact.weights.iter().find(|weight| weight.name.ends_with(ending));
    let mut wanted = vec!["select-rows", "drop-dead"];
    if find(".q_proj").is_none() {
        wanted.push("fuse-qkv");
    }
    if find(".gate_proj").is_none() {
        wanted.extend(["fuse-gate-up", "fuse-swiglu"]);
    }
    // A gain that took the scale of attention was rounded after that.
    if find(".scaled").is_some_and(|gain| gain.ty.encoding != Encoding::F32) {
        wanted.push("fold-scale");
    }
    wanted
}

/// Takes over eps and the scale of attention, where those of `artifact` are the same numbers in f16.
fn with_numbers_of(artifact: &Module, mut module: Module) -> Module {
    let eps = |op: &Op| if let Op::RmsNorm { eps } = op { Some(*eps) } else { None };
    let scale = |op: &Op| if let Op::Attention { scale } = op { Some(*scale) } else { None };
    let find = |number: &dyn Fn(&Op) -> Option<f32>| artifact.nodes.iter().find_map(|node| number(&node.op));
    let (eps, scale) = (find(&eps), find(&scale));
    let take = |number: &mut f32, found: Option<f32>| {
        if let Some(found) = found.filter(|found| *found == quant::in_f16(*number)) {
            *number = found;
        }
    };
    for node in &mut module.nodes {
        match &mut node.op {
            Op::RmsNorm { eps: number } => take(number, eps),
            Op::Attention { scale: number } => take(number, scale),
            _ => {}
        }
    }
    module
}

fn imported(folder: &Path, block: Option<u32>, passes: &[&str], scheme: &Scheme) -> Result<Opened, Error> {
    let checkpoint = Arc::new(Checkpoint::open(folder)?);
    let config = checkpoint.config();
    let name = folder.file_name().map_or("checkpoint".into(), |n| n.to_string_lossy().into_owned());
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let positions = config.max_positions as usize;
    let step = match config.family.facts().attention {
        generation::Attention::BlockCausal => CHECKPOINT_STEP,
        generation::Attention::Full => CHECKPOINT_SEQUENCE.min(positions),
    };
    let bounds = Sizes { t: step, c: positions.min(CHECKPOINT_CACHE), r: 0 };
    let imported = config.decoder.import(&name, bounds, &|name| checkpoint.tensor_type(name))?;
    let module = passes::run(imported, passes, scheme, &mut |_| {}).map_err(Box::new)?;
    let block = block.or(config.block);
    let tokens = checkpoint.mask_id().and_then(|mask| Ok((mask, checkpoint.end_ids()?)));
    let defaults = |(mask, ends)| Generation::defaults(config.family, block, mask, ends);
    let generation = tokens.map(defaults).map_err(|why| why.to_string());
    let text = text_of(folder);
    let family = Some(config.family);
    Ok(Opened { name, module, source: checkpoint.clone(), family, generation, block, text, artifact: None })
}

impl Opened {
    /// The same with the tokenizer and the chat template of another folder: what a bare artifact lacks.
    pub fn tokenizer(self, folder: impl Into<PathBuf>) -> Opened {
        Opened { text: Some(folder.into()), ..self }
    }

    /// How it generates, to be looked at or changed before [`Opened::model`].
    ///
    /// # Errors
    /// When that is not known.
    pub fn settings(&mut self) -> Result<&mut Generation, Error> {
        let Opened { name, generation, .. } = self;
        generation.as_mut().map_err(|why| Error::Usage(format!("{name}: {why}")))
    }

    /// A model that answers, on the engine inside this program.
    ///
    /// # Errors
    /// As [`Model::of`].
    pub fn model(&self) -> Result<Model, Error> {
        Model::of(self, &EngineChoice::Tract, Behaviour::Answer)
    }

    /// The folder of its tokenizer.
    ///
    /// # Errors
    /// When there is none.
    pub fn tokenizer_folder(&self) -> Result<&Path, Error> {
        let place = || self.artifact.as_ref().map_or(self.name.clone(), |file| file.display().to_string());
        let none = || format!("{}: has no tokenizer beside it: give its folder with `--tokenizer`", place());
        self.text.as_deref().ok_or_else(|| Error::Usage(none()))
    }

    /// The same without the roundings of values, where there are any: what the checkpoint computes with these weights.
    ///
    /// # Errors
    /// When the module breaks a rule without them.
    pub fn unrounded(&self) -> Result<Option<Opened>, Error> {
        if !self.module.nodes.iter().any(|node| matches!(node.op, Op::FakeQuantize(_))) {
            return Ok(None);
        }
        Ok(Some(Opened {
            name: self.name.clone(),
            module: raise::raise(&qnn::unrounded(&self.module)?, self.source.as_ref())?,
            source: self.source.clone(),
            family: self.family,
            generation: self.generation.clone(),
            block: self.block,
            text: self.text.clone(),
            artifact: self.artifact.clone(),
        }))
    }

    /// The sizes of a step.
    ///
    /// # Errors
    /// When the module does not give logits of a known width.
    pub fn shape(&self) -> Result<EngineShape, Error> {
        let Module { bounds, cache, outputs, .. } = &self.module;
        let vocab = outputs.first().and_then(|id| self.module.node(*id).ty.width());
        let vocab = vocab.ok_or_else(|| Error::Usage(format!("{} does not give logits", self.name)))?;
        Ok(EngineShape {
            max_tokens: bounds.t,
            max_cache: bounds.c,
            layers: cache.layers as usize,
            kv_heads: cache.kv_heads as usize,
            head_dim: cache.head_dim as usize,
            vocab: vocab as usize,
        })
    }

    /// How its tokens attend, where it tells: by blocks of the length that it states, else of `otherwise`, else of its
    /// family's usual length.
    pub fn attention(&self, otherwise: Option<u32>) -> Option<Attention> {
        let facts = self.family?.facts();
        let block = self.block.or(otherwise).unwrap_or(facts.block);
        Some(match facts.attention {
            generation::Attention::BlockCausal => Attention::BlockCausal(block as usize),
            generation::Attention::Full => Attention::Full,
        })
    }

    /// An engine for it.
    ///
    /// # Errors
    /// When the engine cannot be made, or is not installed, or has no file to open.
    pub fn engine(&self, choice: &EngineChoice) -> Result<Box<dyn Engine>, Error> {
        match (choice, &self.artifact) {
            (EngineChoice::Tract, _) => Ok(Box::new(TractEngine::new(&self.module, self.source.clone())?)),
            (EngineChoice::OnnxRuntime(installed), _) => installed.engine(self),
            (EngineChoice::TractOnnx, Some(artifact)) if artifact.extension().is_some_and(|e| e == onnx::EXTENSION) => {
                Ok(Box::new(TractOnnx::open(artifact, self.shape()?)?))
            }
            (EngineChoice::TractOnnx, _) => {
                let name = &self.name;
                Err(Error::Usage(format!("{name} is no ONNX file; tract-onnx runs what target `onnx` makes")))
            }
            (EngineChoice::ExecuTorch(_), Some(artifact))
                if artifact.extension().is_some_and(|e| e == coreml::EXTENSION || e == onnx::EXTENSION) =>
            {
                let name = &self.name;
                Err(Error::Usage(format!("{name} is for another engine; ExecuTorch runs `.pte` files only")))
            }
            (EngineChoice::ExecuTorch(library), Some(artifact)) => Ok(Box::new(ExecuTorch::open(artifact, library)?)),
            (EngineChoice::ExecuTorch(_), None) => {
                let name = &self.name;
                Err(Error::Usage(format!("{name} is a checkpoint; ExecuTorch runs artifacts: build one first")))
            }
        }
    }
}
