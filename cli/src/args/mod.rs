//! The command line: every flag is declared here, with its help, and nothing else.

mod build;
mod chat;
mod run;
mod show;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use build::{Build, Context, Export};
pub(crate) use chat::{Chat, completed};
pub(crate) use run::{Run, Sampling};
pub(crate) use show::Show;
pub(crate) use verify::{Bench, Verify};

/// Compile diffusion language models for phones, prove the artifacts, and run them.
#[derive(Debug, Parser)]
#[command(name = "diffulex-edge", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Without a command it is `chat`.

Examples:
  diffulex-edge                                                     talk to the demo model inside the program
  diffulex-edge run recipes/demo.toml --prompt \"What is 27 + 58?\"    build if needed, then answer
  diffulex-edge build recipes/demo.toml                             build every artifact of a recipe
  diffulex-edge verify recipes/demo.toml                            prove the artifacts against the checkpoint
  diffulex-edge show artifacts/demo-xnnpack-f16                     what is in an artifact";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the artifacts of a recipe that are not fresh
    Build(Build),
    /// Export a checkpoint to one artifact, without a recipe
    Export(Export),
    /// Print what a recipe, an artifact or a checkpoint says
    Show(Show),
    /// Prove an artifact equal to its source, or a checkpoint equal to recorded runs
    Verify(Verify),
    /// Compile a graph of a bundle for a chip, as builds do
    Context(Context),
    /// Time the steps of an artifact, or of several side by side
    Bench(Bench),
    /// Answer a prompt with a recipe, an artifact or a checkpoint
    Run(Box<Run>),
    /// Talk to a model, and see its answers form
    Chat(Box<Chat>),
}

/// Where recipes find checkpoints and builds go.
#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Override one value of the recipe, as often as needed, such as shape.cache=1024
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Folder of downloaded checkpoints
    #[arg(long, value_name = "DIR", env = "DIFFULEX_MODELS")]
    pub(crate) models: Option<PathBuf>,
    /// Folder that artifacts are written to
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub(crate) out: PathBuf,
    /// Take only the builds whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageFormat {
    /// Sentences for people
    #[default]
    Text,
    /// One JSON object a line, each with a `reason`
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// The engine inside this program
    #[default]
    Tract,
    /// The engine inside this program, which reads an ONNX file in f32 by itself
    TractOnnx,
    /// The ExecuTorch runtime, where tests/engines/setup.sh installed it
    Executorch,
    /// ONNX Runtime on its CPU, for ONNX files, where tests/engines/setup.sh installed it
    Onnxruntime,
    /// ONNX Runtime on Qualcomm's HTP, or its emulator, for bundles
    Qnn,
}

impl EngineName {
    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            EngineName::Tract => "tract",
            EngineName::TractOnnx => "tract-onnx",
            EngineName::Executorch => "executorch",
            EngineName::Onnxruntime => "onnxruntime",
            EngineName::Qnn => "qnn",
        }
    }
}

/// What runs an artifact.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Engine {
    /// What runs the artifact
    #[arg(id = "engine", long = "engine", value_enum, default_value_t)]
    pub(crate) name: EngineName,
    /// The chip whose HTP `--engine qnn` asks for, such as sm8650 or "8 Elite"; without it the first of the bundle
    #[arg(long, value_name = "NAME")]
    pub(crate) soc: Option<String>,
}
