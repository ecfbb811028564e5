//! A TOML value whose every part remembers where it was written.

use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::source::{Located, Origin, SourceFile};

/// A TOML value. Printed, it is TOML on one line, the same text for the same value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// Integers beyond 128 bits saturate: no key allows them.
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Located<Value>>),
    Table(Vec<Entry>),
}

/// One `key = value` of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Located<String>,
    pub(super) value: Located<Value>,
}

impl Value {
    /// The kind of value, as a diagnostic names it.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date or time",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// Turns parsed TOML into entries. Of a file with a syntax error only what ends before `until` is taken.
pub(super) fn entries(table: &DeTable<'_>, file: &Arc<SourceFile>, until: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (key, value) in table.iter() {
        // Parts of a table may well end after `until`: it is asked about each of them.
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        if key.span().end <= until && (is_table || value.span().end <= until) {
            let key = Located::new(key.get_ref().to_string(), Origin::new(file, key.span()));
            entries.push(Entry { key, value: located(value, file, until) });
        }
    }
    entries
}

fn located(value: &Spanned<DeValue<'_>>, file: &Arc<SourceFile>, until: usize) -> Located<Value> {
    let origin = Origin::new(file, value.span());
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Integer(integer(number)),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| located(item, file, until)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, file, until)),
    };
    Located::new(value, origin)
}

/// Saturates beyond 128 bits, where only the sign still matters.
fn integer(number: &DeInteger<'_>) -> i128 {
    let beyond = if number.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(beyond)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write_quoted(f, text),
            Self::Integer(number) => write!(f, "{number}"),
            // The shortest digits that read back to the same number, always with a point or an exponent.
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Datetime(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str("[")?;
                write_joined(f, items)?;
                f.write_str("]")
            }
            Self::Table(entries) => {
                f.write_str("{ ")?;
                write_joined(f, entries)?;
                f.write_str(" }")
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

fn write_joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// A TOML basic string: one line whatever it holds.
fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The printed form of `x` in `x = <toml>`.
    fn printed(toml: &str) -> String {
        let text = format!("x = {toml}");
        let file = SourceFile::from_override(&text);
        let table = DeTable::parse(file.text()).expect("valid TOML");
        entries(table.get_ref(), &file, usize::MAX)[0].value.to_string()
    }

    #[test]
    fn printing_gives_one_canonical_line() {
        for (toml, expected) in [
            ("0x1_0", "16"),
            ("-3", "-3"),
            ("0b11", "3"),
            ("1.50e0", "1.5"),
            ("1e-7", "1e-7"),
            ("true", "true"),
            ("[1,\n  2]", "[1, 2]"),
            ("{a='x', b=[]}", r#"{ a = "x", b = [] }"#),
            (r#""tab\t \" \\ end""#, r#""tab\u0009 \" \\ end""#),
            ("170141183460469231731687303715884105728", "170141183460469231731687303715884105727"),
        ] {
            assert_eq!(printed(toml), expected);
        }
    }

    #[test]
    fn a_printed_value_reads_back() {
        for toml in ["\"a\\nb\u{e9}\\u0000\"", "[0.1, 1e300]", "{ a = { b = [\"x\"] } }", "1979-05-27"] {
            let once = printed(toml);
            assert_eq!(printed(&once), once);
        }
    }

    #[test]
    fn entries_stop_at_a_syntax_error() {
        let file = SourceFile::from_override("a = 1\nb = 2\n[t]\nc = 3\n");
        let table = DeTable::parse(file.text()).expect("valid TOML");
        let kept = entries(table.get_ref(), &file, 6);
        assert_eq!(kept.iter().map(Entry::to_string).collect::<Vec<_>>(), ["a = 1"]);
    }
}
