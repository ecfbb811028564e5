//! SDAR: Qwen3's network (gains on the heads of queries and keys, no biases), read block by block.

use serde_json::json;

use super::{Decoder, Facts, qwen};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Json;
use crate::generation::{Algorithm, Attention, Logits};

/// All that differs from other families.
pub const FACTS: Facts = Facts {
    model_type: "sdar",
    architecture: "SDARForCausalLM",
    attention: Attention::BlockCausal,
    logits: Logits::Aligned,
    qkv_bias: false,
    qk_norm: true,
    block: 4,
    block_key: Some("block_size"),
    positions_key: "max_position_embeddings",
    // Some published folders contradict themselves on the text of one and the same id.
    mask_texts: &["<|MASK|>", "<MASK>"],
    end_texts: qwen::END_TEXTS,
    algorithms: &[Algorithm::SdarBlockDiffusion],
    decoder,
    stored_name: qwen::stored_name,
};

fn decoder(config: &Json) -> Result<Decoder, CheckpointError> {
    config.only("attention_bias", &[json!(false)])?;
    qwen::decoder(config, &FACTS)
}
