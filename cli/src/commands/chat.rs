//! `chat`: a conversation, line by line.

mod table;
mod told;
mod words;

use std::path::Path;

use diffulex_edge::answer::Model;
use diffulex_edge::conversation::{Conversation, Saved};
use diffulex_edge::harmless::harmless;
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::{Error, demo};
use diffulex_runtime::generate::{Behaviour, End, GenerateError};

use super::{engine, flags, folders, note_end, recipes_only, run, with_tokenizer};
use crate::args::{Chat, Sampling};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::line::{Input, Lines};
use crate::terminal::live::Screen;
use crate::terminal::{note, print, print_error};
use table::{Does, Setting, find, spelled};
use words::Known;

/// Runs the command. At a terminal a mistake is told and can be mended; where lines are read from elsewhere, the
/// conversation goes on too, but has failed in the end.
pub(crate) fn run(args: &Chat) -> Result<bool, Error> {
    if args.device != "cpu" {
        let device = &args.device;
        return Err(Error::Usage(format!(
            "`--device {device}`: this program computes on the cpu; `--engine qnn` runs a bundle on Qualcomm's HTP, and \
             `--engine executorch`, `onnxruntime` are other engines for the cpu"
        )));
    }
    let given = [&args.path, &args.model_path, &args.pte_path].into_iter().flatten().next();
    // It may lie in a folder that goes away with this value.
    let demo;
    let path = match given {
        Some(path) => path.as_path(),
        None => {
            demo = demo::unpack(folders::cache().as_deref()).map_err(Error::io("the demo model"))?;
            demo.path()
        }
    };
    let Some(mut opened) = opened(args, path)? else { return Ok(false) };
    if given.is_none() {
        opened.name = "demo".into();
    }
    let mut talk = conversation(args, opened)?;
    match given {
        None => note(DEMO),
        Some(_) => note(&format!("{}; /help shows the commands", talk.name())),
    }
    if !talk.model().has_template() {
        note("the model has no chat template: messages and answers continue one another as plain text");
    }
    let mut algorithms: Vec<String> = vec!["default".into()];
    algorithms.extend(talk.model().generation().family.facts().algorithms.iter().map(|a| a.name().to_string()));
    let lines = Lines::new(Known { algorithms }, folders::state().map(|folder| folder.join("history")));
    let interrupt = if lines.are_typed() { Some(Interrupt::listen(false)?) } else { None };
    Talk { defaults: talk.model().generation().clone(), talk: &mut talk, interrupt, plain: args.plain }.hold(lines)
}

const DEMO: &str =
    "demo model: small sums, questions, stories; `diffulex-edge chat PATH` talks to another, /help shows the commands";

/// What the path stands for; nothing when its build failed.
fn opened(args: &Chat, path: &Path) -> Result<Option<Opened>, Error> {
    let kind = subject::kind(path)?;
    let wrong =
        |flag: &str, is: &str| Err(Error::Usage(format!("{}: {flag} names {is}; give it as PATH", path.display())));
    match kind {
        Kind::Bundle | Kind::Artifact | Kind::Recipe if args.model_path.is_some() => {
            wrong("--model-path", "a checkpoint, and this is none")
        }
        Kind::Checkpoint | Kind::Recipe if args.pte_path.is_some() => {
            wrong("--pte-path", "an artifact, and this is none")
        }
        Kind::Recipe => run::built(path, &args.places, &mut |_| Ok(true)),
        _ => {
            recipes_only(&args.places)?;
            subject::open(path, None).map(Some)
        }
    }
}

/// The conversation that the flags ask for.
fn conversation(args: &Chat, mut opened: Opened) -> Result<Conversation, Error> {
    flags::apply(&args.sampling, opened.settings()?, flags::as_flag)?;
    let opened = with_tokenizer(args.tokenizer.as_deref(), opened)?;
    let behaviour = if args.sampling.algorithm.is_some() { Behaviour::Original } else { Behaviour::Answer };
    let model = Model::of(&opened, &engine(&args.engine, &opened)?, behaviour)?;
    Ok(Conversation::new(&opened.name, model, args.system.clone()))
}

/// A conversation under way.
struct Talk<'a> {
    talk: &'a mut Conversation,
    /// The values that it began with.
    defaults: diffulex_compiler::generation::Generation,
    interrupt: Option<Interrupt>,
    plain: bool,
}

