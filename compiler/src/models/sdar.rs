//! SDAR: Qwen3's network (gains on the heads of queries and keys, no biases), read block by block.

use serde_json::json;

use super::Decoder;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::config::Fields;

/// Reads the sizes from config.json and refuses what the published models do not have.
///
/// # Errors
/// Names the key that is missing, out of range or not supported.
pub fn decoder(config: &Fields<'_>) -> Result<Decoder, CheckpointError> {
    config.only("hidden_act", &[json!("silu")])?;
    config.only("attention_bias", &[json!(false)])?;
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
        theta: config.rope_theta()?,
        tied: config.switch("tie_word_embeddings")?,
        qkv_bias: false,
        qk_norm: true,
    };
    decoder.check().map_err(|what| config.error(what))?;
    Ok(decoder)
}
