//! One cell of the matrix: everything a build needs to know, typed, and its digest.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::choice::TargetName;
use super::coreml::Coreml;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::mistake::Mistake;
use super::qnn::Qnn;
use super::source::Located;
use crate::generation::{Algorithm, Family, Logits, Reuse, Strategy};
use crate::ir::Encoding;
use crate::models::Decoder;
use crate::quant::{self, Activations, GridType, Search};

/// One artifact to make: a combination of target and quantization scheme.
#[derive(Clone, Debug)]
pub struct Build {
    /// `<recipe>-<target>-<scheme>`, which is also the name of its folder.
    pub name: String,
    /// What to build from.
    pub model: Model,
    /// How many tokens the graph takes.
    pub shape: Shape,
    /// How text is generated, unless the caller of the artifact says otherwise.
    pub generate: Generate,
    /// How weights are stored.
    pub quant: QuantScheme,
    /// What to build for; the place is the element of `matrix.target`.
    pub target: Located<Target>,
    pub(super) values: Vec<(String, String)>,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The family; found from `config.json` when absent.
    pub family: Option<Located<Family>>,
    /// The checkpoint's folder as written; see [`Model::resolve`].
    pub checkpoint: Located<String>,
    /// Where it comes from.
    pub origin: Option<Located<String>>,
    /// The terms it may be passed on under; its model card tells when absent.
    pub license: Option<Located<String>>,
    /// What `config.json` says of the network, so that it is known before the download; only with `family`.
    pub sizes: Option<Sizes>,
}

/// `[model.sizes]`, in the words of [`Decoder`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Rows of the token table.
    pub vocab: Located<u32>,
    /// Width of the residual stream.
    pub hidden: Located<u32>,
    /// Layers.
    pub layers: Located<u32>,
    /// Query heads.
    pub heads: Located<u32>,
    /// Key/value heads.
    pub kv_heads: Located<u32>,
    /// Width of a head.
    pub head_dim: Located<u32>,
    /// Width of the MLP.
    pub intermediate: Located<u32>,
    /// The head is the token table.
    pub tied: Located<bool>,
}

/// `[shape]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Tokens refined together; with block-causal attention, that see each other.
    pub block: Located<u32>,
    /// Tokens one prefill pass feeds at most: a multiple of `block`.
    pub prefill: Located<u32>,
    /// Tokens the KV cache can hold: a multiple of `block`, at least `prefill`.
    pub cache: Located<u32>,
}

/// `[generate]`
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// The generation loop.
    pub algorithm: Located<Algorithm>,
    /// Which masks are filled in a pass, where the algorithm leaves the choice.
    pub strategy: Option<Located<Strategy>>,
    /// Passes that a block, or the whole answer, is spread over.
    pub steps: Option<Located<u32>>,
    /// Tokens of a small block inside a block.
    pub small_block: Option<Located<u32>>,
    /// Keys and values that are not computed anew within a block.
    pub reuse: Option<Located<Reuse>>,
    /// Masks kept in view from the beginning of the block on.
    pub window: Option<Located<u32>>,
    /// Where the schedule of passes ends.
    pub eps: Option<Located<f64>>,
    /// Temperature of the choice of positions; 0 takes the most confident.
    pub alg_temp: Option<Located<f64>>,
    /// Scale of classifier-free guidance; 0 is none.
    pub guidance: Option<Located<f64>>,
    /// Which token the logits of a row name.
    pub sampler: Located<Logits>,
    /// Accept above this probability; one per block, the last repeats. Never empty.
    pub threshold: Located<Vec<f64>>,
    /// 0 is greedy.
    pub temperature: Located<f64>,
    /// Sample among this many tokens; 0 is off.
    pub top_k: Located<u32>,
    /// Sample among the tokens that make up this probability.
    pub top_p: Located<f64>,
    /// Tokens generated at most.
    pub max_tokens: Located<u32>,
    /// Seed of the sampler's random numbers.
    pub seed: Located<u64>,
}

/// `[quant.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct QuantScheme {
    /// The scheme's name; the place is the element of `matrix.quant`.
    pub name: Located<String>,
    /// How filters are stored.
    pub weights: Located<Encoding>,
    /// How the table of tokens is stored; as filters are, or in f16 where they are quantized, if it does not say.
    pub table: Option<Located<Encoding>>,
    /// What filters are given; tokens in floats, if it does not say.
    pub activations: Option<Located<Activations>>,
    /// What committed rows are rounded to where every value is rounded; to `uint8`, if it does not say.
    pub cache: Option<Located<GridType>>,
    /// How the scales of quantized weights are found.
    pub search: Search,
    /// Weights stored otherwise, by name pattern; the most precise encoding first.
    pub keep: Vec<(Encoding, Located<String>)>,
}

