//! A package that is small but has everything that readers and lints tell apart, for the tests of this folder.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;

use diffulex_compiler::ir::{Encoding, Module, StoredTensor, WeightError, WeightSource, WeightType, parse};
use prost::Message;

use super::schema::manifest::Manifest;
use super::schema::model::Model;
use super::schema::program::{
    Block, Bound, Content, DataType, Dimension, Extent, Function, ImmediateValue, Numbers, Operation, RepeatedFloats,
    RepeatedInts, RepeatedStrings, TensorType, TensorValue, Value, ValueKind, ValueType,
};
use super::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH};
use super::{Metadata, Options, Packages, legalize};

/// A step with two layers, `MATRIX` in place of an encoding.
const STEP: &str = r#"
module "tiny" stage quantized
dims T = 2, C = 3

weights {
  embed_tokens : MATRIX[5, 64]
  layers.{i} for i in 0..2 {
    gain : f32[64]
    k_proj : MATRIX[16, 64]
    o_proj : MATRIX[64, 64]
  }
  lm_head : MATRIX[6, 64]
}

cache k, v : f32[1, 1, C, 16] for layers.{i} in 0..2

graph step(%tokens: i32[1, T], %positions: i32[1, T], %mask: f32[1, 1, T, C+T]) {
  %x = embed %tokens, @embed_tokens : f32[1, T, 64]
  layers.{i} for i in 0..2 carry %x {
    %in = rms_norm %x, @gain {eps = 1e-6} : f32[1, T, 64]
    %k = linear %in, @k_proj : f32[1, T, 16]
    %k.new = heads %k {n = 1} : f32[1, 1, T, 16]
    %v.new = neg %k.new : f32[1, 1, T, 16]
    %k.all = cached $k, %k.new : f32[1, 1, C+T, 16]
    %v.all = cached $v, %v.new : f32[1, 1, C+T, 16]
    %mix = attention %k.new, %k.all, %v.all, %mask {scale = 0.25} : f32[1, 1, T, 16]
    %flat = merge_heads %mix : f32[1, T, 16]
    %wide = concat %flat, %flat, %flat, %flat {axis = 2} : f32[1, T, 64]
    %o = linear %wide, @o_proj : f32[1, T, 64]
    next add %x, %o : f32[1, T, 64]
  }
  %logits = linear %x, @lm_head : f32[1, T, 6]
  return %logits
}
"#;

/// The step with matrices in that encoding, legal.
pub(super) fn legal(encoding: Encoding, options: &Options) -> Module {
    legalize(&parse(&STEP.replace("MATRIX", encoding.name())).unwrap(), options).unwrap()
}

struct Ones(Vec<u8>);

impl WeightSource for Ones {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let module = parse(&STEP.replace("MATRIX", "f32")).unwrap();
        let id = module.weight_id(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        let ty = WeightType::new(Encoding::F32, module.weight(id).ty.shape.clone());
        Ok(StoredTensor { bytes: &self.0[..ty.bytes() as usize], packing: Default::default(), scales: &[], ty })
    }
}

/// A package taken apart.
pub(super) struct Parts {
    pub(super) manifest: Manifest,
    pub(super) model: Model,
    pub(super) weights: Vec<u8>,
}

impl Parts {
    /// Those of the step.
    pub(super) fn new(encoding: Encoding, options: &Options) -> Parts {
        let (legal, folder) = (legal(encoding, options), tempfile::tempdir().unwrap());
        let packages = Packages::new(&legal, "m", &Metadata::default(), options).unwrap();
        packages.write_below(&Ones(1f32.to_le_bytes().repeat(4096)), folder.path(), &mut |_, _| {}).unwrap();
        let file = |name: &str| fs::read(folder.path().join("m.mlpackage").join(name)).unwrap();
        let model = Model::decode(&file(MODEL_PATH)[..]).unwrap();
        Parts { manifest: serde_json::from_slice(&file(MANIFEST_PATH)).unwrap(), model, weights: file(WEIGHT_PATH) }
    }

