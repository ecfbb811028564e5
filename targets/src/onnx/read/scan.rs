//! A look over the bytes of a message before it becomes one: an empty node of two bytes takes hundreds in memory.

use super::error::{Place, Result};

/// Most messages within a message; a hundred layers have some sixty thousand.
const MAX_MESSAGES: u64 = 1 << 18;
/// Most fields of all messages.
const MAX_FIELDS: u64 = 1 << 21;

/// The messages of `onnx.proto` that a step is written in.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    /// Has no messages in it.
    Leaf,
}

/// What has been counted.
#[derive(Default)]
struct Scan {
    messages: u64,
    fields: u64,
}

/// Fails where a model has more messages than any step, or some of a kind that none has. What is damaged is left to the
/// parser.
pub(super) fn scan(model: &[u8]) -> Result<()> {
    Scan::default().message(Kind::Model, model)
}

impl Scan {
    fn message(&mut self, kind: Kind, mut bytes: &[u8]) -> Result<()> {
        let place = Place::Model;
        self.messages += 1;
        place.at_most("number of messages", self.messages, MAX_MESSAGES)?;
        while let Some(tag) = varint(&mut bytes) {
            self.fields += 1;
            place.at_most("number of fields", self.fields, MAX_FIELDS)?;
            let content = match tag & 7 {
                0 => varint(&mut bytes).map(|_| None),
                1 => bytes.split_off(..8).map(|_| None),
                2 => varint(&mut bytes)
                    .and_then(|n| usize::try_from(n).ok())
                    .and_then(|n| bytes.split_off(..n))
                    .map(Some),
                5 => bytes.split_off(..4).map(|_| None),
                _ => return Err(place.unsupported("groups")),
            };
            match content {
                Some(Some(content)) => match kind.within(tag >> 3) {
                    Within::Message(kind) => self.message(kind, content)?,
                    Within::Plain => {}
                    Within::Foreign => return Err(place.unsupported(kind.foreign())),
                },
                Some(None) => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// What a field holds.
enum Within {
    Message(Kind),
    Plain,
    /// Messages that no step has.
    Foreign,
}

impl Kind {
    fn within(self, field: u64) -> Within {
        use Kind::*;
        Within::Message(match (self, field) {
            (Model, 7) => Graph,
            (Model, 8 | 14) | (Graph | Tensor, 16) | (Node, 9) | (Tensor, 13) | (Value, 4) | (Shape, 1) => Leaf,
            (Graph, 1) => Node,
            (Graph, 5) => Tensor,
            (Graph, 11..=13) => Value,
            (Node, 5) => Attribute,
            (Value, 2) => Type,
            (Type, 1) => TensorType,
            (TensorType, 2) => Shape,
            (Model, 20 | 25 | 26) | (Graph, 14 | 15) | (Node, 10) | (Tensor, 3) | (Type, 4 | 5 | 7..=9) => {
                return Within::Foreign;
            }
            (Attribute, 5 | 6 | 10 | 11 | 14 | 15 | 22 | 23) => return Within::Foreign,
            _ => return Within::Plain,
        })
    }

    fn foreign(self) -> &'static str {
        match self {
            Kind::Model => "functions and training",
            Kind::Graph => "more than nodes, tensors, inputs and outputs",
            Kind::Attribute => "attributes that are tensors, types or graphs",
            Kind::Type => "its type",
            _ => "parts of tensors, and devices",
        }
    }
}

/// A number of seven bits a byte; nothing where it ends early.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}
