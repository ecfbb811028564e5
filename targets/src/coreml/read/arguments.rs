//! The parameters of an operation, by name: each is asked for once, and none is left over.

use std::collections::BTreeMap;

use super::constant::{Constant, Type};
use super::error::{Place, Result};
use super::lift::{Held, Known, Lift};
use crate::coreml::schema::program::{Bound, DataType, Operation, Value};

/// Most values of a list: layers, or parts of a filter.
const MAX_VALUES: u64 = 1 << 16;

/// Parameters that have not been asked for yet.
pub(super) struct Arguments {
    pub(super) place: Place,
    values: BTreeMap<String, Vec<Known>>,
    /// Those of compressed weights, which are constants themselves.
    constants: BTreeMap<String, (Type, Constant)>,
    /// The state that is read or written.
    state: Option<String>,
}

impl Arguments {
    /// Finds what the parameters of `operation` are bound to. The forms that version 7 brought have attributes instead.
    pub(super) fn read(
        lift: &Lift<'_>,
        place: &Place,
        operation: &Operation,
        attributes: &BTreeMap<String, Value>,
    ) -> Result<Arguments> {
        let kind = operation.r#type.as_str();
        let mut found =
            Arguments { place: place.clone(), values: BTreeMap::new(), constants: BTreeMap::new(), state: None };
        if kind == "constexpr_affine_dequantize" {
            for (key, value) in attributes {
                found.constants.insert(key.clone(), Constant::read(place, value)?);
            }
        } else if let Some(key) = attributes.keys().next() {
            return Err(place.unsupported(format!("its attribute {key:?}")));
        }
        for (key, argument) in &operation.inputs {
            place.at_most("number of values", argument.arguments.len() as u64, MAX_VALUES)?;
            let mut values = Vec::new();
            for binding in &argument.arguments {
                match &binding.bound {
                    Some(Bound::Name(name)) if key == "input" && matches!(kind, "read_state" | "write_state") => {
                        found.state = Some(name.clone());
                    }
                    Some(Bound::Name(name)) => {
                        let known = lift.known.get(name);
                        let undefined = || place.damaged(format!("{key} is {name:?}, which is not defined before"));
                        values.push(known.ok_or_else(undefined)?.clone());
                    }
                    Some(Bound::Value(value)) if kind == "constexpr_blockwise_shift_scale" => {
                        found.constants.insert(key.clone(), Constant::read(place, value)?);
                    }
                    _ => return Err(place.unsupported(format!("what its parameter {key:?} is bound to"))),
                }
            }
            if !values.is_empty() {
                found.values.insert(key.clone(), values);
            }
        }
        Ok(found)
    }

