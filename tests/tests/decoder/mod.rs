//! Small decoders with random numbers, for the tests of targets.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::sync::Mutex;

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::{
    Builder, CacheId, CacheKind, CacheShape, DType, Dim, Encoding, Module, Op, Operand, Sizes, Stage, StoredTensor,
    ValueType, WeightError, WeightExpr, WeightSource, WeightType,
};
use diffulex_compiler::quant;

// --- small models -----------------------------------------------------------------------------------------------------

/// Sizes and habits of a small decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) kv: u32,
    pub(crate) dim: u32,
    pub(crate) hidden: u32,
    pub(crate) inner: u32,
    pub(crate) vocab: u32,
    pub(crate) t: usize,
    pub(crate) c: usize,
    /// q, k and v have biases.
    pub(crate) biased: bool,
    /// The head is the token table.
    pub(crate) tied: bool,
    /// q and k are normalized.
    pub(crate) normed: bool,
    /// q, k and v, and gate and up, are one matrix each.
    pub(crate) fused: bool,
    /// Encoding of filters and table.
    pub(crate) encoding: Encoding,
}

pub(crate) const SDAR: Model = Model {
    layers: 3,
    heads: 6,
    kv: 3,
    dim: 8,
    hidden: 32,
    inner: 40,
    vocab: 61,
    t: 8,
    c: 12,
    biased: false,
    tied: false,
    normed: true,
    fused: true,
    encoding: Encoding::F32,
};

/// Shapes that have little in common.
pub(crate) fn models() -> Vec<Model> {
    let f16 = Encoding::F16;
    vec![
        SDAR,
        Model { fused: false, biased: true, normed: false, tied: true, ..SDAR },
        Model { layers: 1, heads: 4, kv: 4, dim: 4, hidden: 12, inner: 7, vocab: 10, t: 5, c: 3, ..SDAR },
        Model { heads: 7, kv: 1, dim: 2, hidden: 5, t: 3, c: 9, encoding: f16, ..SDAR },
        Model { heads: 12, kv: 1, dim: 16, hidden: 64, layers: 1, tied: true, encoding: f16, ..SDAR },
        Model { heads: 5, kv: 5, biased: true, t: 1, c: 1, layers: 2, ..SDAR },
    ]
}

struct Making {
    b: Builder,
    model: Model,
}

impl Making {
    fn weight(&mut self, name: &str, shape: &[u32]) -> Operand {
        let layered = self.b.layer.map_or(name.to_string(), |layer| format!("layers.{layer}.{name}"));
        let matrix = shape.len() == 2;
        let encoding = if matrix { self.model.encoding } else { Encoding::F32 };
        let expr = WeightExpr::Stored(layered.clone());
        Operand::Weight(self.b.weight(&layered, WeightType::new(encoding, shape), expr).unwrap())
    }

    fn rows(&mut self, name: &str, parts: &[(&str, u32)], width: u32) -> Operand {
        let prefix = self.b.layer.map_or(String::new(), |layer| format!("layers.{layer}."));
        let rows = parts.iter().map(|(_, n)| n).sum();
        let expr = parts.iter().map(|(part, _)| WeightExpr::Stored(format!("{prefix}{part}"))).collect();
        let ty = WeightType::new(self.model.encoding, [rows, width]);
        Operand::Weight(self.b.weight(&format!("{prefix}{name}"), ty, WeightExpr::Rows(expr)).unwrap())
    }

    fn node(&mut self, name: &str, op: Op, args: impl Into<Vec<Operand>>) -> Operand {
        Operand::Node(self.b.node(name, op, args).unwrap())
    }

    fn norm(&mut self, name: &str, x: Operand, gain: &str, width: u32) -> Operand {
        let gain = self.weight(gain, &[width]);
        self.node(name, Op::RmsNorm { eps: 1e-6 }, [x, gain])
    }

    fn linear(&mut self, name: &str, x: Operand, filter: &str, shape: [u32; 2], biased: bool) -> Operand {
        let mut args = vec![x, self.weight(filter, &shape)];
        if biased {
            args.push(self.weight(&format!("{filter}.bias"), &[shape[0]]));
        }
        self.node(name, Op::Linear, args)
    }

