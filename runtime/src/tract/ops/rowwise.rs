//! Ops that work row by row along the last axis.

use diffulex_compiler::ir::DType;
use diffulex_compiler::quant::Grid;
use tract_core::internal::*;

use super::super::kernels::rowwise::{self as kernels, each_row};
use super::{Compute, View, tensor};

/// One of them.
#[derive(Debug)]
pub(crate) enum Rowwise {
    /// `x / sqrt(mean(x²) + eps) · gain`.
    RmsNorm {
        /// One factor a column.
        gain: Vec<f32>,
        /// Added to the mean square.
        eps: f32,
    },
    /// `exp(x − max) / Σ exp(x − max)`.
    Softmax,
    /// The mean, of width 1.
    Mean,
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// `silu(a) · b` for the two halves `a`, `b`.
    Swiglu,
    /// Each row rounded to 256 levels of its own.
    Int8Token,
    /// Each number at the nearest of a grid.
    FakeQuantize(Grid),
    /// The same numbers as another type keeps them.
    Cast(DType),
}

impl Compute for Rowwise {
    fn name(&self) -> &'static str {
        match self {
            Rowwise::RmsNorm { .. } => "rms_norm",
            Rowwise::Softmax => "softmax",
            Rowwise::Mean => "mean",
            Rowwise::Sigmoid => "sigmoid",
            Rowwise::Silu => "silu",
            Rowwise::Swiglu => "swiglu",
            Rowwise::Int8Token => "int8_token",
            Rowwise::FakeQuantize(_) => "fake_quantize",
            Rowwise::Cast(_) => "cast",
        }
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x] = args else { bail!("{} takes one value", self.name()) };
        let from = x.width();
        let to = match self {
            Rowwise::Mean => 1,
            Rowwise::Swiglu => from / 2,
            _ => from,
        };
        tensor(&x.with_width(to), |out| {
            match self {
                Rowwise::RmsNorm { gain, eps } => {
                    each_row(&kernels::RmsNorm { gain, eps: *eps }, x.data, from, out, to);
                }
                Rowwise::Softmax => each_row(&kernels::Softmax, x.data, from, out, to),
                Rowwise::Mean => each_row(&kernels::Mean, x.data, from, out, to),
                Rowwise::Sigmoid => each_row(&kernels::Sigmoid, x.data, from, out, to),
                Rowwise::Silu => each_row(&kernels::Silu, x.data, from, out, to),
                Rowwise::Swiglu => each_row(&kernels::Swiglu, x.data, from, out, to),
                Rowwise::Int8Token => each_row(&kernels::Int8Token, x.data, from, out, to),
                Rowwise::FakeQuantize(grid) => each_row(&kernels::FakeQuantize(*grid), x.data, from, out, to),
                Rowwise::Cast(to_type) => each_row(&kernels::Cast(*to_type), x.data, from, out, to),
            }
            Ok(())
        })
    }
}

/// `rope`: rotates the halves of every head.
#[derive(Debug)]
pub(crate) struct Rope;

impl Compute for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x, cos, sin] = args else { bail!("rope takes three values") };
        let &[.., tokens, d] = x.shape else { bail!("{:?} is not [1, n, T, D]", x.shape) };
        ensure!(cos.data.len() == tokens * d && sin.data.len() == tokens * d, "the tables do not fit {:?}", x.shape);
        tensor(x.shape, |out| {
            each_row(&kernels::Rope { cos: cos.data, sin: sin.data, tokens }, x.data, d, out, d);
            Ok(())
        })
    }
}
