//! What can be wrong with a package, and where.

use std::fmt;
use std::path::PathBuf;

pub use crate::fault::Fault;

/// A part of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or folder.
    File(PathBuf),
    /// The manifest.
    Manifest,
    /// The model file, outside the program.
    Model,
    /// What the model says of itself, by key.
    Metadata(&'static str),
    /// A described input, output or state.
    Feature(String),
    /// The program, outside its operations.
    Program,
    /// An operation: its number, its kind, its first result.
    Operation(usize, String, String),
    /// A record of the weight file, by its offset.
    Record(u64),
    /// A part of one of several functions, or all of it.
    Function(String, Option<Box<Place>>),
    /// The module that the package becomes.
    Module(String),
    /// A place in a part of a chain, by its number.
    Part(u32, Box<Place>),
}

/// Why a package cannot be read: where, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct ReadError {
    /// The part of the package.
    pub place: Place,
    /// What is wrong with it.
    pub fault: Fault,
}

pub(super) type Result<T> = std::result::Result<T, ReadError>;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Manifest => f.write_str("manifest"),
            Place::Model => f.write_str("model"),
            Place::Metadata(key) => write!(f, "metadata `{key}`"),
            Place::Feature(name) => write!(f, "feature {name:?}"),
            Place::Program => f.write_str("program"),
            Place::Operation(i, kind, result) => write!(f, "operation {i}, `{kind}` of {result:?}"),
            Place::Record(offset) => write!(f, "weight record at {offset}"),
            Place::Function(name, None) => write!(f, "function {name:?}"),
            Place::Function(name, Some(place)) => write!(f, "function {name:?}, {place}"),
            Place::Module(place) => write!(f, "module, {place}"),
            Place::Part(number, place) => write!(f, "part {number}, {place}"),
        }
    }
}

impl ReadError {
    /// The same in a part of a chain.
    pub(super) fn of_part(self, number: u32) -> ReadError {
        ReadError { place: Place::Part(number, Box::new(self.place)), fault: self.fault }
    }

    /// The same, in one of several functions.
    pub(super) fn within(self, function: &str) -> ReadError {
        ReadError { place: Place::Function(function.into(), Some(Box::new(self.place))), fault: self.fault }
    }
}

impl Place {
    /// An operation, of which the file may say more than anyone wants to read.
    pub(in crate::coreml) fn operation(i: usize, kind: &str, result: &str) -> Place {
        let short = |text: &str| text.chars().take(64).collect();
        Place::Operation(i, short(kind), short(result))
    }

    pub(super) fn fault(&self, fault: Fault) -> ReadError {
        ReadError { place: self.clone(), fault }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Damaged(what.into()))
    }

    pub(super) fn missing(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Missing(what.into()))
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Unsupported(what.into()))
    }

    pub(super) fn mismatch(&self, what: &'static str, found: impl fmt::Debug, expected: impl fmt::Debug) -> ReadError {
        let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
        self.fault(Fault::Mismatch { what: what.into(), found, expected })
    }

    /// Fails unless both are the same.
    pub(super) fn same<T: PartialEq + fmt::Debug>(&self, what: &'static str, found: T, expected: T) -> Result<()> {
        if found == expected { Ok(()) } else { Err(self.mismatch(what, found, expected)) }
    }

    /// `value`, which must not exceed `limit`.
    pub(super) fn at_most(&self, what: &'static str, value: u64, limit: u64) -> Result<usize> {
        Fault::at_most(|| what.into(), value, limit).map_err(|fault| self.fault(fault))
    }
}
