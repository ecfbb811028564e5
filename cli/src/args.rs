//! The command line: every flag is declared here, with its help.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use diffulex_compiler::recipe::TargetName;

/// Compile diffusion language models for phones, prove the artifacts, and run them.
#[derive(Debug, Parser)]
#[command(name = "diffulex-edge", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge build recipes/demo.toml
  diffulex-edge build recipes/sdar-1.7b.toml --models ~/models --set shape.cache=1024
  diffulex-edge build recipes/demo.toml --only f16 --dump-ir ir --explain fuse-qkv
  diffulex-edge build recipes/demo.toml --only f32 --stop-after fuse-swiglu
  diffulex-edge build recipes/demo.toml --set 'matrix.quant=[\"f16\",\"int8\"]' --report report.html
  diffulex-edge build recipes/coreml/demo.toml --deny coreml::fused-attention")]
pub(crate) struct Build {
    /// The recipe
    pub(crate) recipe: PathBuf,
    #[command(flatten)]
    pub(crate) places: Places,
    /// Build even what is fresh
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the module after this pass and write no artifact
    #[arg(long, value_name = "PASS", conflicts_with = "message_format")]
    pub(crate) stop_after: Option<String>,
    /// Write the module after every pass to DIR/BUILD/NN-PASS.ir
    #[arg(long, value_name = "DIR")]
    pub(crate) dump_ir: Option<PathBuf>,
    /// Say for every place what this pass did there, or why it did nothing
    #[arg(long, value_name = "PASS", conflicts_with = "message_format")]
    pub(crate) explain: Option<String>,
    /// Fail, and write nothing, where devices are known to do this badly: the name of a lint, or `warnings`
    #[arg(long, value_name = "LINT")]
    pub(crate) deny: Vec<String>,
    /// Write a page that shows the error of every weight
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// How to report
    #[arg(long, value_enum, default_value_t)]
    pub(crate) message_format: MessageFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The same as a recipe that builds on that of the family; --print-recipe shows it, and `build` makes the same bytes of it.

Examples:
  diffulex-edge export --hf-model-path SDAR-1.7B-Chat --output-path model.pte --backend xnnpack --dtype bfloat16
  diffulex-edge export --hf-model-path SDAR-1.7B-Chat --output-path model.pte --dtype 8da4w --set shape.cache=1024
  diffulex-edge export --hf-model-path SDAR-1.7B-Chat --output-path model.pte --dtype int8 --print-recipe > model.toml
  diffulex-edge export --hf-model-path SDAR-1.7B-Chat --output-path model.mlpackage --backend coreml --dtype int4
  diffulex-edge export --hf-model-path SDAR-1.7B-Chat --output-path model.qnn --backend qnn --dtype w8a16 --soc sm8650")]
pub(crate) struct Export {
    /// The checkpoint's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) hf_model_path: PathBuf,
    /// The artifact to write
    #[arg(long, value_name = "FILE")]
    pub(crate) output_path: PathBuf,
    /// What to export for
    #[arg(long, value_name = "NAME", default_value = "xnnpack", value_parser = target())]
    pub(crate) backend: TargetName,
    /// How weights are stored: bfloat16, float16, float32, int8, int4, or another scheme of recipes/base.toml (8da8w, 8da4w,
    /// w8a16, w4a16); without it float16, or for qnn w8a16
    #[arg(long, value_name = "NAME")]
    pub(crate) dtype: Option<String>,
    /// A chip that a bundle is for, as often as needed, such as sm8650 or "8 Elite"
    #[arg(long, value_name = "NAME")]
    pub(crate) soc: Vec<String>,
    /// Override one value of the recipe, as often as needed, such as shape.cache=1024
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Fail, and write nothing, where devices are known to do this badly: the name of a lint, or `warnings`
    #[arg(long, value_name = "LINT")]
    pub(crate) deny: Vec<String>,
    /// Print the recipe and write no artifact
    #[arg(long)]
    pub(crate) print_recipe: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs the libraries of ONNX Runtime and of Qualcomm; tests/engines/setup.sh qnn installs them.

Examples:
  diffulex-edge context artifacts/demo-qnn-w8a16.qnn/model.onnx --soc sm8750 --out SM8750
  diffulex-edge context model.qnn/model.onnx --soc \"8 Gen 3\" --out SM8650")]
pub(crate) struct Context {
    /// The graph: an ONNX file
    pub(crate) graph: PathBuf,
    /// The chip, by its number or as it is sold
    #[arg(long, value_name = "NAME")]
    pub(crate) soc: String,
    /// Folder that the context and its binary are written to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge show recipes/demo.toml                   each value, and the file it comes from
  diffulex-edge show artifacts/demo-xnnpack-f16          sizes, the error of each kind of weight, defaults
  diffulex-edge show artifacts/demo-xnnpack-f16 --report report.html
  diffulex-edge show artifacts/demo-xnnpack-f16 --ir     the module that was read back from it
  diffulex-edge show artifacts/demo-coreml-int4 --deny warnings    and what devices may do badly with it
  diffulex-edge show recipes/demo/model                  what is in a checkpoint")]
pub(crate) struct Show {
    /// A recipe, an artifact or its folder, or a checkpoint
    pub(crate) path: PathBuf,
    /// Print the module
    #[arg(long)]
    pub(crate) ir: bool,
    /// Print the program of a Core ML package, one operation a line
    #[arg(long, conflicts_with = "ir")]
    pub(crate) mil: bool,
    /// Print the graph of an ONNX file or of a bundle for Qualcomm's HTP, one operator a line
    #[arg(long, conflicts_with_all = ["ir", "mil"])]
    pub(crate) onnx: bool,
    /// Fail where devices are known to do this badly: the name of a lint, or `warnings`
    #[arg(long, value_name = "LINT")]
    pub(crate) deny: Vec<String>,
    /// Write a page that shows the error of every weight of an artifact, or of all those of a recipe
    #[arg(long, value_name = "FILE.html", conflicts_with = "ir")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 all checks passed, 1 a check failed, 2 the verification could not be carried out.

Examples:
  diffulex-edge verify recipes/demo.toml
  diffulex-edge verify recipes/demo.toml --engine executorch
  diffulex-edge verify model.pte --against checkpoint/
  diffulex-edge verify checkpoint/ --reference logits.safetensors --trajectories runs.json --message-format json
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
  diffulex-edge bench artifacts/demo-xnnpack-f16 artifacts/demo-xnnpack-8da4w --block 4 --cache 256 --runs 50
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

/// A target by its name.
fn target() -> impl TypedValueParser<Value = TargetName> {
    PossibleValuesParser::new(TargetName::NAMES).try_map(|name| TargetName::from_name(&name).ok_or("is no target"))
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge run recipes/demo.toml --prompt \"What is 27 + 58?\"
  diffulex-edge run recipes/demo.toml --verify --prompt \"Tell me a story about a fox and a lantern.\"
  diffulex-edge run artifacts/demo-xnnpack-f16 --engine executorch --prompt \"Hello!\"
  diffulex-edge run model.pte --tokenizer checkpoint/ --raw --prompt \"Once\" --temperature 0.7 --seed 3
  diffulex-edge run recipes/demo.toml --prompts questions.jsonl > answers.jsonl
  diffulex-edge run Dream-v0-Instruct-7B/ --prefix \"def area(r):\" --suffix \"return a\" --length 24
  diffulex-edge run LLaDA-8B-Instruct/ --prompt \"Hi\" --algorithm llada.gsai --max-tokens 64 --steps 32")]
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
    /// Folder with tokenizer.json, for an artifact without its folder
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
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
#[derive(Debug, Args)]
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
