//! The words and signs of one line.

use std::str::FromStr;

/// Walks over one line, skipping the blanks between its words and signs.
pub(super) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(line: &'a str) -> Cursor<'a> {
        Cursor { rest: line.trim() }
    }

    /// Takes `token` if it stands here; a word only when it ends here too.
    pub(super) fn accept(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        let ends_in_word = token.ends_with(|c: char| c.is_ascii_alphanumeric());
        if ends_in_word && rest.starts_with(|c: char| c.is_ascii() && word_byte(c as u8)) && !rest.starts_with("..") {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.accept(token) { Ok(()) } else { Err(format!("expected `{token}` at `{}`", shorten(self.rest))) }
    }

    pub(super) fn end(&self) -> Result<(), String> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("`{}` is too much", shorten(self.rest))) }
    }

    /// Letters, digits, `_`, `-` and `.` up to anything else or to `..`; a sign of an exponent belongs to it.
    pub(super) fn word(&mut self) -> Result<&'a str, String> {
        let bytes = self.rest.as_bytes();
        let part = |i: usize| word_byte(bytes[i]) && !bytes[i..].starts_with(b"..");
        let end = (0..bytes.len()).find(|&i| !part(i)).unwrap_or(bytes.len());
        if end == 0 {
            return Err(format!("expected a word at `{}`", shorten(self.rest)));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        Ok(word)
    }

    /// A number, or whatever else `T` reads from one word.
    pub(super) fn value<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("`{}` is not a number that fits here", shorten(word)))
    }

    /// `%name`
    pub(super) fn value_name(&mut self) -> Result<&'a str, String> {
        self.expect("%")?;
        self.word()
    }

    /// `"name"`
    pub(super) fn quoted(&mut self) -> Result<&'a str, String> {
        self.expect("\"")?;
        let (name, rest) = self.rest.split_once('"').ok_or("the name has no end")?;
        self.rest = rest.trim_start();
        Ok(name)
    }

    /// `name = `
    pub(super) fn named(&mut self, name: &str) -> Result<&mut Self, String> {
        self.expect(name)?;
        self.expect("=")?;
        Ok(self)
    }

    /// `name = value`
    pub(super) fn attribute<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.named(name)?.value()
    }

    /// `, name = value`
    pub(super) fn next_attribute<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.expect(",")?;
        self.attribute(name)
    }

    /// Items between two brackets, with commas between them.
    pub(super) fn list<T>(
        &mut self,
        [open, close]: [&str; 2],
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.accept(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

/// The beginning of a text, for messages.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
