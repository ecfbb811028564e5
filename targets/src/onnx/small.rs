//! Files that are small but have everything that readers and rules tell apart, for the tests of this crate.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;

use diffulex_compiler::ir::{Encoding, Module, StoredTensor, WeightError, WeightSource, WeightType, parse};
use diffulex_compiler::quant::GridType;
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, TensorProto};

use super::{Files, Options, legalize};
use crate::emit::{EmitError, Metadata};
use crate::qnn::{self, Rounding, Soc};
use crate::stream::Work;

/// A step with two layers; `TABLE` and `MATRIX` stand for encodings.
const STEP: &str = r#"
module "tiny" stage quantized
dims T = 2, C = 3

weights {
  embed_tokens : TABLE[6, 64]
  layers.{i} for i in 0..2 {
    gain : f32[64]
    q_proj : MATRIX[32, 64]
    q_bias : f32[32]
    k_proj : MATRIX[16, 64]
    k_norm : f32[16]
    v_proj : MATRIX[16, 64]
    o_proj : MATRIX[64, 32]
    up_proj : MATRIX[64, 64]
  }
  lm_head : MATRIX[6, 64]
}

cache k, v : f32[1, 1, C, 16] for layers.{i} in 0..2

graph step(%tokens: i32[1, T], %positions: i32[1, T], %mask: f32[1, 1, T, C+T]) {
  %cos = rope_cos %positions {dim = 16, theta = 10000} : f32[1, 1, T, 16]
  %sin = rope_sin %positions {dim = 16, theta = 10000} : f32[1, 1, T, 16]
  %x = embed %tokens, @embed_tokens : f32[1, T, 64]
  layers.{i} for i in 0..2 carry %x {
    %in = rms_norm %x, @gain {eps = 1e-6} : f32[1, T, 64]
    %q = linear %in, @q_proj, @q_bias : f32[1, T, 32]
    %k = linear %in, @k_proj : f32[1, T, 16]
    %v = linear %in, @v_proj : f32[1, T, 16]
    %q.heads = heads %q {n = 2} : f32[1, 2, T, 16]
    %k.heads = heads %k {n = 1} : f32[1, 1, T, 16]
    %v.heads = heads %v {n = 1} : f32[1, 1, T, 16]
    %k.norm = rms_norm %k.heads, @k_norm {eps = 1e-6} : f32[1, 1, T, 16]
    %q.rope = rope %q.heads, %cos, %sin : f32[1, 2, T, 16]
    %k.rope = rope %k.norm, %cos, %sin : f32[1, 1, T, 16]
    %k.all = cached $k, %k.rope : f32[1, 1, C+T, 16]
    %v.all = cached $v, %v.heads : f32[1, 1, C+T, 16]
    %mix = attention %q.rope, %k.all, %v.all, %mask {scale = 0.25} : f32[1, 2, T, 16]
    %flat = merge_heads %mix : f32[1, T, 32]
    %o = linear %flat, @o_proj : f32[1, T, 64]
    %x.attn = add %x, %o : f32[1, T, 64]
    %up = linear %x.attn, @up_proj : f32[1, T, 64]
    %act = silu %up : f32[1, T, 64]
    next add %x.attn, %act : f32[1, T, 64]
  }
  %logits = linear %x, @lm_head : f32[1, T, 6]
  return %logits
}
"#;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Recipe {
    /// Floats, for steps of any size.
    Float(Encoding),
    /// For the HTP: halves.
    Half,
    /// For the HTP: filters in that encoding, values and caches of those types.
    Rounded(Encoding, GridType, GridType),
}

/// Every kind of file for the HTP that there is.
pub(crate) const RECIPES: [(&str, Recipe); 8] = [
    ("fp16", Recipe::Half),
    ("w8a16", Recipe::Rounded(Encoding::Int8Row, GridType::U16, GridType::U8)),
    ("w8a16-kv-i8", Recipe::Rounded(Encoding::Int8Row, GridType::U16, GridType::I8)),
    ("w8a16-kv16", Recipe::Rounded(Encoding::Int8Row, GridType::U16, GridType::I16)),
    ("w4a16", Recipe::Rounded(Encoding::Int4Row, GridType::U16, GridType::U8)),
    ("w4a16-g32", Recipe::Rounded(Encoding::Int4G32, GridType::U16, GridType::U8)),
    ("w8a8", Recipe::Rounded(Encoding::Int8Row, GridType::U8, GridType::U8)),
    ("w4a8", Recipe::Rounded(Encoding::Int4Row, GridType::U8, GridType::U8)),
];

/// W8A16 with an 8-bit cache.
pub(crate) const W8A16: Recipe = Recipe::Rounded(Encoding::Int8Row, GridType::U16, GridType::U8);
/// Filters of four bits, a scale for each output.
pub(crate) const W4A16: Recipe = Recipe::Rounded(Encoding::Int4Row, GridType::U16, GridType::U8);
/// Filters of four bits, a scale for 32 inputs.
pub(crate) const W4A16_G32: Recipe = Recipe::Rounded(Encoding::Int4G32, GridType::U16, GridType::U8);
/// Eight bits throughout.
pub(crate) const W8A8: Recipe = Recipe::Rounded(Encoding::Int8Row, GridType::U8, GridType::U8);

impl Recipe {
    /// As a build asks for it.
    pub(crate) fn options(self, socs: Vec<&'static Soc>) -> qnn::Options {
        let rounding = match self {
            Recipe::Rounded(_, values, cache) => Some(Rounding { values, cache }),
            _ => None,
        };
        qnn::Options { rounding, lengths: vec![1], socs }
    }

