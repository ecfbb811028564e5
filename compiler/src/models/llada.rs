//! LLaDA: a decoder with names of its own, for tensors and for the keys of config.json, and with full attention.

use serde_json::json;

use super::{Decoder, Facts};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Json;
use crate::generation::{Algorithm, Attention, Logits};

/// All that differs from other families.
pub const FACTS: Facts = Facts {
    model_type: "llada",
    architecture: "LLaDAModelLM",
    attention: Attention::Full,
    logits: Logits::Aligned,
    qkv_bias: false,
    qk_norm: false,
    block: 32,
    block_key: None,
    positions_key: "max_sequence_length",
    mask_texts: &["<|mdm_mask|>"],
    end_texts: &["<|eot_id|>", "<|endoftext|>"],
    algorithms: &[
        Algorithm::LladaGsai,
        Algorithm::LladaNv,
        Algorithm::LladaNvPrefix,
        Algorithm::LladaNvDual,
        Algorithm::Canvas,
    ],
    decoder,
    stored_name,
};

/// Switches that change the network in ways the skeleton does not have. Where the absence of one means `true` (biases),
/// the tensors tell.
const OFF: [&str; 6] =
    ["alibi", "attention_layer_norm", "bias_for_layer_norm", "include_bias", "input_emb_norm", "scale_logits"];

fn decoder(config: &Json) -> Result<Decoder, CheckpointError> {
    // Without these keys the published code builds another network, and no tensor would tell.
    for (key, value) in [
        ("activation_type", json!("silu")),
        ("block_type", json!("llama")),
        ("layer_norm_type", json!("rms")),
        ("rope", json!(true)),
    ] {
        config.must_be(key, &value)?;
    }
    OFF.iter().try_for_each(|key| config.only(key, &[json!(false)]))?;
    config.only("clip_qkv", &[])?;
    config.only("block_group_size", &[json!(1)])?;
    config.only("layer_norm_with_affine", &[json!(true)])?;

    let heads = config.size("n_heads", 4096)?;
    let hidden = config.size("d_model", 1 << 20)?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.error(format!("`d_model` {hidden} cannot be shared by {heads} heads (`n_heads`)")));
    }
    let decoder = Decoder {
        vocab: vocab(config)?,
        hidden,
        layers: config.size("n_layers", 1024)?,
        heads,
        kv_heads: kv_heads(config, heads)?,
        head_dim: hidden / heads,
        intermediate: intermediate(config, hidden)?,
        eps: config.positive("rms_norm_eps")? as f32,
        theta: super::rope_theta(config)?,
        tied: config.switch("weight_tying")?,
        qkv_bias: config.switch("include_qkv_bias")?,
        qk_norm: FACTS.qk_norm,
    };
    decoder.check().map_err(|what| config.error(what))?;
    Ok(decoder)
}

/// Rows of the token table: `embedding_size`, which is filled up to a round number, else `vocab_size`.
fn vocab(config: &Json) -> Result<u32, CheckpointError> {
    let vocab = config.size("vocab_size", 1 << 24)?;
    match config.size_if_present("embedding_size", 1 << 24)? {
        Some(rows) if rows < vocab => {
            Err(config.error(format!("`embedding_size` {rows} is below `vocab_size` {vocab}")))
        }
        rows => Ok(rows.unwrap_or(vocab)),
    }
}

/// `n_kv_heads`, or what `multi_query_attention` makes it: one for all, or one for each query head.
fn kv_heads(config: &Json, heads: u32) -> Result<u32, CheckpointError> {
    let own = config.size_if_present("n_kv_heads", 4096)?;
    let implied = match config.get("multi_query_attention") {
        None => None,
        Some(_) if config.switch("multi_query_attention")? => Some(1),
        Some(_) => Some(heads),
    };
    match (own, implied) {
        (Some(own), Some(implied)) if own != implied => {
            Err(config.error(format!("`n_kv_heads` is {own}, but `multi_query_attention` makes it {implied}")))
        }
        _ => Ok(own.or(implied).unwrap_or(heads)),
    }
}

/// `mlp_hidden_size`, else `mlp_ratio` times the width.
fn intermediate(config: &Json, hidden: u32) -> Result<u32, CheckpointError> {
    const MOST: u32 = 1 << 20;
    if let Some(size) = config.size_if_present("mlp_hidden_size", MOST)? {
        return Ok(size);
    }
    let ratio = config.size("mlp_ratio", MOST)?;
    let size = hidden.checked_mul(ratio).filter(|size| *size <= MOST);
    size.ok_or_else(|| config.error(format!("`mlp_ratio` {ratio} makes the MLP wider than {MOST}")))
}

/// `ff_out` is the head at the top and the projection down inside a layer.
fn stored_name(name: &str) -> String {
    let (name, kind) = match name.strip_suffix(".bias") {
        Some(matrix) => (matrix, "bias"),
        None => (name, "weight"),
    };
    let (layer, part) = match name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (format!("blocks.{layer}."), part),
        None => (String::new(), name),
    };
    let own = match part {
        "embed_tokens" => "wte",
        "norm" => "ln_f",
        "lm_head" | "mlp.down_proj" => "ff_out",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ff_norm",
        "self_attn.o_proj" => "attn_out",
        "mlp.gate_proj" => "ff_proj",
        "mlp.up_proj" => "up_proj",
        other => other.strip_prefix("self_attn.").unwrap_or(other),
    };
    format!("model.transformer.{layer}{own}.{kind}")
}
