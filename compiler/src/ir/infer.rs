//! The typing rule of every op.

use super::op::Op;
use super::types::{DType, Dim, ValueType};

/// Type of the value that `op` makes from operands of these types (a weight counts as an f32 value of its shape).
///
/// # Errors
/// Says which rule the operands break.
pub fn infer(op: &Op, args: &[ValueType]) -> Result<ValueType, String> {
    let count = |n: usize| match args.len() == n {
        true => Ok(()),
        false => Err(format!("`{}` takes {n} operands, not {}", op.name(), args.len())),
    };
    match op {
        Op::Input => Err("an input has no typing rule".into()),
        Op::Embed => {
            count(2)?;
            let (ids, table) = (&args[0], &args[1]);
            integer(ids)?;
            let [_, width] = table.shape[..] else { return Err(format!("the table is {table}, not a matrix")) };
            let mut shape = ids.shape.clone();
            shape.push(width);
            Ok(ValueType::f32(shape))
        }
        Op::RopeCos { dim, theta } | Op::RopeSin { dim, theta } => {
            count(1)?;
            integer(&args[0])?;
            let [one, t] = args[0].shape[..] else { return Err(format!("positions are {}, not [1, T]", args[0])) };
            if !(theta.is_finite() && *theta > 0.0) {
                return Err(format!("theta {theta} is not above 0 or no number"));
            }
            if dim % 2 == 1 || *dim == 0 {
                return Err(format!("a head of {dim} cannot be turned in halves"));
            }
            Ok(ValueType::f32([one, Dim::ONE, t, Dim::fixed(*dim)]))
        }
        Op::RmsNorm { eps } => {
            count(2)?;
            if !(eps.is_finite() && *eps >= 0.0) {
                return Err(format!("eps {eps} is below 0 or no number"));
            }
            floats(args)?;
            if args[1].shape.len() != 1 || args[0].shape.last() != args[1].shape.last() {
                return Err(format!("gain {} does not fit {}", args[1], args[0]));
            }
            Ok(args[0].clone())
        }
        Op::Linear => {
            if args.len() != 3 {
                count(2)?;
            }
            floats(args)?;
            let [n, k] = args[1].shape[..] else { return Err(format!("weight {} is not a matrix", args[1])) };
            if args[0].shape.last() != Some(&k) {
                return Err(format!("{} has no last axis of {k}", args[0]));
            }
            if args.len() == 3 && args[2].shape != [n] {
                return Err(format!("bias {} is not [{n}]", args[2]));
            }
            let mut shape = args[0].shape.clone();
            *last(&mut shape)? = n;
            // Products of bf16 numbers are added up, and given, in f32.
            let dtype = if args[0].dtype == DType::BF16 { DType::F32 } else { args[0].dtype };
            Ok(ValueType::new(dtype, shape))
        }
        Op::Heads { n } => {
            count(1)?;
            let [one, t, width] = args[0].shape[..] else { return Err(format!("{} is not [1, T, n*D]", args[0])) };
            let width = known(width)?;
            if *n == 0 || width % n != 0 {
                return Err(format!("{width} columns do not make {n} heads"));
            }
            Ok(ValueType::new(args[0].dtype, [one, Dim::fixed(*n), t, Dim::fixed(width / n)]))
        }
        Op::MergeHeads => {
            count(1)?;
            let [one, n, t, d] = args[0].shape[..] else { return Err(format!("{} is not [1, n, T, D]", args[0])) };
            let width = d.times(known(n)?).ok_or("too wide")?;
            Ok(ValueType::new(args[0].dtype, [one, t, width]))
        }
        Op::Rope => {
            count(3)?;
            floats(args)?;
            let [_, _, t, d] = args[0].shape[..] else { return Err(format!("{} is not [1, n, T, D]", args[0])) };
            for table in &args[1..] {
                if table.shape != [Dim::ONE, Dim::ONE, t, d] {
                    return Err(format!("{table} is not f32[1, 1, {t}, {d}]"));
                }
            }
            if known(d)? % 2 == 1 {
                return Err(format!("a head of {d} cannot be turned in halves"));
            }
            Ok(args[0].clone())
        }
        Op::Cached => {
            count(2)?;
            floats(args)?;
            let ([one, kv, c, d], [batch, heads, t, width]) = (&args[0].shape[..], &args[1].shape[..]) else {
                return Err(format!("{} and {} are not [1, KV, .., D]", args[0], args[1]));
            };
            if (one, kv, d) != (batch, heads, width) {
                return Err(format!("rows {} do not fit the cache {}", args[1], args[0]));
            }
            let all = c.plus(*t).ok_or("too long")?;
            Ok(ValueType::new(args[1].dtype, [*one, *kv, all, *d]))
        }
        Op::Attention { scale } => {
            count(4)?;
            if !scale.is_finite() {
                return Err(format!("scale {scale} is not finite"));
            }
            floats(args)?;
            attention(args)
        }
        Op::FakeQuantize(grid) => {
            count(1)?;
            grid.check()?;
            floats(args)?;
            Ok(args[0].clone())
        }
        Op::Silu | Op::Int8Token | Op::Neg | Op::Square | Op::Rsqrt | Op::Sigmoid | Op::Softmax => {
            count(1)?;
            floats(args)?;
            Ok(args[0].clone())
        }
        Op::Swiglu => {
            count(1)?;
            floats(args)?;
            let mut shape = args[0].shape.clone();
            let width = last(&mut shape)?;
            let both = known(*width)?;
            if both % 2 == 1 {
                return Err(format!("{both} columns have no two halves"));
            }
            *width = Dim::fixed(both / 2);
            Ok(ValueType::new(args[0].dtype, shape))
        }
        Op::GatherRows => {
            count(2)?;
            integer(&args[1])?;
            let ([Dim::ONE, _, width], [rows]) = (&args[0].shape[..], &args[1].shape[..]) else {
                return Err(format!("{} and {} are not [1, T, H] and [R]", args[0], args[1]));
            };
            Ok(ValueType::new(args[0].dtype, [Dim::ONE, *rows, *width]))
        }
        Op::Add | Op::Sub | Op::Mul | Op::Div => {
            count(2)?;
            if args[0].dtype != args[1].dtype {
                return Err(format!("{} and {} differ in element type", args[0], args[1]));
            }
            Ok(ValueType::new(args[0].dtype, broadcast(&args[0].shape, &args[1].shape)?))
        }
        Op::Mean => {
            count(1)?;
            floats(args)?;
            let mut shape = args[0].shape.clone();
            *last(&mut shape)? = Dim::ONE;
            Ok(ValueType::new(args[0].dtype, shape))
        }
        Op::Matmul { transpose } => {
            count(2)?;
            floats(args)?;
            matmul(&args[0], &args[1], *transpose)
        }
        Op::Reshape { shape } => {
            count(1)?;
            let (from, to) = (product(&args[0].shape)?, product(shape)?);
            if from != to {
                return Err(format!("{} cannot become [{}]", args[0], list(shape)));
            }
            Ok(ValueType::new(args[0].dtype, shape.clone()))
        }
        Op::Transpose { perm } => {
            count(1)?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted.len() != args[0].shape.len() || sorted.iter().enumerate().any(|(i, &p)| i != p as usize) {
                return Err(format!("{perm:?} is no order of the axes of {}", args[0]));
            }
            let shape: Vec<Dim> = perm.iter().map(|&p| args[0].shape[p as usize]).collect();
            Ok(ValueType::new(args[0].dtype, shape))
        }
        Op::Slice { axis, start, end } => {
            count(1)?;
            let mut shape = args[0].shape.clone();
            let dim = shape.get_mut(*axis as usize).ok_or_else(|| format!("{} has no axis {axis}", args[0]))?;
            let size = known(*dim)?;
            if start >= end || *end > size {
                return Err(format!("{start}..{end} is no part of an axis of {size}"));
            }
            *dim = Dim::fixed(end - start);
            Ok(ValueType::new(args[0].dtype, shape))
        }
        Op::Concat { axis } => {
            let (first, rest) = args.split_first().ok_or("`concat` takes operands")?;
            let mut shape = first.shape.clone();
            let axis = *axis as usize;
            let no_axis = || format!("{first} has no axis {axis}");
            shape.get(axis).ok_or_else(no_axis)?;
            for other in rest {
                let same = |(i, (a, b)): (usize, (&Dim, &Dim))| i == axis || a == b;
                let fits = other.shape.len() == shape.len() && other.dtype == first.dtype;
                if !fits || !shape.iter().zip(&other.shape).enumerate().all(same) {
                    return Err(format!("{other} does not join {first} along axis {axis}"));
                }
                shape[axis] = shape[axis].plus(other.shape[axis]).ok_or("too long")?;
            }
            Ok(ValueType::new(first.dtype, shape))
        }
        Op::Cast { to } => {
            count(1)?;
            Ok(ValueType::new(*to, args[0].shape.clone()))
        }
    }
}

