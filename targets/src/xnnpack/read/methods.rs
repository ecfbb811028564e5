//! Methods that return constants: the file's metadata.

use std::collections::BTreeMap;

use super::error::{Fault, Place, Result};
use crate::xnnpack::schema::program::{ExecutionPlanRef, KernelTypesRef};

/// Most constants of all methods together.
const MAX_CONSTANTS: u64 = 1 << 16;
/// Most bytes of text of all methods together.
const MAX_TEXT: u64 = 4 << 20;

/// A value that a method returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// A number.
    Double(f64),
    /// A text.
    Text(String),
}

/// The metadata of a file: what each method without inputs returns.
pub type Methods = BTreeMap<String, Vec<Constant>>;

/// Reads methods; what they may use together is bounded.
#[derive(Default)]
pub(super) struct Reader {
    constants: u64,
    text: u64,
}

impl Reader {
    /// What a method returns.
    pub(super) fn method(&mut self, name: &str, plan: &ExecutionPlanRef<'_>) -> Result<Vec<Constant>> {
        let place = Place::Method(name.into());
        let inputs = place.got(plan.inputs())?.map_or(0, |i| i.len());
        let mut instructions = 0;
        for chain in place.got(plan.chains())?.iter().flat_map(|c| c.iter()).take(2) {
            instructions += place.got(place.got(chain)?.instructions())?.map_or(0, |i| i.len());
        }
        if inputs > 0 || instructions > 0 {
            return Err(place.unsupported("a second method that computes"));
        }
        let values = place.need("values", plan.values())?;
        let outputs = place.need("outputs", plan.outputs())?;
        self.constants += outputs.len() as u64;
        place.at_most("outputs", self.constants, MAX_CONSTANTS)?;
        let mut found = Vec::new();
        for index in outputs.iter() {
            let value = usize::try_from(index).ok().and_then(|i| values.get(i));
            let value = value.ok_or_else(|| place.clone().damaged(format!("there is no value {index}")))?;
            let value = place.need("val", place.got(value)?.val())?;
            found.push(self.constant(&place, value)?);
        }
        Ok(found)
    }

    fn constant(&mut self, place: &Place, value: KernelTypesRef<'_>) -> Result<Constant> {
        Ok(match value {
            KernelTypesRef::Int(value) => Constant::Int(place.got(value.value())?),
            KernelTypesRef::Bool(value) => Constant::Bool(place.got(value.value())?),
            KernelTypesRef::Double(value) => Constant::Double(place.got(value.value())?),
            KernelTypesRef::String(value) => {
                let text = place.need("value", value.value())?;
                self.text += text.len() as u64;
                place.at_most("value", self.text, MAX_TEXT)?;
                Constant::Text(text.to_string())
            }
            _ => return Err(place.clone().unsupported("a constant that is neither a number nor a text")),
        })
    }
}

/// The one number that a method returns.
pub(super) fn int(methods: &Methods, name: &str) -> Result<Option<i64>> {
    match methods.get(name).map(Vec::as_slice) {
        None => Ok(None),
        Some([Constant::Int(value)]) => Ok(Some(*value)),
        Some(_) => Err(Place::Method(name.into()).fault(Fault::Broken("does not return one whole number".into()))),
    }
}

/// The one text that a method returns.
pub(super) fn text<'a>(methods: &'a Methods, name: &str) -> Result<Option<&'a str>> {
    match methods.get(name).map(Vec::as_slice) {
        None => Ok(None),
        Some([Constant::Text(value)]) => Ok(Some(value)),
        Some(_) => Err(Place::Method(name.into()).fault(Fault::Broken("does not return one text".into()))),
    }
}