impl Talk<'_> {
    /// Takes line after line.
    fn hold(mut self, mut lines: Lines<Known>) -> Result<bool, Error> {
        let mut well = true;
        loop {
            let text = match lines.next("> ")? {
                Input::Text(text) => text,
                Input::GivenUp => continue,
                Input::End => break,
            };
            let done = match text.trim() {
                "" => continue,
                line if line.starts_with('/') => self.command(line),
                _ => self.answer(&text).map(|()| true),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break,
                Err(error @ Error::Io { .. }) if is_gone(&error) => return Err(error),
                Err(error) => {
                    print_error(&error);
                    well = false;
                }
            }
        }
        Ok(well || lines.are_typed())
    }

    /// Answers a message.
    fn answer(&mut self, text: &str) -> Result<(), Error> {
        let mut screen = Screen::new(self.plain);
        let stoppable = self.interrupt.as_ref().map(Interrupt::stoppable);
        let stopped = || stoppable.as_ref().is_some_and(|stoppable| stoppable.is_stopped());
        let mut failed = Ok(());
        let said = self.talk.say(text, &mut |progress| screen.watch(progress, &mut failed, &stopped));
        let said = said.map_err(|error| friendly(flags::named(error, spelled)));
        if said.is_err() {
            screen.abandon()?;
        }
        screen.finish(said?)?;
        failed?;
        let Some(trace) = self.talk.last() else { return Ok(()) };
        if trace.end == End::Stopped {
            note("(stopped; what was said until then stays in the conversation)");
        }
        if note_end(self.talk.model(), trace) {
            note("/clear begins anew");
        }
        Ok(())
    }

    /// Does what a command asks for; `false` ends the conversation.
    fn command(&mut self, line: &str) -> Result<bool, Error> {
        let (name, rest) = line[1..].split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
        let (command, rest) = (find(name).map_err(|why| Error::Usage(harmless(&why).into_owned()))?, rest.trim());
        if command.takes.is_empty() && !rest.is_empty() {
            return Err(Error::Usage(format!("/{name} takes nothing")));
        }
        if command.takes == "<file>" && rest.is_empty() {
            return Err(Error::Usage(format!("/{name} takes the name of a file")));
        }
        match command.does {
            Does::Help => print(&table::help())?,
            Does::Quit => return Ok(false),
            Does::Clear => self.talk.clear(),
            Does::Set(setting) if rest.is_empty() => print(&format!("{}\n", self.value(setting)))?,
            Does::Set(setting) => {
                self.set(setting, rest, &format!("/{name} takes {}", command.takes))?;
                print(&format!("{name} is {}\n", (setting.value)(self.talk.model().generation())))?;
            }
            Does::System => self.talk.set_system((!rest.is_empty()).then(|| rest.to_string())),
            Does::Save => {
                self.talk.saved().write(Path::new(rest))?;
                print(&format!("saved {} messages\n", self.talk.turns().len()))?;
            }
            Does::Load => self.load(Path::new(rest))?,
            Does::Stats => print(&told::stats(self.talk))?,
            Does::Show => print(&told::show(self.talk))?,
        }
        Ok(true)
    }

    /// The present value of a setting; of the algorithm also what else there is.
    fn value(&self, setting: Setting) -> String {
        let generation = self.talk.model().generation();
        let value = (setting.value)(generation);
        match setting.name {
            "algorithm" => {
                let known: Vec<&str> = generation.family.facts().algorithms.iter().map(|a| a.name()).collect();
                format!("{value}; {} has {}", generation.family, known.join(", "))
            }
            _ => value,
        }
    }

    /// Changes a setting, or nothing.
    fn set(&mut self, setting: Setting, text: &str, takes: &str) -> Result<(), Error> {
        let mut generation = self.talk.model().generation().clone();
        let mut behaviour = self.talk.model().behaviour();
        if setting.name == "algorithm" {
            behaviour = if text == "default" { Behaviour::Answer } else { Behaviour::Original };
        }
        if (setting.name, text) == ("algorithm", "default") {
            generation.algorithm = self.defaults.algorithm;
        } else {
            let mut given = Sampling::default();
            let wrong = || Error::Usage(format!("{takes}, not `{}`", harmless(text)));
            (setting.note)(&mut given, text).ok_or_else(wrong)?;
            flags::apply(&given, &mut generation, spelled)?;
        }
        self.talk.configure(&generation, behaviour).map_err(|error| flags::named(error, spelled))
    }

    /// Goes on with a saved conversation, and with its settings where they are of a model like this one.
    fn load(&mut self, file: &Path) -> Result<(), Error> {
        let saved = Saved::read(file)?;
        let fits = saved.settings_fit(self.talk.model().generation());
        if fits {
            let wrong = |error: Error| Error::Usage(format!("{}: {}", file.display(), flags::named(error, spelled)));
            flags::check(&saved.settings, spelled).map_err(wrong)?;
            let behaviour = if saved.original { Behaviour::Original } else { Behaviour::Answer };
            self.talk.configure(&saved.settings, behaviour).map_err(wrong)?;
        }
        let (messages, model) = (saved.messages.len(), harmless(&saved.model).into_owned());
        self.talk.resume(saved);
        print(&format!("loaded {messages} messages\n"))?;
        if !fits {
            note(&format!("the settings are of another model, {model}, and were left as they are"));
        }
        Ok(())
    }
}

/// Says what to do where a conversation has grown too long.
fn friendly(error: Error) -> Error {
    match error {
        Error::Generate(GenerateError::TooLong { .. }) => {
            Error::Usage(format!("{error}; nothing was dropped, /clear begins anew"))
        }
        other => other,
    }
}

/// Whether nobody reads what is printed.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { file, .. } if file == Path::new("standard output"))
}
