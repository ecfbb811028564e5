//! What every op means, in plain loops. Slow and simple: passes and engines are judged against it.

use std::collections::HashMap;

use super::graph::{CacheId, Module, NodeId, Operand, WeightId};
use super::op::Op;
use super::types::Sizes;
use super::weights::{WeightError, WeightSource};
use crate::math;

/// Numbers with a shape, row-major. Integers are held as floats too: ids stay far below 2^24.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
}

/// What a step is given.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Inputs of the graph by name.
    pub values: HashMap<String, Array>,
    /// Committed rows, `[1, KV, C, D]` each.
    pub caches: HashMap<CacheId, Array>,
}

/// What a step gives.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The module's outputs, in order.
    pub values: Vec<Array>,
    /// New rows of each cache, `[1, KV, T, D]`.
    pub new_rows: HashMap<CacheId, Array>,
    /// The value of every node, for those who look for the first one that departs.
    pub nodes: Vec<Array>,
}

/// Why a module cannot be interpreted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InterpretError {
    /// An input is absent or has another shape than its type says.
    #[error("input `{0}` is absent or misshapen")]
    Input(String),
    /// The numbers of a weight cannot be had.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// An id or a row number lies outside its table.
    #[error("{place}: {index} is outside a table of {rows} rows")]
    Index {
        /// The node.
        place: String,
        /// The id or row number.
        index: usize,
        /// Rows of the table.
        rows: usize,
    },
}

/// Runs one step of a verified module.
///
/// # Errors
/// When an input is missing or misshapen, an id is out of range, or the numbers of a weight cannot be had.
pub fn interpret(module: &Module, source: &dyn WeightSource, inputs: &Inputs) -> Result<Outputs, InterpretError> {
    let sizes = sizes(module, inputs)?;
    let mut run = Run { module, source, inputs, weights: HashMap::new(), nodes: Vec::new() };
    for (_, node) in module.iter() {
        let shape: Option<Vec<usize>> = node.ty.shape.iter().map(|d| d.at(sizes)).collect();
        let shape = shape.ok_or_else(|| InterpretError::Input(node.name.clone()))?;
        let value = match node.op {
            Op::Input => inputs.values.get(&node.name).cloned().unwrap_or_default(),
            _ => {
                let args = node.args.iter().map(|a| run.operand(*a)).collect::<Result<Vec<_>, _>>()?;
                let data = evaluate(&node.op, &args, &shape)
                    .map_err(|(index, rows)| InterpretError::Index { place: node.place(), index, rows })?;
                Array { shape: shape.clone(), data }
            }
        };
        if value.shape != shape || value.data.len() != shape.iter().product::<usize>() {
            return Err(InterpretError::Input(node.name.clone()));
        }
        run.nodes.push(value);
    }
    let value = |id: NodeId| run.nodes[id.0 as usize].clone();
    Ok(Outputs {
        values: module.outputs.iter().map(|&id| value(id)).collect(),
        new_rows: module.new_rows().map(|(cache, id)| (cache, value(id))).collect(),
        nodes: run.nodes,
    })
}

/// T, C and R from the shapes of the inputs.
fn sizes(module: &Module, inputs: &Inputs) -> Result<Sizes, InterpretError> {
    let axis = |name: &str, i: usize| inputs.values.get(name).and_then(|a| a.shape.get(i)).copied();
    let t = axis("tokens", 1).ok_or_else(|| InterpretError::Input("tokens".into()))?;
    let c = inputs.caches.values().next().and_then(|a| a.shape.get(2)).copied().unwrap_or(0);
    let r = if module.bounds.r > 0 { axis("rows", 0).unwrap_or(0) } else { 0 };
    Ok(Sizes { t, c, r })
}

struct Run<'a> {
    module: &'a Module,
    source: &'a dyn WeightSource,
    inputs: &'a Inputs,
    weights: HashMap<WeightId, Array>,
    nodes: Vec<Array>,
}

impl Run<'_> {
    fn operand(&mut self, operand: Operand) -> Result<Array, InterpretError> {
        match operand {
            Operand::Node(id) => Ok(self.nodes[id.0 as usize].clone()),
            Operand::Cache(id) => {
                let (shape, cache) = (&self.module.cache, self.inputs.caches.get(&id));
                let fits = |a: &&Array| {
                    matches!(a.shape[..], [1, kv, _, d] if kv == shape.kv_heads as usize && d == shape.head_dim as usize)
                };
                cache.filter(fits).cloned().ok_or_else(|| InterpretError::Input(format!("${id}")))
            }
            Operand::Weight(id) => {
                if let Some(known) = self.weights.get(&id) {
                    return Ok(known.clone());
                }
                let weight = self.module.weight(id);
                let mut data = Vec::new();
                weight.expr.rows(self.source, weight.ty.columns(), 0..weight.ty.rows(), &mut data)?;
                let shape = weight.ty.shape.iter().map(|&n| n as usize).collect();
                let array = round_to(weight.ty.encoding, Array { shape, data });
                self.weights.insert(id, array.clone());
                Ok(array)
            }
        }
    }
}

/// The numbers as the encoding keeps them.
fn round_to(encoding: super::Encoding, mut array: Array) -> Array {
    let mut bytes = Vec::new();
    if crate::quant::encode(encoding, &array.data, &mut bytes).is_ok() {
        array.data.clear();
        crate::quant::decode(encoding, &bytes, &mut array.data);
    }
    array
}

/// The value of one op; `Err((index, rows))` for an index outside its table.
fn evaluate(op: &Op, args: &[Array], shape: &[usize]) -> Result<Vec<f32>, (usize, usize)> {
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
        Op::Cast { to } => {
            let encoding = match to {
                super::DType::F16 => super::Encoding::F16,
                super::DType::BF16 => super::Encoding::BF16,
                _ => super::Encoding::F32,
            };
            round_to(encoding, x.clone()).data
        }
    })
}

fn rows(x: &Array, f: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    x.data.chunks(x.shape.last().copied().unwrap_or(1).max(1)).flat_map(f).collect()
}

fn pick(table: &[f32], width: usize, ids: &[f32]) -> Result<Vec<f32>, (usize, usize)> {
    let count = table.len() / width.max(1);
    let mut out = Vec::new();
    for &id in ids {
        let id = id as usize;
        out.extend_from_slice(table.get(id * width..(id + 1) * width).ok_or((id, count))?);
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
    x.data.chunks(x.shape[axis] * inner).flat_map(|part| &part[start * inner..end * inner]).copied().collect()
}

fn concat(args: &[Array], axis: usize) -> Vec<f32> {
    let outer: usize = args[0].shape[..axis].iter().product();
    let part = |a: &Array, i: usize| {
        let size: usize = a.shape[axis..].iter().product();
        a.data[i * size..(i + 1) * size].to_vec()
    };
    (0..outer).flat_map(|i| args.iter().flat_map(move |a| part(a, i))).collect()
}

