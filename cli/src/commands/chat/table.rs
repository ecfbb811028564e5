//! The commands of the chat: one table for parsing, help and completion.

use diffulex_compiler::generation::Generation;
use diffulex_compiler::recipe::near_miss;

use crate::args::Sampling;
use crate::commands::flags;

/// A command.
pub(super) struct Command {
    /// Its name, without the stroke.
    pub(super) name: &'static str,
    /// What it takes, for people; nothing where it takes nothing.
    pub(super) takes: &'static str,
    /// What it does, for people.
    pub(super) help: &'static str,
    /// What it does.
    pub(super) does: Does,
}

/// What a command does.
#[derive(Clone, Copy)]
pub(super) enum Does {
    Help,
    Quit,
    Clear,
    Set(Setting),
    System,
    Save,
    Load,
    Stats,
    Show,
}

/// A value of generation that a command changes.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    /// Its name in recipes.
    pub(super) name: &'static str,
    /// Notes the text of a value; `None` when it is no value of this kind.
    pub(super) note: fn(&mut Sampling, &str) -> Option<()>,
    /// The present value.
    pub(super) value: fn(&Generation) -> String,
}

const fn command(name: &'static str, takes: &'static str, help: &'static str, does: Does) -> Command {
    Command { name, takes, help, does }
}

/// A command that changes a setting of a field of [`Sampling`].
macro_rules! setting {
    ($name:literal, $takes:literal, $help:literal, $field:ident, $value:expr) => {
        command(
            $name,
            $takes,
            $help,
            Does::Set(Setting {
                name: stringify!($field),
                note: |given, text| {
                    given.$field = Some(text.parse().ok()?);
                    Some(())
                },
                value: $value,
            }),
        )
    };
}

/// All of them, in the order of `/help`.
pub(super) const COMMANDS: [Command; 18] = [
    command("help", "", "Show this", Does::Help),
    command("quit", "", "End; so does Ctrl-D", Does::Quit),
    command("exit", "", "The same", Does::Quit),
    command("clear", "", "Forget what was said", Does::Clear),
    setting!("temp", "<0.0-2.0>", "Temperature; 0 is greedy", temperature, |g| g.temperature.to_string()),
    setting!("topk", "<n>", "Draw from the n most likely tokens; 0 is all", top_k, |g| g.top_k.to_string()),
    setting!("topp", "<0.0-1.0>", "Draw from the most likely that together reach it; 1 is all", top_p, |g| g
        .top_p
        .to_string()),
    setting!("max", "<n>", "Most new tokens", max_tokens, |g| g.max_tokens.to_string()),
    setting!("iter", "<n>", "Passes that a block, or the whole answer, is meant to take", steps, |g| {
        g.steps.map_or("one a token".into(), |n| n.to_string())
    }),
    setting!("conf", "<0.0-1.0>", "Accept tokens above this confidence", threshold, |g| {
        let thresholds: Vec<String> = g.threshold.iter().map(f64::to_string).collect();
        thresholds.join(", ")
    }),
    setting!("block", "<n>", "Tokens decided together", block, |g| g.block.to_string()),
    setting!("algorithm", "<name>", "Run an original, every pass of it; `default` goes back", algorithm, |g| g
        .algorithm
        .to_string()),
    setting!("seed", "<n>", "Seed of the draws", seed, |g| g.seed.to_string()),
    command("system", "[text]", "Set the scene, or clear it, and begin anew", Does::System),
    command("save", "<file>", "Write the conversation", Does::Save),
    command("load", "<file>", "Go on with a saved one", Does::Load),
    command("stats", "", "Passes and speed of the last answer", Does::Stats),
    command("show", "", "The model and all settings", Does::Show),
];

/// The command of a name, or a sentence with the nearest.
pub(super) fn find(name: &str) -> Result<&'static Command, String> {
    COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
        match near_miss(name, COMMANDS.iter().map(|command| command.name)) {
            Some(near) => format!("there is no /{name}; did you mean /{near}?"),
            None => format!("there is no /{name}; /help shows what there is"),
        }
    })
}

/// A setting as the chat writes it; those without a command have a flag.
pub(super) fn spelled(name: &str) -> String {
    let sets = |command: &&Command| matches!(command.does, Does::Set(setting) if setting.name == name);
    match COMMANDS.iter().find(sets) {
        Some(command) => format!("/{}", command.name),
        None => flags::as_flag(name),
    }
}

/// The text of `/help`.
pub(super) fn help() -> String {
    let line = |command: &Command| {
        let name = format!("/{} {}", command.name, command.takes);
        format!("{name:<18} {}\n", command.help)
    };
    let keys = "A line that ends in \\ goes on in the next, and so does one after Alt-Enter. Ctrl-C stops an answer.\n";
    COMMANDS.iter().map(line).collect::<String>() + keys
}
