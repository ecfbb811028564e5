//! Operands and attributes of a node, of which none may be left over.

use std::collections::HashMap;

use onnx_protobuf::AttributeProto;
use onnx_protobuf::NodeProto;
use onnx_protobuf::attribute_proto::AttributeType;

use super::error::{Place, Result};
use super::lift::Held;

/// Most numbers of an attribute.
const MAX_INTS: u64 = 8;

/// What a node is given.
pub(super) struct Inputs {
    pub(super) place: Place,
    pub(super) held: Vec<Held>,
    attributes: HashMap<String, AttributeProto>,
}

impl Inputs {
    pub(super) fn read(place: &Place, node: &NodeProto, held: Vec<Held>) -> Result<Inputs> {
        let mut attributes = HashMap::new();
        for attribute in &node.attribute {
            place.known(&attribute.special_fields)?;
            if !attribute.ref_attr_name.is_empty() {
                return Err(place.unsupported("attributes of functions"));
            }
            if attributes.insert(attribute.name.clone(), attribute.clone()).is_some() {
                return Err(place.damaged("an attribute stands twice"));
            }
        }
        Ok(Inputs { place: place.clone(), held, attributes })
    }

    /// The operands, of which there must be so many.
    pub(super) fn exactly<const N: usize>(&self) -> Result<[Held; N]> {
        let found = self.held.len();
        self.held.clone().try_into().map_err(|_| self.place.damaged(format!("it has {found} operands, not {N}")))
    }

    /// A whole number.
    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>> {
        Ok(self.take(name, AttributeType::INT)?.map(|attribute| attribute.i))
    }

    /// A number.
    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>> {
        Ok(self.take(name, AttributeType::FLOAT)?.map(|attribute| attribute.f))
    }

    /// Whole numbers.
    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        let Some(attribute) = self.take(name, AttributeType::INTS)? else { return Ok(None) };
        self.place.at_most("length of an attribute", attribute.ints.len() as u64, MAX_INTS)?;
        Ok(Some(attribute.ints))
    }

    /// An axis of `rank`, counted from the front; `absent` where the node does not say.
    pub(super) fn axis(&mut self, rank: usize, absent: Option<i64>) -> Result<u32> {
        let axis = self.int("axis")?.or(absent).ok_or_else(|| self.place.missing("attribute `axis`"))?;
        axis_of(&self.place, axis, rank)
    }

    /// Fails where the node says more than was asked.
    pub(super) fn done(&self) -> Result<()> {
        match self.attributes.keys().min() {
            Some(name) => {
                Err(self.place.unsupported(format!("attribute {:?}", name.chars().take(64).collect::<String>())))
            }
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str, ty: AttributeType) -> Result<Option<AttributeProto>> {
        let Some(attribute) = self.attributes.remove(name) else { return Ok(None) };
        match attribute.type_.enum_value() {
            Ok(found) if found == ty => Ok(Some(attribute)),
            _ => Err(self.place.damaged(format!("its attribute `{name}` is not of type {ty:?}"))),
        }
    }
}

/// An axis of `rank`, counted from the front.
pub(super) fn axis_of(place: &Place, axis: i64, rank: usize) -> Result<u32> {
    let rank = rank as i64;
    let found = if axis < 0 { axis.checked_add(rank) } else { Some(axis) };
    match found.filter(|axis| (0..rank).contains(axis)) {
        Some(axis) => Ok(axis as u32),
        None => Err(place.damaged(format!("it has no axis {axis}"))),
    }
}
