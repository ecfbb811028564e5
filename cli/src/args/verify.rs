//! Flags of `verify` and `bench`.

use std::path::PathBuf;

use clap::Args;

use super::{Engine, MessageFormat, Places};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 all checks passed, 1 a check failed, 2 the verification could not be carried out.

Examples:
  diffulex-edge verify recipes/demo.toml
  diffulex-edge verify recipes/demo.toml --engine executorch --message-format json
  diffulex-edge verify model.pte --against checkpoint/
  diffulex-edge verify model.pte --against checkpoint/ --tolerance 1e-5
  diffulex-edge verify checkpoint/ --reference logits.safetensors --trajectories runs.json
  diffulex-edge verify artifacts/demo-xnnpack-f16 --conversations chat.json --explain")]
pub(crate) struct Verify {
    /// A recipe, an artifact or its folder, or a checkpoint
    pub(crate) path: PathBuf,
    /// Recorded logits to compare with
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Vec<PathBuf>,
    /// Recorded generation runs to repeat
    #[arg(long, value_name = "FILE")]
    pub(crate) trajectories: Vec<PathBuf>,
    /// Recorded conversations to hold again, from the chat template to the text of the answer
    #[arg(long, value_name = "FILE")]
    pub(crate) conversations: Vec<PathBuf>,
    /// Where a run departs, name both candidates and their probabilities
    #[arg(long)]
    pub(crate) explain: bool,
    /// Folder with tokenizer.json, for conversations with an artifact without its folder
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The checkpoint that an artifact must equal; without it the one of its manifest is looked for, here and in --models
    #[arg(long, value_name = "DIR")]
    pub(crate) against: Option<PathBuf>,
    /// Largest error of a logit, as a share of the largest; the usual limit of a check counts where it is tighter
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) tolerance: Option<f32>,
    /// Block length of the attention, where it is not the model's own
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) block: Option<u32>,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) places: Places,
    /// Write a page that shows the error of every weight, and what was found
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// How to report
    #[arg(long, value_enum, default_value_t)]
    pub(crate) message_format: MessageFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge bench artifacts/demo-xnnpack-8da4w --engine executorch
  diffulex-edge bench artifacts/demo-xnnpack-f16 artifacts/demo-xnnpack-8da4w --block 4 --runs 50
  diffulex-edge bench model.pte --engine executorch --threads 4 --message-format json")]
pub(crate) struct Bench {
    /// Artifacts, their folders, or checkpoints; several take turns
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// Tokens of a block
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub(crate) block: usize,
    /// Cached positions that the block sees
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub(crate) cache: usize,
    /// Tokens of a pass without a cache
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    pub(crate) full: usize,
    /// Rows that get logits; all without it
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) rows: Option<usize>,
    /// Passes that count, after two that do not
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = positive)]
    pub(crate) runs: usize,
    /// Threads to compute with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// How to report
    #[arg(long, value_enum, default_value_t)]
    pub(crate) message_format: MessageFormat,
}

/// A count of at least one.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) if number > 1_000_000 => Err("must be at most 1000000".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("is no number".into()),
    }
}