    fn qkv(&mut self, x: Operand) -> [Operand; 3] {
        let m = self.model;
        let (q, kv) = (m.heads * m.dim, m.kv * m.dim);
        if !m.fused {
            return [("q", q), ("k", kv), ("v", kv)]
                .map(|(name, n)| self.linear(name, x, &format!("self_attn.{name}_proj"), [n, m.hidden], m.biased));
        }
        let parts = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let mut args = vec![x, self.rows("self_attn.qkv_proj", &parts, m.hidden)];
        if m.biased {
            args.push(self.weight("self_attn.qkv_bias", &[q + 2 * kv]));
        }
        let all = self.node("qkv", Op::Linear, args);
        [("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)]
            .map(|(name, start, end)| self.node(name, Op::Slice { axis: 2, start, end }, [all]))
    }

    fn layer(&mut self, layer: u32, x: Operand, [cos, sin, mask]: [Operand; 3]) -> Operand {
        let m = self.model;
        (self.b.layer, self.b.section) = (Some(layer), Some("self_attn".into()));
        let input = self.norm("attn.in", x, "input_layernorm", m.hidden);
        let [q, k, v] = self.qkv(input);
        let mut q = self.node("q.heads", Op::Heads { n: m.heads }, [q]);
        let mut k = self.node("k.heads", Op::Heads { n: m.kv }, [k]);
        let v = self.node("v.heads", Op::Heads { n: m.kv }, [v]);
        if m.normed {
            q = self.norm("q.norm", q, "self_attn.q_norm", m.dim);
            k = self.norm("k.norm", k, "self_attn.k_norm", m.dim);
        }
        let q = self.node("q.rope", Op::Rope, [q, cos, sin]);
        let k = self.node("k.rope", Op::Rope, [k, cos, sin]);
        let k = self.node("k.all", Op::Cached, [CacheId::k(layer), k]);
        let v = self.node("v.all", Op::Cached, [CacheId::v(layer), v]);
        let mix = self.node("mix", Op::Attention { scale: 1.0 / (m.dim as f32).sqrt() }, [q, k, v, mask]);
        let flat = self.node("mix.flat", Op::MergeHeads, [mix]);
        let attn = self.linear("attn", flat, "self_attn.o_proj", [m.hidden, m.heads * m.dim], false);
        let x = self.node("x.attn", Op::Add, [x, attn]);

        self.b.section = Some("mlp".into());
        let input = self.norm("mlp.in", x, "post_attention_layernorm", m.hidden);
        let act = if m.fused {
            let filter =
                self.rows("mlp.gate_up_proj", &[("mlp.gate_proj", m.inner), ("mlp.up_proj", m.inner)], m.hidden);
            let both = self.node("gate_up", Op::Linear, [input, filter]);
            self.node("act", Op::Swiglu, [both])
        } else {
            let gate = self.linear("gate", input, "mlp.gate_proj", [m.inner, m.hidden], false);
            let up = self.linear("up", input, "mlp.up_proj", [m.inner, m.hidden], false);
            let gate = self.node("gate.silu", Op::Silu, [gate]);
            self.node("act", Op::Mul, [gate, up])
        };
        let down = self.linear("down", act, "mlp.down_proj", [m.hidden, m.inner], false);
        let x = self.node("x", Op::Add, [x, down]);
        (self.b.layer, self.b.section) = (None, None);
        x
    }
}

/// A decoder at the stage that the passes would leave it in.
pub(crate) fn module(model: Model) -> Module {
    let bounds = Sizes { t: model.t, c: model.c, r: 0 };
    let cache = CacheShape { layers: model.layers, kv_heads: model.kv, head_dim: model.dim };
    let mut making = Making { b: Builder::new(Module::new("small", Stage::Fused, bounds, cache)), model };
    let one = Dim::fixed(1);
    let ids = || ValueType::new(DType::I32, [one, Dim::T]);
    let tokens = making.b.input("tokens", ids()).into();
    let positions: Operand = making.b.input("positions", ids()).into();
    let mask = ValueType::f32([one, one, Dim::T, Dim { c: 1, ..Dim::T }]);
    let mask = making.b.input("mask", mask).into();
    let cos = making.node("cos", Op::RopeCos { dim: model.dim, theta: 1e6 }, [positions]);
    let sin = making.node("sin", Op::RopeSin { dim: model.dim, theta: 1e6 }, [positions]);
    let table = making.weight("embed_tokens", &[model.vocab, model.hidden]);
    let mut x = making.node("x", Op::Embed, [tokens, table]);
    for layer in 0..model.layers {
        x = making.layer(layer, x, [cos, sin, mask]);
    }
    let x = making.norm("x.norm", x, "norm", model.hidden);
    let head = if model.tied { "embed_tokens" } else { "lm_head" };
    let logits = making.linear("logits", x, head, [model.vocab, model.hidden], false);
    let Operand::Node(logits) = logits else { unreachable!() };
    making.b.finish([logits])
}

// --- numbers ----------------------------------------------------------------------------------------------------------

/// Reproducible numbers in [-1, 1).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn array(&mut self, shape: &[usize]) -> Array {
        Array { shape: shape.to_vec(), data: (0..shape.iter().product()).map(|_| self.number()).collect() }
    }
}

/// Stored tensors, all f32, and the names of those that were given back.
#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) tensors: HashMap<String, (WeightType, Vec<u8>)>,
    pub(crate) released: Mutex<Vec<String>>,
}

