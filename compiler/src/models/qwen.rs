//! What SDAR, Fast-dLLM v2 and Dream have from Qwen: the keys of config.json, the names of tensors and the tokens of a
//! conversation.

use serde_json::json;

use super::{Decoder, Facts, rope_theta};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Json;

/// Tokens that end a turn and a text.
pub const END_TEXTS: &[&str] = &["<|im_end|>", "<|endoftext|>"];

/// Reads the sizes from config.json.
///
/// # Errors
/// Names the key that is missing, out of range or not supported.
pub fn decoder(config: &Json, facts: &Facts) -> Result<Decoder, CheckpointError> {
    config.only("hidden_act", &[json!("silu")])?;
    config.only("use_sliding_window", &[json!(false)])?;
    let layers = config.size("num_hidden_layers", 1024)?;
    config.only("layer_types", &[json!(vec!["full_attention"; layers as usize])])?;
    let heads = config.size("num_attention_heads", 4096)?;
    let hidden = config.size("hidden_size", 1 << 20)?;
    let decoder = Decoder {
        vocab: config.size("vocab_size", 1 << 24)?,
        hidden,
        layers,
        heads,
        kv_heads: config.size_if_present("num_key_value_heads", 4096)?.unwrap_or(heads),
        head_dim: match config.size_if_present("head_dim", 1 << 16)? {
            Some(dim) => dim,
            None => hidden / heads,
        },
        intermediate: config.size("intermediate_size", 1 << 20)?,
        eps: config.positive("rms_norm_eps")? as f32,
        theta: rope_theta(config)?,
        tied: config.switch("tie_word_embeddings")?,
        qkv_bias: facts.qkv_bias,
        qk_norm: facts.qk_norm,
    };
    decoder.check().map_err(|what| config.error(what))?;
    Ok(decoder)
}

/// Names in the files: `lm_head` keeps its place at the top, everything else lies under `model.`. A bias is named like its
/// matrix.
pub fn stored_name(name: &str) -> String {
    let prefix = if name == "lm_head" { "" } else { "model." };
    match name.strip_suffix(".bias") {
        Some(matrix) => format!("{prefix}{matrix}.bias"),
        None => format!("{prefix}{name}.weight"),
    }
}
