//! Reads a recipe, the recipes it extends and the overrides of the command line into layers.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::check::check;
use super::diagnostic::Diagnostic;
use super::mistake::{Mistake, shortened};
use super::schema::Kind;
use super::source::{Located, Origin, SourceFile};
use super::suggest::near_miss;
use super::value::{Entry, Value, entries};

/// The most a recipe may hold. Written by hand, one has a few hundred bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// The longest chain of `extends`.
const LONGEST_CHAIN: usize = 16;
/// Syntax errors reported of one file, and repeated keys too.
const MOST_ERRORS: usize = 100;
/// Files looked at to find a near miss of a name.
const LISTED_FILES: usize = 1000;

/// What one file or one `--set` says.
pub(super) struct Layer {
    pub(super) file: Arc<SourceFile>,
    pub(super) entries: Vec<Entry>,
}

/// A recipe with everything it builds on.
pub(super) struct Chain {
    /// The recipe, its parent, …, then the overrides. Never empty.
    pub(super) files: Vec<Arc<SourceFile>>,
    /// The outermost parent first, the overrides last: later layers win.
    pub(super) layers: Vec<Layer>,
    /// False when a part could not be read.
    pub(super) complete: bool,
}

/// Reads the recipe at `path`, follows `extends`, and appends the overrides.
pub(super) fn chain(path: &Path, overrides: &[String], out: &mut Vec<Diagnostic>) -> Chain {
    let mut chain = Chain { files: vec![], layers: vec![], complete: true };
    let mut next = Some(Step { path: path.to_owned(), name: path.display().to_string(), asked: None });
    let mut visited = Vec::new();
    while let Some(step) = next.take() {
        match step.open(&mut visited) {
            Ok(file) => {
                chain.files.push(Arc::clone(&file));
                let layer = parse(&file, &mut chain.complete, out);
                next = step.parent(&layer, &mut chain.complete, out);
                chain.layers.push(layer);
            }
            Err(mistake) => {
                let named = || Origin::whole(&SourceFile::new(step.name.clone(), &step.path, String::new()));
                let origin = step.asked.as_ref().map_or_else(named, |asked| asked.origin.clone());
                if chain.files.is_empty() {
                    chain.files.push(Arc::clone(origin.file()));
                }
                chain.complete = false;
                out.push(Diagnostic::new(mistake, &origin));
            }
        }
    }
    chain.layers.reverse();
    chain.add_overrides(overrides, out);
    chain
}

/// The layers of some texts, the outermost parent first, and of the overrides. What a text `extends` is the one before.
pub(super) fn texts(texts: &[(&str, &str)], overrides: &[String], out: &mut Vec<Diagnostic>) -> Chain {
    let mut chain = Chain { files: vec![], layers: vec![], complete: true };
    for (name, text) in texts {
        let file = SourceFile::in_memory(name, text);
        chain.files.insert(0, Arc::clone(&file));
        let layer = parse(&file, &mut chain.complete, out);
        chain.layers.push(layer);
    }
    chain.add_overrides(overrides, out);
    chain
}

impl Chain {
    fn add_overrides(&mut self, overrides: &[String], out: &mut Vec<Diagnostic>) {
        for text in overrides {
            let file = SourceFile::from_override(text);
            self.files.push(Arc::clone(&file));
            let entries = override_entries(&file, out);
            self.complete &= !entries.is_empty();
            self.layers.push(Layer { file, entries });
        }
    }
}

/// A file about to be read, and the `extends` that asked for it.
struct Step {
    path: PathBuf,
    name: String,
    asked: Option<Located<String>>,
}

impl Step {
    /// Reads the file; `visited` are the real paths and names of those before it.
    fn open(&self, visited: &mut Vec<(PathBuf, String)>) -> Result<Arc<SourceFile>, Mistake> {
        let text = self.read()?;
        let real = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(start) = visited.iter().position(|(path, _)| *path == real) {
            let chain = visited[start..].iter().map(|(_, name)| name).chain([&self.name]).cloned().collect();
            return Err(Mistake::ExtendsCycle { chain });
        }
        if visited.len() == LONGEST_CHAIN {
            return Err(Mistake::ExtendsTooDeep { limit: LONGEST_CHAIN });
        }
        visited.push((real, self.name.clone()));
        Ok(SourceFile::new(self.name.clone(), &self.path, text))
    }

    fn read(&self) -> Result<String, Mistake> {
        let unreadable = |why: String| Mistake::Unreadable { name: self.name.clone(), why };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.missing(),
            _ => unreadable(format!("cannot be read: {error}")),
        };
        // Asked before opening: opening a pipe would wait for its writer.
        let kind = fs::metadata(&self.path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(unreadable("is a folder, not a recipe".into()));
        }
        if !kind.is_file() {
            return Err(unreadable("is not a regular file".into()));
        }
        let mut bytes = Vec::new();
        File::open(&self.path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(unreadable(format!("is larger than {} KiB", LARGEST_FILE >> 10)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
            unreadable(format!("is not UTF-8 text (line {line})"))
        })?;
        // A byte order mark is no character of line 1.
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }

