//! What can be wrong with a file, and where.

use std::fmt;

use planus::errors::ErrorKind;

pub use crate::fault::Fault;

/// A part of a `.pte` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file and its headers.
    File,
    /// The program flatbuffer.
    Program,
    /// A segment of the program.
    Segment(usize),
    /// An entry of the named data.
    NamedData(usize),
    /// A method of the program.
    Method(String),
    /// A value of method `forward`.
    PlanValue(i64),
    /// An instruction of method `forward`.
    Instruction(usize),
    /// An input of method `forward`.
    Input(usize),
    /// An output of method `forward`.
    Output(usize),
    /// The delegate's header or graph as a whole.
    Delegate,
    /// A constant of the delegate.
    Constant(usize),
    /// A value of the delegate.
    Value(u32),
    /// A node of the delegate.
    Node(usize),
    /// The module that the file becomes.
    Module(String),
}

/// Why a file cannot be read: where, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct ReadError {
    /// The part of the file.
    pub place: Place,
    /// What is wrong with it.
    pub fault: Fault,
}

pub(super) type Result<T> = std::result::Result<T, ReadError>;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File => f.write_str("file"),
            Place::Program => f.write_str("program"),
            Place::Segment(i) => write!(f, "segment {i}"),
            Place::NamedData(i) => write!(f, "named data {i}"),
            Place::Method(name) => write!(f, "method {name:?}"),
            Place::PlanValue(i) => write!(f, "method \"forward\", value {i}"),
            Place::Instruction(i) => write!(f, "method \"forward\", instruction {i}"),
            Place::Input(i) => write!(f, "method \"forward\", input {i}"),
            Place::Output(i) => write!(f, "method \"forward\", output {i}"),
            Place::Delegate => f.write_str("delegate"),
            Place::Constant(i) => write!(f, "delegate, constant {i}"),
            Place::Value(i) => write!(f, "delegate, value {i}"),
            Place::Node(i) => write!(f, "delegate, node {i}"),
            Place::Module(place) => write!(f, "module, {place}"),
        }
    }
}

impl Place {
    pub(super) fn fault(self, fault: Fault) -> ReadError {
        ReadError { place: self, fault }
    }

    pub(super) fn damaged(self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Damaged(what.into()))
    }

    pub(super) fn unsupported(self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Unsupported(what.into()))
    }

    pub(super) fn mismatch(
        self,
        what: &'static str,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> ReadError {
        let (found, expected) = (found.to_string(), expected.to_string());
        self.fault(Fault::Mismatch { what: format!("`{what}`").into(), found, expected })
    }

    /// `value`, which must not exceed `limit`.
    pub(super) fn at_most(&self, what: &'static str, value: u64, limit: u64) -> Result<usize> {
        Fault::at_most(|| format!("`{what}`").into(), value, limit).map_err(|fault| self.clone().fault(fault))
    }

    /// A field that was read.
    pub(super) fn got<T>(&self, field: planus::Result<T>) -> Result<T> {
        field.map_err(|e| {
            let location = e.source_location;
            let what = match e.error_kind {
                ErrorKind::UnknownUnionTag { tag } => format!("tag {tag} is none of those of the schema"),
                kind => kind.to_string().to_lowercase(),
            };
            self.clone().damaged(format!("{}.{}: {what}", location.type_, location.method))
        })
    }

    /// A field that must be there.
    pub(super) fn need<T>(&self, name: &'static str, field: planus::Result<Option<T>>) -> Result<T> {
        self.got(field)?.ok_or_else(|| self.clone().fault(Fault::Missing(format!("`{name}`"))))
    }

    /// A text that must be there, of bounded length.
    pub(super) fn text<'a>(&self, name: &'static str, field: planus::Result<Option<&'a str>>) -> Result<&'a str> {
        let text = self.need(name, field)?;
        self.at_most(name, text.len() as u64, MAX_TEXT)?;
        Ok(text)
    }
}

/// Longest name or key.
const MAX_TEXT: u64 = 1024;