    /// All values of a list.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Known>> {
        self.values.remove(key).ok_or_else(|| self.place.missing(format!("parameter {key:?}")))
    }

    /// The one value of a parameter.
    pub(super) fn one(&mut self, key: &str) -> Result<Known> {
        let mut list = self.list(key)?;
        match (list.pop(), list.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(self.place.damaged(format!("{key} is a list"))),
        }
    }

    /// The one value of a parameter that may be left out.
    pub(super) fn maybe(&mut self, key: &str) -> Result<Option<Known>> {
        if self.values.contains_key(key) { self.one(key).map(Some) } else { Ok(None) }
    }

    /// A constant that a compressed weight consists of.
    pub(super) fn part(&mut self, key: &str) -> Result<(Type, Constant)> {
        self.constants.remove(key).ok_or_else(|| self.place.missing(format!("parameter {key:?}")))
    }

    /// Such a constant that may be left out.
    pub(super) fn maybe_part(&mut self, key: &str) -> Option<(Type, Constant)> {
        self.constants.remove(key)
    }

    /// The state that is read or written.
    pub(super) fn state(&mut self) -> Result<String> {
        self.state.take().ok_or_else(|| self.place.missing("parameter \"input\""))
    }

    /// A list of whole numbers, constant.
    pub(super) fn ints(&mut self, key: &str) -> Result<Vec<i32>> {
        let known = self.one(key)?;
        match (known.held, known.ty.shape.len()) {
            (Held::Constant(Constant::Ints(ints)), 1) => Ok(ints),
            _ => Err(self.place.damaged(format!("{key} is no constant list of whole numbers"))),
        }
    }

    /// A whole number, constant.
    pub(super) fn int(&mut self, key: &str) -> Result<i32> {
        let known = self.one(key)?;
        match (known.held, known.ty.shape.len()) {
            (Held::Constant(Constant::Ints(ints)), 0) if ints.len() == 1 => Ok(ints[0]),
            _ => Err(self.place.damaged(format!("{key} is no constant whole number"))),
        }
    }

    /// An axis of a value of that rank; negative ones count from the end.
    pub(super) fn axis(&mut self, key: &str, rank: usize) -> Result<usize> {
        let axis = self.int(key)?;
        self.place_axis(key, axis, rank)
    }

    /// The one axis of a list.
    pub(super) fn only_axis(&mut self, key: &str, rank: usize) -> Result<usize> {
        match self.ints(key)?[..] {
            [axis] => self.place_axis(key, axis, rank),
            _ => Err(self.place.unsupported("several axes")),
        }
    }

    fn place_axis(&self, key: &str, axis: i32, rank: usize) -> Result<usize> {
        let from_end = i64::from(axis) + if axis < 0 { rank as i64 } else { 0 };
        let found = usize::try_from(from_end).ok().filter(|&axis| axis < rank);
        found.ok_or_else(|| self.place.damaged(format!("{key} is {axis}, and there are {rank} axes")))
    }

    /// A truth value, constant.
    pub(super) fn truth(&mut self, key: &str) -> Result<bool> {
        let known = self.one(key)?;
        match known.held {
            Held::Constant(Constant::Bools(bools)) if bools.len() == 1 && known.ty.shape.is_empty() => Ok(bools[0]),
            _ => Err(self.place.damaged(format!("{key} is no constant truth value"))),
        }
    }

    /// A list of truth values, constant; all false where it is left out.
    pub(super) fn truths(&mut self, key: &str, rank: usize) -> Result<Vec<bool>> {
        match self.maybe(key)?.map(|known| known.held) {
            None => Ok(vec![false; rank]),
            Some(Held::Constant(Constant::Bools(bools))) if bools.len() == rank => Ok(bools),
            Some(_) => Err(self.place.damaged(format!("{key} are no constant truth values, one for each axis"))),
        }
    }

    /// A number, constant, with its element type.
    pub(super) fn number(&mut self, key: &str) -> Result<(f32, DataType)> {
        let known = self.one(key)?;
        match known.held {
            Held::Constant(Constant::Number(number)) => Ok((number, known.ty.dtype)),
            _ => Err(self.place.damaged(format!("{key} is no constant number"))),
        }
    }

    /// A text, constant.
    pub(super) fn text(&mut self, key: &str) -> Result<String> {
        match self.one(key)?.held {
            Held::Constant(Constant::Text(text)) => Ok(text),
            _ => Err(self.place.damaged(format!("{key} is no constant text"))),
        }
    }

    /// The same, where it is not left out.
    pub(super) fn maybe_ints(&mut self, key: &str) -> Result<Option<Vec<i32>>> {
        if self.values.contains_key(key) { self.ints(key).map(Some) } else { Ok(None) }
    }

    /// Whether a parameter is bound to just that.
    pub(super) fn is(&self, key: &str, held: &Held) -> bool {
        matches!(self.values.get(key).map(Vec::as_slice), Some([known]) if known.held == *held)
    }

    /// Fails when a parameter is left over.
    pub(super) fn done(&self) -> Result<()> {
        match self.values.keys().chain(self.constants.keys()).next() {
            None => Ok(()),
            Some(key) => Err(self.place.unsupported(format!("its parameter {key:?}"))),
        }
    }
}
