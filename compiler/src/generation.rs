//! What a host must know to generate text with a model, beside the graph: it travels with every artifact.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// A family of checkpoints: what its network and its files are like stands in `models`.
    Family {
        /// SDAR (JetLM): a Qwen3 decoder with block-causal attention.
        Sdar = "sdar",
        /// Fast-dLLM v2 (NVIDIA): a Qwen2.5 decoder with block-causal attention and shifted logits.
        FastDllmV2 = "fast_dllm_v2",
        /// Dream (also DiffuCoder and Dream-Coder): a Qwen2.5 decoder with full attention and shifted logits.
        Dream = "dream",
        /// LLaDA: a decoder of its own with full attention.
        Llada = "llada",
    }
}

choices! {
    /// A generation algorithm: those of the families' own code, and ours.
    Algorithm {
        /// SDAR's block diffusion.
        SdarBlockDiffusion = "sdar.block_diffusion_generate",
        /// Fast-dLLM v2: small blocks inside blocks, ends at the end token.
        FastDllmGenerate = "fast_dllm_v2.generate",
        /// The same as its evaluation runs it: blocks are filled to the end, then padded.
        FastDllmBatchSample = "fast_dllm_v2.batch_sample",
        /// Dream's own: a fixed number of passes over a fixed canvas.
        DreamDiffusion = "dream.diffusion_generate",
        /// Fast-dLLM for Dream: a threshold, no blocks.
        DreamThreshold = "dream.diffusion_generate_threshold",
        /// Fast-dLLM for Dream: blocks, with a prefix or a dual cache.
        DreamBlock = "dream.diffusion_generate_block",
        /// LLaDA's own: a fixed number of passes over each block of a fixed canvas.
        LladaGsai = "llada.gsai",
        /// Fast-dLLM for LLaDA without a cache.
        LladaNv = "llada.nv",
        /// Fast-dLLM for LLaDA with a prefix cache.
        LladaNvPrefix = "llada.nv_prefix",
        /// Fast-dLLM for LLaDA with a dual cache.
        LladaNvDual = "llada.nv_dual",
        /// Ours, for full attention: a canvas that moves along with the blocks, a threshold, an end at the end token.
        Canvas = "diffulex.canvas",
    }
}

choices! {
    /// Which masks a pass fills.
    Strategy {
        /// SDAR: the step's quota, from the first mask on.
        Sequential = "sequential",
        /// SDAR: the step's quota, the most confident ones.
        LowConfidenceStatic = "low_confidence_static",
        /// SDAR: all above the threshold, at least the step's quota.
        LowConfidenceDynamic = "low_confidence_dynamic",
        /// Dream: each mask by a draw of its own.
        Origin = "origin",
        /// Dream: the step's quota, by the token's probability.
        MaskgitPlus = "maskgit_plus",
        /// Dream: the step's quota, by the distance of the two best tokens.
        TopkMargin = "topk_margin",
        /// Dream: the step's quota, by the entropy of the distribution.
        Entropy = "entropy",
        /// Dream: all above the threshold, at least one.
        ConfidenceThreshold = "confidence_threshold",
        /// LLaDA: the step's quota, the most confident ones.
        LowConfidence = "low_confidence",
        /// LLaDA: the step's quota, at random.
        Random = "random",
    }
}

choices! {
    /// Which keys and values a pass reuses although the sequence has changed since.
    Reuse {
        /// None: every pass is exact.
        None = "none",
        /// Fast-dLLM v2: those of the block outside its small block.
        Block = "block",
        /// Those of everything before the block.
        Prefix = "prefix",
        /// Those of everything outside the block.
        Dual = "dual",
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
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Which masks a pass fills, where the algorithm leaves the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Passes that a block (SDAR) or the whole answer (Dream, LLaDA) is meant to take; without it one a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Confidence above which tokens are accepted, one a block; the last repeats.
    pub threshold: Vec<f64>,
    /// Tokens of a small block (Fast-dLLM v2); without it the block is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub small_block: Option<u32>,
    /// Keys and values reused within a block.
    #[serde(default = "Generation::no_reuse")]
    pub reuse: Reuse,
    /// Masks kept in view from the beginning of the block on (`diffulex.canvas`); without it those of the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Where Dream's schedule ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f32>,
    /// Temperature of the choice of positions (Dream); without it the most confident are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg_temp: Option<f32>,
    /// Scale of classifier-free guidance (LLaDA); without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
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
        let facts = family.facts();
        let block = block.unwrap_or(facts.block);
        let common = Generation {
            family,
            attention: facts.attention,
            logits: facts.logits,
            block,
            mask_id,
            end_ids,
            algorithm: Algorithm::Canvas,
            strategy: None,
            steps: None,
            threshold: vec![0.9],
            small_block: None,
            reuse: Reuse::None,
            window: None,
            eps: None,
            alg_temp: None,
            guidance: None,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            max_tokens: 256,
            seed: 0,
        };
        match family {
            Family::Sdar => Generation {
                algorithm: Algorithm::SdarBlockDiffusion,
                strategy: Some(Strategy::LowConfidenceDynamic),
                ..common
            },
            Family::FastDllmV2 => {
                Generation { algorithm: Algorithm::FastDllmGenerate, small_block: Some(block.min(8)), ..common }
            }
            Family::Dream => Generation {
                strategy: Some(Strategy::Entropy),
                reuse: Reuse::Dual,
                window: Some(128),
                eps: Some(0.001),
                ..common
            },
            Family::Llada => {
                Generation { strategy: Some(Strategy::LowConfidence), reuse: Reuse::Dual, window: Some(128), ..common }
            }
        }
    }

    fn no_reuse() -> Reuse {
        Reuse::None
    }
}
