//! One rewriting for each op.

use diffulex_compiler::ir::{Dim, Node, NodeId, Op, Operand, WeightExpr, build::BuildError, types::ValueType};

use super::{Fault, Rewrite, limits};
use crate::refusal::Refusal;

/// Most operands that one concatenation joins.
const MAX_JOINED: usize = 5;

impl Rewrite<'_> {
    /// Adds what `node` becomes.
    pub(super) fn node(&mut self, node: &Node) -> Result<NodeId, Fault> {
        let args: Vec<Operand> = node.args.iter().map(|&a| self.operand(a)).collect();
        let refuse = |nearest| Refusal::Op { place: node.place(), op: node.op.name(), nearest };
        Ok(match (&node.op, args.as_slice()) {
            (Op::Input, _) if node.name == "rows" => {
                self.to.bound_rows();
                self.to.input(&node.name, ValueType::f32([Dim::fixed(1), Dim::R, Dim::T]))
            }
            (Op::Input, _) => self.to.input(&node.name, node.ty.clone()),
            (Op::RopeCos { dim, theta }, [positions]) => {
                self.rope_table("rope.cos", *dim, WeightExpr::RopeCos(*theta), *positions)?
            }
            (Op::RopeSin { dim, theta }, [positions]) => {
                self.rope_table("rope.sin", *dim, WeightExpr::RopeSin(*theta), *positions)?
            }
            (Op::RmsNorm { eps }, [x, gain]) => self.rms_norm(*eps, *x, *gain)?,
            (Op::Mean, [x]) => {
                let filter = self.mean_filter(*x)?;
                self.last(Op::Linear, [*x, filter])?
            }
            (Op::Linear, [x, filter, bias]) if limits::is_weight_only(self.from, node) => {
                let product = self.step("product", Op::Linear, [*x, *filter])?;
                self.last(Op::Add, [product, *bias])?
            }
            (Op::Heads { n }, [x]) => self.heads(*n, *x, &node.ty)?,
            (Op::MergeHeads, [x]) => {
                let turned = self.step("rows", Op::Transpose { perm: vec![0, 2, 1, 3] }, [*x])?;
                self.last(Op::Reshape { shape: node.ty.shape.clone() }, [turned])?
            }
            (Op::Rope, [x, cos, sin]) => self.rope(*x, *cos, *sin)?,
            (Op::Attention { scale }, [q, k, v, _]) => self.attention(*scale, [*q, *k, *v], node.args[3])?,
            (Op::Silu, [x]) => {
                let gate = self.step("sigmoid", Op::Sigmoid, [*x])?;
                self.last(Op::Mul, [*x, gate])?
            }
            (Op::Swiglu, [x]) => self.swiglu(*x, &node.ty)?,
            (Op::Concat { axis }, parts) => {
                let parts = self.join(parts.to_vec(), *axis)?;
                self.last(Op::Concat { axis: *axis }, parts)?
            }
            // XNNPACK cannot gather: each row is chosen by a product with zeros and a one, exact for finite numbers.
            (Op::GatherRows, [x, rows @ Operand::Node(_)]) if self.is_input(*rows) => {
                self.last(Op::Matmul { transpose: false }, [*rows, *x])?
            }
            (Op::GatherRows, _) => return Err(refuse(Some("rows that are an input")).into()),
            _ => self.last(node.op.clone(), args)?,
        })
    }

    /// Whether an operand of the new module is an input.
    fn is_input(&self, operand: Operand) -> bool {
        matches!(operand, Operand::Node(id) if self.to.module().node(id).op == Op::Input)
    }

    /// A row of a table for each position: `[1, T, dim]`, then `[1, 1, T, dim]`.
    fn rope_table(&mut self, name: &str, dim: u32, expr: WeightExpr, positions: Operand) -> Result<NodeId, BuildError> {
        let bounds = self.from.bounds;
        // `verify` keeps both bounds below 2^24.
        let rows = (bounds.c + bounds.t) as u32;
        let table = self.constant(name, &[rows, dim], &expr)?;
        let rows = self.step("rows", Op::Embed, [positions, table])?;
        let mut shape = self.to.module().operand_type(rows).shape;
        shape.insert(1, Dim::fixed(1));
        self.last(Op::Reshape { shape }, [rows])
    }

    /// `x · rsqrt(mean(x²) + eps) · gain`.
    fn rms_norm(&mut self, eps: f32, x: Operand, gain: Operand) -> Result<NodeId, BuildError> {
        let filter = self.mean_filter(x)?;
        let eps = self.constant("eps", &[1], &WeightExpr::Fill(eps))?;
        let square = self.step("square", Op::Square, [x])?;
        let mean = self.step("mean", Op::Linear, [square, filter])?;
        let sum = self.step("eps", Op::Add, [mean, eps])?;
        let factor = self.step("rsqrt", Op::Rsqrt, [sum])?;
        let unit = self.step("unit", Op::Mul, [x, factor])?;
        self.last(Op::Mul, [unit, gain])
    }

    /// XNNPACK has no mean over an axis: a filter `[1, n]` of `1/n` takes its place.
    fn mean_filter(&mut self, x: Operand) -> Result<Operand, BuildError> {
        let width = self.width(x)?;
        self.constant(&format!("mean.{width}"), &[1, width], &WeightExpr::Fill(1.0 / width as f32))
    }

    fn heads(&mut self, n: u32, x: Operand, ty: &ValueType) -> Result<NodeId, BuildError> {
        let [one, _, t, d] = ty.shape[..] else { return Err(unfit("is not [1, n, T, D]")) };
        let split = self.step("split", Op::Reshape { shape: vec![one, t, Dim::fixed(n), d] }, [x])?;
        self.last(Op::Transpose { perm: vec![0, 2, 1, 3] }, [split])
    }

    /// `x · cos + (−b, a) · sin` for the halves `a`, `b` of `x`.
    fn rope(&mut self, x: Operand, cos: Operand, sin: Operand) -> Result<NodeId, BuildError> {
        let width = self.width(x)?;
        let half = |start, end| Op::Slice { axis: 3, start, end };
        let a = self.step("a", half(0, width / 2), [x])?;
        let b = self.step("b", half(width / 2, width), [x])?;
        let minus = self.step("minus", Op::Neg, [b])?;
        let turned = self.step("turned", Op::Concat { axis: 3 }, [minus, a])?;
        let cos = self.step("cos", Op::Mul, [x, cos])?;
        let sin = self.step("sin", Op::Mul, [turned, sin])?;
        self.last(Op::Add, [cos, sin])
    }

    fn swiglu(&mut self, x: Operand, ty: &ValueType) -> Result<NodeId, BuildError> {
        let axis = ty.shape.len() as u32 - 1;
        let width = ty.width().ok_or_else(|| unfit("has no known width"))?;
        let gate = self.step("gate", Op::Slice { axis, start: 0, end: width }, [x])?;
        let up = self.step("up", Op::Slice { axis, start: width, end: 2 * width }, [x])?;
        let sigmoid = self.step("sigmoid", Op::Sigmoid, [gate])?;
        let silu = self.step("silu", Op::Mul, [gate, sigmoid])?;
        self.last(Op::Mul, [silu, up])
    }

    /// Joins parts until so few are left that one concatenation can take them.
    pub(super) fn join(&mut self, mut parts: Vec<Operand>, axis: u32) -> Result<Vec<Operand>, BuildError> {
        while parts.len() > MAX_JOINED {
            let mut joined = Vec::new();
            for part in parts.chunks(MAX_JOINED) {
                joined.push(match part {
                    [one] => *one,
                    many => self.step("part", Op::Concat { axis }, many)?,
                });
            }
            parts = joined;
        }
        Ok(parts)
    }

    fn width(&self, x: Operand) -> Result<u32, BuildError> {
        self.to.module().operand_type(x).width().ok_or_else(|| unfit("has no known width"))
    }
}

pub(super) fn unfit(what: &str) -> BuildError {
    BuildError { place: "operand".into(), what: what.into() }
}