    /// Writes the package.
    pub(super) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder.join(WEIGHT_PATH).parent().unwrap()).unwrap();
        fs::write(folder.join(MANIFEST_PATH), serde_json::to_vec(&self.manifest).unwrap()).unwrap();
        fs::write(folder.join(MODEL_PATH), self.model.encode_to_vec()).unwrap();
        fs::write(folder.join(WEIGHT_PATH), &self.weights).unwrap();
    }

    pub(super) fn function(&mut self) -> &mut Function {
        self.model.ml_program.as_mut().unwrap().functions.values_mut().next().unwrap()
    }

    pub(super) fn block(&mut self) -> &mut Block {
        self.function().block_specializations.values_mut().next().unwrap()
    }

    /// The operation of that kind, counted from 0.
    pub(super) fn operation(&mut self, kind: &str, i: usize) -> &mut Operation {
        self.block().operations.iter_mut().filter(|operation| operation.r#type == kind).nth(i).unwrap()
    }

    /// The constant of that name.
    pub(super) fn constant(&mut self, name: &str) -> &mut Value {
        let named = |operation: &&mut Operation| operation.outputs.first().is_some_and(|result| result.name == name);
        self.block().operations.iter_mut().find(named).unwrap().attributes.get_mut("val").unwrap()
    }

    /// The first constant that lies in the weight file.
    pub(super) fn blob(&mut self) -> &mut Value {
        let values = self.block().operations.iter_mut().filter_map(|operation| operation.attributes.get_mut("val"));
        let stored = |value: &&mut Value| matches!(value.content, Some(Content::BlobFile(_)));
        values.into_iter().find(stored).unwrap()
    }
}

/// The offset of a value in the weight file.
pub(super) fn offset_of(value: &mut Value) -> &mut u64 {
    match value.content.as_mut() {
        Some(Content::BlobFile(blob)) => &mut blob.offset,
        other => panic!("{other:?}"),
    }
}

impl Operation {
    /// The type of its first result.
    pub(super) fn result(&mut self) -> &mut TensorType {
        tensor_of(&mut self.outputs[0].r#type)
    }

    /// A parameter that is bound to a name.
    pub(super) fn name_of(&mut self, key: &str) -> &mut String {
        match self.inputs.get_mut(key).unwrap().arguments[0].bound.as_mut() {
            Some(Bound::Name(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    /// A parameter that is bound to a constant.
    pub(super) fn value_of(&mut self, key: &str) -> &mut Value {
        match self.inputs.get_mut(key).unwrap().arguments[0].bound.as_mut() {
            Some(Bound::Value(value)) => value,
            other => panic!("{other:?}"),
        }
    }
}

/// The tensor in a type, also where a state wraps it.
pub(super) fn tensor_of(ty: &mut Option<ValueType>) -> &mut TensorType {
    match ty.as_mut().unwrap().kind.as_mut() {
        Some(ValueKind::Tensor(tensor)) => tensor,
        Some(ValueKind::State(state)) => match state.wrapped_type.as_mut().unwrap().kind.as_mut() {
            Some(ValueKind::Tensor(tensor)) => tensor,
            other => panic!("{other:?}"),
        },
        None => panic!("no type"),
    }
}

/// The size of an axis, which must be known.
pub(super) fn size_of(dimension: &mut Dimension) -> &mut u64 {
    match dimension.extent.as_mut() {
        Some(Extent::Constant(constant)) => &mut constant.size,
        _ => panic!("no known size"),
    }
}

/// A constant that is a whole number.
pub(super) fn int(number: i32) -> Value {
    immediate(DataType::Int32, Numbers::Ints(RepeatedInts { values: vec![number] }))
}

/// A constant that is a text.
pub(super) fn text(text: &str) -> Value {
    immediate(DataType::String, Numbers::Strings(RepeatedStrings { values: vec![text.into()] }))
}

/// A constant that is a number in single precision.
pub(super) fn single(number: f32) -> Value {
    immediate(DataType::Float32, Numbers::Floats(RepeatedFloats { values: vec![number] }))
}

fn immediate(dtype: DataType, numbers: Numbers) -> Value {
    let tensor = TensorType { data_type: dtype as i32, rank: 0, dimensions: vec![] };
    Value {
        doc_string: String::new(),
        r#type: Some(ValueType { kind: Some(ValueKind::Tensor(tensor)) }),
        content: Some(Content::Immediate(ImmediateValue { tensor: Some(TensorValue { numbers: Some(numbers) }) })),
    }
}

/// The numbers of a constant in the program itself.
pub(super) fn numbers_of(value: &mut Value) -> &mut Numbers {
    match value.content.as_mut() {
        Some(Content::Immediate(immediate)) => immediate.tensor.as_mut().unwrap().numbers.as_mut().unwrap(),
        other => panic!("{other:?}"),
    }
}
