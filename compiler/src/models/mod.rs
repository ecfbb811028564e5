//! Families of models as modules.
//!
//! [`decoder`] is the skeleton that all families share. A family's file says all that differs, as its [`Facts`]: how
//! config.json fills the skeleton, what the tensors are called in the files, how the network is run. [`qwen`] holds
//! what the families of that descent have in common.

pub mod decoder;
pub mod dream;
pub mod fast_dllm_v2;
pub mod llada;
pub mod qwen;
pub mod sdar;

pub use decoder::Decoder;

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Json;
use crate::generation::{Algorithm, Attention, Family, Logits};

/// All that differs from family to family.
#[derive(Debug)]
pub struct Facts {
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// The first of `architectures` of config.json.
    pub architecture: &'static str,
    /// Which keys a token sees.
    pub attention: Attention,
    /// Which token a row of logits names.
    pub logits: Logits,
    /// Queries, keys and values have a bias, unless config.json says otherwise.
    pub qkv_bias: bool,
    /// Queries and keys are normed head by head.
    pub qk_norm: bool,
    /// Tokens of a block where nothing else is said: of attention where that goes by blocks, else of decoding.
    pub block: u32,
    /// The key of config.json that says so, where the family has one.
    pub block_key: Option<&'static str>,
    /// The key of config.json with the longest sequence.
    pub positions_key: &'static str,
    /// Texts of the mask token, for folders whose config.json has no `mask_token_id`.
    pub mask_texts: &'static [&'static str],
    /// Texts of the tokens that end a turn or a text.
    pub end_texts: &'static [&'static str],
    /// The algorithms that generate with it.
    pub algorithms: &'static [Algorithm],
    /// Reads the sizes and switches from config.json; an error names the key that is missing, out of range or not
    /// supported.
    pub decoder: fn(&Json) -> Result<Decoder, CheckpointError>,
    /// The name in the files of a tensor of the IR.
    pub stored_name: fn(&str) -> String,
}

impl Family {
    /// What its file says.
    pub fn facts(self) -> &'static Facts {
        match self {
            Family::Sdar => &sdar::FACTS,
            Family::FastDllmV2 => &fast_dllm_v2::FACTS,
            Family::Dream => &dream::FACTS,
            Family::Llada => &llada::FACTS,
        }
    }
}

/// The base of the rotary frequencies, from `rope_theta` or, in the newer spelling, `rope_parameters`; all
/// families have these keys.
///
/// # Errors
/// When neither is there, both are but differ, or positions are scaled in a way that is not supported.
fn rope_theta(config: &Json) -> Result<f64, CheckpointError> {
    config.only("rope_scaling", &[])?;
    let Some(parameters) = config.nested("rope_parameters")? else { return config.positive("rope_theta") };
    parameters.only("rope_type", &["default".into()])?;
    if let Some(key) = parameters.keys().find(|key| !["rope_theta", "rope_type"].contains(key)) {
        return Err(config.error(format!("`rope_parameters` has `{}`, which is not supported", key.escape_debug())));
    }
    let theta = parameters.positive("rope_theta")?;
    match config.get("rope_theta").map(|_| config.positive("rope_theta")).transpose()? {
        Some(other) if other != theta => {
            Err(config.error(format!("`rope_theta` is {other}, but `rope_parameters` makes it {theta}")))
        }
        _ => Ok(theta),
    }
}
