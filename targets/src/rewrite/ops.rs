//! What the ops of families become in primitives.

use diffulex_compiler::ir::{Dim, NodeId, Op, Operand, WeightExpr, build::BuildError, types::ValueType};

use super::{Rewrite, unfit};

impl Rewrite<'_> {
    /// A row of a table for each position: `[1, T, dim]`, then `[1, 1, T, dim]`.
    pub(crate) fn rope_table(
        &mut self,
        name: &str,
        dim: u32,
        expr: &WeightExpr,
        positions: Operand,
    ) -> Result<NodeId, BuildError> {
        let bounds = self.from.bounds;
        // `verify` keeps both bounds below 2^24.
        let rows = (bounds.c + bounds.t) as u32;
        let table = self.constant(name, &[rows, dim], expr)?;
        let rows = self.step("rows", Op::Embed, [positions, table])?;
        let mut shape = self.to.module().operand_type(rows).shape;
        shape.insert(1, Dim::fixed(1));
        self.last(Op::Reshape { shape }, [rows])
    }

    /// `[1, T, n·D]` as `[1, n, T, D]`, which is `ty`.
    pub(crate) fn heads(&mut self, n: u32, x: Operand, ty: &ValueType) -> Result<NodeId, BuildError> {
        let [one, _, t, d] = ty.shape[..] else { return Err(unfit("is not [1, n, T, D]")) };
        let split = self.step("split", Op::Reshape { shape: vec![one, t, Dim::fixed(n), d] }, [x])?;
        self.last(Op::Transpose { perm: vec![0, 2, 1, 3] }, [split])
    }

    /// `[1, n, T, D]` as `[1, T, n·D]`, which is `ty`.
    pub(crate) fn merge_heads(&mut self, x: Operand, ty: &ValueType) -> Result<NodeId, BuildError> {
        let turned = self.step("rows", Op::Transpose { perm: vec![0, 2, 1, 3] }, [x])?;
        self.last(Op::Reshape { shape: ty.shape.clone() }, [turned])
    }

    /// `x · cos + (−b, a) · sin` for the halves `a`, `b` of `x`.
    pub(crate) fn rope(&mut self, x: Operand, cos: Operand, sin: Operand) -> Result<NodeId, BuildError> {
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

    /// The two halves of what `swiglu` is given, each of type `ty`: gate and up.
    pub(crate) fn gate_and_up(&mut self, x: Operand, ty: &ValueType) -> Result<[Operand; 2], BuildError> {
        let axis = ty.shape.len() as u32 - 1;
        let width = ty.width().ok_or_else(|| unfit("has no known width"))?;
        let gate = self.step("gate", Op::Slice { axis, start: 0, end: width }, [x])?;
        let up = self.step("up", Op::Slice { axis, start: width, end: 2 * width }, [x])?;
        Ok([gate, up])
    }

    /// Joins parts until so few are left that one concatenation can take them.
    pub(crate) fn join(&mut self, mut parts: Vec<Operand>, axis: u32) -> Result<Vec<Operand>, BuildError> {
        while parts.len() > self.limits.joined {
            let mut joined = Vec::new();
            for part in parts.chunks(self.limits.joined) {
                joined.push(match part {
                    [one] => *one,
                    many => self.step("part", Op::Concat { axis }, many)?,
                });
            }
            parts = joined;
        }
        Ok(parts)
    }
}
