//! Flags of `show`.

use std::path::PathBuf;

use clap::Args;

use super::Places;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge show recipes/demo.toml                   each value, and the file it comes from
  diffulex-edge show artifacts/demo-xnnpack-f16          sizes, errors of the weights, defaults
  diffulex-edge show artifacts/demo-xnnpack-f16 --report report.html
  diffulex-edge show artifacts/demo-xnnpack-f16 --ir     the module that was read back from it
  diffulex-edge show artifacts/demo-coreml-int4 --deny warnings  what devices may do badly with it
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
