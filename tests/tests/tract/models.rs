//! Small models and their inputs.

use std::collections::HashMap;
use std::sync::Arc;

use diffulex_compiler::ir::interpret::{Array, Inputs};
use diffulex_compiler::ir::*;
use diffulex_compiler::quant::{self, Grid};
use diffulex_runtime::engine::{HIDDEN, LayerRows, StepInput};

/// A stream of numbers that looks random and is the same everywhere.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// Between −1 and 1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }

    pub(crate) fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.signed() * scale).collect()
    }
}

/// Stored tensors in memory.
#[derive(Default)]
pub(crate) struct Memory(pub HashMap<String, (WeightType, quant::Encoded)>);

impl WeightSource for Memory {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let (ty, rows) = self.0.get(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        let packing = rows.rows(ty.encoding, ty.columns()).packing;
        Ok(StoredTensor { ty: ty.clone(), packing, bytes: &rows.values, scales: &rows.scales })
    }
}

impl Memory {
    pub(crate) fn store(&mut self, name: &str, ty: &WeightType, numbers: &[f32]) {
        let mut rows = quant::Encoded { grid: grid(ty.encoding), ..Default::default() };
        quant::encode(ty.encoding, quant::Search::Max, ty.columns(), numbers, &mut rows)
            .expect("numbers that the encoding can hold");
        self.0.insert(name.into(), (ty.clone(), rows));
    }
}

/// The grid of all weights with one scale for a whole tensor.
fn grid(encoding: Encoding) -> Option<Grid> {
    encoding.grid().map(|ty| Grid::of((-2.0, 3.0), ty))
}

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub hidden: u32,
    pub inner: u32,
    pub vocab: u32,
    pub bounds: Sizes,
    pub encoding: Encoding,
}

pub(crate) const SMALL: Shape = Shape {
    layers: 3,
    heads: 4,
    kv_heads: 2,
    head_dim: 24,
    hidden: 40,
    inner: 72,
    vocab: 101,
    bounds: Sizes { t: 32, c: 64, r: 0 },
    encoding: Encoding::F32,
};

/// A module under construction together with the numbers of its weights.
pub(crate) struct Model {
    pub builder: Builder,
    pub memory: Memory,
    pub numbers: Numbers,
    pub encoding: Encoding,
}

