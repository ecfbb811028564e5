//! The program: parses the command line, runs one command, prints what stopped it.

mod args;
mod commands;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Exit status of a verification that found a difference, and of any other command that failed.
const FAILED: u8 = 1;
/// Exit status of a verification that could not be carried out. Clap uses it for a wrong command line.
const NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse_from(args::completed(std::env::args_os()));
    let (done, failure) = match cli.command {
        Command::Build(args) => (commands::build::run(&args), FAILED),
        Command::List(args) => (commands::list::run(&args), FAILED),
        Command::Clean(args) => (commands::clean::run(&args), FAILED),
        Command::Export(args) => (commands::export::run(&args), FAILED),
        Command::Show(args) => (commands::show::run(&args), FAILED),
        Command::Verify(args) => (commands::verify::run(&args), NOT_RUN),
        Command::Context(args) => (commands::context::run(&args), FAILED),
        Command::Bench(args) => (commands::bench::run(&args), FAILED),
        Command::Run(args) => (commands::run::run(&args), FAILED),
        Command::Chat(args) => (commands::chat::run(&args), FAILED),
        Command::Completions(args) => (commands::completions::run(&args), FAILED),
        Command::Man(args) => (commands::man::run(&args), FAILED),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        // The reader went away; there is nobody to tell.
        Err(diffulex_edge::Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::from(failure)
        }
    }
}
