//! The closed set of ops.
//!
//! High-level ops are what a family emits and what the runtime likes best; primitives are what targets decompose them
//! to and what artifacts are read back as. `infer` gives each op its typing rule, `interpret` its meaning.

use super::types::{DType, Dim};
use crate::quant::Grid;

/// What a node computes. Operands (values, weights, caches) stand in the node; attributes stand here.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An input of the step graph.
    Input,

    // High level.
    /// `embed %ids, @table`: row `ids[i]` of the table; table `[N, H]`, ids `[..]` → `[.., H]`.
    Embed,
    /// `rope_cos %positions`: `cos(p · theta^(-2j/dim))`, both halves of the row alike; `[1, T]` → `[1, 1, T, dim]`.
    RopeCos {
        /// Width of a head.
        dim: u32,
        /// Base of the frequencies.
        theta: f64,
    },
    /// `rope_sin %positions`, as [`Op::RopeCos`].
    RopeSin {
        /// Width of a head.
        dim: u32,
        /// Base of the frequencies.
        theta: f64,
    },
    /// `rms_norm %x, @w`: `x / sqrt(mean(x²) + eps) · w` over the last axis.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `linear %x, @w [, @bias]`: `x · wᵀ + bias`; w `[N, K]`, x `[.., K]` → `[.., N]`; of bf16 tokens it makes f32.
    Linear,
    /// `heads %x {n}`: `[1, T, n·D]` → `[1, n, T, D]`.
    Heads {
        /// Number of heads.
        n: u32,
    },
    /// `merge_heads %x`: `[1, n, T, D]` → `[1, T, n·D]`.
    MergeHeads,
    /// `rope %x, %cos, %sin`: rotates halves: `(a, b)` → `(a·cos − b·sin, b·cos + a·sin)`.
    Rope,
    /// `cached $c, %x`: the committed rows, then this step's; `[1, KV, T, D]` → `[1, KV, C+T, D]`.
    Cached,
    /// `attention %q, %k, %v, %mask {scale}`: `softmax(q·kᵀ·scale + mask)·v`; query head `i` uses key/value head
    /// `i / (H / KV)`. A token that sees no key at all has no defined result; sessions make no such mask.
    Attention {
        /// Multiplies the scores.
        scale: f32,
    },
    /// `x · sigmoid(x)`.
    Silu,
    /// Each row of the last axis rounded to 256 levels of its own, as dynamic quantization feeds it to a filter: with
    /// `s = 255 / (max(row, 0) − min(row, 0))` and a zero point `z`, a whole number from −128 to 127 that keeps 0 exact,
    /// `x` becomes `(clamp(round(x·s) + z) − z) / s`. Ties go to the even number.
    Int8Token,
    /// `fake_quantize %x {to, scale, zero}`: each number at the nearest one of a grid.
    FakeQuantize(Grid),
    /// `swiglu %x`: `silu(a) · b` for the two halves `a`, `b` of the last axis.
    Swiglu,
    /// `gather_rows %x, %rows`: `[1, T, H]`, `[R]` → `[1, R, H]`.
    GatherRows,

    // Primitives. Two-operand ones broadcast as NumPy does.
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a · b`, element by element.
    Mul,
    /// `a / b`.
    Div,
    /// `−x`.
    Neg,
    /// `x²`.
    Square,
    /// `1 / sqrt(x)`.
    Rsqrt,
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `exp(x − max) / Σ exp(x − max)` over the last axis.
    Softmax,
    /// The mean over the last axis, which becomes 1.
    Mean,
    /// `matmul %a, %b`: `[.., M, K] · [.., K, N]`; leading axes broadcast.
    Matmul {
        /// The second operand is stored `[.., N, K]`.
        transpose: bool,
    },
    /// Same numbers, another shape.
    Reshape {
        /// The new axes.
        shape: Vec<Dim>,
    },
    /// `output.axis[i] = input.axis[perm[i]]`.
    Transpose {
        /// Which input axis stands at each output axis.
        perm: Vec<u32>,
    },
    /// `start..end` of one axis of known size.
    Slice {
        /// The axis cut.
        axis: u32,
        /// First index kept.
        start: u32,
        /// First index dropped.
        end: u32,
    },
    /// The operands one after another along one axis.
    Concat {
        /// The axis joined.
        axis: u32,
    },
    /// The same numbers in another element type: rounded to nearest, infinite where too large for a float, without
    /// the fraction as integers.
    Cast {
        /// The new element type.
        to: DType,
    },
}

impl Op {
    /// The name in the printed form.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::Embed => "embed",
            Op::RopeCos { .. } => "rope_cos",
            Op::RopeSin { .. } => "rope_sin",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Linear => "linear",
            Op::Heads { .. } => "heads",
            Op::MergeHeads => "merge_heads",
            Op::Rope => "rope",
            Op::Cached => "cached",
            Op::Attention { .. } => "attention",
            Op::Silu => "silu",
            Op::Int8Token => "int8_token",
            Op::FakeQuantize(_) => "fake_quantize",
            Op::Swiglu => "swiglu",
            Op::GatherRows => "gather_rows",
            Op::Add => "add",
            Op::Sub => "sub",
            Op::Mul => "mul",
            Op::Div => "div",
            Op::Neg => "neg",
            Op::Square => "square",
            Op::Rsqrt => "rsqrt",
            Op::Sigmoid => "sigmoid",
            Op::Softmax => "softmax",
            Op::Mean => "mean",
            Op::Matmul { .. } => "matmul",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Cast { .. } => "cast",
        }
    }
}
