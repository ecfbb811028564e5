//! Random modules: a decoder whose parts are high-level ops or their decompositions, with other ops strewn in.

use std::sync::Arc;

use diffulex_compiler::ir::*;

use crate::models::{Memory, Model, Numbers, Shape};

/// A random module with its numbers and sizes.
pub(crate) fn module(seed: u64) -> (Module, Arc<Memory>, Shape) {
    let mut n = Numbers::new(seed ^ 0x5eed);
    let kv_heads = 1 + n.below(3) as u32;
    let shape = Shape {
        layers: 1 + n.below(2) as u32,
        heads: kv_heads * (1 + n.below(3) as u32),
        kv_heads,
        head_dim: 2 * (4 + n.below(9) as u32),
        hidden: 2 * (5 + n.below(16) as u32),
        inner: 5 + n.below(40) as u32,
        vocab: 9 + n.below(60) as u32,
        bounds: Sizes { t: 16, c: 16, r: if n.below(2) == 0 { 0 } else { 16 } },
        encoding: Encoding::ALL[n.below(Encoding::ALL.len())],
    };
    let mut m = Random { model: Model::new(&shape, seed), n, shape };
    let ids = if m.coin() { DType::I32 } else { DType::I64 };
    let ([tokens, positions], mask) = (m.model.ids(ids), m.model.mask());
    let rows = (shape.bounds.r > 0).then(|| m.model.builder.input("rows", ValueType::new(DType::I64, [Dim::R])));
    let tables = m.tables(positions);
    let table = m.model.weight("table", &[shape.vocab, shape.hidden], 0.0, 1.0);
    let mut x = m.op("x", Op::Embed, &[tokens.into(), table]);
    if m.coin() {
        x = m.there_and_back(x);
    }
    for layer in 0..shape.layers {
        x = m.layer(layer, x, mask, tables);
    }
    if let Some(rows) = rows {
        x = m.op("x.rows", Op::GatherRows, &[x.into(), rows.into()]);
    }
    x = m.norm("norm", x);
    let logits = m.model.linear("lm_head", x, shape.vocab);
    (m.model.builder.finish([logits]), Arc::new(m.model.memory), shape)
}

struct Random {
    model: Model,
    n: Numbers,
    shape: Shape,
}

impl Random {
    fn coin(&mut self) -> bool {
        self.n.below(2) == 0
    }

    fn op(&mut self, name: &str, op: Op, args: &[Operand]) -> NodeId {
        self.model.node(name, op, args)
    }

    fn ty(&self, x: NodeId) -> ValueType {
        self.model.builder.module().node(x).ty.clone()
    }

    fn width(&self, x: NodeId) -> u32 {
        self.ty(x).width().expect("a known width")
    }

    fn cut(&mut self, x: NodeId, axis: u32, start: u32, end: u32) -> NodeId {
        self.op("cut", Op::Slice { axis, start, end }, &[x.into()])
    }

    /// Cosines and sines, `[1, 1, T, D]`, computed or looked up.
    fn tables(&mut self, positions: NodeId) -> [NodeId; 2] {
        let (dim, theta) = (self.shape.head_dim, 1e4);
        if self.coin() {
            let cos = self.op("cos", Op::RopeCos { dim, theta }, &[positions.into()]);
            return [cos, self.op("sin", Op::RopeSin { dim, theta }, &[positions.into()])];
        }
        let (one, d) = (Dim::fixed(1), Dim::fixed(dim));
        [("cos", WeightExpr::RopeCos(theta)), ("sin", WeightExpr::RopeSin(theta))].map(|(name, expr)| {
            let table = self.model.expr(&format!("{name}.table"), &[32, dim], expr);
            let rows = self.op(&format!("{name}.rows"), Op::Embed, &[positions.into(), table]);
            self.op(name, Op::Reshape { shape: vec![one, one, Dim::T, d] }, &[rows.into()])
        })
    }

    /// Another type and f32 again. Only for numbers that are equal to the bit: near a boundary a cast tears apart what
    /// differs by an ulp.
    fn there_and_back(&mut self, x: NodeId) -> NodeId {
        let to = [DType::F16, DType::BF16, DType::I32, DType::I64][self.n.below(4)];
        let twice = self.op("twice", Op::Add, &[x.into(), x.into()]);
        let there = self.op("there", Op::Cast { to }, &[twice.into()]);
        let more = self.op("more", Op::Mul, &[there.into(), there.into()]);
        let back = self.op("back", Op::Cast { to: DType::F32 }, &[more.into()]);
        self.op("sum", Op::Add, &[back.into(), x.into()])
    }