/// What to build for, with the values of `[target.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// ExecuTorch with the XNNPACK delegate.
    Xnnpack {
        /// Bytes the weights' segments are aligned to: a power of two.
        alignment: Located<u32>,
        /// A step has an input `rows` and makes logits of those only.
        select_rows: Located<bool>,
    },
    /// A Core ML package.
    Coreml(Box<Coreml>),
    /// A file of ONNX, in floats.
    Onnx {
        /// Whether a step can have any number of tokens, up to `shape.prefill`.
        dynamic: Located<bool>,
    },
    /// A bundle for Qualcomm's HTP.
    Qnn(Box<Qnn>),
}

impl Target {
    /// The name a recipe uses.
    pub fn name(&self) -> TargetName {
        match self {
            Self::Xnnpack { .. } => TargetName::Xnnpack,
            Self::Coreml(_) => TargetName::Coreml,
            Self::Onnx { .. } => TargetName::Onnx,
            Self::Qnn(_) => TargetName::Qnn,
        }
    }
}

impl Model {
    /// The checkpoint's folder: beside the file that names it, else under `models`.
    ///
    /// # Errors
    /// The folder is at neither place.
    pub fn resolve(&self, models: Option<&Path>) -> Result<PathBuf, Diagnostics> {
        let checkpoint = &self.checkpoint;
        let places = [Some(checkpoint.origin.file().folder()), models];
        let tried: Vec<PathBuf> = places.into_iter().flatten().map(|folder| folder.join(&checkpoint.value)).collect();
        tried.iter().find(|folder| folder.is_dir()).cloned().ok_or_else(|| {
            let mistake = Mistake::MissingCheckpoint { checkpoint: checkpoint.value.clone(), models: models.is_some() };
            let tried: Vec<String> = tried.iter().map(|folder| format!("`{}`", folder.display())).collect();
            Diagnostic::new(mistake, &checkpoint.origin).note(format!("looked for {}", tried.join(" and "))).into()
        })
    }
}

impl Sizes {
    /// The network of these sizes, with the numbers that change no shape as they usually are.
    pub fn decoder(&self, family: Family) -> Decoder {
        let facts = family.facts();
        Decoder {
            vocab: self.vocab.value,
            hidden: self.hidden.value,
            layers: self.layers.value,
            heads: self.heads.value,
            kv_heads: self.kv_heads.value,
            head_dim: self.head_dim.value,
            intermediate: self.intermediate.value,
            eps: 1e-6,
            theta: 1e6,
            tied: self.tied.value,
            qkv_bias: facts.qkv_bias,
            qk_norm: facts.qk_norm,
        }
    }
}

impl QuantScheme {
    /// The scheme without the places of its values.
    pub fn scheme(&self) -> quant::Scheme {
        let keep = self.keep.iter().map(|(encoding, pattern)| (pattern.value.clone(), *encoding)).collect();
        let weights = self.weights.value;
        let activations = self.activations.as_ref().map_or(Activations::Float, |asked| asked.value);
        // Where values are rounded, a table is rounded as they are, once that is known.
        let table = if activations.grid().is_some() { Encoding::F32 } else { self.tables().value };
        quant::Scheme { weights, table, activations, search: self.search, keep }
    }

    fn tables(&self) -> Located<Encoding> {
        let beside = if self.weights.value.is_float() { self.weights.value } else { Encoding::F16 };
        self.table.clone().unwrap_or_else(|| Located::new(beside, self.weights.origin.clone()))
    }

    /// How the filter or `table` of this name is stored: as the first pattern of `keep` that matches says, else as all
    /// of its kind. The place is the one to point at when the encoding does not fit.
    pub fn encoding_of(&self, weight: &str, table: bool) -> Located<Encoding> {
        match self.keep.iter().find(|(_, pattern)| quant::matches(pattern, weight)) {
            Some((encoding, pattern)) => Located::new(*encoding, pattern.origin.clone()),
            None if table => self.tables(),
            None => self.weights.clone(),
        }
    }
}

impl Build {
    /// Every value that can change the bytes of this build, as TOML text, sorted by key. The scheme's values are
    /// `quant.…` and the target's `target.…` whatever they are called, so renaming a scheme changes nothing.
    pub fn effective_values(&self) -> &[(String, String)] {
        &self.values
    }

    /// SHA-256 over the effective values: the same for the same values, however the files are laid out.
    pub fn digest(&self) -> [u8; 32] {
        let mut text = String::from("diffulex build 1\n");
        for (key, value) in &self.values {
            // Neither holds a line break: keys are names and printed values escape theirs.
            let _ = writeln!(text, "{key} = {value}");
        }
        Sha256::digest(text).into()
    }

    /// [`Self::digest`] in hexadecimal.
    pub fn digest_hex(&self) -> String {
        self.digest().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
