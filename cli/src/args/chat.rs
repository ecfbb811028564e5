//! Flags of `chat`, which are those of the program without a command.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{Engine, Places, Sampling};

#[derive(Debug, Args)]
#[command(after_help = "\
What is not given comes from the recipe, the artifact or, for a checkpoint, the family: greedy (temperature 0), all
tokens (top-k 0, top-p 1), 256 new tokens. `/show` tells the values, `/help` the commands that change them.

Examples:
  diffulex-edge                                          talk to the demo model inside the program
  diffulex-edge chat recipes/demo.toml                   build if needed, then talk
  diffulex-edge chat SDAR-1.7B-Chat/ --system \"You are brief.\" --temperature 0.8 --top-k 50
  diffulex-edge --pte-path model.pte --tokenizer checkpoint/ --max-tokens 100
  printf 'Hello!\\n/stats\\n' | diffulex-edge chat artifacts/demo-xnnpack-f16")]
pub(crate) struct Chat {
    /// A recipe, an artifact or its folder, or a checkpoint; without it the demo model inside the program
    #[arg(conflicts_with_all = ["model_path", "pte_path"])]
    pub(crate) path: Option<PathBuf>,
    /// A checkpoint: another way to say PATH
    #[arg(long, value_name = "DIR", conflicts_with = "pte_path")]
    pub(crate) model_path: Option<PathBuf>,
    /// An artifact: another way to say PATH
    #[arg(long, value_name = "FILE")]
    pub(crate) pte_path: Option<PathBuf>,
    /// Folder with tokenizer.json, or that file, for an artifact without its folder
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Where to compute: cpu; other engines have names, see --engine
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// A turn before the first that sets the scene
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Print text only, where the answer would be drawn while it forms
    #[arg(long)]
    pub(crate) plain: bool,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) places: Places,
}

/// The command line with the command that it leaves out: flags alone are those of `chat`.
pub(crate) fn completed(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.into_iter().collect();
    let own = ["-h", "--help", "-V", "--version"];
    let chats = match given.get(1) {
        None => true,
        Some(first) => first.as_encoded_bytes().starts_with(b"-") && own.iter().all(|flag| first != flag),
    };
    if chats {
        given.insert(given.len().min(1), "chat".into());
    }
    given
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::completed;
    use clap::Parser;

    #[test]
    fn flags_alone_are_those_of_chat() {
        for (line, chats) in [
            ("diffulex-edge", true),
            ("diffulex-edge --max-tokens 50", true),
            ("diffulex-edge --pte-path model.pte", true),
            ("diffulex-edge chat", true),
            ("diffulex-edge show x", false),
        ] {
            let cli = Cli::try_parse_from(completed(line.split(' ').map(Into::into))).unwrap();
            assert_eq!(matches!(cli.command, Command::Chat(_)), chats, "{line}");
        }
        for line in ["diffulex-edge --help", "diffulex-edge -V", "diffulex-edge biuld"] {
            assert!(completed(line.split(' ').map(Into::into)).len() == 2, "{line}");
        }
    }
}
