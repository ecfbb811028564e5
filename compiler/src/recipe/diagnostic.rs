//! Diagnostics: a mistake, the places it concerns, and how both are printed.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin as PathOnly, Renderer, Snippet};

use super::mistake::Mistake;
use super::source::{Origin, SourceFile};

/// More are counted, not printed.
const PRINTED: usize = 50;

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is built.
    Error,
    /// The build goes on.
    Warning,
}

/// One thing wrong with a recipe. Labels share one excerpt of the recipe; notes have their own.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong.
    pub mistake: Mistake,
    /// The places concerned. The first is the one at fault.
    pub labels: Vec<Label>,
    /// Where the other half of the conflict sits, or what else there is to know.
    pub notes: Vec<Note>,
    /// What to type.
    pub help: Option<String>,
}

/// Words at a place.
#[derive(Clone, Debug)]
pub struct Label {
    /// The place.
    pub origin: Origin,
    /// What is wrong there; may be empty.
    pub text: String,
}

/// A remark, with the place it speaks of if there is one.
#[derive(Clone, Debug)]
pub struct Note {
    /// The remark.
    pub text: String,
    /// The place and the words that stand there.
    pub label: Option<Label>,
}

impl Diagnostic {
    pub(super) fn new(mistake: Mistake, origin: &Origin) -> Self {
        let help = mistake.help();
        let text = mistake.label();
        Self { severity: Severity::Error, mistake, labels: vec![], notes: vec![], help }.label(origin, text)
    }

    /// Something this product cannot do exactly as the recipe asks. `code` is the refuser's own, such as
    /// `quant::group-size`; `message` states the fact in one line. Labels follow, the place at fault first.
    pub fn refusal(code: &'static str, message: impl Into<String>) -> Self {
        let mistake = Mistake::Refusal { code, message: message.into() };
        Self { severity: Severity::Error, mistake, labels: vec![], notes: vec![], help: None }
    }

    /// Like [`Self::refusal`], but the build goes on.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::refusal(code, message) }
    }

    /// Marks a place and says what is wrong there.
    pub fn label(mut self, origin: &Origin, text: impl Into<String>) -> Self {
        self.labels.push(Label { origin: origin.clone(), text: text.into() });
        self
    }

    /// Adds a remark without a place.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(Note { text: text.into(), label: None });
        self
    }

    /// Adds a remark about another place; `there` are the words that stand at it.
    pub fn note_at(mut self, text: impl Into<String>, origin: &Origin, there: impl Into<String>) -> Self {
        let label = Some(Label { origin: origin.clone(), text: there.into() });
        self.notes.push(Note { text: text.into(), label });
        self
    }

    /// Says what to type.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// The stable name in the brackets, such as `recipe::unknown-key`.
    pub fn code(&self) -> &'static str {
        self.mistake.code()
    }

    /// The place at fault.
    pub fn origin(&self) -> Option<&Origin> {
        self.labels.first().map(|label| &label.origin)
    }

    /// The printed form, without a final newline.
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.mistake.to_string()).id(self.code());
        let mut groups = vec![with_excerpts(Group::with_title(title), &self.labels)];
        for note in &self.notes {
            let title = Level::NOTE.secondary_title(note.text.as_str());
            groups.push(with_excerpts(Group::with_title(title), note.label.as_slice()));
        }
        groups.extend(self.help.as_deref().map(|help| Group::with_title(Level::HELP.secondary_title(help))));
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&groups)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

/// Adds an excerpt for each file the labels lie in.
fn with_excerpts<'a>(mut group: Group<'a>, labels: &'a [Label]) -> Group<'a> {
    for (index, label) in labels.iter().enumerate() {
        let file = label.origin.file();
        let in_file = |other: &Label| Arc::ptr_eq(other.origin.file(), file);
        if labels[..index].iter().any(in_file) {
            continue;
        }
        group = if label.origin.is_whole() {
            group.element(PathOnly::path(file.name()))
        } else {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            group.element(excerpt(file, labels[index..].iter().filter(|other| in_file(other)), kind))
        };
    }
    group
}

/// The lines from the first label to the last, so that a long file costs no more than a short one.
fn excerpt<'a>(
    file: &'a SourceFile,
    labels: impl Iterator<Item = &'a Label> + Clone,
    first: AnnotationKind,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let text = file.text();
    let start = labels.clone().map(|label| label.origin.span().start).min().unwrap_or(0);
    let end = labels.clone().map(|label| label.origin.span().end).max().unwrap_or(0);
    let from = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    // With its line break, or the return of a CRLF would show as a character.
    let to = text[end..].find('\n').map_or(text.len(), |newline| end + newline + 1);
    let mut snippet =
        Snippet::source(&text[from..to]).path(file.name()).line_start(1 + text[..from].matches('\n').count());
    for (index, label) in labels.enumerate() {
        let kind = if index == 0 { first } else { AnnotationKind::Context };
        let span = label.origin.span();
        let words = Some(label.text.as_str()).filter(|text| !text.is_empty());
        snippet = snippet.annotation(kind.span(span.start - from..span.end - from).label(words));
    }
    snippet
}

/// Every mistake of a recipe and the files it extends, in the order of those files.
#[derive(Clone, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts by file, then by line; what concerns a file as such comes after its lines.
    pub(super) fn sorted(mut diagnostics: Vec<Diagnostic>, files: &[Arc<SourceFile>]) -> Self {
        diagnostics.sort_by_key(|diagnostic| {
            diagnostic.origin().map(|origin| {
                let file = files.iter().position(|file| Arc::ptr_eq(file, origin.file()));
                (file, origin.is_whole(), origin.span().start)
            })
        });
        Self(diagnostics)
    }

    /// The printed form: the diagnostics, an empty line between them.
    pub fn render(&self, color: bool) -> String {
        let mut parts: Vec<String> = self.0.iter().take(PRINTED).map(|diagnostic| diagnostic.render(color)).collect();
        if self.0.len() > PRINTED {
            parts.push(format!("… and {} more mistakes", self.0.len() - PRINTED));
        }
        parts.join("\n\n")
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}