    fn layer(&mut self, layer: u32, x: NodeId, mask: NodeId, tables: [NodeId; 2]) -> NodeId {
        let Shape { heads, kv_heads, head_dim, hidden, inner, .. } = self.shape;
        let input = self.norm(&format!("in.{layer}"), x);
        let input = self.detour(layer, input);
        let names = ["q", "k", "v"].map(|name| format!("{name}.{layer}"));
        let q = self.model.linear(&names[0], input, heads * head_dim);
        let k = self.model.linear(&names[1], input, kv_heads * head_dim);
        let v = self.model.linear(&names[2], input, kv_heads * head_dim);
        let (q, k, v) = (self.heads(q, heads), self.heads(k, kv_heads), self.heads(v, kv_heads));
        let (q, k) = (self.norm(&format!("q.norm.{layer}"), q), self.norm(&format!("k.norm.{layer}"), k));
        let (q, k) = (self.rope(q, tables), self.rope(k, tables));
        let k = self.op("k.all", Op::Cached, &[CacheId::k(layer), k.into()]);
        let v = self.op("v.all", Op::Cached, &[CacheId::v(layer), v.into()]);
        let mix = self.attention(q, k, v, mask);
        let mix = self.merge(mix);
        let attn = self.model.linear(&format!("o.{layer}"), mix, hidden);
        let x = self.op("x.attn", Op::Add, &[x.into(), attn.into()]);
        let input = self.norm(&format!("mlp.in.{layer}"), x);
        let both = self.model.linear(&format!("gate_up.{layer}"), input, 2 * inner);
        let act = self.gate(both);
        let down = self.model.linear(&format!("down.{layer}"), act, hidden);
        self.op("x.mlp", Op::Add, &[x.into(), down.into()])
    }

    fn norm(&mut self, name: &str, x: NodeId) -> NodeId {
        if self.coin() {
            return self.model.norm(name, x);
        }
        let gain = self.model.weight(name, &[self.width(x)], 1.0, 0.2);
        let eps = self.model.expr("eps", &[1], WeightExpr::Fill(0.0009765625));
        let square = match self.n.below(2) {
            0 => self.op("square", Op::Square, &[x.into()]),
            _ => self.op("square", Op::Mul, &[x.into(), x.into()]),
        };
        let mean = self.op("mean", Op::Mean, &[square.into()]);
        let sum = self.op("sum", Op::Add, &[mean.into(), eps]);
        let scale = self.op("scale", Op::Rsqrt, &[sum.into()]);
        let scaled = self.op("scaled", Op::Mul, &[x.into(), scale.into()]);
        self.op("norm", Op::Mul, &[scaled.into(), gain])
    }

    fn heads(&mut self, x: NodeId, n: u32) -> NodeId {
        if self.coin() {
            return self.op("heads", Op::Heads { n }, &[x.into()]);
        }
        let d = self.width(x) / n;
        let shape = vec![Dim::fixed(1), Dim::T, Dim::fixed(n), Dim::fixed(d)];
        let split = self.op("split", Op::Reshape { shape }, &[x.into()]);
        self.op("heads", Op::Transpose { perm: vec![0, 2, 1, 3] }, &[split.into()])
    }

    fn merge(&mut self, x: NodeId) -> NodeId {
        if self.coin() {
            return self.op("merged", Op::MergeHeads, &[x.into()]);
        }
        let shape = self.ty(x).shape;
        let width = shape[3].times(shape[1].n).expect("small");
        let turned = self.op("turned", Op::Transpose { perm: vec![0, 2, 1, 3] }, &[x.into()]);
        self.op("merged", Op::Reshape { shape: vec![shape[0], shape[2], width] }, &[turned.into()])
    }

    fn rope(&mut self, x: NodeId, [cos, sin]: [NodeId; 2]) -> NodeId {
        if self.coin() {
            return self.op("rope", Op::Rope, &[x.into(), cos.into(), sin.into()]);
        }
        let d = self.width(x);
        let (low, high) = (self.cut(x, 3, 0, d / 2), self.cut(x, 3, d / 2, d));
        let high = self.op("neg", Op::Neg, &[high.into()]);
        let other = self.op("other", Op::Concat { axis: 3 }, &[high.into(), low.into()]);
        let a = self.op("cos.part", Op::Mul, &[x.into(), cos.into()]);
        let b = self.op("sin.part", Op::Mul, &[other.into(), sin.into()]);
        self.op("rope", Op::Add, &[a.into(), b.into()])
    }

