//! The operations of one node.
//!
//! Every parameter is spelled out, also where it has a default: Apple's loader asks for some that the documents call
//! optional. The few that are left out are those that Apple's own writer leaves out.

use diffulex_compiler::ir::{Dim, Node, NodeId, Op, Operand, ValueType, WeightId};

use super::EmitError;
use super::step::Step;
use super::value::{UNKNOWN, Val};
use crate::coreml::options::flexible;
use crate::coreml::schema::program::DataType;
use crate::coreml::{Interface, Norm};

const HALF: DataType = DataType::Float16;

impl Step<'_> {
    /// Adds what computes `node`, called `name`.
    pub(super) fn node(&mut self, node: &Node, name: &str) -> Result<Val, EmitError> {
        let shape = self.shape(&node.ty)?;
        let to = (HALF, shape.as_slice());
        let illegal = || EmitError::Illegal { place: node.place(), what: "is no node of a legal module".into() };
        if let (Op::Cached, [Operand::Cache(cache), rows]) = (&node.op, node.args.as_slice()) {
            let rows = self.operand(*rows)?;
            return self.cached(*cache, &rows, name, &shape);
        }
        if let (Op::Linear, [x, Operand::Weight(filter), bias @ ..]) = (&node.op, node.args.as_slice()) {
            let bias = match bias {
                [Operand::Weight(bias)] => Some(*bias),
                _ => None,
            };
            let x = self.operand(*x)?;
            return self.linear(&x, *filter, bias, name, &shape);
        }
        let args = node.args.iter().map(|&arg| self.operand(arg)).collect::<Result<Vec<Val>, EmitError>>()?;
        let args: Vec<&Val> = args.iter().collect();
        let last = shape.len() as i32 - 1;
        Ok(match (&node.op, args.as_slice()) {
            (Op::Embed, [ids, table]) => self.gather(name, table, ids, 0, to),
            (Op::GatherRows, [x, rows]) => self.gather(name, x, rows, 1, to),
            (Op::RmsNorm { eps }, [x, gain]) => self.rms_norm(*eps, x, gain, name, &shape)?,
            (Op::Add, [a, b]) => self.two("add", a, b, name, to),
            (Op::Sub, [a, b]) => self.two("sub", a, b, name, to),
            (Op::Mul, [a, b]) => self.two("mul", a, b, name, to),
            (Op::Div, [a, b]) => self.two("real_div", a, b, name, to),
            (Op::Neg, [x]) => {
                let minus = self.block.half(-1.0)?;
                self.two("mul", x, &minus, name, to)
            }
            (Op::Square, [x]) => self.block.add("square", name, &[("x", &[x])], to),
            (Op::Silu, [x]) => self.block.add("silu", name, &[("x", &[x])], to),
            (Op::Sigmoid, [x]) => self.block.add("sigmoid", name, &[("x", &[x])], to),
            (Op::Rsqrt, [x]) => {
                let epsilon = self.block.half(0.0)?;
                self.block.add("rsqrt", name, &[("x", &[x]), ("epsilon", &[&epsilon])], to)
            }
            (Op::Softmax, [x]) => {
                let axis = self.block.int(last);
                self.block.add("softmax", name, &[("x", &[x]), ("axis", &[&axis])], to)
            }
            (Op::Mean, [x]) => self.mean(x, name, to),
            (Op::Matmul { transpose }, [x, y]) => self.matmul(name, x, y, *transpose, to),
            (Op::Reshape { shape: axes }, [x]) => {
                let before = node.args.first().map(|&arg| self.module.operand_type(arg).shape).unwrap_or_default();
                if let Some(axis) = inserted(&before, axes) {
                    let axes = self.block.ints(&[axis]);
                    return Ok(self.block.add("expand_dims", name, &[("x", &[x]), ("axes", &[&axes])], to));
                }
                let sizes = self.sizes(&node.ty)?;
                let sizes = self.block.ints(&sizes);
                self.block.add("reshape", name, &[("x", &[x]), ("shape", &[&sizes])], to)
            }
            (Op::Transpose { perm }, [x]) => {
                let perm: Vec<i32> = perm.iter().map(|&p| p as i32).collect();
                let perm = self.block.ints(&perm);
                self.block.add("transpose", name, &[("x", &[x]), ("perm", &[&perm])], to)
            }
            (Op::Slice { axis, start, end }, [x]) => self.slice(x, *axis as usize, *start..*end, name),
            (Op::Concat { axis }, parts) => self.concat(parts, *axis as i32, name, to),
            (Op::Attention { .. }, [query, key, value, mask]) => {
                let inputs: [(&str, &[&Val]); 4] =
                    [("query", &[query]), ("key", &[key]), ("value", &[value]), ("attn_mask", &[mask])];
                self.block.add("scaled_dot_product_attention", name, &inputs, to)
            }
            _ => return Err(illegal()),
        })
    }

    fn operand(&mut self, operand: Operand) -> Result<Val, EmitError> {
        match operand {
            Operand::Node(NodeId(id)) => {
                let missing = || EmitError::Illegal { place: format!("node {id}"), what: "is not made yet".into() };
                self.values.get(id as usize).cloned().ok_or_else(missing)
            }
            Operand::Weight(id) => self.constants.weight(&mut self.block, id),
            Operand::Cache(cache) => {
                Err(EmitError::Illegal { place: format!("${cache}"), what: "is not joined with rows".into() })
            }
        }
    }

    fn two(&mut self, kind: &str, x: &Val, y: &Val, name: &str, to: (DataType, &[u64])) -> Val {
        self.block.add(kind, name, &[("x", &[x]), ("y", &[y])], to)
    }

    /// What lies at `indices` of one axis.
    fn gather(&mut self, name: &str, x: &Val, indices: &Val, axis: i32, to: (DataType, &[u64])) -> Val {
        let axis = self.block.int(axis);
        let none = self.block.int(0);
        let no = self.block.truth(false);
        let none: &[&Val] = &[&none];
        let no: &[&Val] = &[&no];
        let all: [(&str, &[&Val]); 5] =
            [("x", &[x]), ("indices", &[indices]), ("axis", &[&axis]), ("batch_dims", none), ("validate_indices", no)];
        // Version 7 brought the fourth, version 8 the fifth.
        let known = match self.version {
            ..7 => 3,
            7 => 4,
            _ => 5,
        };
        self.block.add("gather", name, &all[..known], to)
    }

    /// `x · wᵀ + bias`, in parts where there are many rows and parts are wanted.
    fn linear(
        &mut self,
        x: &Val,
        filter: WeightId,
        bias: Option<WeightId>,
        name: &str,
        shape: &[u64],
    ) -> Result<Val, EmitError> {
        let rows = self.module.weight(filter).ty.rows();
        let limit = self.options.split_rows.map_or(rows, |limit| limit as usize).max(1);
        let step = rows.div_ceil(rows.div_ceil(limit).max(1)).max(1);
        let mut parts = Vec::new();
        for start in (0..rows).step_by(step) {
            let range = start..rows.min(start + step);
            let weight = self.constants.rows(&mut self.block, filter, range.clone());
            let count = range.len() as u64;
            let bias = match bias {
                Some(bias) => self.constants.rows(&mut self.block, bias, range.clone()),
                None => self.constants.zeros(&mut self.block, count),
            };
            let mut shape = shape.to_vec();
            shape.pop();
            shape.push(count);
            let inputs: [(&str, &[&Val]); 3] = [("x", &[x]), ("weight", &[&weight]), ("bias", &[&bias])];
            if range.len() == rows {
                return Ok(self.block.add("linear", name, &inputs, (HALF, &shape)));
            }
            parts.push(self.block.add("linear", &format!("{name}_rows_{start}"), &inputs, (HALF, &shape)));
        }
        let parts: Vec<&Val> = parts.iter().collect();
        Ok(self.concat(&parts, shape.len() as i32 - 1, name, (HALF, shape)))
    }

    pub(super) fn concat(&mut self, parts: &[&Val], axis: i32, name: &str, to: (DataType, &[u64])) -> Val {
        let axis = self.block.int(axis);
        let no = self.block.truth(false);
        self.block.add("concat", name, &[("values", parts), ("axis", &[&axis]), ("interleave", &[&no])], to)
    }

    fn mean(&mut self, x: &Val, name: &str, to: (DataType, &[u64])) -> Val {
        let axes = self.block.ints(&[to.1.len() as i32 - 1]);
        let yes = self.block.truth(true);
        self.block.add("reduce_mean", name, &[("x", &[x]), ("axes", &[&axes]), ("keep_dims", &[&yes])], to)
    }

    fn matmul(&mut self, name: &str, x: &Val, y: &Val, transpose: bool, to: (DataType, &[u64])) -> Val {
        let no = self.block.truth(false);
        let turned = self.block.truth(transpose);
        let inputs: [(&str, &[&Val]); 4] =
            [("x", &[x]), ("y", &[y]), ("transpose_x", &[&no]), ("transpose_y", &[&turned])];
        self.block.add("matmul", name, &inputs, to)
    }

    /// `range` of one axis.
    fn slice(&mut self, x: &Val, axis: usize, range: std::ops::Range<u32>, name: &str) -> Val {
        let mut begin = vec![0; x.shape.len()];
        let mut end: Vec<i32> = x.shape.iter().map(|&n| n as i32).collect();
        let mut shape = x.shape.clone();
        (begin[axis], end[axis]) = (range.start as i32, range.end as i32);
        shape[axis] = range.len() as u64;
        let squeeze = vec![false; x.shape.len()];
        self.slice_by_index(x, &begin, &end, &squeeze, name, (x.dtype, &shape))
    }

    /// `begin..end` of each axis, all of one of unknown size; an axis of `squeeze` is dropped.
    pub(super) fn slice_by_index(
        &mut self,
        x: &Val,
        begin: &[i32],
        end: &[i32],
        squeeze: &[bool],
        name: &str,
        to: (DataType, &[u64]),
    ) -> Val {
        let begin = self.block.ints(begin);
        let end = self.block.ints(end);
        let stride = self.block.ints(&vec![1; x.shape.len()]);
        let from = self.block.truths(&vec![false; x.shape.len()]);
        let to_end: Vec<bool> = x.shape.iter().map(|&n| n == UNKNOWN).collect();
        let to_end = self.block.truths(&to_end);
        let squeeze = self.block.truths(squeeze);
        let inputs: [(&str, &[&Val]); 7] = [
            ("x", &[x]),
            ("begin", &[&begin]),
            ("end", &[&end]),
            ("stride", &[&stride]),
            ("begin_mask", &[&from]),
            ("end_mask", &[&to_end]),
            ("squeeze_mask", &[&squeeze]),
        ];
        self.block.add("slice_by_index", name, &inputs, to)
    }

    fn rms_norm(&mut self, eps: f32, x: &Val, gain: &Val, name: &str, shape: &[u64]) -> Result<Val, EmitError> {
        let unit = match self.options.norm {
            Norm::Half => self.unit_in_half(eps, x, name, shape)?,
            Norm::Single => self.unit_in_single(eps, x, name, shape),
        };
        Ok(self.two("mul", &unit, gain, name, (HALF, shape)))
    }

    /// `x / sqrt(mean(x²) + eps)`: the first half of the normalized `(x, −x)`.
    fn unit_in_half(&mut self, eps: f32, x: &Val, name: &str, shape: &[u64]) -> Result<Val, EmitError> {
        let (last, minus) = (shape.len() - 1, self.block.half(-1.0)?);
        let minus = self.two("mul", x, &minus, &format!("{name}_minus"), (HALF, shape));
        let mut wide = shape.to_vec();
        wide[last] *= 2;
        let both = self.concat(&[x, &minus], last as i32, &format!("{name}_both"), (HALF, &wide));
        let axes = self.block.ints(&[last as i32]);
        // Up to version 7 it has the element type of `x`.
        let epsilon = if self.version < 8 { self.block.half(eps)? } else { self.block.single(eps) };
        let inputs: [(&str, &[&Val]); 3] = [("x", &[&both]), ("axes", &[&axes]), ("epsilon", &[&epsilon])];
        let normed = self.block.add("layer_norm", &format!("{name}_normed"), &inputs, (HALF, &wide));
        Ok(self.slice(&normed, last, 0..shape[last] as u32, &format!("{name}_unit")))
    }

    /// The same, computed in `fp32`.
    fn unit_in_single(&mut self, eps: f32, x: &Val, name: &str, shape: &[u64]) -> Val {
        let wide = (DataType::Float32, shape);
        let mut narrow = shape.to_vec();
        if let Some(last) = narrow.last_mut() {
            *last = 1;
        }
        let x = self.cast(x, DataType::Float32, &format!("{name}_wide"));
        let square = self.two("mul", &x, &x, &format!("{name}_square"), wide);
        let mean = self.mean(&square, &format!("{name}_mean"), (DataType::Float32, &narrow));
        let epsilon = self.block.single(eps);
        let inputs: [(&str, &[&Val]); 2] = [("x", &[&mean]), ("epsilon", &[&epsilon])];
        let factor = self.block.add("rsqrt", &format!("{name}_rsqrt"), &inputs, (DataType::Float32, &narrow));
        let unit = self.two("mul", &x, &factor, &format!("{name}_product"), wide);
        self.cast(&unit, HALF, &format!("{name}_unit"))
    }

    /// The same numbers in another element type.
    pub(super) fn cast(&mut self, x: &Val, to: DataType, name: &str) -> Val {
        let dtype = self.block.text(to.name());
        self.block.add("cast", name, &[("x", &[x]), ("dtype", &[&dtype])], (to, &x.shape))
    }

    /// A shape at the bounds; what differs from step to step is [`UNKNOWN`].
    pub(super) fn shape(&self, ty: &ValueType) -> Result<Vec<u64>, EmitError> {
        Ok(self.sizes(ty)?.into_iter().map(|n| u64::try_from(n).unwrap_or(UNKNOWN)).collect())
    }

    /// The same as a reshape has it: what differs from step to step is −1.
    fn sizes(&self, ty: &ValueType) -> Result<Vec<i32>, EmitError> {
        let size = |dim: &Dim| {
            if flexible(self.options.shapes) && dim.t > 0 {
                return Some(-1);
            }
            // The rows of the step lie in the cache itself.
            let kept = self.options.interface == Interface::State;
            let dim = if kept { Dim { t: dim.t.checked_sub(dim.c)?, ..*dim } } else { *dim };
            dim.at(self.module.bounds).and_then(|n| i32::try_from(n).ok())
        };
        let sizes: Option<Vec<i32>> = ty.shape.iter().map(size).collect();
        sizes.ok_or_else(|| EmitError::Illegal { place: ty.to_string(), what: "is too large".into() })
    }
}

/// The axis of size 1 that makes `after` of `before`. Said so, it is clear which axis the tokens lie along, also where
/// there is one token only.
fn inserted(before: &[Dim], after: &[Dim]) -> Option<i32> {
    let without = |axis: usize| after[..axis].iter().chain(&after[axis + 1..]).eq(before);
    (0..after.len()).find(|&axis| after[axis] == Dim::fixed(1) && without(axis)).map(|axis| axis as i32)
}
