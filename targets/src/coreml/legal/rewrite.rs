//! One rewriting for each op.

use diffulex_compiler::ir::{DType, Dim, Node, NodeId, Op, Operand, WeightExpr, build::BuildError, types::ValueType};

use super::{Fault, Rewrite};
use crate::refusal::Refusal;

impl Rewrite<'_> {
    /// Adds what `node` becomes.
    pub(super) fn node(&mut self, node: &Node) -> Result<NodeId, Fault> {
        let args: Vec<Operand> = node.args.iter().map(|&a| self.operand(a)).collect();
        if node.ty.dtype == DType::BF16 {
            let (place, nearest) = (node.place(), DType::F16);
            return Err(Refusal::DType { place, dtype: DType::BF16, nearest }.into());
        }
        Ok(match (&node.op, args.as_slice()) {
            (Op::Input, _) if node.name == "rows" => {
                self.to.bound_rows();
                self.to.input(&node.name, ValueType::new(DType::I32, node.ty.shape.clone()))
            }
            (Op::Input, _) if node.ty.dtype.is_integer() => {
                self.to.input(&node.name, ValueType::new(DType::I32, node.ty.shape.clone()))
            }
            (Op::Input, _) => self.to.input(&node.name, node.ty.clone()),
            (Op::RopeCos { dim, theta }, [positions]) => {
                self.rope_table("rope.cos", *dim, WeightExpr::RopeCos(*theta), *positions)?
            }
            (Op::RopeSin { dim, theta }, [positions]) => {
                self.rope_table("rope.sin", *dim, WeightExpr::RopeSin(*theta), *positions)?
            }
            (Op::Heads { n }, [x]) => self.heads(*n, *x, &node.ty)?,
            (Op::MergeHeads, [x]) => {
                let turned = self.step("rows", Op::Transpose { perm: vec![0, 2, 1, 3] }, [*x])?;
                self.last(Op::Reshape { shape: node.ty.shape.clone() }, [turned])?
            }
            (Op::Rope, [x, cos, sin]) => self.rope(*x, *cos, *sin)?,
            (Op::Attention { scale }, [q, k, v, _]) => self.attention(*scale, [*q, *k, *v], node.args[3])?,
            (Op::Swiglu, [x]) => self.swiglu(*x, &node.ty)?,
            // All floats are fp16 in a package.
            (Op::Cast { .. }, [Operand::Node(x)]) if !self.to.module().node(*x).ty.dtype.is_integer() => *x,
            (Op::Int8Token, _) => return Err(Refusal::Tokens { place: node.place() }.into()),
            _ => self.last(node.op.clone(), args)?,
        })
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

    fn heads(&mut self, n: u32, x: Operand, ty: &ValueType) -> Result<NodeId, BuildError> {
        let [one, _, t, d] = ty.shape[..] else { return Err(unfit("is not [1, n, T, D]")) };
        let split = self.step("split", Op::Reshape { shape: vec![one, t, Dim::fixed(n), d] }, [x])?;
        self.last(Op::Transpose { perm: vec![0, 2, 1, 3] }, [split])
    }

    /// `x · cos + (−b, a) · sin` for the halves `a`, `b` of `x`.
    fn rope(&mut self, x: Operand, cos: Operand, sin: Operand) -> Result<NodeId, BuildError> {
        let width = self.to.module().operand_type(x).width().ok_or_else(|| unfit("has no known width"))?;
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
        let silu = self.step("silu", Op::Silu, [gate])?;
        self.last(Op::Mul, [silu, up])
    }
}

pub(super) fn unfit(what: &str) -> BuildError {
    BuildError { place: "operand".into(), what: what.into() }
}