/// NumPy's broadcasting: shapes are aligned at the last axis; an axis of 1 stretches.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let axis = |shape: &[Dim], i: usize| match (i + shape.len()).checked_sub(rank) {
        Some(j) => shape[j],
        None => Dim::ONE,
    };
    let join = |i| match (axis(a, i), axis(b, i)) {
        (x, y) if x == y || y == Dim::ONE => Ok(x),
        (x, y) if x == Dim::ONE => Ok(y),
        _ => Err(format!("[{}] and [{}] do not broadcast", list(a), list(b))),
    };
    (0..rank).map(join).collect()
}

fn attention(args: &[ValueType]) -> Result<ValueType, String> {
    let (q, k, v, mask) = (&args[0], &args[1], &args[2], &args[3]);
    let ([Dim::ONE, h, t, d], [Dim::ONE, kv, s, kd]) = (&q.shape[..], &k.shape[..]) else {
        return Err(format!("{q} and {k} are not [1, heads, tokens, D]"));
    };
    if k.shape != v.shape || d != kd {
        return Err(format!("query {q}, keys {k} and values {v} do not fit"));
    }
    if known(*kv)? == 0 || known(*h)? % known(*kv)? != 0 {
        return Err(format!("{h} query heads cannot share {kv} key/value heads"));
    }
    if mask.shape != [Dim::ONE, Dim::ONE, *t, *s] {
        return Err(format!("mask {mask} is not f32[1, 1, {t}, {s}]"));
    }
    Ok(q.clone())
}

