//! Where a value was written: files, byte ranges, and values that remember both.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name under which overrides of the command line appear.
const OVERRIDE: &str = "--set";

/// One text a recipe was read from: a file, or the text of one `--set`.
pub struct SourceFile {
    name: String,
    path: Option<PathBuf>,
    text: String,
}

impl SourceFile {
    pub(super) fn new(name: String, path: &Path, text: String) -> Arc<Self> {
        Arc::new(Self { name, path: Some(path.to_owned()), text })
    }

    pub(super) fn in_memory(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), path: None, text: text.to_owned() })
    }

    pub(super) fn from_override(text: &str) -> Arc<Self> {
        Arc::new(Self { name: OVERRIDE.to_owned(), path: None, text: text.to_owned() })
    }

    /// The name as the user would write it: a path, or `--set`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The folder that relative paths of this text start from; empty (the current folder) for `--set`.
    pub fn folder(&self) -> &Path {
        self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""))
    }
}

/// Prints the name only: the text may be long.
impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({:?})", self.name)
    }
}

/// A place in a recipe: a file and a byte range of its text. Cheap to clone.
#[derive(Clone)]
pub struct Origin {
    file: Arc<SourceFile>,
    span: Range<usize>,
}

impl Origin {
    pub(super) fn new(file: &Arc<SourceFile>, span: Range<usize>) -> Self {
        Self { file: Arc::clone(file), span }
    }

    /// The file as such, for what has no line: a missing key, an unreadable file.
    pub(super) fn whole(file: &Arc<SourceFile>) -> Self {
        Self::new(file, 0..0)
    }

    /// True when this names a file rather than a place in it.
    pub fn is_whole(&self) -> bool {
        self.span == (0..0)
    }

    /// The file.
    pub fn file(&self) -> &Arc<SourceFile> {
        &self.file
    }

    /// The byte range in the file's text.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The line of the first byte, counted from 1.
    pub fn line(&self) -> usize {
        let before = &self.file.text.as_bytes()[..self.span.start.min(self.file.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }
}

/// `recipes/demo.toml:7`, or the bare name for `--set` and for a file as such.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() || self.file.path.is_none() {
            f.write_str(&self.file.name)
        } else {
            write!(f, "{}:{}", self.file.name, self.line())
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A value and the place it was written at. Two are equal when their values are.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub origin: Origin,
}

impl<T> Located<T> {
    pub(super) fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

impl<T> Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_names_its_file_and_line() {
        let file = SourceFile::new("a.toml".into(), Path::new("dir/a.toml"), "x = 1\ny = 2\n".into());
        assert_eq!(Origin::new(&file, 6..7).to_string(), "a.toml:2");
        assert_eq!(Origin::new(&file, 5..6).to_string(), "a.toml:1");
        assert_eq!(Origin::whole(&file).to_string(), "a.toml");
        assert_eq!(file.folder(), Path::new("dir"));
        assert_eq!(Origin::new(&SourceFile::from_override("name=x"), 5..6).to_string(), "--set");
    }

    #[test]
    fn equality_ignores_the_origin() {
        let file = SourceFile::from_override("xx");
        let at = |start| Located::new(4, Origin::new(&file, start..start + 1));
        assert_eq!(at(0), at(1));
        assert_ne!(at(0), Located::new(5, Origin::new(&file, 0..1)));
    }
}
