//! `Model.proto`, `FeatureTypes.proto`: what a package says of itself beside the program.
//!
//! Only what an ML Program needs. Maps are sorted, so that the same message has the same bytes everywhere.

use std::collections::BTreeMap;

use super::program::Program;

/// `Model`: the file `model.mlmodel`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Model {
    #[prost(int32, tag = "1")]
    pub(crate) specification_version: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) description: Option<ModelDescription>,
    #[prost(bool, tag = "10")]
    pub(crate) is_updatable: bool,
    /// One of some forty kinds of models.
    #[prost(message, optional, tag = "502")]
    pub(crate) ml_program: Option<Program>,
}

/// `ModelDescription`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModelDescription {
    #[prost(message, repeated, tag = "1")]
    pub(crate) input: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) output: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) state: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "20")]
    pub(crate) functions: Vec<FunctionDescription>,
    #[prost(string, tag = "21")]
    pub(crate) default_function_name: String,
    #[prost(message, optional, tag = "100")]
    pub(crate) metadata: Option<Metadata>,
}

/// `FunctionDescription`: of a package with several functions.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FunctionDescription {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) input: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) output: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) state: Vec<FeatureDescription>,
}

/// `Metadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) short_description: String,
    #[prost(string, tag = "2")]
    pub(crate) version_string: String,
    #[prost(string, tag = "3")]
    pub(crate) author: String,
    #[prost(string, tag = "4")]
    pub(crate) license: String,
    #[prost(btree_map = "string, string", tag = "100")]
    pub(crate) user_defined: BTreeMap<String, String>,
}

/// `FeatureDescription`: an input, an output or a state.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FeatureDescription {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) short_description: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) r#type: Option<FeatureType>,
}

/// `FeatureType`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FeatureType {
    #[prost(oneof = "FeatureKind", tags = "5, 8")]
    pub(crate) kind: Option<FeatureKind>,
    #[prost(bool, tag = "1000")]
    pub(crate) is_optional: bool,
}

/// `FeatureType.Type`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum FeatureKind {
    #[prost(message, tag = "5")]
    MultiArray(ArrayFeatureType),
    #[prost(message, tag = "8")]
    State(StateFeatureType),
}

/// `StateFeatureType`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StateFeatureType {
    #[prost(message, optional, tag = "1")]
    pub(crate) array_type: Option<ArrayFeatureType>,
}

/// `ArrayFeatureType`. Where shapes differ from step to step, `shape` is the default of an input, and an output has none.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ArrayFeatureType {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) shape: Vec<i64>,
    #[prost(enumeration = "ArrayDataType", tag = "2")]
    pub(crate) data_type: i32,
    #[prost(oneof = "ShapeFlexibility", tags = "21, 31")]
    pub(crate) flexibility: Option<ShapeFlexibility>,
}

/// `ArrayFeatureType.ShapeFlexibility`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ShapeFlexibility {
    #[prost(message, tag = "21")]
    Enumerated(EnumeratedShapes),
    #[prost(message, tag = "31")]
    Range(ShapeRange),
}

/// `ArrayFeatureType.EnumeratedShapes`, the default among them.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EnumeratedShapes {
    #[prost(message, repeated, tag = "1")]
    pub(crate) shapes: Vec<Shape>,
}

/// `ArrayFeatureType.Shape`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Shape {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) shape: Vec<i64>,
}

/// `ArrayFeatureType.ShapeRange`: one range an axis.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ShapeRange {
    #[prost(message, repeated, tag = "1")]
    pub(crate) size_ranges: Vec<SizeRange>,
}

/// `SizeRange`, both ends included.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct SizeRange {
    #[prost(uint64, tag = "1")]
    pub(crate) lower_bound: u64,
    #[prost(int64, tag = "2")]
    pub(crate) upper_bound: i64,
}

/// `ArrayFeatureType.ArrayDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ArrayDataType {
    Invalid = 0,
    Float16 = 65552,
    Float32 = 65568,
    Int32 = 131_104,
}
