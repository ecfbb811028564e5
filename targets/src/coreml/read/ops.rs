//! One lifting for each kind of operation.

use diffulex_compiler::ir::{DType, Encoding, NodeId, Op, Operand, WeightId, WeightType};
use diffulex_compiler::quant::{Packing, Scales};

use super::arguments::Arguments;
use super::constant::{Constant, Type, UNKNOWN};
use super::error::{Place, Result};
use super::lift::{Held, Known, Lift, Made};
use crate::coreml::schema::program::DataType;
use crate::stored::Stored;

impl Lift<'_> {
    /// What an operation of that kind makes.
    pub(super) fn lift(&mut self, kind: &str, result: &str, mut args: Arguments) -> Result<Made> {
        let place = args.place.clone();
        let args = &mut args;
        let since = |version: i32| match self.step.version >= version {
            true => Ok(()),
            false => Err(place.damaged(format!("it came with version {version}"))),
        };
        match kind {
            "constexpr_affine_dequantize" => since(7).and_then(|()| self.affine(args, result)),
            "constexpr_blockwise_shift_scale" => since(9).and_then(|()| self.blockwise(args, result)),
            "scaled_dot_product_attention" => since(9).and_then(|()| self.fused_attention(args)),
            "read_state" => since(9).and_then(|()| self.read_state(args)),
            "slice_update" => since(9).and_then(|()| self.slice_update(args)),
            "gather" => self.gather(args),
            "linear" => self.linear(args),
            "matmul" => self.matmul(args),
            "add" => self.add(args),
            "sub" => self.two(Op::Sub, args),
            "mul" => self.two(Op::Mul, args),
            "real_div" => self.two(Op::Div, args),
            "square" => self.plain(Op::Square, args),
            "silu" => self.plain(Op::Silu, args),
            "sigmoid" => self.plain(Op::Sigmoid, args),
            "rsqrt" => self.rsqrt(args),
            "softmax" => self.softmax(args),
            "reduce_mean" => self.mean(args),
            "layer_norm" => self.layer_norm(args),
            "cast" => self.cast(args),
            "reshape" => self.reshaped(args),
            "expand_dims" => self.expand_dims(args),
            "transpose" => self.transpose(args),
            "concat" => self.concat(args),
            "stack" => self.stack(args),
            "slice_by_index" => self.slice_by_index(args),
            _ => Err(place.unsupported("this operation")),
        }
    }

    /// A node of floats, in the element type of the program's values.
    fn node(&mut self, args: &mut Arguments, op: Op, operands: &[Operand], dtype: DataType) -> Result<Made> {
        let id = self.build(&args.place, op, operands)?;
        args.done()?;
        Ok(Made { held: Held::Node(id), dtype, shape: None })
    }

    /// A value of floats.
    pub(super) fn float(&self, place: &Place, known: &Known) -> Result<NodeId> {
        let float = matches!(known.ty.dtype, DataType::Float16 | DataType::Float32);
        match known.held {
            Held::Node(id) if float => Ok(id),
            _ => Err(place.unsupported(format!("{:?} as a value", known.name))),
        }
    }

    /// The parameter that is a value of floats, with its type.
    fn value(&self, args: &mut Arguments, key: &str) -> Result<(NodeId, Type)> {
        let known = args.one(key)?;
        Ok((self.float(&args.place, &known)?, known.ty))
    }

    /// Ids: an input of whole numbers.
    fn ids(&self, args: &mut Arguments, key: &str) -> Result<NodeId> {
        let known = args.one(key)?;
        match known.held {
            Held::Node(id) if self.builder.module().node(id).ty.dtype == DType::I32 => Ok(id),
            _ => Err(args.place.unsupported(format!("{:?} as ids", known.name))),
        }
    }

    fn gather(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ids) = (args.one("x")?, self.ids(args, "indices")?);
        let axis = args.axis("axis", x.ty.shape.len())?;
        if self.step.version >= 7 && args.int("batch_dims")? != 0 {
            return Err(args.place.unsupported("a gather by batches"));
        }
        if self.step.version >= 8 {
            args.truth("validate_indices")?;
        }
        match (axis, &x.held) {
            (0, Held::Constant(_) | Held::Weight(_)) => {
                let table = self.matrix(&args.place, &x)?;
                self.node(args, Op::Embed, &[Operand::Node(ids), Operand::Weight(table)], DataType::Float16)
            }
            (1, _) => {
                let value = self.float(&args.place, &x)?;
                self.node(args, Op::GatherRows, &[Operand::Node(value), Operand::Node(ids)], x.ty.dtype)
            }
            _ => Err(args.place.unsupported("a gather like this")),
        }
    }

    /// A table or a filter.
    fn matrix(&mut self, place: &Place, known: &Known) -> Result<WeightId> {
        place.same("element type of the matrix", known.ty.dtype.name(), DataType::Float16.name())?;
        match known.held {
            Held::Weight(id) => Ok(id),
            _ => self.float_weight(place, known),
        }
    }

    fn linear(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let (weight, bias) = (args.one("weight")?, args.one("bias")?);
        args.place.at_most("rank of x", ty.shape.len() as u64, 3)?;
        args.place.same("element type of x", ty.dtype.name(), DataType::Float16.name())?;
        let filter = self.matrix(&args.place, &weight)?;
        let rows = &weight.ty.shape[..1];
        args.place.same("type of the bias", &bias.ty, &Type { dtype: weight.ty.dtype, shape: rows.into() })?;
        let mut operands = vec![Operand::Node(x), Operand::Weight(filter)];
        if !self.is_zero(&args.place, &bias)? {
            operands.push(Operand::Weight(self.float_weight(&args.place, &bias)?));
        }
        self.node(args, Op::Linear, &operands, ty.dtype)
    }

    /// Whether a bias adds nothing.
    fn is_zero(&mut self, place: &Place, bias: &Known) -> Result<bool> {
        let Held::Constant(Constant::Blob(file, offset)) = &bias.held else { return Ok(false) };
        self.is_filled(place, file, *offset, &bias.ty)
    }

    fn matmul(&mut self, args: &mut Arguments) -> Result<Made> {
        let ((x, ty), (y, other)) = (self.value(args, "x")?, self.value(args, "y")?);
        args.place.same("element type of y", other.dtype.name(), ty.dtype.name())?;
        if args.truth("transpose_x")? {
            return Err(args.place.unsupported("a first operand that is transposed"));
        }
        let transpose = args.truth("transpose_y")?;
        self.node(args, Op::Matmul { transpose }, &[Operand::Node(x), Operand::Node(y)], ty.dtype)
    }

    fn add(&mut self, args: &mut Arguments) -> Result<Made> {
        match self.write_end(args)? {
            Some(end) => Ok(end),
            None => self.two(Op::Add, args),
        }
    }

    /// Two operands of one element type, one of them a value. A product with −1 is a change of sign.
    fn two(&mut self, op: Op, args: &mut Arguments) -> Result<Made> {
        let (x, y) = (args.one("x")?, args.one("y")?);
        args.place.same("element type of y", y.ty.dtype.name(), x.ty.dtype.name())?;
        let minus = |known: &Known| known.held == Held::Constant(Constant::Number(-1.0));
        for (value, factor) in [(&x, &y), (&y, &x)] {
            if op == Op::Mul && minus(factor) {
                let value = self.float(&args.place, value)?;
                return self.node(args, Op::Neg, &[Operand::Node(value)], x.ty.dtype);
            }
        }
        let operands = [self.operand(&args.place, &x)?, self.operand(&args.place, &y)?];
        if operands.iter().all(|operand| !matches!(operand, Operand::Node(_))) {
            return Err(args.place.unsupported("two constants"));
        }
        self.node(args, op, &operands, x.ty.dtype)
    }

    /// A value, a number, or a vector.
    fn operand(&mut self, place: &Place, known: &Known) -> Result<Operand> {
        match known.held {
            Held::Constant(Constant::Number(number)) => self.number(place, number),
            Held::Constant(_) => self.float_weight(place, known).map(Operand::Weight),
            _ => self.float(place, known).map(Operand::Node),
        }
    }

    fn plain(&mut self, op: Op, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        self.node(args, op, &[Operand::Node(x)], ty.dtype)
    }

    /// Epsilon has the element type of `x` up to version 7, later one of its own.
    fn epsilon(&self, args: &mut Arguments, x: DataType) -> Result<f32> {
        let (epsilon, dtype) = args.number("epsilon")?;
        if self.step.version < 8 {
            args.place.same("element type of epsilon", dtype.name(), x.name())?;
        }
        if epsilon < 0.0 {
            return Err(args.place.damaged(format!("epsilon is {epsilon}")));
        }
        Ok(epsilon)
    }

    fn rsqrt(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let epsilon = self.epsilon(args, ty.dtype)?;
        let sum = if epsilon == 0.0 { x } else { self.plus(&args.place, x, epsilon)? };
        self.node(args, Op::Rsqrt, &[Operand::Node(sum)], ty.dtype)
    }

    fn plus(&mut self, place: &Place, x: NodeId, number: f32) -> Result<NodeId> {
        let number = self.number(place, number)?;
        self.build(place, Op::Add, [Operand::Node(x), number])
    }

    fn softmax(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        if args.axis("axis", ty.shape.len())? + 1 != ty.shape.len() {
            return Err(args.place.unsupported("a softmax along another axis than the last"));
        }
        self.node(args, Op::Softmax, &[Operand::Node(x)], ty.dtype)
    }

    fn mean(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let last = args.only_axis("axes", ty.shape.len())? + 1 == ty.shape.len();
        if !last || !args.truth("keep_dims")? {
            return Err(args.place.unsupported("a mean along another axis than the last, which stays"));
        }
        self.node(args, Op::Mean, &[Operand::Node(x)], ty.dtype)
    }

    /// Normalizes `(x, −x)`: the mean is 0, and the variance is the mean of squares of `x`.
    fn layer_norm(&mut self, args: &mut Arguments) -> Result<Made> {
        let (both, ty) = self.value(args, "x")?;
        let last = args.only_axis("axes", ty.shape.len())? + 1 == ty.shape.len();
        let epsilon = self.epsilon(args, ty.dtype)?;
        let x = self.opposites(both).filter(|_| last);
        let x = x.ok_or_else(|| args.place.unsupported("a norm of anything but a value and its opposite"))?;
        let (place, x) = (args.place.clone(), Operand::Node(x));
        let square = self.build(&place, Op::Mul, [x, x])?;
        let mean = self.build(&place, Op::Mean, [Operand::Node(square)])?;
        let sum = self.plus(&place, mean, epsilon)?;
        let factor = self.build(&place, Op::Rsqrt, [Operand::Node(sum)])?;
        let unit = self.build(&place, Op::Mul, [x, Operand::Node(factor)])?;
        args.done()?;
        Ok(Made { held: Held::Halves(unit), dtype: ty.dtype, shape: Some(ty.shape) })
    }

    /// The `x` of `(x, −x)`, joined along the last axis.
    fn opposites(&self, both: NodeId) -> Option<NodeId> {
        let module = self.builder.module();
        let node = module.node(both);
        let (Op::Concat { axis }, &[Operand::Node(x), Operand::Node(minus)]) = (&node.op, node.args.as_slice()) else {
            return None;
        };
        let opposite = module.node(minus).op == Op::Neg && module.node(minus).args == [Operand::Node(x)];
        (opposite && *axis as usize + 1 == node.ty.shape.len()).then_some(x)
    }

    /// Between `fp16` and `fp32`: values of a module have one type.
    fn cast(&mut self, args: &mut Arguments) -> Result<Made> {
        let x = args.one("x")?;
        let to = args.text("dtype")?;
        let to = [DataType::Float16, DataType::Float32].into_iter().find(|dtype| dtype.name() == to);
        let to = to.ok_or_else(|| args.place.unsupported("a cast to anything but fp16 and fp32"))?;
        match x.held {
            Held::Node(_) => drop(self.float(&args.place, &x)?),
            // The inputs and outputs of version 6 are cast, too.
            Held::Caches(_) | Held::New(_) => {}
            _ => return Err(args.place.unsupported(format!("a cast of {:?}", x.name))),
        }
        args.done()?;
        Ok(Made { held: x.held, dtype: to, shape: Some(x.ty.shape) })
    }

    fn reshaped(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let sizes = args.ints("shape")?;
        let id = self.reshape(&args.place, &sizes, x)?;
        args.done()?;
        Ok(Made { held: Held::Node(id), dtype: ty.dtype, shape: None })
    }

    fn expand_dims(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let axis = args.only_axis("axes", ty.shape.len() + 1)?;
        if self.step.interface == super::Interface::State && axis == 0 && ty.shape.len() == 4 {
            args.done()?;
            let shape = [&[1], &ty.shape[..]].concat();
            return Ok(Made { held: Held::Rows(x), dtype: ty.dtype, shape: Some(shape) });
        }
        let mut shape = self.builder.module().node(x).ty.shape.clone();
        shape.insert(axis, diffulex_compiler::ir::Dim::fixed(1));
        self.node(args, Op::Reshape { shape }, &[Operand::Node(x)], ty.dtype)
    }

    fn transpose(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, ty) = self.value(args, "x")?;
        let perm = args.ints("perm")?.into_iter().map(|p| u32::try_from(p).ok()).collect::<Option<Vec<u32>>>();
        let perm = perm.ok_or_else(|| args.place.unsupported("axes that count from the end"))?;
        self.node(args, Op::Transpose { perm }, &[Operand::Node(x)], ty.dtype)
    }

    fn concat(&mut self, args: &mut Arguments) -> Result<Made> {
        let values = args.list("values")?;
        let (dtype, rank) = values.first().map_or((DataType::Float16, 0), |v| (v.ty.dtype, v.ty.shape.len()));
        let axis = args.axis("axis", rank)?;
        if args.truth("interleave")? {
            return Err(args.place.unsupported("parts that are interleaved"));
        }
        for value in &values {
            args.place.same("element type of a part", value.ty.dtype.name(), dtype.name())?;
        }
        if dtype == DataType::Int32 {
            return self.corner(args, &values, axis);
        }
        if let [Known { held: Held::Old(cache), .. }, rows] = &values[..]
            && axis == 2
        {
            let rows = self.float(&args.place, rows)?;
            self.joined.insert(*cache, rows);
            return self.node(args, Op::Cached, &[Operand::Cache(*cache), Operand::Node(rows)], dtype);
        }
        let parts = values.iter().map(|value| self.float(&args.place, value).map(Operand::Node));
        let parts = parts.collect::<Result<Vec<Operand>>>()?;
        self.node(args, Op::Concat { axis: axis as u32 }, &parts, dtype)
    }

    fn fused_attention(&mut self, args: &mut Arguments) -> Result<Made> {
        let (q, ty) = self.value(args, "query")?;
        let (k, v, mask) = (self.value(args, "key")?, self.value(args, "value")?, self.value(args, "attn_mask")?);
        for (_, other) in [&k, &v, &mask] {
            args.place.same("element type of an operand", other.dtype.name(), ty.dtype.name())?;
        }
        let width = ty.shape.last().copied().unwrap_or(1);
        let op = Op::Attention { scale: 1.0 / (width as f32).sqrt() };
        let heads = [&ty, &k.1].map(|ty| ty.shape.get(1).copied());
        args.place.same("number of heads", heads[0], heads[1])?;
        self.node(args, op, &[q, k.0, v.0, mask.0].map(Operand::Node), ty.dtype)
    }

    /// `begin..end` of each axis.
    fn slice_by_index(&mut self, args: &mut Arguments) -> Result<Made> {
        let x = args.one("x")?;
        let rank = x.ty.shape.len();
        let (begin, end) = (args.ints("begin")?, args.ints("end")?);
        let plain = super::cache::plain_slice(args, &x.ty.shape)?;
        let squeeze = args.truths("squeeze_mask", rank)?;
        let inside = |list: &[i32]| list.iter().map(|&n| u32::try_from(n).ok()).collect::<Option<Vec<u32>>>();
        let (Some(begin), Some(mut end)) = (inside(&begin), inside(&end)) else {
            return Err(args.place.unsupported("a slice that counts from the end"));
        };
        // What the end of an axis of unknown size is said to be does not count.
        end.iter_mut().zip(&x.ty.shape).filter(|(_, n)| **n == UNKNOWN).for_each(|(end, _)| *end = UNKNOWN);
        let fits = |i: usize| match x.ty.shape[i] {
            UNKNOWN => begin[i] == 0,
            size => begin[i] < end[i] && end[i] <= size,
        };
        if !plain || begin.len() != rank || end.len() != rank || !(0..rank).all(fits) {
            return Err(args.place.damaged("it is no slice of its operand"));
        }
        if let Some(made) = self.layer_of_cache(args, &x, &begin, &end, &squeeze)? {
            return Ok(made);
        }
        if squeeze.contains(&true) {
            return Err(args.place.unsupported("a slice that drops an axis"));
        }
        args.done()?;
        if let Held::Halves(unit) = x.held {
            let mut whole = x.ty.shape.clone();
            if let Some(last) = whole.last_mut() {
                *last /= 2;
            }
            let first = begin.iter().all(|&n| n == 0) && end == whole;
            return match first {
                true => Ok(Made { held: Held::Node(unit), dtype: x.ty.dtype, shape: None }),
                false => Err(args.place.unsupported("another part of this norm than its first half")),
            };
        }
        let value = self.float(&args.place, &x)?;
        let id = self.slice(&args.place, &begin, &end, value)?;
        Ok(Made { held: Held::Node(id), dtype: x.ty.dtype, shape: None })
    }

    /// `scale · q`, one scale a row.
    fn affine(&mut self, args: &mut Arguments, result: &str) -> Result<Made> {
        let (data, scale) = (args.part("quantized_data")?, args.part("scale")?);
        let (zero, axis) = (args.part("zero_point")?, args.part("axis")?);
        if zero.1 != Constant::ZeroByte || axis.1 != Constant::Ints(vec![0]) || !axis.0.shape.is_empty() {
            return Err(args.place.unsupported("zero points that are not zero, or scales along another axis"));
        }
        let &[rows, columns] = &data.0.shape[..] else { return Err(args.place.unsupported("data of this shape")) };
        args.place.same("element type of the data", data.0.dtype.name(), DataType::Int8.name())?;
        let scales = Type { dtype: DataType::Float16, shape: vec![rows] };
        self.compressed(args, result, (Encoding::Int8Row, [rows, columns]), data, scale, scales, true)
    }

    /// `scale · (q − offset)`, one scale a row or several.
    fn blockwise(&mut self, args: &mut Arguments, result: &str) -> Result<Made> {
        let (data, scale, offset) = (args.part("data")?, args.part("scale")?, args.maybe_part("offset"));
        let place = args.place.clone();
        let (&[rows, columns], &[_, groups]) = (&data.0.shape[..], &scale.0.shape[..]) else {
            return Err(place.unsupported("data or scales of this shape"));
        };
        let grouped = |encoding: &&Encoding| {
            encoding.group().is_some_and(|n| u64::from(groups) * n as u64 == u64::from(columns)) && encoding.is_int4()
        };
        let encoding = match (data.0.dtype, groups) {
            (DataType::Int8, 1) => Some(Encoding::Int8Row),
            (DataType::Int4 | DataType::Uint4, 1) => Some(Encoding::Int4Row),
            (DataType::Int4 | DataType::Uint4, _) => Encoding::ALL.iter().find(grouped).copied(),
            _ => None,
        };
        let encoding = encoding.ok_or_else(|| {
            place.unsupported(format!("{} with {groups} scales a row of {columns}", data.0.dtype.name()))
        })?;
        if encoding.is_int4() && columns % 2 == 1 {
            return Err(place.unsupported("rows of an odd length in half a byte a number"));
        }
        match offset {
            None if data.0.dtype != DataType::Uint4 => {}
            Some((ty, Constant::Blob(file, at))) if data.0.dtype == DataType::Uint4 => {
                place.same(
                    "type of the offset",
                    &ty,
                    &Type { dtype: DataType::Uint4, shape: scale.0.shape.clone() },
                )?;
                if !self.is_filled(&place, &file, at, &ty)? {
                    return Err(place.unsupported("offsets other than 8"));
                }
            }
            _ => return Err(place.unsupported("such an offset")),
        }
        let scales = Type { dtype: DataType::Float16, shape: vec![rows, groups] };
        let signed = data.0.dtype != DataType::Uint4;
        self.compressed(args, result, (encoding, [rows, columns]), data, scale, scales, signed)
    }

    fn compressed(
        &mut self,
        args: &mut Arguments,
        result: &str,
        (encoding, shape): (Encoding, [u32; 2]),
        data: (Type, Constant),
        scale: (Type, Constant),
        scales: Type,
        signed: bool,
    ) -> Result<Made> {
        let place = args.place.clone();
        place.same("type of the scales", &scale.0, &scales)?;
        let (Constant::Blob(file, at), Constant::Blob(other, scales_at)) = (&data.1, &scale.1) else {
            return Err(place.unsupported("numbers outside the weight file"));
        };
        let range = self.blob(&place, file, *at, &data.0)?;
        let scales = self.blob(&place, other, *scales_at, &scale.0)?;
        let signed = signed && encoding.is_int4();
        let packing = Packing { signed, scales: Scales::F16, ..Packing::default() };
        let stored = Stored { ty: WeightType::new(encoding, shape), packing, range, scales };
        let id = self.weight(&place, result, stored)?;
        args.done()?;
        Ok(Made { held: Held::Weight(id), dtype: DataType::Float16, shape: Some(shape.into()) })
    }
}
