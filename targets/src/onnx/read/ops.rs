//! One lifting for each operator.

use diffulex_compiler::ir::{CacheKind, Dim, Encoding, NodeId, Op, Operand, WeightType};
use diffulex_compiler::quant::{Grid, GridType, Packing, Scales};
use onnx_protobuf::tensor_proto::DataType;

use super::Held as Placed;
use super::error::{Fault, Place, Result};
use super::lift::{Held, Lift};
use super::node::{Inputs, axis_of};
use super::tensor::Tensor;
use crate::onnx::schema::{KEYS, NORMS, grid_type};
use crate::stored::Stored;

impl Lift<'_> {
    /// What an operator makes.
    pub(super) fn lift(&mut self, op: &str, result: &str, mut inputs: Inputs) -> Result<Held> {
        let made = match op {
            "Gather" => self.gather(&mut inputs),
            "MatMul" => self.matmul(&inputs),
            "Cast" => self.cast(&mut inputs),
            "QuantizeLinear" => self.quantize(&inputs),
            "DequantizeLinear" => self.dequantize(&mut inputs),
            "Transpose" => self.transpose(&mut inputs, result),
            "Concat" => self.concat(&mut inputs),
            "Reshape" => self.reshape(&mut inputs),
            "Slice" => self.slice(&inputs),
            "Softmax" => self.softmax(&mut inputs),
            "Add" => self.plain(Op::Add, &inputs),
            "Sub" => self.plain(Op::Sub, &inputs),
            "Mul" => self.plain(Op::Mul, &inputs),
            "Div" => self.plain(Op::Div, &inputs),
            "Neg" => self.plain(Op::Neg, &inputs),
            "Sigmoid" => self.plain(Op::Sigmoid, &inputs),
            _ if op == NORMS[0] || op == NORMS[1] && self.opset >= 23 => self.norm(&mut inputs),
            _ => Err(inputs.place.unsupported("this operator")),
        }?;
        inputs.done()?;
        Ok(made)
    }

    fn make(&mut self, place: &Place, op: Op, args: impl Into<Vec<Operand>>) -> Result<Held> {
        self.build(place, op, args).map(Held::Node)
    }

    fn node(&self, place: &Place, held: &Held) -> Result<NodeId> {
        match held {
            Held::Node(id) => Ok(*id),
            _ => Err(place.unsupported("a constant, or rows of a cache, where a value stands")),
        }
    }

    /// An operator whose operands are those of `op`, some of them constant.
    fn plain(&mut self, op: Op, inputs: &Inputs) -> Result<Held> {
        let args = inputs.held.iter().map(|held| self.operand(&inputs.place, held)).collect::<Result<Vec<_>>>()?;
        if !args.iter().any(|arg| matches!(arg, Operand::Node(_))) {
            return Err(inputs.place.unsupported("arithmetic of constants"));
        }
        self.make(&inputs.place, op, args)
    }

    fn gather(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let [table, ids] = inputs.exactly()?;
        place.same("axis", inputs.int("axis")?.unwrap_or(0), 0)?;
        let (table, ids) = (self.operand(&place, &table)?, self.node(&place, &ids)?);
        self.make(&place, Op::Embed, [ids.into(), table])
    }

    fn matmul(&mut self, inputs: &Inputs) -> Result<Held> {
        let place = &inputs.place;
        let [a, b] = inputs.exactly()?;
        let a = Operand::Node(self.node(place, &a)?);
        let filter = match &b {
            Held::Node(id) => return self.make(place, Op::Matmul { transpose: false }, [a, (*id).into()]),
            Held::Keys(id) => return self.make(place, Op::Matmul { transpose: true }, [a, (*id).into()]),
            Held::Filter(id) => *id,
            Held::Turned(_) => self.floats(place, &b, false)?,
            _ => self.floats(place, &b, true)?,
        };
        self.make(place, Op::Linear, [a, filter.into()])
    }

    fn cast(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let [x] = inputs.exactly()?;
        place.same("element type", inputs.int("to")?, Some(self.step.float as i64))?;
        let (Held::Tensor(name), (_, tensor)) = (&x, self.tensor(&place, &x)?) else {
            return Err(place.unsupported("a cast of a cast"));
        };
        match tensor.encoding() {
            Some(_) => Ok(Held::Floats(name.clone())),
            None => Err(place.unsupported(format!("a cast of {:?}", tensor.dtype))),
        }
    }

    fn transpose(&mut self, inputs: &mut Inputs, result: &str) -> Result<Held> {
        let place = inputs.place.clone();
        let [x] = inputs.exactly()?;
        let perm = inputs.ints("perm")?.ok_or_else(|| place.missing("attribute `perm`"))?;
        if let Held::Tensor(name) | Held::Floats(name) = &x {
            if matches!(x, Held::Tensor(_)) {
                place.same("element type", self.tensor(&place, &x)?.1.dtype, self.step.float)?;
            }
            place.same("order of axes", perm.as_slice(), &[1, 0])?;
            return Ok(Held::Turned(name.clone()));
        }
        let perm = perm.iter().map(|&axis| u32::try_from(axis)).collect::<std::result::Result<Vec<_>, _>>();
        let perm = perm.map_err(|_| place.damaged("an axis of its order is below 0"))?;
        let x = self.node(&place, &x)?;
        if perm == KEYS && self.new_keys.contains(result) {
            return Ok(Held::New(x));
        }
        self.make(&place, Op::Transpose { perm }, [x.into()])
    }

    fn concat(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let cached = match inputs.held.as_slice() {
            [past @ (Held::Past(cache) | Held::Floated(cache, _)), Held::New(rows)] if cache.kind == CacheKind::K => {
                Some((past.clone(), *cache, *rows, 3))
            }
            [past @ (Held::Past(cache) | Held::Floated(cache, _)), Held::Node(rows)] if cache.kind == CacheKind::V => {
                Some((past.clone(), *cache, *rows, 2))
            }
            _ => None,
        };
        if let Some((past, cache, rows, axis)) = cached {
            match past {
                Held::Floated(_, grid) => place.same("grid of the cache", Some(&grid), self.grids.get(&rows))?,
                _ => place.same("element type of the cache", self.step.dtype(cache), self.step.float)?,
            }
            place.same("axis", inputs.axis(4, None)?, axis)?;
            if self.joined.insert(cache, rows).is_some() {
                return Err(place.fault(Fault::Twice(format!("the cache {cache}"))));
            }
            let made = self.build(&place, Op::Cached, [Operand::Cache(cache), rows.into()])?;
            return Ok(if cache.kind == CacheKind::K { Held::Keys(made) } else { Held::Node(made) });
        }
        let parts = inputs.held.iter().map(|held| self.node(&place, held)).collect::<Result<Vec<_>>>()?;
        let first = *parts.first().ok_or_else(|| place.missing("operand"))?;
        let axis = inputs.axis(self.shape(first).len(), None)?;
        let parts: Vec<Operand> = parts.into_iter().map(Operand::Node).collect();
        self.make(&place, Op::Concat { axis }, parts)
    }

    fn softmax(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let [x] = inputs.exactly()?;
        let x = self.node(&place, &x)?;
        let rank = self.shape(x).len();
        place.same("axis", inputs.axis(rank, Some(-1))?, rank.saturating_sub(1) as u32)?;
        self.make(&place, Op::Softmax, [x.into()])
    }

    fn norm(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let [x, gain] = inputs.exactly()?;
        let x = self.node(&place, &x)?;
        let rank = self.shape(x).len();
        place.same("axis", inputs.axis(rank, Some(-1))?, rank.saturating_sub(1) as u32)?;
        place.same("stash_type", inputs.int("stash_type")?.unwrap_or(1), 1)?;
        let eps = inputs.float("epsilon")?.unwrap_or(1e-5);
        let gain = self.operand(&place, &gain)?;
        self.make(&place, Op::RmsNorm { eps }, [x.into(), gain])
    }

    /// 0 copies an axis, -1 is inferred.
    fn reshape(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let [x, sizes] = inputs.exactly()?;
        place.same("allowzero", inputs.int("allowzero")?.unwrap_or(0), 0)?;
        let (x, sizes) = (self.node(&place, &x)?, self.list(&place, &sizes)?);
        let from = self.shape(x).to_vec();
        let mut open = None;
        let mut shape = Vec::new();
        for (i, &size) in sizes.iter().enumerate() {
            shape.push(match (size, from.get(i)) {
                (0, Some(same)) => *same,
                (-1, _) if open.replace(i).is_none() => Dim::fixed(1),
                (1.., _) => Dim::fixed(u32::try_from(size).map_err(|_| place.damaged("an axis is too large"))?),
                _ => return Err(place.damaged(format!("its sizes are {sizes:?}"))),
            });
        }
        if let Some(axis) = open {
            let rest = divided(&from, &shape).ok_or_else(|| place.unsupported("a size that cannot be inferred"))?;
            shape[axis] = rest;
        }
        self.make(&place, Op::Reshape { shape }, [x.into()])
    }

    fn slice(&mut self, inputs: &Inputs) -> Result<Held> {
        let place = &inputs.place;
        let (x, lists) = inputs.held.split_first().ok_or_else(|| place.missing("operand"))?;
        let x = self.node(place, x)?;
        let lists = lists.iter().map(|held| self.list(place, held)).collect::<Result<Vec<_>>>()?;
        let lists: Vec<&[i64]> = lists.iter().map(Vec::as_slice).collect();
        let ([[start], [end], [axis]] | [[start], [end], [axis], [1]]) = lists[..] else {
            return Err(place.unsupported("a slice of several axes, or in steps"));
        };
        let axis = axis_of(place, *axis, self.shape(x).len())?;
        let bound = |n: i64| u32::try_from(n).map_err(|_| place.unsupported(format!("the bound {n}")));
        let (start, end) = (bound(*start)?, bound(*end)?);
        self.make(place, Op::Slice { axis, start, end }, [x.into()])
    }

    /// A value at the nearest numbers of a grid; where it is on that grid already, nothing happens to it.
    fn quantize(&mut self, inputs: &Inputs) -> Result<Held> {
        let place = &inputs.place;
        let [x, scale, zero] = inputs.exactly()?;
        let grid = self.grid_at(place, &scale, &zero)?;
        let made = match &x {
            Held::Node(id) if self.grids.get(id) == Some(&grid) => x,
            Held::Node(id) => Held::Node(self.build(place, Op::FakeQuantize(grid), [Operand::Node(*id)])?),
            Held::New(id) | Held::Keys(id) => {
                place.same("grid of the keys", Some(&grid), self.grids.get(id))?;
                x
            }
            _ => return Err(place.unsupported("rounding what is no value")),
        };
        Ok(Held::Whole(Box::new(made), grid))
    }

    /// A grid, of a scale and a zero point.
    fn grid_at(&self, place: &Place, scale: &Held, zero: &Held) -> Result<Grid> {
        let ((_, scale), (_, zero)) = (self.tensor(place, scale)?, self.tensor(place, zero)?);
        let single = |tensor: &Tensor| matches!(tensor.dims[..], [] | [1]);
        if !single(scale) || !single(zero) {
            return Err(place.unsupported("several scales for values"));
        }
        place.same("type of the scale", scale.dtype, DataType::FLOAT)?;
        let (scale, bytes) = (scale.bytes(&self.files).first_chunk(), zero.bytes(&self.files));
        let (ty, zero) = match (zero.dtype, bytes) {
            (DataType::UINT8, [a]) => (GridType::U8, i32::from(*a)),
            (DataType::INT8, [a]) => (GridType::I8, i32::from(*a as i8)),
            (DataType::UINT16, [a, b]) => (GridType::U16, i32::from(u16::from_le_bytes([*a, *b]))),
            (DataType::INT16, [a, b]) => (GridType::I16, i32::from(i16::from_le_bytes([*a, *b]))),
            (dtype, _) => return Err(place.unsupported(format!("{dtype:?} as whole numbers of values"))),
        };
        let grid = Grid { ty, scale: f32::from_le_bytes(*scale.unwrap_or(&[0; 4])), zero };
        grid.check().map_err(|what| place.damaged(what))?;
        Ok(grid)
    }

    /// Whole numbers as floats: of a value, a cache or a tensor on a grid, or of a filter in `int8` or `int4`, stored column
    /// after column, with scales.
    fn dequantize(&mut self, inputs: &mut Inputs) -> Result<Held> {
        let place = inputs.place.clone();
        let (numbers, scale, zero) = match &inputs.held[..] {
            [numbers, scale] => (numbers.clone(), scale.clone(), None),
            [numbers, scale, zero] => (numbers.clone(), scale.clone(), Some(zero.clone())),
            _ => return Err(place.damaged("it has not 2 or 3 operands")),
        };
        match &numbers {
            Held::Whole(value, grid) => {
                let [_, scale, zero] = inputs.exactly()?;
                place.same("grid", self.grid_at(&place, &scale, &zero)?, *grid)?;
                return Ok(value.as_ref().clone());
            }
            Held::Past(cache) => {
                let [_, scale, zero] = inputs.exactly()?;
                let grid = self.grid_at(&place, &scale, &zero)?;
                place.same("element type", grid_type(grid.ty), self.step.dtype(*cache))?;
                return Ok(Held::Floated(*cache, grid));
            }
            _ => {}
        }
        if let (_, tensor) = self.tensor(&place, &numbers)?
            && matches!(tensor.dtype, DataType::UINT8 | DataType::UINT16)
        {
            let [_, scale, zero] = inputs.exactly()?;
            let (Held::Tensor(name), grid) = (&numbers, self.grid_at(&place, &scale, &zero)?) else {
                return Err(place.unsupported("this use of a stored tensor"));
            };
            place.same("element type", tensor.dtype, grid_type(grid.ty))?;
            return Ok(Held::Gridded(name.clone(), grid));
        }
        let (axis, block) = (inputs.int("axis")?.unwrap_or(1), inputs.int("block_size")?.unwrap_or(0));
        let (name, tensor) = self.tensor(&place, &numbers)?;
        let (name, tensor) = (name.to_string(), tensor.clone());
        let scales = self.tensor(&place, &scale)?.1.clone();
        let [k, n] = tensor.dims[..] else { return Err(place.unsupported("numbers that are no matrix")) };
        let group = u32::try_from(block).map_err(|_| place.damaged("its block has a size below 0"))?;
        let encoding = match (tensor.dtype, group) {
            (DataType::INT8, 0) => Encoding::Int8Row,
            (DataType::INT4, 0) => Encoding::Int4Row,
            (DataType::INT4, 32) => Encoding::Int4G32,
            (DataType::INT4, 64) => Encoding::Int4G64,
            (DataType::INT4, 128) => Encoding::Int4G128,
            (dtype, _) => return Err(place.unsupported(format!("{dtype:?} in blocks of {group}"))),
        };
        place.same("axis", axis_of(&place, axis, 2)?, u32::from(group == 0))?;
        if encoding.is_int4() && !k.is_multiple_of(2) || group > 0 && !k.is_multiple_of(group) {
            return Err(place.unsupported(format!("{encoding} with {k} inputs")));
        }
        let by = k.checked_div(group).map_or(vec![n], |blocks| vec![blocks, n]);
        place.same("type of the scales", scales.dtype, self.step.float)?;
        place.same("shape of the scales", &scales.dims, &by)?;
        if let Some(zero) = zero {
            let found = self.tensor(&place, &zero)?.1;
            place.same("type of the zero points", (found.dtype, &found.dims), (tensor.dtype, &by))?;
            if !self.is_zero(&place, &zero)? {
                return Err(place.unsupported("zero points other than 0"));
            }
        } else if encoding == Encoding::Int4Row {
            return Err(place.missing("zero points, without which some devices compute something else"));
        }
        let float = if self.step.float == DataType::FLOAT16 { Scales::F16 } else { Scales::F32 };
        let packing = Packing { signed: encoding.is_int4(), scales: float, turned: true, ..Packing::default() };
        let ty = WeightType::new(encoding, [n, k]);
        let numbers = Stored { ty, packing, range: tensor.range, scales: 0..0 };
        let placed = Placed { numbers, file: tensor.file, scales: (scales.file, scales.range) };
        self.weight(&place, &name, placed).map(Held::Filter)
    }
}

/// What is left of the numbers in `from` for an axis beside `known`; at most one of all axes is no number.
fn divided(from: &[Dim], known: &[Dim]) -> Option<Dim> {
    let mut open: Vec<Dim> = from.iter().copied().filter(|dim| dim.known().is_none()).collect();
    for dim in known.iter().filter(|dim| dim.known().is_none()) {
        open.remove(open.iter().position(|same| same == dim)?);
    }
    let product =
        |dims: &[Dim]| dims.iter().filter_map(|dim| dim.known()).try_fold(1u64, |all, n| all.checked_mul(u64::from(n)));
    let (all, by) = (product(from)?, product(known)?);
    let rest = match open[..] {
        [] => Dim::fixed(1),
        [open] => open,
        _ => return None,
    };
    let part = |k: u32| {
        let k = u64::from(k).checked_mul(all)?;
        (by > 0 && k.is_multiple_of(by)).then(|| u32::try_from(k / by).ok()).flatten()
    };
    Some(Dim { c: part(rest.c)?, t: part(rest.t)?, r: part(rest.r)?, n: part(rest.n)? })
}
