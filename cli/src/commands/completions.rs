//! `completions`: what a shell needs to complete commands and flags.

use clap::CommandFactory;
use diffulex_edge::Error;

use crate::args::{Cli, Completions};
use crate::terminal::print;

/// Runs the command.
pub(crate) fn run(args: &Completions) -> Result<bool, Error> {
    let mut command = Cli::command();
    let (name, mut script) = (command.get_name().to_string(), Vec::new());
    clap_complete::generate(args.shell, &mut command, &name, &mut script);
    // In clap_complete 4.6 two parts of a script for bash call a name with a dash differently (its issue 6421).
    let script = String::from_utf8_lossy(&script).replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    print(&script)?;
    Ok(true)
}
