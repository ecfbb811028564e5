//! One meaning for each op.

use half::{bf16, f16};

use super::Array;
use crate::ir::DType;
use crate::ir::op::Op;
use crate::math;

/// The value of one op; `Err((index, rows))` for an index outside its table.
pub(super) fn evaluate(op: &Op, args: &[Array], shape: &[usize]) -> Result<Vec<f32>, (usize, usize)> {
    let x = &args[0];
    let width = x.shape.last().copied().unwrap_or(1).max(1);
    let each = |f: fn(f32) -> f32| x.data.iter().map(|&v| f(v)).collect();
    Ok(match op {
        Op::Input => x.data.clone(),
        Op::Embed => pick(&args[1].data, args[1].shape[1], &x.data)?,
        Op::GatherRows => pick(&x.data, x.shape[2], &args[1].data)?,
        Op::RopeCos { dim, theta } => rope_table(&x.data, *dim, *theta, math::cos),
        Op::RopeSin { dim, theta } => rope_table(&x.data, *dim, *theta, math::sin),
        Op::RmsNorm { eps } => rows(x, |row| {
            let scale = 1.0 / (mean_square(row) + f64::from(*eps)).sqrt();
            row.iter().zip(&args[1].data).map(|(v, w)| (f64::from(*v) * scale) as f32 * w).collect()
        }),
        Op::Linear => {
            let (k, w) = (args[1].shape[1], &args[1].data);
            let bias = args.get(2);
            rows(x, |row| {
                let dot = |n: usize| -> f64 {
                    let products = row.iter().zip(&w[n * k..(n + 1) * k]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    products.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b.data[n]))
                };
                (0..args[1].shape[0]).map(|n| dot(n) as f32).collect()
            })
        }
        Op::Heads { n } => permute(&x.data, &[x.shape[0], x.shape[1], *n as usize, width / *n as usize], &[0, 2, 1, 3]),
        Op::MergeHeads => permute(&x.data, &x.shape, &[0, 2, 1, 3]),
        Op::Rope => rope(x, &args[1].data, &args[2].data),
        Op::Cached => concat(args, 2),
        Op::Attention { scale } => attention(args, *scale),
        Op::Silu => each(|v| (f64::from(v) * sigmoid(v)) as f32),
        Op::Int8Token => rows(x, int8_token),
        Op::FakeQuantize(grid) => x.data.iter().map(|&v| grid.round(v)).collect(),
        Op::Swiglu => rows(x, |row| {
            let (a, b) = row.split_at(width / 2);
            a.iter().zip(b).map(|(a, b)| (f64::from(*a) * sigmoid(*a)) as f32 * b).collect()
        }),
        Op::Add => zip(x, &args[1], shape, |a, b| a + b),
        Op::Sub => zip(x, &args[1], shape, |a, b| a - b),
        Op::Mul => zip(x, &args[1], shape, |a, b| a * b),
        Op::Div => zip(x, &args[1], shape, |a, b| a / b),
        Op::Neg => each(|v| -v),
        Op::Square => each(|v| v * v),
        Op::Rsqrt => each(|v| 1.0 / v.sqrt()),
        Op::Sigmoid => each(|v| sigmoid(v) as f32),
        Op::Softmax => rows(x, softmax),
        Op::Mean => rows(x, |row| vec![(row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64) as f32]),
        Op::Matmul { transpose } => matmul(x, &args[1], *transpose, shape),
        Op::Reshape { .. } => x.data.clone(),
        Op::Transpose { perm } => permute(&x.data, &x.shape, &perm.iter().map(|&p| p as usize).collect::<Vec<_>>()),
        Op::Slice { axis, start, end } => slice(x, *axis as usize, *start as usize, *end as usize),
        Op::Concat { axis } => concat(args, *axis as usize),
        Op::Cast { .. } => x.data.clone(),
    })
}

/// The numbers as a value of that type holds them.
pub(super) fn rounded(data: Vec<f32>, dtype: DType) -> Vec<f32> {
    let round = match dtype {
        DType::F32 => return data,
        DType::F16 => |v| f16::from_f32(v).to_f32(),
        DType::BF16 => |v| bf16::from_f32(v).to_f32(),
        DType::I32 | DType::I64 => f32::trunc,
    };
    data.into_iter().map(round).collect()
}

/// [`Op::Int8Token`] of one row, step by step in f32 as XNNPACK computes it.
fn int8_token(row: &[f32]) -> Vec<f32> {
    let (least, most) = row.iter().fold((0.0f32, 0.0f32), |(a, b), &v| (a.min(v), b.max(v)));
    let scale = if least == most { 1.0 } else { 255.0 / (most - least) };
    // The zero point from the end of the range that rounds better.
    let (low, high) = (least * scale, most * scale);
    let zero = if (low - 128.0) + (high + 127.0) > 0.0 { -128.0 - low } else { 127.0 - high };
    let zero = zero.clamp(-128.0, 127.0).round_ties_even();
    let step = 1.0 / scale;
    row.iter().map(|v| (((v * scale).round_ties_even() + zero).clamp(-128.0, 127.0) - zero) * step).collect()
}

fn rows(x: &Array, f: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    x.data.chunks(x.shape.last().copied().unwrap_or(1).max(1)).flat_map(f).collect()
}