impl WeightSource for Numbers {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let (ty, bytes) = self.tensors.get(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        Ok(StoredTensor { ty: ty.clone(), packing: Default::default(), bytes, scales: &[] })
    }

    fn release(&self, name: &str, _: std::ops::Range<usize>) {
        self.released.lock().unwrap().push(name.into());
    }
}

impl Numbers {
    pub(crate) fn random(model: Model, seed: u64) -> Numbers {
        let mut all = Numbers::default();
        let mut random = Random(seed);
        let m = model;
        let (q, kv) = (m.heads * m.dim, m.kv * m.dim);
        let mut add = |name: String, shape: &[u32], scale: f32, shift: f32| {
            let count = shape.iter().product::<u32>();
            let numbers: Vec<f32> = (0..count).map(|_| random.number() * scale + shift).collect();
            let (mut rows, ty) = (quant::Encoded::default(), WeightType::new(Encoding::F32, shape));
            quant::encode(Encoding::F32, quant::Search::Max, ty.columns(), &numbers, &mut rows).unwrap();
            all.tensors.insert(name, (ty, rows.values));
        };
        add("embed_tokens".into(), &[m.vocab, m.hidden], 1.0, 0.0);
        add("lm_head".into(), &[m.vocab, m.hidden], 0.5, 0.0);
        add("norm".into(), &[m.hidden], 0.5, 1.0);
        for layer in 0..m.layers {
            let mut local =
                |name: &str, shape: &[u32], scale, shift| add(format!("layers.{layer}.{name}"), shape, scale, shift);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                local(norm, &[m.hidden], 0.5, 1.0);
            }
            for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
                local(norm, &[m.dim], 0.5, 1.0);
            }
            for (name, n) in [("q", q), ("k", kv), ("v", kv)] {
                local(&format!("self_attn.{name}_proj"), &[n, m.hidden], 0.4, 0.0);
                local(&format!("self_attn.{name}_proj.bias"), &[n], 0.4, 0.0);
            }
            local("self_attn.qkv_bias", &[q + 2 * kv], 0.4, 0.0);
            local("self_attn.o_proj", &[m.hidden, q], 0.3, 0.0);
            local("mlp.gate_proj", &[m.inner, m.hidden], 0.4, 0.0);
            local("mlp.up_proj", &[m.inner, m.hidden], 0.4, 0.0);
            local("mlp.down_proj", &[m.hidden, m.inner], 0.3, 0.0);
        }
        all
    }
}

/// What a step of `t` tokens over `c` cached positions is given.
pub(crate) fn inputs(model: Model, t: usize, c: usize, seed: u64) -> Inputs {
    let mut random = Random(seed);
    let ids = |random: &mut Random, below: usize| Array {
        shape: vec![1, t],
        data: (0..t).map(|_| random.below(below) as f32).collect(),
    };
    let tokens = ids(&mut random, model.vocab as usize);
    let positions = ids(&mut random, model.t + model.c);
    let mut mask = random.array(&[1, 1, t, c + t]);
    for (i, entry) in mask.data.iter_mut().enumerate() {
        // The diagonal stays visible.
        if random.below(4) == 0 && i % (c + t) != c + i / (c + t) {
            *entry = -1e30;
        }
    }
    let mut caches = HashMap::new();
    for layer in 0..model.layers {
        for kind in [CacheKind::K, CacheKind::V] {
            caches.insert(CacheId { layer, kind }, random.array(&[1, model.kv as usize, c, model.dim as usize]));
        }
    }
    let values = [("tokens", tokens), ("positions", positions), ("mask", mask)];
    Inputs { values: values.map(|(name, array)| (name.to_string(), array)).into(), caches }
}

/// Sizes worth running a model at.
pub(crate) fn sizes(model: Model) -> Vec<(usize, usize)> {
    vec![(model.t, model.c), (1, 1), (1, model.c), (model.t, 1), (model.t.div_ceil(2), model.c.div_ceil(2))]
}

/// Largest difference, relative to the largest expected number.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.iter().all(|x| x.is_finite()));
    worst / largest
}

pub(crate) fn assert_same(what: &str, found: &Outputs, expected: &Outputs, limit: f32) {
    assert_eq!(found.values.len(), expected.values.len());
    for (found, expected) in found.values.iter().zip(&expected.values) {
        assert_eq!(found.shape, expected.shape, "{what}");
        let distance = distance(&found.data, &expected.data);
        assert!(distance <= limit, "{what}: logits differ by {distance:e}");
    }
    assert_eq!(found.new_rows.len(), expected.new_rows.len());
    for (cache, expected) in &expected.new_rows {
        let distance = distance(&found.new_rows[cache].data, &expected.data);
        assert!(distance <= limit, "{what}: new rows of {cache} differ by {distance:e}");
    }
}
