//! Flags of `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge completions bash > ~/.local/share/bash-completion/completions/diffulex-edge
  diffulex-edge completions zsh > ~/.zfunc/_diffulex-edge
  diffulex-edge completions fish > ~/.config/fish/completions/diffulex-edge.fish
  diffulex-edge completions elvish >> ~/.config/elvish/rc.elv
  diffulex-edge completions powershell >> profile.ps1")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diffulex-edge man > diffulex-edge.1
  diffulex-edge man --out ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Write the page of the program and one for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}