    /// Looks beside the missing file for what was meant.
    fn missing(&self) -> Mistake {
        let typed = Path::new(self.asked.as_ref().map_or(&self.name, |asked| &asked.value));
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut others: Vec<String> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .take(LISTED_FILES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".toml"))
            .collect();
        others.sort();
        let file_name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let near = near_miss(file_name, others.iter().map(String::as_str));
        let near = near.map(|name| typed.with_file_name(name).display().to_string());
        Mistake::MissingFile { name: shortened(&self.name), near, others }
    }

    /// The file this one extends.
    fn parent(&self, layer: &Layer, complete: &mut bool, out: &mut Vec<Diagnostic>) -> Option<Self> {
        let entry = layer.entries.iter().find(|entry| entry.key.value == "extends")?;
        let Some(Located { value: Value::Text(extends), origin }) = check(&Kind::Text, "`extends`", &entry.value, out)
        else {
            *complete = false;
            return None;
        };
        let path = layer.file.folder().join(&extends);
        let name = without_detours(&Path::new(&self.name).parent().unwrap_or(Path::new("")).join(&extends));
        Some(Self { path, name, asked: Some(Located::new(extends, origin)) })
    }
}

/// `recipes/families/../base.toml` as a reader would write it.
fn without_detours(path: &Path) -> String {
    let mut short = PathBuf::new();
    for part in path.components() {
        let inside = matches!(short.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if inside => drop(short.pop()),
            part => short.push(part),
        }
    }
    short.display().to_string()
}

/// Parses a file. After a syntax error only what stands before it counts.
fn parse(file: &Arc<SourceFile>, complete: &mut bool, out: &mut Vec<Diagnostic>) -> Layer {
    let text = file.text();
    let (table, errors) = DeTable::parse_recoverable(text);
    let place = |error: &toml::de::Error| {
        let span = error.span().unwrap_or(0..0);
        let start = text.floor_char_boundary(span.start);
        Origin::new(file, start..text.ceil_char_boundary(span.end).max(start))
    };
    let (repeated, broken): (Vec<_>, Vec<_>) = errors.iter().partition(|error| error.message() == "duplicate key");
    let until = broken.iter().map(|error| line_start(text, place(error).span().start)).min().unwrap_or(usize::MAX);
    *complete &= broken.is_empty();
    let mut last_line = None;
    for error in broken.into_iter().take(MOST_ERRORS) {
        let origin = place(error);
        // One broken line can give several errors; the first tells it best.
        if last_line.replace(origin.line()) != Some(origin.line()) {
            out.push(Diagnostic::new(Mistake::Syntax { problem: error.message().to_owned() }, &origin));
        }
    }
    let entries = entries(table.get_ref(), file, until);
    for again in repeated.into_iter().map(place).filter(|again| again.span().start < until).take(MOST_ERRORS) {
        let key = shortened(text[again.span()].trim());
        let diagnostic = Diagnostic::new(Mistake::DuplicateKey { key }, &again);
        out.push(match first_set(&entries, &again) {
            Some(first) => diagnostic.label(&first, "first set here"),
            None => diagnostic,
        });
    }
    Layer { file: Arc::clone(file), entries }
}

fn line_start(text: &str, place: usize) -> usize {
    text[..place].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The key that `again` repeats: the last one before it of the same name, with no table header between the two.
fn first_set(entries: &[Entry], again: &Origin) -> Option<Origin> {
    let text = again.file().text();
    let same = |entry: &&Entry| {
        let span = entry.key.origin.span();
        span.end <= again.span().start
            && text[span.clone()] == text[again.span()]
            && !text[span.end..again.span().start].contains("\n[")
    };
    let inside = entries.iter().filter_map(|entry| match &entry.value.value {
        Value::Table(entries) => first_set(entries, again),
        _ => None,
    });
    let here = entries.iter().filter(same).map(|entry| entry.key.origin.clone());
    inside.chain(here).max_by_key(|origin| origin.span().start)
}

/// Reads `key=value`. What is no TOML value is a string, so that `--set name=demo` needs no quotes.
fn override_entries(file: &Arc<SourceFile>, out: &mut Vec<Diagnostic>) -> Vec<Entry> {
    let text = file.text();
    let whole = Origin::new(file, 0..text.len());
    let mut refuse = |mistake| {
        out.push(Diagnostic::new(mistake, &whole));
        vec![]
    };
    let malformed = Mistake::Override { text: shortened(text) };
    let Some((key, value)) = text.split_once('=') else { return refuse(malformed) };
    let stand_in = format!("{key}=0");
    let Ok(table) = DeTable::parse(&stand_in) else { return refuse(malformed) };
    let mut named = entries(table.get_ref(), file, usize::MAX);
    if key.contains('\n') || key.trim_start().starts_with('[') {
        return refuse(malformed);
    }
    if named.iter().any(|entry| entry.key.value == "extends") {
        return refuse(Mistake::OverrideExtends);
    }
    match (DeValue::parse(value.trim()), DeTable::parse(text)) {
        (Ok(_), Ok(table)) => return entries(table.get_ref(), file, usize::MAX),
        (Err(error), _) if value.trim_start().starts_with(['[', '{', '"', '\'']) => {
            return refuse(Mistake::Syntax { problem: error.message().to_owned() });
        }
        _ => {}
    }
    let span = text.len() - value.len()..text.len();
    put_text(&mut named, &Located::new(Value::Text(value.trim().to_owned()), Origin::new(file, span)));
    named
}

/// Replaces the stand-in at the end of a dotted key.
fn put_text(entries: &mut [Entry], text: &Located<Value>) {
    for entry in entries {
        match &mut entry.value.value {
            Value::Table(entries) => put_text(entries, text),
            _ => entry.value = text.clone(),
        }
    }
}
