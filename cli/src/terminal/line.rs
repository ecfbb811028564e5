//! The line that a user types: edited on a terminal, read as it is elsewhere.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use diffulex_edge::Error;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, CompletionType, Config, Context, Editor, Helper, KeyCode, KeyEvent, Modifiers};

use super::live::colors;

/// Lines that are kept for later.
const HISTORY: usize = 1000;

/// What a line can be completed by, known to whoever reads it.
pub(crate) trait Words {
    /// The words that may stand where `line` ends, each whole, and where the last word of `line` begins.
    fn words(&self, line: &str) -> (usize, Vec<String>);
    /// What may follow a line, in gray.
    fn hint(&self, line: &str) -> Option<String>;
    /// Whether the name of a file stands where `line` ends.
    fn wants_file(&self, line: &str) -> bool;
}

/// What came.
pub(crate) enum Input {
    /// A line, or several that belong together.
    Text(String),
    /// Nothing: the line was given up.
    GivenUp,
    /// No line will come.
    End,
}

/// Reads lines.
pub(crate) enum Lines<W: Words> {
    /// From a terminal.
    Edited(Box<Edited<W>>),
    /// From a file or another program.
    Read,
}

/// A line under the user's keys.
pub(crate) struct Edited<W: Words> {
    editor: Editor<Keys<W>, FileHistory>,
    history: Option<PathBuf>,
}

impl<W: Words> Lines<W> {
    /// From the input stream; lines typed at a terminal are kept in the file `history`, where it can be written.
    pub(crate) fn new(words: W, history: Option<PathBuf>) -> Lines<W> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Lines::Read;
        }
        let config = Config::builder().completion_type(CompletionType::List).auto_add_history(false);
        let config = config.max_history_size(HISTORY).and_then(|config| config.history_ignore_dups(true));
        let Ok(mut editor) = config.and_then(|config| Editor::with_config(config.build())) else { return Lines::Read };
        editor.set_helper(Some(Keys { words, files: FilenameCompleter::new(), colors: colors() }));
        for key in [KeyEvent(KeyCode::Enter, Modifiers::ALT), KeyEvent(KeyCode::Char('\r'), Modifiers::ALT)] {
            editor.bind_sequence(key, Cmd::Newline);
        }
        if let Some(file) = &history {
            // Without a history one can talk all the same.
            let _ = editor.load_history(file);
        }
        Lines::Edited(Box::new(Edited { editor, history }))
    }

    /// Whether somebody types.
    pub(crate) fn are_typed(&self) -> bool {
        matches!(self, Lines::Edited(_))
    }

    /// The next one; lines that end in `\` go on in the next.
    pub(crate) fn next(&mut self, prompt: &str) -> Result<Input, Error> {
        match self {
            Lines::Edited(edited) => edited.next(prompt),
            Lines::Read => read(),
        }
    }
}

impl<W: Words> Edited<W> {
    fn next(&mut self, prompt: &str) -> Result<Input, Error> {
        let styled = if colors() { format!("\x1b[1m{prompt}\x1b[0m") } else { prompt.to_string() };
        match self.editor.readline(&(prompt, styled.as_str())) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    self.keep(&text);
                }
                Ok(Input::Text(joined(&text)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::GivenUp),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(ReadlineError::Io(error)) => Err(Error::io("standard input")(error)),
            Err(error) => Err(Error::Usage(format!("the line cannot be edited: {error}"))),
        }
    }

    /// Adds a line to the history and its file, which only its user may read.
    fn keep(&mut self, text: &str) {
        let added = self.editor.add_history_entry(text);
        if let (Ok(true), Some(file)) = (added, &self.history) {
            let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
            // Without a history one can talk all the same.
            let _ = folder.map(|()| self.editor.append_history(file));
        }
    }
}

/// The next line of the input stream.
fn read() -> Result<Input, Error> {
    let (mut bytes, mut input) = (vec![], std::io::stdin().lock());
    loop {
        let before = bytes.len();
        input.read_until(b'\n', &mut bytes).map_err(Error::io("standard input"))?;
        if bytes.is_empty() {
            return Ok(Input::End);
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::Usage("standard input: is not UTF-8".into()))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if bytes.len() == before || !goes_on(text) {
            return Ok(Input::Text(joined(text)));
        }
    }
}

/// Whether a text says that its next line belongs to it.
fn goes_on(text: &str) -> bool {
    text.ends_with('\\')
}

/// The text without the signs that its lines belong together.
fn joined(text: &str) -> String {
    text.replace("\\\r\n", "\n").replace("\\\n", "\n")
}

/// What the editor asks while keys are pressed.
struct Keys<W: Words> {
    words: W,
    files: FilenameCompleter,
    colors: bool,
}

impl<W: Words> Helper for Keys<W> {}

impl<W: Words> Completer for Keys<W> {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..at).unwrap_or(line);
        if self.words.wants_file(before) {
            return self.files.complete(line, at, context);
        }
        let (from, words) = self.words.words(before);
        Ok((from, words.into_iter().map(|word| Pair { display: word.clone(), replacement: word + " " }).collect()))
    }
}

impl<W: Words> Hinter for Keys<W> {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<String> {
        (at == line.len()).then(|| self.words.hint(line))?
    }
}

impl<W: Words> Highlighter for Keys<W> {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        if self.colors { format!("\x1b[2m{hint}\x1b[0m").into() } else { hint.into() }
    }
}

impl<W: Words> Validator for Keys<W> {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let goes_on = goes_on(context.input());
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}
