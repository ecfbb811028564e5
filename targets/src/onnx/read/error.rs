//! What can be wrong with a file, and where.

use std::fmt;
use std::path::PathBuf;

pub use crate::fault::Fault;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// The model, outside its graph.
    Model,
    /// What the model says of itself, by key.
    Metadata(String),
    /// The graph, outside its nodes.
    Graph,
    /// An input or output.
    Value(String),
    /// A stored tensor.
    Tensor(String),
    /// A node: its number, its operator, what it makes.
    Node(usize, String, String),
    /// The module that the graph becomes.
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
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Model => f.write_str("model"),
            Place::Metadata(key) => write!(f, "metadata `{key}`"),
            Place::Graph => f.write_str("graph"),
            Place::Value(name) => write!(f, "value {name:?}"),
            Place::Tensor(name) => write!(f, "tensor {name:?}"),
            Place::Node(i, op, result) => write!(f, "node {i}, `{op}` of {result:?}"),
            Place::Module(place) => write!(f, "module, {place}"),
        }
    }
}

impl Place {
    /// A node, of which the file may say more than anyone wants to read.
    pub(super) fn node(i: usize, op: &str, result: &str) -> Place {
        Place::Node(i, short(op), short(result))
    }

    /// An input or output.
    pub(super) fn value(name: &str) -> Place {
        Place::Value(short(name))
    }

    /// A stored tensor.
    pub(super) fn tensor(name: &str) -> Place {
        Place::Tensor(short(name))
    }

    pub(super) fn fault(&self, fault: Fault) -> ReadError {
        ReadError { place: self.clone(), fault }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Damaged(what.into()))
    }

    pub(in crate::onnx) fn missing(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Missing(what.into()))
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> ReadError {
        self.fault(Fault::Unsupported(what.into()))
    }

    /// Fails unless both are the same.
    pub(super) fn same<T: PartialEq + fmt::Debug>(&self, what: &'static str, found: T, expected: T) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
        Err(self.fault(Fault::Mismatch { what: what.into(), found, expected }))
    }

    /// `value`, which must not exceed `limit`.
    pub(super) fn at_most(&self, what: &'static str, value: u64, limit: u64) -> Result<usize> {
        Fault::at_most(|| what.into(), value, limit).map_err(|fault| self.fault(fault))
    }

    /// Fails where a message has fields that the schema leaves out.
    pub(super) fn known(&self, fields: &protobuf::SpecialFields) -> Result<()> {
        match fields.unknown_fields().iter().next() {
            Some((number, _)) => Err(self.unsupported(format!("field {number}"))),
            None => Ok(()),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
