//! `man`: pages of the program and its commands, made of what `--help` says.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use diffulex_edge::Error;
use diffulex_targets::artifact::write_alone;

use crate::args::{self, Cli, notes_and_examples};
use crate::terminal::{print, say};

/// Runs the command.
pub(crate) fn run(args: &args::Man) -> Result<bool, Error> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    match &args.out {
        Some(folder) => pages(&program, folder)?,
        None => print(&String::from_utf8_lossy(&page(&program).map_err(Error::io("standard output"))?))?,
    }
    Ok(true)
}

/// Writes the page of a command, and those of its own.
fn pages(command: &Command, folder: &Path) -> Result<(), Error> {
    let file = folder.join(Man::new(command.clone()).get_filename());
    let text = page(command).map_err(Error::io(&file))?;
    write_alone(&file, |out| out.write_all(&text))?;
    say(&format!("{}\n", file.display()))?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|command| pages(command, folder))
}

/// The page of a command.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let program = concat!("diffulex-edge ", env!("CARGO_PKG_VERSION"));
    let (man, mut page) = (Man::new(command.clone()).source(program), Vec::new());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let (notes, examples) = notes_and_examples(command);
    let mut rest = Roff::new();
    if !notes.is_empty() {
        rest.control("SH", ["NOTES"]).text([roman(notes)]);
    }
    rest.control("SH", ["EXAMPLES"]).control("nf", []);
    for example in examples {
        rest.text([roman(example)]);
    }
    rest.control("fi", []).to_writer(&mut page)?;
    Ok(page)
}
