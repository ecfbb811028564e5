//! One form for each op.

use diffulex_compiler::ir::{CacheId, CacheKind, Dim, Node, Op, Operand};

use super::graph::{Graph, illegal};
use super::{EmitError, proto};
use crate::onnx::Form;
use crate::onnx::schema::{self, KEYS, NORMS};

impl Graph<'_> {
    /// Adds the operators of a node, the last of which makes `name`.
    pub(super) fn node(&mut self, node: &Node, name: &str) -> Result<(), EmitError> {
        let args = node.args.as_slice();
        match (&node.op, args) {
            (Op::Input | Op::RopeCos { .. } | Op::RopeSin { .. }, _) => {}
            (Op::Embed, [ids, table]) => self.plain("Gather", &[*table, *ids], name, vec![proto::int("axis", 0)])?,
            (Op::Linear, [x, Operand::Weight(filter)]) => {
                let (x, filter) = (self.operand(*x)?, self.filter(*filter)?);
                self.push("MatMul", &[&x, &filter], name, vec![]);
            }
            (Op::RmsNorm { eps }, args) => {
                let op = NORMS[usize::from(self.options.form == Form::Standard)];
                let attributes =
                    vec![proto::int("axis", -1), proto::float("epsilon", *eps), proto::int("stash_type", 1)];
                self.plain(op, args, name, attributes)?;
            }
            (Op::Cached, [Operand::Cache(cache), rows]) => self.cached(*cache, *rows, name)?,
            (Op::Add, args) => self.plain("Add", args, name, vec![])?,
            (Op::Sub, args) => self.plain("Sub", args, name, vec![])?,
            (Op::Mul, args) => self.plain("Mul", args, name, vec![])?,
            (Op::Div, args) => self.plain("Div", args, name, vec![])?,
            (Op::Neg, args) => self.plain("Neg", args, name, vec![])?,
            (Op::Sigmoid, args) => self.plain("Sigmoid", args, name, vec![])?,
            (Op::Softmax, args) => self.plain("Softmax", args, name, vec![proto::int("axis", -1)])?,
            // Keys of a layer are stored transposed.
            (Op::Matmul { .. }, args) => self.plain("MatMul", args, name, vec![])?,
            (Op::Concat { axis }, args) => {
                self.plain("Concat", args, name, vec![proto::int("axis", i64::from(*axis))])?;
            }
            (Op::Transpose { perm }, args) => {
                let perm = perm.iter().map(|&axis| i64::from(axis)).collect();
                self.plain("Transpose", args, name, vec![proto::ints("perm", perm)])?;
            }
            (Op::Reshape { shape }, [x]) => {
                let sizes = sizes(&self.module.operand_type(*x).shape, shape);
                let sizes = sizes.ok_or_else(|| illegal(&node.place(), "reshapes two open axes"))?;
                let (x, sizes) = (self.operand(*x)?, self.list(&sizes));
                self.push("Reshape", &[&x, &sizes], name, vec![]);
            }
            (Op::Slice { axis, start, end }, [x]) => {
                let x = self.operand(*x)?;
                let [start, end, axis] = [start, end, axis].map(|&n| self.list(&[i64::from(n)]));
                self.push("Slice", &[&x, &start, &end, &axis], name, vec![]);
            }
            _ => return Err(illegal(&node.place(), "has no form in the file")),
        }
        Ok(())
    }

    /// The committed rows, then the new ones; keys transposed.
    fn cached(&mut self, cache: CacheId, rows: Operand, name: &str) -> Result<(), EmitError> {
        let (grid, mut past) = (self.grid(rows), schema::past(cache));
        let (mut rows, mut axis) = (self.operand(rows)?, 2);
        if let Some(grid) = grid {
            let ([scale, zero], whole) = (self.scales(grid), past);
            past = self.step(&whole, "float");
            self.push("DequantizeLinear", &[&whole, &scale, &zero], &past, vec![]);
        }
        if cache.kind == CacheKind::K {
            let (new, perm) = (schema::new(cache), vec![proto::ints("perm", KEYS.map(i64::from).to_vec())]);
            axis = 3;
            let Some(grid) = grid else {
                self.push("Transpose", &[&rows], &new, perm);
                self.push("Concat", &[&past, &new], name, vec![proto::int("axis", axis)]);
                return Ok(());
            };
            let [moved, turned] = ["moved", "float"].map(|suffix| self.step(&new, suffix));
            self.push("Transpose", &[&rows], &moved, perm);
            self.round(&moved, &turned, grid, Some(new));
            rows = turned;
        }
        self.push("Concat", &[&past, &rows], name, vec![proto::int("axis", axis)]);
        Ok(())
    }

    /// An operator of all operands, in order.
    fn plain(
        &mut self,
        op: &str,
        args: &[Operand],
        name: &str,
        attributes: Vec<onnx_protobuf::AttributeProto>,
    ) -> Result<(), EmitError> {
        let inputs: Vec<String> = args.iter().map(|&arg| self.operand(arg)).collect::<Result<_, _>>()?;
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.push(op, &inputs, name, attributes);
        Ok(())
    }
}

/// The sizes of a reshape that serve steps of any size: 0 copies an axis, -1 is inferred.
fn sizes(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let size = |(i, dim): (usize, &Dim)| match dim.known() {
        Some(n) => i64::from(n),
        None if from.get(i) == Some(dim) => 0,
        None => -1,
    };
    let sizes: Vec<i64> = to.iter().enumerate().map(size).collect();
    (sizes.iter().filter(|n| **n == -1).count() < 2).then_some(sizes)
}
