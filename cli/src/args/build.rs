//! Flags of `build`, `export` and `context`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use diffulex_compiler::recipe::{Dtype, TargetName};

use super::{MessageFormat, Places};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 everything is built, 1 something is not, 2 the command line is wrong.

Examples:
  diffulex-edge build recipes/demo.toml
  diffulex-edge build recipes/demo.toml recipes/coreml/demo.toml -j 2 --memory 2G
  diffulex-edge build recipes --models ~/models --dry-run
  diffulex-edge build recipes/demo.toml --explain
  diffulex-edge build recipes/demo.toml --locked --message-format json
  diffulex-edge build recipes/demo.toml --force --timings timings.html
  diffulex-edge build recipes/sdar-1.7b.toml --models ~/models --set shape.cache=1024
  diffulex-edge build recipes/demo.toml --only f16 --dump-ir ir --explain fuse-qkv
  diffulex-edge build recipes/demo.toml --only f32 --stop-after fuse-swiglu
  diffulex-edge build recipes/demo.toml --set 'matrix.quant=[\"f16\",\"int8\"]' --report report.html
  diffulex-edge build recipes/coreml/demo.toml --deny coreml::fused-attention")]
pub(crate) struct Build {
    /// Recipes, or folders of them
    #[arg(required = true, value_name = "RECIPE")]
    pub(crate) recipes: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
    /// Build even what is fresh
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be built, why, and what it would take; write nothing
    #[arg(long, conflicts_with_all = ["stop_after", "dump_ir", "report", "timings"])]
    pub(crate) dry_run: bool,
    /// Say everything that changed since the last build; with PASS, for every place what that pass did there, or why it did
    /// nothing
    #[arg(long, value_name = "PASS", num_args = 0..=1, default_missing_value = FRESHNESS, value_parser = no_recipe)]
    pub(crate) explain: Option<String>,
    /// Most builds at once; without it as many as the processor has cores
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Most memory that builds take together, such as 512M or 8G; without it what is free
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// Go on with other builds when one fails
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Fail where a build would differ from recipes.lock: made from something else, or come out differently
    #[arg(long)]
    pub(crate) locked: bool,
    /// Print the module after this pass and write no artifact
    #[arg(long, value_name = "PASS", conflicts_with = "message_format")]
    pub(crate) stop_after: Option<String>,
    /// Write the module after every pass to DIR/BUILD/NN-PASS.ir
    #[arg(long, value_name = "DIR")]
    pub(crate) dump_ir: Option<PathBuf>,
    /// Fail, and write nothing, where devices are known to do this badly: the name of a lint, or `warnings`
    #[arg(long, value_name = "LINT")]
    pub(crate) deny: Vec<String>,
    /// Write a page that shows the error of every weight
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Write a page that shows what took how long
    #[arg(long, value_name = "FILE.html")]
    pub(crate) timings: Option<PathBuf>,
    /// How to report; recipes/ci/README.md lists the messages
    #[arg(long, value_enum, default_value_t)]
    pub(crate) message_format: MessageFormat,
}

/// What `--explain` speaks of when it names no pass.
pub(crate) const FRESHNESS: &str = "freshness";

/// A pass, where a recipe may have been meant.
fn no_recipe(text: &str) -> Result<String, String> {
    match text.ends_with(".toml") {
        true => Err("is no pass: write `--explain` behind the recipes".into()),
        false => Ok(text.into()),
    }
}

/// Bytes, such as `512M` or `1.5G`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "is no size: write a number with K, M, G or T behind it, such as 512M".to_string();
    let number = text.trim_end_matches(['B', 'b', 'i']);
    let unit = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let power = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let count: f64 = number[..number.len() - unit.len()].parse().map_err(|_| wrong())?;
    let bytes = count * (1u64 << power) as f64;
    if bytes >= 1.0 { Ok(bytes as u64) } else { Err(wrong()) }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge list                                          the artifacts in artifacts/
  diffulex-edge list recipes/demo.toml                        its builds, fresh or why not
  diffulex-edge list recipes --models ~/models --message-format json")]
pub(crate) struct List {
    /// Recipes, or folders of them; without one the artifacts that there are
    #[arg(value_name = "RECIPE")]
    pub(crate) recipes: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
    /// How to report
    #[arg(long, value_enum, default_value_t)]
    pub(crate) message_format: MessageFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge clean recipes/demo.toml                       remove what was built from it
  diffulex-edge clean recipes/demo.toml --only f32
  diffulex-edge clean --out artifacts --dry-run               what would go of all artifacts")]
pub(crate) struct Clean {
    /// Recipes, or folders of them; without one all artifacts that there are
    #[arg(value_name = "RECIPE")]
    pub(crate) recipes: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
    /// Say what would be removed; remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The same as a recipe that builds on that of the family; --print-recipe shows it, and `build` makes the same bytes of it.

Examples:
  diffulex-edge export --hf-model-path SDAR --output-path m.pte --backend xnnpack --dtype bfloat16
  diffulex-edge export --hf-model-path SDAR --output-path m.pte --dtype 8da4w --set shape.cache=1024
  diffulex-edge export --hf-model-path SDAR --output-path m.pte --dtype int8 --print-recipe > m.toml
  diffulex-edge export --hf-model-path SDAR --output-path m.mlpackage --backend coreml --dtype int4
  diffulex-edge export --hf-model-path SDAR --output-path m.qnn --backend qnn --soc sm8650")]
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
    /// How weights are stored, as recipes/base.toml says; without it float16, or for qnn w8a16
    #[arg(long, value_name = "NAME", value_parser = dtype())]
    pub(crate) dtype: Option<Dtype>,
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

/// A target by its name.
fn target() -> impl TypedValueParser<Value = TargetName> {
    PossibleValuesParser::new(TargetName::NAMES).try_map(|name| TargetName::from_name(&name).ok_or("is no target"))
}

/// A scheme by its name, or by PyTorch's.
fn dtype() -> impl TypedValueParser<Value = Dtype> {
    let torch = [("float32", Dtype::F32), ("float16", Dtype::F16), ("bfloat16", Dtype::Bf16)];
    let names = Dtype::NAMES.iter().copied().chain(torch.map(|(name, _)| name));
    PossibleValuesParser::new(names).try_map(move |name| {
        let known = torch.into_iter().find(|(other, _)| *other == name).map(|(_, dtype)| dtype);
        known.or(Dtype::from_name(&name)).ok_or("is no scheme")
    })
}