impl Model {
    pub(crate) fn new(shape: &Shape, seed: u64) -> Model {
        let cache = CacheShape { layers: shape.layers, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
        let module = Module::new("small", Stage::Fused, shape.bounds, cache);
        Model {
            builder: Builder::new(module),
            memory: Memory::default(),
            numbers: Numbers::new(seed),
            encoding: shape.encoding,
        }
    }

    pub(crate) fn node(&mut self, name: &str, op: Op, args: &[Operand]) -> NodeId {
        self.builder.node(name, op, args).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A weight of random numbers around `middle`.
    pub(crate) fn weight(&mut self, name: &str, shape: &[u32], middle: f32, spread: f32) -> Operand {
        let layer = self.builder.layer.map_or(String::new(), |i| format!("layers.{i}."));
        let name = format!("{layer}{name}");
        if let Some(id) = self.builder.weight_id(&name) {
            return id.into();
        }
        let ty = WeightType::new(self.encoding, shape);
        let count = ty.rows() * ty.columns();
        let numbers: Vec<f32> = self.numbers.vec(count, spread).iter().map(|x| x + middle).collect();
        self.memory.store(&name, &ty, &numbers);
        self.expr(&name, shape, WeightExpr::Stored(name.clone()))
    }

    pub(crate) fn expr(&mut self, name: &str, shape: &[u32], expr: WeightExpr) -> Operand {
        let ty = WeightType::new(self.encoding, shape);
        let id = self.builder.weight(name, ty, expr).unwrap_or_else(|e| panic!("{e}"));
        if let Some(grid) = grid(self.encoding) {
            self.builder.grid(id, grid);
        }
        id.into()
    }

    pub(crate) fn linear(&mut self, name: &str, x: NodeId, to: u32) -> NodeId {
        let from = self.builder.module().node(x).ty.width().expect("a known width");
        let w = self.weight(name, &[to, from], 0.0, (3.0 / from as f32).sqrt());
        self.node(name, Op::Linear, &[x.into(), w])
    }

    pub(crate) fn norm(&mut self, name: &str, x: NodeId) -> NodeId {
        let width = self.builder.module().node(x).ty.width().expect("a known width");
        let w = self.weight(name, &[width], 1.0, 0.2);
        self.node(name, Op::RmsNorm { eps: 1e-6 }, &[x.into(), w])
    }

    /// Tokens and positions.
    pub(crate) fn ids(&mut self, ids: DType) -> [NodeId; 2] {
        ["tokens", "positions"].map(|name| self.builder.input(name, ValueType::new(ids, [Dim::fixed(1), Dim::T])))
    }

    pub(crate) fn mask(&mut self) -> NodeId {
        let (one, both) = (Dim::fixed(1), Dim::C.plus(Dim::T).expect("small"));
        self.builder.input("mask", ValueType::f32([one, one, Dim::T, both]))
    }
}

/// An SDAR decoder: grouped heads, norms on queries and keys, SwiGLU; with `rows` if the bounds have R.
pub(crate) fn sdar(shape: &Shape, seed: u64) -> (Module, Arc<Memory>) {
    let mut m = Model::new(shape, seed);
    let ([tokens, positions], mask) = (m.ids(DType::I64), m.mask());
    let rows = (shape.bounds.r > 0).then(|| m.builder.input("rows", ValueType::new(DType::I64, [Dim::R])));
    let (dim, theta) = (shape.head_dim, 1e4);
    let cos = m.node("cos", Op::RopeCos { dim, theta }, &[positions.into()]);
    let sin = m.node("sin", Op::RopeSin { dim, theta }, &[positions.into()]);
    let table = m.weight("embed_tokens", &[shape.vocab, shape.hidden], 0.0, 1.0);
    let mut x = m.node("x", Op::Embed, &[tokens.into(), table]);
    for layer in 0..shape.layers {
        m.builder.layer = Some(layer);
        m.builder.section = Some("self_attn".into());
        let input = m.norm("attn.in", x);
        let q = m.linear("q_proj", input, shape.heads * dim);
        let k = m.linear("k_proj", input, shape.kv_heads * dim);
        let v = m.linear("v_proj", input, shape.kv_heads * dim);
        let [q, k, v] = [(q, shape.heads), (k, shape.kv_heads), (v, shape.kv_heads)]
            .map(|(x, n)| m.node("heads", Op::Heads { n }, &[x.into()]));
        let (q, k) = (m.norm("q_norm", q), m.norm("k_norm", k));
        let [q, k] = [q, k].map(|x| m.node("rope", Op::Rope, &[x.into(), cos.into(), sin.into()]));
        let k = m.node("k.all", Op::Cached, &[CacheId::k(layer), k.into()]);
        let v = m.node("v.all", Op::Cached, &[CacheId::v(layer), v.into()]);
        let scale = 1.0 / (dim as f32).sqrt();
        let mix = m.node("mix", Op::Attention { scale }, &[q.into(), k.into(), v.into(), mask.into()]);
        let mix = m.node("mix.flat", Op::MergeHeads, &[mix.into()]);
        let attn = m.linear("o_proj", mix, shape.hidden);
        let x_attn = m.node("x.attn", Op::Add, &[x.into(), attn.into()]);
        m.builder.section = Some("mlp".into());
        let input = m.norm("mlp.in", x_attn);
        let act = if layer % 2 == 0 {
            let gate = m.linear("gate_proj", input, shape.inner);
            let up = m.linear("up_proj", input, shape.inner);
            let gate = m.node("gate.silu", Op::Silu, &[gate.into()]);
            m.node("act", Op::Mul, &[gate.into(), up.into()])
        } else {
            let both = m.linear("gate_up_proj", input, 2 * shape.inner);
            m.node("act", Op::Swiglu, &[both.into()])
        };
        let down = m.linear("down_proj", act, shape.hidden);
        x = m.node("x", Op::Add, &[x_attn.into(), down.into()]);
    }
    (m.builder.layer, m.builder.section) = (None, None);
    if let Some(rows) = rows {
        x = m.node("x.rows", Op::GatherRows, &[x.into(), rows.into()]);
    }
    let x = m.norm("norm", x);
    let logits = m.linear("lm_head", x, shape.vocab);
    (m.builder.finish([logits]), Arc::new(m.memory))
}

/// The inputs of one step, owned.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub mask: Vec<f32>,
    pub rows: Vec<u32>,
    pub cached: usize,
    pub cache: Vec<LayerRows>,
}

impl Step {
    /// A step of random tokens that each see themselves and some of the rest.
    pub(crate) fn random(shape: &Shape, t: usize, c: usize, rows: &[u32], seed: u64) -> Step {
        let mut n = Numbers::new(seed);
        let tokens = (0..t).map(|_| n.below(shape.vocab as usize) as u32).collect();
        let positions = (0..t).map(|_| n.below(shape.bounds.t + shape.bounds.c) as u32).collect();
        let mut mask = vec![0.0; t * (c + t)];
        for (i, m) in mask.iter_mut().enumerate() {
            let own = i / (c + t) + c == i % (c + t);
            *m = match n.below(4) {
                0 | 1 if !own => HIDDEN,
                2 => n.signed(),
                _ => 0.0,
            };
        }
        let size = (shape.kv_heads * shape.head_dim) as usize * c;
        let cache = (0..shape.layers).map(|_| LayerRows { k: n.vec(size, 1.0), v: n.vec(size, 1.0) }).collect();
        Step { tokens, positions, mask, rows: rows.into(), cached: c, cache }
    }

    pub(crate) fn input(&self) -> StepInput<'_> {
        StepInput {
            tokens: &self.tokens,
            positions: &self.positions,
            mask: &self.mask,
            rows: &self.rows,
            cached: self.cached,
            cache: &self.cache,
        }
    }

    /// The same for the interpreter.
    pub(crate) fn inputs(&self, module: &Module) -> Inputs {
        let (t, c) = (self.tokens.len(), self.cached);
        let floats = |ids: &[u32]| ids.iter().map(|&id| id as f32).collect::<Vec<f32>>();
        let mut values = HashMap::from([
            ("tokens".to_string(), Array { shape: vec![1, t], data: floats(&self.tokens) }),
            ("positions".to_string(), Array { shape: vec![1, t], data: floats(&self.positions) }),
            ("mask".to_string(), Array { shape: vec![1, 1, t, c + t], data: self.mask.clone() }),
        ]);
        if module.bounds.r > 0 {
            values.insert("rows".into(), Array { shape: vec![self.rows.len()], data: floats(&self.rows) });
        }
        let shape = vec![1, module.cache.kv_heads as usize, c, module.cache.head_dim as usize];
        let caches = self.cache.iter().zip(0..).flat_map(|(rows, layer)| {
            let array = |data: &Vec<f32>| Array { shape: shape.clone(), data: data.clone() };
            let id = |kind| CacheId { layer, kind };
            [(id(CacheKind::K), array(&rows.k)), (id(CacheKind::V), array(&rows.v))]
        });
        Inputs { values, caches: caches.collect() }
    }
}
