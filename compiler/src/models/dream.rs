//! Dream, and DiffuCoder and Dream-Coder, which share its files: Qwen2.5's network with full attention; a row of logits
//! names the next token.

use super::{Facts, qwen};
use crate::generation::{Algorithm, Attention, Logits};

/// All that differs from other families.
pub const FACTS: Facts = Facts {
    model_type: "Dream",
    architecture: "DreamModel",
    attention: Attention::Full,
    logits: Logits::Shifted,
    qkv_bias: true,
    qk_norm: false,
    block: 32,
    block_key: None,
    positions_key: "max_position_embeddings",
    mask_texts: &["<|mask|>"],
    end_texts: qwen::END_TEXTS,
    algorithms: &[Algorithm::DreamDiffusion, Algorithm::DreamThreshold, Algorithm::DreamBlock, Algorithm::Canvas],
    decoder: |config| qwen::decoder(config, &FACTS),
    stored_name: qwen::stored_name,
};
