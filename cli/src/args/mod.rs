//! The command line: every flag is declared here, with its help, and nothing else.

mod build;
mod chat;
mod run;
mod shell;
mod show;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use build::{Build, Clean, Context, Export, FRESHNESS, List};
pub(crate) use chat::{Chat, completed};
pub(crate) use run::{Run, Sampling};
pub(crate) use shell::{Completions, Man};
pub(crate) use show::Show;
pub(crate) use verify::{Bench, Verify};

/// Compile diffusion language models for phones, prove the artifacts, and run them.
#[derive(Debug, Parser)]
#[command(name = "diffulex-edge", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Without a command it is `chat`.

Examples:
  diffulex-edge                                                   talk to the demo model
  diffulex-edge run recipes/demo.toml --prompt \"What is 27 + 58?\"  build if needed, then answer
  diffulex-edge build recipes/demo.toml                           build every artifact of a recipe
  diffulex-edge verify recipes/demo.toml                          prove them equal to the checkpoint
  diffulex-edge show artifacts/demo-xnnpack-f16                   what is in an artifact";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the artifacts of recipes that are not fresh
    Build(Build),
    /// List builds and artifacts
    List(List),
    /// Remove artifacts, and what killed builds left
    Clean(Clean),
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
    /// Talk to a model, and see its answers form
    Chat(Box<Chat>),
    /// Print the completions of a shell
    Completions(Completions),
    /// Print the manual page of the program, or write one for each command
    Man(Man),
}

/// What stands below the flags in a command's help: the text before `Examples:`, and each line after it.
pub(crate) fn notes_and_examples(command: &clap::Command) -> (String, Vec<String>) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (notes, examples) = text.split_once("Examples:\n").unwrap_or((&text, ""));
    (notes.trim().to_string(), examples.lines().map(|line| line.trim().to_string()).collect())
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every command with its full name.
    fn commands(command: &clap::Command, found: &mut Vec<clap::Command>) {
        found.push(command.clone());
        command.get_subcommands().for_each(|command| commands(command, found));
    }

    /// The words of a line of a shell behind its pipes, without what is redirected and without the remark that stands
    /// apart from it.
    fn words(line: &str) -> Vec<String> {
        let line = line.split("  ").next().and_then(|line| line.rsplit(" | ").next()).unwrap_or_default();
        let words = shlex::split(line).unwrap_or_else(|| panic!("a quote is left open: {line}"));
        words.into_iter().take_while(|word| !word.starts_with('>')).collect()
    }

    /// A line as the program parses it.
    fn parsed(words: &[String]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(completed(words.iter().map(Into::into)))
    }

    #[test]
    fn every_example_of_every_command_parses() {
        let (mut program, mut found) = (Cli::command().disable_help_subcommand(true), Vec::new());
        program.build();
        commands(&program, &mut found);
        assert!(found.len() > 8);
        for command in &found {
            let name = command.get_name();
            let (_, examples) = notes_and_examples(command);
            assert!(!examples.is_empty(), "{name} has no example");
            let mut own = 0;
            for example in &examples {
                let words = words(example);
                assert!(example.chars().count() <= 98, "{example}: is wrapped where a terminal has 100 columns");
                assert_eq!(words.first().map(String::as_str), Some("diffulex-edge"), "{example}");
                if let Err(error) = parsed(&words) {
                    panic!("{name}: {example}\n{error}");
                }
                own += usize::from(words.iter().any(|word| word == name));
            }
            assert!(own > 0, "{name}: no example shows it");
        }
    }

    #[test]
    fn every_command_of_the_readme_parses() {
        let readme = include_str!("../../../README.md").replace("\\\n", "");
        let inline = readme.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`'));
        let lines = readme.lines().chain(inline).filter(|line| line.starts_with("diffulex-edge "));
        let mut count = 0;
        for line in lines {
            let command = line.split("  #").next().unwrap_or_default();
            let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Err(error) = parsed(&words(&command)) {
                panic!("{line}\n{error}");
            }
            count += 1;
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
