//! Small modules with random numbers, for the tests of the compiler.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::types::{DType, Encoding, Sizes};
use diffulex_compiler::ir::{
    self, CacheId, CacheKind, Module, Op, StoredTensor, WeightError, WeightSource, WeightType, interpret,
};
use diffulex_compiler::models::Decoder;
use diffulex_compiler::quant;

/// A file or folder below `fixtures/`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// Decisions read from bytes, so that a failing case shrinks with its bytes; all zero when they are used up.
#[derive(Clone)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(b, rest)| (*b, rest));
        self.0 = rest;
        u32::from(byte) % n
    }

    /// One of `items`.
    pub(crate) fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize].clone()
    }

    /// Yes or no.
    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// A stream of numbers that is the same everywhere (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Roughly normal, standard deviation about 1.
    pub(crate) fn number(&mut self) -> f32 {
        (0..4).map(|_| (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).sum::<f32>() * 0.9
    }

    pub(crate) fn array(&mut self, shape: &[usize]) -> Array {
        Array { shape: shape.to_vec(), data: (0..shape.iter().product()).map(|_| self.number()).collect() }
    }
}

/// Tensors in memory.
#[derive(Clone, Default)]
pub(crate) struct Tensors(pub(crate) BTreeMap<String, (WeightType, quant::Encoded)>);

impl Tensors {
    pub(crate) fn add(&mut self, name: &str, ty: WeightType, numbers: &[f32]) {
        let mut rows = quant::Encoded::default();
        quant::encode(ty.encoding, quant::Search::Max, ty.columns(), numbers, &mut rows).expect("finite numbers");
        assert_eq!((rows.values.len() + rows.scales.len()) as u64, ty.bytes());
        self.0.insert(name.into(), (ty, rows));
    }

    /// Random weights for all tensors of a network, under the names of the IR.
    pub(crate) fn random(decoder: &Decoder, seed: u64, encoding: &dyn Fn(&str) -> Encoding) -> Tensors {
        let mut random = Random(seed);
        let mut tensors = Tensors::default();
        for (name, shape) in decoder.weights() {
            let ty = WeightType::new(encoding(&name), shape);
            let spread = 1.5 / (ty.columns() as f32).sqrt();
            let numbers: Vec<f32> = (0..ty.rows() * ty.columns()).map(|_| random.number() * spread).collect();
            tensors.add(&name, ty, &numbers);
        }
        tensors
    }

    pub(crate) fn ty(&self, name: &str) -> Option<WeightType> {
        self.0.get(name).map(|(ty, _)| ty.clone())
    }
}

impl WeightSource for Tensors {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let (ty, rows) = self.0.get(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        Ok(StoredTensor { ty: ty.clone(), packing: Default::default(), bytes: &rows.values, scales: &rows.scales })
    }
}

/// A network of a few numbers, with every switch of the family's skeleton.
pub(crate) fn decoder(choices: &mut Choices<'_>) -> Decoder {
    let kv_heads = 1 + choices.below(3);
    Decoder {
        vocab: 5 + choices.below(12),
        hidden: 2 + choices.below(9),
        layers: 1 + choices.below(3),
        heads: kv_heads * (1 + choices.below(3)),
        kv_heads,
        head_dim: 2 * (1 + choices.below(4)),
        intermediate: 1 + choices.below(9),
        eps: choices.of(&[1e-6, 1e-5, 0.1]),
        theta: choices.of(&[1e6, 1e4, 10.0]),
        tied: choices.flip(),
        qkv_bias: choices.flip(),
        qk_norm: choices.flip(),
    }
}

/// The network as it is imported.
pub(crate) fn import(decoder: &Decoder, tensors: &Tensors) -> Module {
    let bounds = Sizes { t: 8, c: 16, r: 0 };
    decoder.import("small", bounds, &|name| tensors.ty(name)).expect("a module")
}

/// Inputs of a step: `t` tokens after `c` cached positions, of which some are hidden; all rows, where rows are asked.
pub(crate) fn inputs(module: &Module, vocab: u32, t: usize, c: usize, seed: u64) -> Inputs {
    let mut random = Random(seed);
    let mut values = HashMap::new();
    for node in module.nodes.iter().filter(|n| n.op == Op::Input) {
        let array = match node.name.as_str() {
            "tokens" => ids((0..t).map(|_| random.below(vocab as usize)), &[1, t]),
            "positions" => ids(c..c + t, &[1, t]),
            "rows" => ids(0..t, &[t]),
            "mask" => {
                let hidden = |i: usize, random: &mut Random| i % (c + t) != c + i / (c + t) && random.below(3) == 0;
                let data = (0..t * (c + t)).map(|i| if hidden(i, &mut random) { f32::NEG_INFINITY } else { 0.0 });
                Array { shape: vec![1, 1, t, c + t], data: data.collect() }
            }
            other => panic!("an input `{other}`"),
        };
        values.insert(node.name.clone(), array);
    }
    let shape = [1, module.cache.kv_heads as usize, c, module.cache.head_dim as usize];
    let caches = (0..module.cache.layers)
        .flat_map(|layer| [CacheKind::K, CacheKind::V].map(|kind| (CacheId { layer, kind }, random.array(&shape))));
    Inputs { caches: caches.collect(), values }
}

/// Numbers that count something.
pub(crate) fn ids(ids: impl IntoIterator<Item = usize>, shape: &[usize]) -> Array {
    Array { shape: shape.to_vec(), data: ids.into_iter().map(|id| id as f32).collect() }
}

/// One step of a module that keeps all rules.
pub(crate) fn step(module: &Module, source: &dyn WeightSource, inputs: &Inputs) -> Outputs {
    ir::verify(module).unwrap_or_else(|e| panic!("{e}\n{}", ir::print(module)));
    interpret(module, source, inputs).unwrap_or_else(|e| panic!("{e}\n{}", ir::print(module)))
}

/// The value of the node of that name, outside the layers or in one.
pub(crate) fn value<'a>(module: &Module, outputs: &'a Outputs, layer: Option<u32>, name: &str) -> &'a Array {
    let at = module.nodes.iter().position(|n| n.layer == layer && n.name == name);
    &outputs.nodes[at.unwrap_or_else(|| panic!("no node {name}"))]
}

/// A type with known axes.
pub(crate) fn fixed(dtype: DType, shape: &[usize]) -> ir::ValueType {
    ir::ValueType::new(dtype, shape.iter().map(|&n| ir::Dim::fixed(n as u32)).collect::<Vec<_>>())
}

/// The tensors of a file of reference numbers: shape and numbers.
pub(crate) fn references(path: &str) -> HashMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(fixture(path)).expect("a fixture");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: HashMap<String, serde_json::Value> = serde_json::from_slice(header).expect("a header");
    let tensor = |(name, info): (String, serde_json::Value)| {
        let list = |key: &str| serde_json::from_value::<Vec<usize>>(info[key].clone()).ok();
        let (shape, at) = (list("shape")?, list("data_offsets")?);
        let data = &data[at[0]..at[1]];
        let numbers = match info["dtype"].as_str() {
            Some("F32") => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            _ => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        };
        Some((name, (shape, numbers)))
    };
    header.into_iter().filter_map(tensor).collect()
}
