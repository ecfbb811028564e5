//! Messages for types and constants.

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::{self, Encoded, Search};

use crate::coreml::schema::WEIGHT_FILE;
use crate::coreml::schema::program::{
    Argument, Binding, BlobFileValue, Bound, Content, DataType, Dimension, Extent, ImmediateValue, NamedValueType,
    Numbers, RepeatedBools, RepeatedBytes, RepeatedFloats, RepeatedInts, RepeatedStrings, StateType, TensorType,
    TensorValue, UnknownDimension, Value, ValueKind, ValueType,
};

/// The size of an axis that differs from step to step.
pub(super) const UNKNOWN: u64 = 0;

/// A value of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Val {
    /// Its name.
    pub(super) name: String,
    /// Its element type.
    pub(super) dtype: DataType,
    /// Its axes, [`UNKNOWN`] where they differ from step to step; none for a scalar.
    pub(super) shape: Vec<u64>,
}

impl Val {
    /// Name and type, as inputs and results have them.
    pub(super) fn named(&self) -> NamedValueType {
        NamedValueType { name: self.name.clone(), r#type: Some(tensor(self.dtype, &self.shape)) }
    }
}

/// The type of a tensor.
pub(super) fn tensor(dtype: DataType, shape: &[u64]) -> ValueType {
    let dimension = |&size: &u64| match size {
        UNKNOWN => Dimension { extent: Some(Extent::Unknown(UnknownDimension { variadic: false })) },
        size => Dimension::known(size),
    };
    let tensor = TensorType {
        data_type: dtype as i32,
        rank: shape.len() as i64,
        dimensions: shape.iter().map(dimension).collect(),
    };
    ValueType { kind: Some(ValueKind::Tensor(tensor)) }
}

/// The type of a state that holds such a tensor.
pub(super) fn state(dtype: DataType, shape: &[u64]) -> ValueType {
    let wrapped_type = Some(Box::new(tensor(dtype, shape)));
    ValueType { kind: Some(ValueKind::State(Box::new(StateType { wrapped_type }))) }
}

/// A constant in the program itself.
pub(super) fn immediate(dtype: DataType, shape: &[u64], numbers: Numbers) -> Value {
    let tensor_value = TensorValue { numbers: Some(numbers) };
    Value {
        doc_string: String::new(),
        r#type: Some(tensor(dtype, shape)),
        content: Some(Content::Immediate(ImmediateValue { tensor: Some(tensor_value) })),
    }
}

/// A constant in the weight file, whose record is at `offset`.
pub(super) fn blob(dtype: DataType, shape: &[u64], offset: u64) -> Value {
    Value {
        doc_string: String::new(),
        r#type: Some(tensor(dtype, shape)),
        content: Some(Content::BlobFile(BlobFileValue { file_name: WEIGHT_FILE.into(), offset })),
    }
}

/// A text.
pub(super) fn text(text: &str) -> Value {
    immediate(DataType::String, &[], Numbers::Strings(RepeatedStrings { values: vec![text.into()] }))
}

/// Whole numbers of that shape.
pub(super) fn ints(shape: &[u64], values: &[i32]) -> Value {
    immediate(DataType::Int32, shape, Numbers::Ints(RepeatedInts { values: values.into() }))
}

/// Truth values of that shape.
pub(super) fn bools(shape: &[u64], values: &[bool]) -> Value {
    immediate(DataType::Bool, shape, Numbers::Bools(RepeatedBools { values: values.into() }))
}

/// A number in single precision.
pub(super) fn single(value: f32) -> Value {
    immediate(DataType::Float32, &[], Numbers::Floats(RepeatedFloats { values: vec![value] }))
}

/// A number in half precision; nothing where it is too large.
pub(super) fn half(value: f32) -> Option<Value> {
    let mut bytes = Encoded::default();
    quant::encode(Encoding::F16, Search::Max, 1, &[value], &mut bytes).ok()?;
    Some(immediate(DataType::Float16, &[], Numbers::Bytes(RepeatedBytes { values: bytes.values })))
}

/// A zero in a byte.
pub(super) fn zero_byte() -> Value {
    immediate(DataType::Int8, &[], Numbers::Bytes(RepeatedBytes { values: vec![0] }))
}

/// A parameter that is bound to values.
pub(super) fn bound_to(names: &[&Val]) -> Argument {
    let binding = |val: &&Val| Binding { bound: Some(Bound::Name(val.name.clone())) };
    Argument { arguments: names.iter().map(binding).collect() }
}

/// A parameter of a compressed weight, which is bound to a constant itself.
pub(super) fn bound_value(value: Value) -> Argument {
    Argument { arguments: vec![Binding { bound: Some(Bound::Value(value)) }] }
}
