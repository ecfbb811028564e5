//! `context`: one graph of a bundle compiled for one chip.

use std::path::Path;
use std::process::Command;

use diffulex_edge::{Error, subject};
use diffulex_targets::qnn::{Soc, socs};

use super::onnx_runtime;
use crate::args::Context;
use crate::terminal::say;

/// Runs the command.
pub(crate) fn run(args: &Context) -> Result<bool, Error> {
    let soc = socs::find(&args.soc).map_err(|error| Error::Usage(error.to_string()))?;
    let half = subject::artifact(&args.graph)?.unrounded()?.is_none();
    onnx_runtime(Some(soc))?.compile(&args.graph, soc, half, &args.out)?;
    say(&format!("{}: compiled for {soc} into {}\n", args.graph.display(), args.out.display()))?;
    Ok(true)
}

/// Why graphs cannot be compiled here, if they cannot.
pub(super) fn missing() -> Result<(), String> {
    match onnx_runtime(None) {
        Ok(installed) if installed.compiles() => Ok(()),
        Ok(_) => {
            Err("Qualcomm's libraries are not installed: run `tests/engines/setup.sh qnn` of the source tree".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The command in a process of its own: Qualcomm's compiler numbers what it makes, so only the first of a process has the
/// same bytes every time.
pub(super) fn apart(graph: &Path, soc: &Soc, out: &Path) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(Error::io("the program itself"))?;
    let mut command = Command::new(program);
    command.arg("context").arg(graph).args(["--soc", soc.name]).arg("--out").arg(out);
    let done = command.output().map_err(Error::io("the program itself"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let name = graph.file_name().unwrap_or_default().display();
    Err(Error::Usage(format!("{name} cannot be compiled for {soc} ({}): {}", done.status, said.trim())))
}
