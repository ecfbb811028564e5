//! Fast-dLLM v2: Qwen2.5's network (biases on queries, keys and values), read block by block; a row of logits names the
//! next token, as in the model it was made from.

use super::{Facts, qwen};
use crate::generation::{Algorithm, Attention, Logits};

/// All that differs from other families. config.json never names the mask token.
pub const FACTS: Facts = Facts {
    model_type: "Fast_dLLM_Qwen",
    architecture: "Fast_dLLM_QwenForCausalLM",
    attention: Attention::BlockCausal,
    logits: Logits::Shifted,
    qkv_bias: true,
    qk_norm: false,
    block: 32,
    block_key: Some("bd_size"),
    positions_key: "max_position_embeddings",
    mask_texts: &["|<MASK>|"],
    end_texts: qwen::END_TEXTS,
    algorithms: &[Algorithm::FastDllmGenerate, Algorithm::FastDllmBatchSample],
    decoder: |config| qwen::decoder(config, &FACTS),
    stored_name: qwen::stored_name,
};