fn matmul(a: &ValueType, b: &ValueType, transpose: bool) -> Result<ValueType, String> {
    let fail = || format!("{a} and {b} do not multiply");
    let (Some((a_lead, [m, k])), Some((b_lead, b_last))) = (a.shape.split_last_chunk(), b.shape.split_last_chunk())
    else {
        return Err(fail());
    };
    let [bk, n] = if transpose { [b_last[1], b_last[0]] } else { *b_last };
    if *k != bk {
        return Err(fail());
    }
    let mut shape = broadcast(a_lead, b_lead)?;
    shape.extend([*m, n]);
    Ok(ValueType::new(a.dtype, shape))
}

/// The product of a shape with at most one symbolic axis.
fn product(shape: &[Dim]) -> Result<Dim, String> {
    shape.iter().try_fold(Dim::ONE, |product, &dim| {
        let (dim, k) = match (product.known(), dim.known()) {
            (_, Some(k)) => (product, k),
            (Some(k), None) => (dim, k),
            (None, None) => return Err(format!("[{}] has two open axes", list(shape))),
        };
        dim.times(k).ok_or_else(|| format!("[{}] is too large", list(shape)))
    })
}

fn known(dim: Dim) -> Result<u32, String> {
    dim.known().ok_or_else(|| format!("an axis of {dim} is not known while compiling"))
}

fn last(shape: &mut [Dim]) -> Result<&mut Dim, String> {
    shape.last_mut().ok_or_else(|| "a single number has no last axis".into())
}

fn integer(ty: &ValueType) -> Result<(), String> {
    if ty.dtype.is_integer() { Ok(()) } else { Err(format!("{ty} does not index anything")) }
}

fn floats(args: &[ValueType]) -> Result<(), String> {
    match args.iter().find(|a| a.dtype.is_integer() || a.dtype != DType::F32 && a.dtype != args[0].dtype) {
        None => Ok(()),
        Some(bad) => Err(format!("cannot compute with {bad} here")),
    }
}

fn list(shape: &[Dim]) -> String {
    let mut text = String::new();
    let _ = super::types::write_list(&mut text, shape);
    text
}