/// Rows of a table; `Err((index, rows))` for an index outside it.
fn pick(table: &[f32], width: usize, ids: &[f32]) -> Result<Vec<f32>, (usize, usize)> {
    let count = table.len() / width.max(1);
    let mut out = Vec::new();
    for &id in ids {
        // A negative id is as far outside as can be.
        let row = if id >= 0.0 { id as usize } else { usize::MAX };
        if row >= count {
            return Err((row, count));
        }
        out.extend_from_slice(&table[row * width..][..width]);
    }
    Ok(out)
}

fn rope_table(positions: &[f32], dim: u32, theta: f64, f: fn(f64) -> f64) -> Vec<f32> {
    let dim = dim as usize;
    let value = |p: f32, j: usize| f(math::rope_angle(f64::from(p), theta, j % (dim / 2), dim)) as f32;
    positions.iter().flat_map(|&p| (0..dim).map(move |j| value(p, j))).collect()
}

fn rope(x: &Array, cos: &[f32], sin: &[f32]) -> Vec<f32> {
    let (t, d) = (x.shape[2], x.shape[3]);
    let turned = |i: usize| {
        let (row, j) = (i / d, i % d);
        let other = if j < d / 2 { -x.data[i + d / 2] } else { x.data[i - d / 2] };
        let angle = row % t * d + j;
        x.data[i] * cos[angle] + other * sin[angle]
    };
    (0..x.data.len()).map(turned).collect()
}

fn attention(args: &[Array], scale: f32) -> Vec<f32> {
    let [q, k, v, mask] = args else { return Vec::new() };
    let (h, t, d, kv, s) = (q.shape[1], q.shape[2], q.shape[3], k.shape[1], k.shape[2]);
    let mut out = Vec::with_capacity(q.data.len());
    for head in 0..h {
        let keys = head / (h / kv) * s;
        for row in 0..t {
            let query = &q.data[(head * t + row) * d..][..d];
            let dot = |j: usize| -> f64 {
                let key = &k.data[(keys + j) * d..][..d];
                query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let scores: Vec<f32> =
                (0..s).map(|j| (dot(j) * f64::from(scale)) as f32 + mask.data[row * s + j]).collect();
            let weights = softmax(&scores);
            let mixed = |i: usize| -> f64 {
                let value = |j: usize| f64::from(v.data[(keys + j) * d + i]);
                weights.iter().enumerate().map(|(j, w)| f64::from(*w) * value(j)).sum()
            };
            out.extend((0..d).map(|i| mixed(i) as f32));
        }
    }
    out
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|&v| math::exp(f64::from(v) - f64::from(max))).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + math::exp(-f64::from(x)))
}

fn mean_square(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / row.len() as f64
}

/// Index into an operand of `from` axes for each index of the broadcast `shape`.
fn broadcast_index(from: &[usize], shape: &[usize], mut index: usize) -> usize {
    let (mut offset, mut stride) = (0, 1);
    for (i, &size) in shape.iter().enumerate().rev() {
        let at = index % size;
        index /= size;
        if let Some(own) = (i + from.len()).checked_sub(shape.len()).map(|j| from[j]) {
            offset += if own == 1 { 0 } else { at * stride };
            stride *= own;
        }
    }
    offset
}

fn zip(a: &Array, b: &Array, shape: &[usize], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let value = |x: &Array, i| x.data[broadcast_index(&x.shape, shape, i)];
    (0..shape.iter().product()).map(|i| f(value(a, i), value(b, i))).collect()
}

fn matmul(a: &Array, b: &Array, transpose: bool, shape: &[usize]) -> Vec<f32> {
    let lead = shape.len() - 2;
    let (m, n) = (shape[lead], shape[lead + 1]);
    let k = a.shape[a.shape.len() - 1];
    let batch = |x: &Array, i| {
        let own = &x.shape[..x.shape.len() - 2];
        broadcast_index(own, &shape[..lead], i) * x.shape[own.len()] * x.shape[own.len() + 1]
    };
    let mut out = Vec::new();
    for i in 0..shape[..lead].iter().product() {
        let (from_a, from_b) = (batch(a, i), batch(b, i));
        for row in 0..m {
            for column in 0..n {
                let right = |j: usize| if transpose { column * k + j } else { j * n + column };
                let product = |j| f64::from(a.data[from_a + row * k + j]) * f64::from(b.data[from_b + right(j)]);
                out.push((0..k).map(product).sum::<f64>() as f32);
            }
        }
    }
    out
}

fn permute(data: &[f32], shape: &[usize], perm: &[usize]) -> Vec<f32> {
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let source = |mut index: usize| {
        let mut offset = 0;
        for &axis in perm.iter().rev() {
            offset += index % shape[axis] * stride(axis);
            index /= shape[axis];
        }
        offset
    };
    (0..data.len()).map(|i| data[source(i)]).collect()
}

fn slice(x: &Array, axis: usize, start: usize, end: usize) -> Vec<f32> {
    let inner: usize = x.shape[axis + 1..].iter().product();
    x.data.chunks((x.shape[axis] * inner).max(1)).flat_map(|part| &part[start * inner..end * inner]).copied().collect()
}

fn concat(args: &[Array], axis: usize) -> Vec<f32> {
    let outer: usize = args[0].shape[..axis].iter().product();
    let part = |a: &Array, i: usize| {
        let size: usize = a.shape[axis..].iter().product();
        a.data[i * size..(i + 1) * size].to_vec()
    };
    (0..outer).flat_map(|i| args.iter().flat_map(move |a| part(a, i))).collect()
}
