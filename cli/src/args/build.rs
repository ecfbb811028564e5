//! Flags of `build`, `export` and `context`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use diffulex_compiler::recipe::{Dtype, TargetName};

use super::{MessageFormat, Places};

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
