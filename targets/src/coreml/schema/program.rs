//! `MIL.proto`: the program.
//!
//! Only what a step graph needs: no control flow. Maps are sorted, see `model`.

use std::collections::BTreeMap;

/// `Program`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Program {
    #[prost(int64, tag = "1")]
    pub(crate) version: i64,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) functions: BTreeMap<String, Function>,
    #[prost(string, tag = "3")]
    pub(crate) doc_string: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) attributes: BTreeMap<String, Value>,
}

/// `Function`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Function {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<NamedValueType>,
    #[prost(string, tag = "2")]
    pub(crate) opset: String,
    #[prost(btree_map = "string, message", tag = "3")]
    pub(crate) block_specializations: BTreeMap<String, Block>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) attributes: BTreeMap<String, Value>,
}

/// `Block`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Block {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<NamedValueType>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) outputs: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) operations: Vec<Operation>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) attributes: BTreeMap<String, Value>,
}

/// `Operation`, without nested blocks.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Operation {
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) inputs: BTreeMap<String, Argument>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) outputs: Vec<NamedValueType>,
    #[prost(btree_map = "string, message", tag = "5")]
    pub(crate) attributes: BTreeMap<String, Value>,
}

/// `Argument`: several bindings for lists only.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Argument {
    #[prost(message, repeated, tag = "1")]
    pub(crate) arguments: Vec<Binding>,
}

/// `Argument.Binding`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Binding {
    #[prost(oneof = "Bound", tags = "1, 2")]
    pub(crate) bound: Option<Bound>,
}

/// `Argument.Binding.binding`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Bound {
    #[prost(string, tag = "1")]
    Name(String),
    #[prost(message, tag = "2")]
    Value(Value),
}

/// `NamedValueType`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NamedValueType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<ValueType>,
}

/// `ValueType`: a tensor or a state.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueType {
    #[prost(oneof = "ValueKind", tags = "1, 5")]
    pub(crate) kind: Option<ValueKind>,
}

/// `ValueType.type`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ValueKind {
    #[prost(message, tag = "1")]
    Tensor(TensorType),
    #[prost(message, tag = "5")]
    State(Box<StateType>),
}

/// `StateType`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StateType {
    #[prost(message, optional, boxed, tag = "1")]
    pub(crate) wrapped_type: Option<Box<ValueType>>,
}

/// `TensorType`; a scalar has rank 0 and no dimensions.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorType {
    #[prost(enumeration = "DataType", tag = "1")]
    pub(crate) data_type: i32,
    #[prost(int64, tag = "2")]
    pub(crate) rank: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) dimensions: Vec<Dimension>,
}

/// `Dimension`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Dimension {
    #[prost(oneof = "Extent", tags = "1, 2")]
    pub(crate) extent: Option<Extent>,
}

impl Dimension {
    /// That of a known size.
    pub(crate) fn known(size: u64) -> Dimension {
        Dimension { extent: Some(Extent::Constant(ConstantDimension { size })) }
    }

    /// Its size, if it is known.
    pub(crate) fn size(self) -> Option<u64> {
        match self.extent {
            Some(Extent::Constant(constant)) => Some(constant.size),
            _ => None,
        }
    }
}

/// `Dimension.dimension`.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub(crate) enum Extent {
    #[prost(message, tag = "1")]
    Constant(ConstantDimension),
    #[prost(message, tag = "2")]
    Unknown(UnknownDimension),
}

/// `Dimension.ConstantDimension`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct ConstantDimension {
    #[prost(uint64, tag = "1")]
    pub(crate) size: u64,
}

/// `Dimension.UnknownDimension`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct UnknownDimension {
    #[prost(bool, tag = "1")]
    pub(crate) variadic: bool,
}

/// `Value`: a type with numbers, here or in the weight file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) doc_string: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<ValueType>,
    #[prost(oneof = "Content", tags = "3, 5")]
    pub(crate) content: Option<Content>,
}

/// `Value.value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Content {
    #[prost(message, tag = "3")]
    Immediate(ImmediateValue),
    #[prost(message, tag = "5")]
    BlobFile(BlobFileValue),
}

/// `Value.ImmediateValue`, of tensors.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ImmediateValue {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorValue>,
}

/// `Value.BlobFileValue`: the record at `offset` of a file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BlobFileValue {
    #[prost(string, tag = "1")]
    pub(crate) file_name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
}

/// `TensorValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorValue {
    #[prost(oneof = "Numbers", tags = "1, 2, 3, 4, 7")]
    pub(crate) numbers: Option<Numbers>,
}

/// `TensorValue.value`: which field it is depends on the element type, see [`DataType::field`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Numbers {
    #[prost(message, tag = "1")]
    Floats(RepeatedFloats),
    #[prost(message, tag = "2")]
    Ints(RepeatedInts),
    #[prost(message, tag = "3")]
    Bools(RepeatedBools),
    #[prost(message, tag = "4")]
    Strings(RepeatedStrings),
    #[prost(message, tag = "7")]
    Bytes(RepeatedBytes),
}

/// `TensorValue.RepeatedFloats`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedFloats {
    #[prost(float, repeated, tag = "1")]
    pub(crate) values: Vec<f32>,
}

/// `TensorValue.RepeatedInts`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedInts {
    #[prost(int32, repeated, tag = "1")]
    pub(crate) values: Vec<i32>,
}

/// `TensorValue.RepeatedBools`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedBools {
    #[prost(bool, repeated, tag = "1")]
    pub(crate) values: Vec<bool>,
}

/// `TensorValue.RepeatedStrings`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedStrings {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

/// `TensorValue.RepeatedBytes`: little-endian elements, as in the weight file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) values: Vec<u8>,
}

/// `DataType`: those that this target uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum DataType {
    Unused = 0,
    Bool = 1,
    String = 2,
    Float16 = 10,
    Float32 = 11,
    Int8 = 21,
    Int32 = 23,
    Int4 = 25,
    Uint4 = 35,
}
