//! What a host must know to generate text with a model, beside the graph: it travels with every artifact.

use serde::{Deserialize, Serialize};

/// A family of checkpoints, and so a published decoding algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// SDAR (JetLM).
    Sdar,
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

/// Which token a row of logits predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logits {
    /// Row `i` names token `i`.
    Aligned,
    /// Row `i` names token `i + 1`.
    Shifted,
}

/// Facts of the model and the defaults of generation; the content of `generation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The family.
    pub family: Family,
    /// Which keys a token sees.
    pub attention: Attention,
    /// Which token a row of logits predicts.
    pub logits: Logits,
    /// Tokens refined together.
    pub block: u32,
    /// The token that stands for "not yet known".
    pub mask_id: u32,
    /// Tokens that end an answer.
    pub end_ids: Vec<u32>,
    /// The published algorithm, `sdar.block_diffusion_generate`.
    pub algorithm: String,
    /// How a pass chooses the positions that it accepts.
    pub strategy: String,
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

impl Family {
    /// All families.
    pub const ALL: [Family; 1] = [Family::Sdar];

    /// The name in recipes and artifacts.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sdar => "sdar",
        }
    }
}