    /// How the files of the step are written.
    pub(crate) fn onnx(self) -> Options {
        match self {
            Recipe::Float(encoding) => Options { half: encoding == Encoding::F16, ..Options::default() },
            _ => self.options(vec![]).onnx(),
        }
    }

    /// Writes the step with its first layer only.
    pub(crate) fn files_of_a_layer(self) -> Vec<(String, Vec<u8>)> {
        self.written(&self.legal(&STEP.replace("0..2", "0..1")))
    }

    /// The step, legal and rounded.
    pub(crate) fn module(self) -> Module {
        self.legal(STEP)
    }

    fn legal(self, step: &str) -> Module {
        let (table, matrix) = match self {
            Recipe::Float(Encoding::F16) | Recipe::Half => ("f16", "f16"),
            Recipe::Float(encoding) | Recipe::Rounded(encoding, ..) => ("f32", encoding.name()),
        };
        let step = parse(&step.replace("TABLE", table).replace("MATRIX", matrix)).unwrap();
        let legal = legalize(&step, &self.onnx()).unwrap();
        // Ranges that differ from place to place.
        let range = |place: &str, ty: GridType| {
            let (a, b) = (place.len() % 5, place.len() % 3);
            let most = 1.0 + b as f32;
            Some(if ty == GridType::I16 || ty == GridType::I8 { (-most, most) } else { (-2.0 - a as f32, most) })
        };
        match self.options(vec![]).rounding {
            Some(rounding) => qnn::round(&legal, rounding, &range).unwrap(),
            None => legal,
        }
    }

    /// Writes the step; gives name and bytes of each file.
    pub(crate) fn files(self) -> Vec<(String, Vec<u8>)> {
        self.written(&self.module())
    }

    /// The same of a module.
    fn written(self, module: &Module) -> Vec<(String, Vec<u8>)> {
        let mut written = Vec::new();
        let files = Files::new(module, "model", &Metadata::default(), &self.onnx()).unwrap();
        let mut make = |name: &str, content: crate::Content<'_>| {
            let mut bytes = Vec::new();
            content(&mut bytes)?;
            written.push((name.to_string(), bytes));
            Ok::<(), EmitError>(())
        };
        files.write(Work::new(&Numbers(numbers())), &mut make, &mut |_, _| {}).unwrap();
        written
    }
}

/// Numbers that differ, so that nothing that is exchanged goes unseen.
fn numbers() -> Vec<u8> {
    (0..4096i32).flat_map(|i| ((i * 37 % 101 - 50) as f32 / 50.0).to_le_bytes()).collect()
}

struct Numbers(Vec<u8>);

impl WeightSource for Numbers {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let module = parse(&STEP.replace("TABLE", "f32").replace("MATRIX", "f32")).unwrap();
        let id = module.weight_id(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        let ty = WeightType::new(Encoding::F32, module.weight(id).ty.shape.clone());
        Ok(StoredTensor { bytes: &self.0[..ty.bytes() as usize], packing: Default::default(), scales: &[], ty })
    }
}

/// A file taken apart.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) model: ModelProto,
    pub(crate) data: Vec<u8>,
}

impl Parts {
    /// Those of the step.
    pub(crate) fn new(recipe: Recipe) -> Parts {
        let files = recipe.files();
        let file = |name: &str| files.iter().find(|(found, _)| found == name).map(|(_, bytes)| bytes.clone());
        let model = ModelProto::parse_from_bytes(&file("model.onnx").unwrap()).unwrap();
        Parts { model, data: file("model.data").unwrap() }
    }

    /// Writes the files; gives the path of the graph.
    pub(crate) fn write(&self, folder: &Path) -> std::path::PathBuf {
        fs::write(folder.join("model.data"), &self.data).unwrap();
        let path = folder.join("model.onnx");
        fs::write(&path, self.model.write_to_bytes().unwrap()).unwrap();
        path
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    /// The node of that operator, counted from 0.
    pub(crate) fn node(&mut self, op: &str, i: usize) -> &mut NodeProto {
        self.graph().node.iter_mut().filter(|node| node.op_type == op).nth(i).unwrap()
    }

    /// The node that makes a value.
    pub(crate) fn maker(&mut self, value: &str) -> &mut NodeProto {
        self.graph().node.iter_mut().find(|node| node.output[0] == value).unwrap()
    }

    /// The stored tensor of that name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut TensorProto {
        self.graph().initializer.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The first tensor that lies in the data file.
    pub(crate) fn outside(&mut self) -> &mut TensorProto {
        self.graph().initializer.iter_mut().find(|tensor| !tensor.external_data.is_empty()).unwrap()
    }

    /// Adds a stored tensor.
    pub(crate) fn store(&mut self, name: &str, dtype: i32, dims: &[i64], bytes: &[u8]) {
        let (dims, raw_data) = (dims.to_vec(), bytes.to_vec());
        let tensor = TensorProto { name: name.into(), data_type: dtype, dims, raw_data, ..TensorProto::default() };
        self.graph().initializer.push(tensor);
    }

    /// Gives the rounding that makes `value` another grid, in both of its halves.
    pub(crate) fn regrid(&mut self, value: &str, dtype: i32, scale: f32, zero: i32) {
        let number = self.graph().initializer.len();
        let names = [format!("scale.{number}"), format!("zero.{number}")];
        let size = if matches!(dtype, 4 | 5) { 2 } else { 1 };
        self.store(&names[0], 1, &[], &scale.to_le_bytes());
        self.store(&names[1], dtype, &[], &zero.to_le_bytes()[..size]);
        let whole = self.maker(value).input[0].clone();
        for made in [value, &whole] {
            let node = self.maker(made);
            node.input[1..].clone_from_slice(&names);
        }
    }
}