    fn attention(&mut self, q: NodeId, k: NodeId, v: NodeId, mask: NodeId) -> NodeId {
        let scale = 1.0 / (self.shape.head_dim as f32).sqrt();
        if self.coin() {
            return self.op("mix", Op::Attention { scale }, &[q.into(), k.into(), v.into(), mask.into()]);
        }
        let (kv, one) = (Dim::fixed(self.shape.kv_heads), Dim::fixed(1));
        let group = Dim::fixed(self.shape.heads / self.shape.kv_heads);
        let (whole, s, d) = (self.ty(q).shape, self.ty(k).shape[2], self.ty(k).shape[3]);
        let q = self.op("q.group", Op::Reshape { shape: vec![one, kv, group, Dim::T, d] }, &[q.into()]);
        let [k, v] = [k, v].map(|x| self.op("group", Op::Reshape { shape: vec![one, kv, one, s, d] }, &[x.into()]));
        let scores = if self.coin() {
            self.op("scores", Op::Matmul { transpose: true }, &[q.into(), k.into()])
        } else {
            let turned = self.op("turned", Op::Transpose { perm: vec![0, 1, 2, 4, 3] }, &[k.into()]);
            self.op("scores", Op::Matmul { transpose: false }, &[q.into(), turned.into()])
        };
        let scale = self.model.expr("scale", &[1], WeightExpr::Fill(0.25));
        let scores = self.op("scaled", Op::Mul, &[scores.into(), scale]);
        let scores = self.op("masked", Op::Add, &[scores.into(), mask.into()]);
        let weights = self.op("weights", Op::Softmax, &[scores.into()]);
        let mix = self.op("mix", Op::Matmul { transpose: false }, &[weights.into(), v.into()]);
        self.op("mix.heads", Op::Reshape { shape: whole }, &[mix.into()])
    }

    fn gate(&mut self, both: NodeId) -> NodeId {
        if self.coin() {
            return self.op("act", Op::Swiglu, &[both.into()]);
        }
        let width = self.width(both);
        let (gate, up) = (self.cut(both, 2, 0, width / 2), self.cut(both, 2, width / 2, width));
        let silu = if self.coin() {
            self.op("silu", Op::Silu, &[gate.into()])
        } else {
            let sigmoid = self.op("sigmoid", Op::Sigmoid, &[gate.into()]);
            self.op("silu", Op::Mul, &[gate.into(), sigmoid.into()])
        };
        self.op("act", Op::Mul, &[silu.into(), up.into()])
    }

    /// Something done to `[1, T, H]` that keeps its shape and its size.
    fn detour(&mut self, layer: u32, x: NodeId) -> NodeId {
        let width = self.width(x);
        let name = format!("detour.{layer}");
        let w = self.model.weight(&name, &[width], 2.0, 0.5);
        match self.n.below(8) {
            0 => {
                let mean = self.op("mean", Op::Mean, &[x.into()]);
                self.op("less", Op::Sub, &[x.into(), mean.into()])
            }
            1 => self.op("div", Op::Div, &[x.into(), w]),
            2 => self.op("sub", Op::Sub, &[x.into(), w]),
            3 => {
                let flat = self.op("flat", Op::Reshape { shape: vec![Dim::T, Dim::fixed(width)] }, &[x.into()]);
                let turned = self.op("turned", Op::Transpose { perm: vec![1, 0] }, &[flat.into()]);
                let back = self.op("back", Op::Transpose { perm: vec![1, 0] }, &[turned.into()]);
                self.op("whole", Op::Reshape { shape: vec![Dim::fixed(1), Dim::T, Dim::fixed(width)] }, &[back.into()])
            }
            4 => {
                let at = 1 + self.n.below(width as usize - 1) as u32;
                let (a, b) = (self.cut(x, 2, 0, at), self.cut(x, 2, at, width));
                self.op("turned", Op::Concat { axis: 2 }, &[b.into(), a.into()])
            }
            5 => {
                let scores = self.op("self", Op::Matmul { transpose: true }, &[x.into(), x.into()]);
                let weights = self.op("self.weights", Op::Softmax, &[scores.into()]);
                self.op("self.mix", Op::Matmul { transpose: false }, &[weights.into(), x.into()])
            }
            6 => {
                let bias = self.model.weight(&format!("{name}.bias"), &[width], 0.0, 0.5);
                let square = self.model.weight(&format!("{name}.square"), &[width, width], 0.0, 0.2);
                self.op("biased", Op::Linear, &[x.into(), square, bias])
            }
            _ => x,
        }
    }
}
