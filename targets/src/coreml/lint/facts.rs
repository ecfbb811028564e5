//! What lints ask of a function: who makes a value, of which type it is.

use std::collections::{HashMap, HashSet};

use crate::coreml::read::{Place, half};
use crate::coreml::schema::model::Model;
use crate::coreml::schema::program::{
    Binding, Bound, Content, DataType, Dimension, NamedValueType, Numbers, Operation, TensorType, Value, ValueKind,
    ValueType,
};

/// A function of a program.
pub(super) struct Facts<'a> {
    /// Specification version.
    pub(super) version: i32,
    /// Its name, where there are several.
    name: Option<&'a str>,
    /// Inputs and states.
    pub(super) inputs: &'a [NamedValueType],
    /// The operations in order.
    pub(super) operations: &'a [Operation],
    /// The names of its outputs.
    pub(super) outputs: HashSet<&'a str>,
    made: HashMap<&'a str, &'a Operation>,
    types: HashMap<&'a str, &'a TensorType>,
}

impl<'a> Facts<'a> {
    /// Those of all functions of a model.
    pub(super) fn of(model: &'a Model) -> Vec<Facts<'a>> {
        let functions = model.ml_program.iter().flat_map(|program| &program.functions);
        let count = functions.clone().count();
        let mut all = Vec::new();
        for (name, function) in functions {
            for block in function.block_specializations.values() {
                let results = block.operations.iter().flat_map(|operation| &operation.outputs);
                let values = function.inputs.iter().chain(results);
                all.push(Facts {
                    version: model.specification_version,
                    name: (count > 1).then_some(name),
                    inputs: &function.inputs,
                    operations: &block.operations,
                    outputs: block.outputs.iter().map(String::as_str).collect(),
                    made: block.operations.iter().flat_map(made).collect(),
                    types: values
                        .filter_map(|value| Some((value.name.as_str(), tensor(value.r#type.as_ref())?)))
                        .collect(),
                });
            }
        }
        all
    }

    /// Where an operation stands.
    pub(super) fn place(&self, i: usize) -> String {
        let operation = &self.operations[i];
        let result = operation.outputs.first().map_or("nothing", |result| result.name.as_str());
        self.inside(&Place::operation(i, &operation.r#type, result))
    }

    /// A place of this function.
    pub(super) fn inside(&self, place: &Place) -> String {
        self.name.map_or(place.to_string(), |name| format!("function {name:?}, {place}"))
    }

    /// The value that a parameter is bound to by name.
    pub(super) fn name(&self, operation: &'a Operation, key: &str) -> Option<&'a str> {
        operation.inputs.get(key).and_then(|argument| argument.arguments.first()).and_then(named)
    }

    /// The operation that makes what a parameter is bound to.
    pub(super) fn maker(&self, operation: &'a Operation, key: &str) -> Option<&'a Operation> {
        self.made.get(self.name(operation, key)?).copied()
    }

    /// The type of what a parameter is bound to.
    pub(super) fn operand(&self, operation: &'a Operation, key: &str) -> Option<&'a TensorType> {
        match operation.inputs.get(key)?.arguments.first()?.bound.as_ref()? {
            Bound::Name(name) => self.types.get(name.as_str()).copied(),
            Bound::Value(value) => tensor(value.r#type.as_ref()),
        }
    }

    /// The types of all values that an operation is given by name, and makes.
    pub(super) fn types_at(&self, operation: &'a Operation) -> impl Iterator<Item = &'a TensorType> {
        let bindings = operation.inputs.values().flat_map(|argument| &argument.arguments);
        let names = bindings.filter_map(named).chain(operation.outputs.iter().map(|result| result.name.as_str()));
        names.filter_map(|name| self.types.get(name).copied())
    }

    /// Whether a parameter is a constant.
    pub(super) fn is_constant(&self, operation: &'a Operation, key: &str) -> bool {
        self.maker(operation, key).is_some_and(|maker| maker.r#type == "const")
    }

    /// The number in `fp16` that a parameter is bound to.
    pub(super) fn half(&self, operation: &'a Operation, key: &str) -> Option<f32> {
        let value = self.maker(operation, key)?.attributes.get("val")?;
        let ty = tensor(value.r#type.as_ref()).filter(|ty| ty.data_type == DataType::Float16 as i32)?;
        match (&value.content, ty.dimensions.is_empty()) {
            (Some(Content::Immediate(immediate)), true) => match immediate.tensor.as_ref()?.numbers.as_ref()? {
                Numbers::Bytes(bytes) => half(&bytes.values),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The results of an operation, each with it.
fn made(operation: &Operation) -> impl Iterator<Item = (&str, &Operation)> {
    operation.outputs.iter().map(move |result| (result.name.as_str(), operation))
}

fn named(binding: &Binding) -> Option<&str> {
    match &binding.bound {
        Some(Bound::Name(name)) => Some(name),
        _ => None,
    }
}

/// The constants that stand in an operation.
pub(super) fn values_of(operation: &Operation) -> impl Iterator<Item = &Value> {
    let bindings = operation.inputs.values().flat_map(|argument| &argument.arguments);
    let bound = bindings.filter_map(|binding| match &binding.bound {
        Some(Bound::Value(value)) => Some(value),
        _ => None,
    });
    operation.attributes.values().chain(bound)
}

/// The tensor type, also of what a state wraps.
pub(super) fn tensor(ty: Option<&ValueType>) -> Option<&TensorType> {
    match ty?.kind.as_ref()? {
        ValueKind::Tensor(tensor) => Some(tensor),
        ValueKind::State(state) => match state.wrapped_type.as_ref()?.kind.as_ref()? {
            ValueKind::Tensor(tensor) => Some(tensor),
            ValueKind::State(_) => None,
        },
    }
}

/// Axes that are looked at: a value of more than five is a mistake, and may be used very often.
const MAX_AXES: usize = 16;

/// Sizes of the axes; nothing where one is unknown.
pub(super) fn sizes(ty: &TensorType) -> Vec<Option<u64>> {
    ty.dimensions.iter().take(MAX_AXES).map(|dimension: &Dimension| dimension.size()).collect()
}

/// Whether an axis has an unknown size.
pub(super) fn is_flexible(ty: &TensorType) -> bool {
    ty.dimensions.iter().take(MAX_AXES).any(|dimension| dimension.size().is_none())
}

/// `[1, ?, 64]`.
pub(super) fn shape(ty: &TensorType) -> String {
    let sizes = sizes(ty).into_iter().map(|size| size.map_or("?".to_string(), |size| size.to_string()));
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}
