//! Flags of `run`.

use std::path::PathBuf;

use clap::Args;

use super::{Engine, Places};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge run recipes/demo.toml --prompt \"What is 27 + 58?\"
  diffulex-edge run recipes/demo.toml --verify --prompt \"Tell me a story about a fox and a lantern.\"
  diffulex-edge run artifacts/demo-xnnpack-f16 --engine executorch --prompt \"Hello!\"
  diffulex-edge run model.pte --tokenizer checkpoint/ --raw --prompt \"Once\" --temperature 0.7
  diffulex-edge run recipes/demo.toml --prompts questions.jsonl > answers.jsonl
  diffulex-edge run Dream-v0-Instruct-7B/ --prefix \"def area(r):\" --suffix \"return a\" --length 24
  diffulex-edge run LLaDA-8B-Instruct/ --prompt \"Hi\" --algorithm llada.gsai --steps 32")]
pub(crate) struct Run {
    /// A recipe, an artifact or its folder, or a checkpoint
    pub(crate) path: PathBuf,
    /// What to answer
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// A file with one JSON object a line, each with a `prompt`; the answers are printed the same way
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gap: Gap,
    /// A turn before the prompt that sets the scene
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Verify before running
    #[arg(long)]
    pub(crate) verify: bool,
    /// The checkpoint that a bare artifact must equal, for `--verify`
    #[arg(long, value_name = "DIR", requires = "verify")]
    pub(crate) against: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// Folder with tokenizer.json, or that file, for an artifact without its folder
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Print text only, where the answer would be drawn while it forms
    #[arg(long)]
    pub(crate) plain: bool,
    /// Print passes, tokens a pass and tokens a second to the error stream
    #[arg(long)]
    pub(crate) stats: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

/// A gap to be filled, for models with full attention (Dream, LLaDA).
#[derive(Debug, Args)]
#[command(next_help_heading = "Infill")]
pub(crate) struct Gap {
    /// Text before the gap
    #[arg(long, value_name = "TEXT", requires = "length", conflicts_with_all = ["prompt", "prompts", "system"])]
    pub(crate) prefix: Option<String>,
    /// Text after the gap
    #[arg(long, value_name = "TEXT", requires = "length", conflicts_with_all = ["prompt", "prompts", "system"])]
    pub(crate) suffix: Option<String>,
    /// Tokens of the gap
    #[arg(long, value_name = "N", conflicts_with = "max_tokens", allow_negative_numbers = true)]
    pub(crate) length: Option<u32>,
}

/// What may differ from the artifact's defaults.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct Sampling {
    /// An algorithm by the name of the original, run exactly as the original runs it
    #[arg(long, value_name = "NAME")]
    pub(crate) algorithm: Option<String>,
    /// Most new tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<u32>,
    /// 0 is greedy, up to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw from the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<u32>,
    /// Draw from the most likely tokens that together reach P; 1 is all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Accept tokens above this confidence
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) threshold: Option<f64>,
    /// Passes that a block (SDAR) or the whole answer (Dream, LLaDA) is meant to take
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) steps: Option<u32>,
    /// Which masks a pass fills: a word of the algorithm, such as low_confidence_static, entropy or random
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Option<String>,
    /// Tokens decided together, for models with full attention
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) block: Option<u32>,
    /// Tokens of a small block (Fast-dLLM v2)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) small_block: Option<u32>,
    /// Keys and values reused within a block: none, block (Fast-dLLM v2), prefix or dual
    #[arg(long, value_name = "NAME")]
    pub(crate) reuse: Option<String>,
    /// Masks kept in view from the beginning of the block on (diffulex.canvas)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) window: Option<u32>,
    /// Where the schedule ends (Dream)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) eps: Option<f32>,
    /// Temperature of the choice of positions (Dream)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) alg_temp: Option<f32>,
    /// Scale of classifier-free guidance (LLaDA)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) guidance: Option<f32>,
    /// Seed of the draws
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
}
