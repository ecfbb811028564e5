//! The skeleton all families share: a decoder with RMS norms before attention and before a SwiGLU MLP, rotary
//! positions, and no mask of its own.

use crate::ir::build::BuildError;
use crate::ir::types::{DType, Dim, Sizes, ValueType, WeightType};
use crate::ir::{Builder, CacheId, CacheShape, Module, NodeId, Op, Operand, Stage, WeightExpr};

/// Sizes and switches of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Rows of the token table and of the head.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of a head; `heads * head_dim` need not be `hidden`.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Added to the mean square in norms.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// The head is the token table.
    pub tied: bool,
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Queries and keys are normed head by head before the rotation.
    pub qk_norm: bool,
}

impl Decoder {
    /// Rules between the sizes.
    ///
    /// # Errors
    /// Says which sizes contradict each other.
    pub fn check(&self) -> Result<(), String> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv) = (self.heads, self.kv_heads);
            return Err(format!("{heads} query heads cannot share {kv} key/value heads"));
        }
        if self.head_dim == 0 || self.head_dim % 2 == 1 {
            return Err(format!("heads of {} cannot be rotated in halves", self.head_dim));
        }
        if self.heads.checked_mul(self.head_dim).is_none_or(|w| w > 1 << 24) {
            return Err(format!("{} heads of {} are too wide", self.heads, self.head_dim));
        }
        if !(self.eps.is_finite() && self.eps > 0.0 && self.theta.is_finite() && self.theta > 0.0) {
            let (eps, theta) = (self.eps, self.theta);
            return Err(format!("`rms_norm_eps` {eps} or `rope_theta` {theta} is not above 0 in the range of floats"));
        }
        Ok(())
    }

    /// Names (of the IR) and shapes of all tensors, in the order in which the graph uses them.
    pub fn weights(&self) -> Vec<(String, Vec<u32>)> {
        let (hidden, queries, keys) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![("embed_tokens".to_string(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[u32]| all.push((format!("layers.{layer}.{name}"), shape.to_vec()));
            add("input_layernorm", &[hidden]);
            for (name, width) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                add(&format!("self_attn.{name}"), &[width, hidden]);
                if self.qkv_bias {
                    add(&format!("self_attn.{name}.bias"), &[width]);
                }
            }
            if self.qk_norm {
                add("self_attn.q_norm", &[self.head_dim]);
                add("self_attn.k_norm", &[self.head_dim]);
            }
            add("self_attn.o_proj", &[hidden, queries]);
            add("post_attention_layernorm", &[hidden]);
            add("mlp.gate_proj", &[self.intermediate, hidden]);
            add("mlp.up_proj", &[self.intermediate, hidden]);
            add("mlp.down_proj", &[hidden, self.intermediate]);
        }
        all.push(("norm".into(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head".into(), vec![self.vocab, hidden]));
        }
        all
    }

    /// Builds the module, stage *imported*. `weight_type` gives the type of each stored tensor.
    ///
    /// # Errors
    /// When a tensor's type does not fit, which a checked checkpoint rules out.
    pub fn import(
        &self,
        name: &str,
        bounds: Sizes,
        weight_type: &dyn Fn(&str) -> Option<WeightType>,
    ) -> Result<Module, BuildError> {
        let cache = CacheShape { layers: self.layers, kv_heads: self.kv_heads, head_dim: self.head_dim };
        let module = Module::new(name, Stage::Imported, Sizes { r: 0, ..bounds }, cache);
        let mut import = Import { decoder: self, b: Builder::new(module) };
        for (name, _) in self.weights() {
            let missing = || BuildError { place: format!("@{name}"), what: "has no stored tensor".into() };
            let ty = weight_type(&name).ok_or_else(missing)?;
            import.b.weight(&name, ty, WeightExpr::Stored(name.clone()))?;
        }
        import.graph()
    }
}

struct Import<'a> {
    decoder: &'a Decoder,
    b: Builder,
}

/// The values that every layer reads.
struct Shared {
    cos: NodeId,
    sin: NodeId,
    mask: NodeId,
}

impl Import<'_> {
    fn graph(mut self) -> Result<Module, BuildError> {
        let one = Dim::fixed(1);
        let tokens = self.b.input("tokens", ValueType::new(DType::I32, [one, Dim::T]));
        let positions = self.b.input("positions", ValueType::new(DType::I32, [one, Dim::T]));
        let all = Dim { c: 1, t: 1, r: 0, n: 0 };
        let mask = self.b.input("mask", ValueType::f32([one, one, Dim::T, all]));

        let Decoder { head_dim: dim, theta, tied, layers, .. } = *self.decoder;
        let cos = self.b.node("cos", Op::RopeCos { dim, theta }, [positions.into()])?;
        let sin = self.b.node("sin", Op::RopeSin { dim, theta }, [positions.into()])?;
        let table = self.weight("embed_tokens")?;
        let mut x = self.b.node("x", Op::Embed, [tokens.into(), table])?;
        for layer in 0..layers {
            self.b.layer = Some(layer);
            self.b.section = Some("self_attn".into());
            let attended = self.attention(x, layer, &Shared { cos, sin, mask })?;
            self.b.section = Some("mlp".into());
            x = self.mlp(attended)?;
        }
        (self.b.layer, self.b.section) = (None, None);
        let normed = self.norm("x.norm", x, "norm")?;
        let head = self.weight(if tied { "embed_tokens" } else { "lm_head" })?;
        let logits = self.b.node("logits", Op::Linear, [normed.into(), head])?;
        Ok(self.b.finish([logits]))
    }

    fn attention(&mut self, x: NodeId, layer: u32, shared: &Shared) -> Result<NodeId, BuildError> {
        let Decoder { heads, kv_heads, head_dim, qk_norm, .. } = *self.decoder;
        let input = self.norm("attn.in", x, "input_layernorm")?;
        let q = self.projection("q", input)?;
        let k = self.projection("k", input)?;
        let v = self.projection("v", input)?;
        let mut q = self.b.node("q.heads", Op::Heads { n: heads }, [q.into()])?;
        let mut k = self.b.node("k.heads", Op::Heads { n: kv_heads }, [k.into()])?;
        let v = self.b.node("v.heads", Op::Heads { n: kv_heads }, [v.into()])?;
        if qk_norm {
            q = self.norm("q.norm", q, "self_attn.q_norm")?;
            k = self.norm("k.norm", k, "self_attn.k_norm")?;
        }
        let (cos, sin) = (shared.cos.into(), shared.sin.into());
        let q = self.b.node("q.rope", Op::Rope, [q.into(), cos, sin])?;
        let k = self.b.node("k.rope", Op::Rope, [k.into(), cos, sin])?;
        let k = self.b.node("k.all", Op::Cached, [CacheId::k(layer), k.into()])?;
        let v = self.b.node("v.all", Op::Cached, [CacheId::v(layer), v.into()])?;
        let scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        let mix = self.b.node("mix", Op::Attention { scale }, [q.into(), k.into(), v.into(), shared.mask.into()])?;
        let flat = self.b.node("mix.flat", Op::MergeHeads, [mix.into()])?;
        let weight = self.weight("self_attn.o_proj")?;
        let out = self.b.node("attn", Op::Linear, [flat.into(), weight])?;
        self.b.node("x.attn", Op::Add, [x.into(), out.into()])
    }

    fn mlp(&mut self, x: NodeId) -> Result<NodeId, BuildError> {
        let input = self.norm("mlp.in", x, "post_attention_layernorm")?;
        let (gate, up) = (self.weight("mlp.gate_proj")?, self.weight("mlp.up_proj")?);
        let gate = self.b.node("gate", Op::Linear, [input.into(), gate])?;
        let up = self.b.node("up", Op::Linear, [input.into(), up])?;
        let silu = self.b.node("gate.silu", Op::Silu, [gate.into()])?;
        let act = self.b.node("act", Op::Mul, [silu.into(), up.into()])?;
        let down = self.weight("mlp.down_proj")?;
        let down = self.b.node("down", Op::Linear, [act.into(), down])?;
        self.b.node("x", Op::Add, [x.into(), down.into()])
    }

    fn projection(&mut self, name: &str, input: NodeId) -> Result<NodeId, BuildError> {
        let mut args = vec![input.into(), self.weight(&format!("self_attn.{name}_proj"))?];
        if self.decoder.qkv_bias {
            args.push(self.weight(&format!("self_attn.{name}_proj.bias"))?);
        }
        self.b.node(name, Op::Linear, args)
    }

    fn norm(&mut self, name: &str, x: NodeId, weight: &str) -> Result<NodeId, BuildError> {
        let weight = self.weight(weight)?;
        self.b.node(name, Op::RmsNorm { eps: self.decoder.eps }, [x.into(), weight])
    }

    /// A weight of the current layer, or of the whole model outside the layers.
    fn weight(&self, name: &str) -> Result<Operand, BuildError> {
        let full = match self.b.layer {
            Some(layer) => format!("layers.{layer}.{name}"),
            None => name.to_string(),
        };
        let missing = || BuildError { place: format!("@{full}"), what: "is not in the list of weights".into() };
        self.b.weight_id(&full).map(Operand::Weight).ok_or_else(missing)
    }
}
