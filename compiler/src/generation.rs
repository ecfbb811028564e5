//! What a host must know to generate text with a model, beside the graph: it travels with every artifact.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// A family of checkpoints, and so a published decoding algorithm.
    Family {
        /// SDAR (JetLM): a Qwen3 decoder with block-causal attention.
        Sdar = "sdar",
    }
}

choices! {
    /// A published generation algorithm.
    Algorithm {
        /// SDAR's block diffusion.
        SdarBlockDiffusion = "sdar.block_diffusion_generate",
    }
}

choices! {
    /// Which masks of a block a pass fills.
    Remasking {
        /// The step's quota, from the first mask on.
        Sequential = "sequential",
        /// The step's quota, the most confident ones.
        LowConfidenceStatic = "low_confidence_static",
        /// All above the threshold, at least the step's quota.
        LowConfidenceDynamic = "low_confidence_dynamic",
    }
}

choices! {
    /// Which token a row of logits names.
    Logits {
        /// Row `i` names token `i`.
        Aligned = "aligned",
        /// Row `i` names token `i + 1`.
        Shifted = "shifted",
    }
}

/// Which keys a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Position `i` sees `j` when `j / block <= i / block`.
    BlockCausal,
    /// Every position sees every other.
    Full,
}

/// Facts of the model and the defaults of generation; the content of `generation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The family.
    pub family: Family,
    /// Which keys a token sees.
    pub attention: Attention,
    /// Which token a row of logits names.
    pub logits: Logits,
    /// Tokens refined together.
    pub block: u32,
    /// The token that stands for "not yet known".
    pub mask_id: u32,
    /// Tokens that end an answer.
    pub end_ids: Vec<u32>,
    /// The published algorithm.
    pub algorithm: Algorithm,
    /// Which masks of a block a pass fills.
    pub strategy: Remasking,
    /// Passes that a block is meant to take.
    pub steps: u32,
    /// Confidence above which tokens are accepted, one a block; the last repeats.
    pub threshold: Vec<f32>,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Only the k most likely tokens are drawn from; 0 is all.
    pub top_k: u32,
    /// Only the most likely tokens that together reach p are drawn from; 1 is all.
    pub top_p: f32,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Generation {
    /// A family's defaults with the facts of one checkpoint: what runs a checkpoint without a recipe. The same values
    /// stand in `recipes/families`.
    pub fn defaults(family: Family, block: Option<u32>, mask_id: u32, end_ids: Vec<u32>) -> Generation {
        match family {
            Family::Sdar => Generation {
                family,
                attention: Attention::BlockCausal,
                logits: Logits::Aligned,
                block: block.unwrap_or(4),
                mask_id,
                end_ids,
                algorithm: Algorithm::SdarBlockDiffusion,
                strategy: Remasking::LowConfidenceDynamic,
                steps: block.unwrap_or(4),
                threshold: vec![0.9],
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                max_tokens: 256,
                seed: 0,
            },
        }
    }
}
