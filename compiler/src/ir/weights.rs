//! Weights as expressions over stored tensors.
//!
//! A module holds no numbers. A weight is a name, a type and an expression; its rows are computed a chunk at a time
//! from a [`WeightSource`] (a mapped checkpoint, a mapped artifact) when somebody writes or packs them.

use std::ops::Range;

use super::graph::Weight;
use super::types::{Encoding, WeightType};
use crate::math;
use crate::quant::{self, Encoded, Packing, Rows};

/// Deepest nesting of an expression; a stored tensor has depth 1.
pub(crate) const MAX_DEPTH: usize = 16;

/// Gives the stored tensors that weight expressions name. Checkpoints and read-back artifacts implement it.
pub trait WeightSource: Send + Sync {
    /// The stored tensor of that name.
    ///
    /// # Errors
    /// [`WeightError::Missing`] when there is none.
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError>;

    /// Says that these rows of `name` will not be read again soon, so that mapped pages may be given back.
    fn release(&self, _name: &str, _rows: Range<usize>) {}
}

/// A tensor as it lies in a file.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    /// Encoding and shape.
    pub ty: WeightType,
    /// What the file's format does its own way.
    pub packing: Packing,
    /// Its numbers: exactly `ty.value_bytes()` bytes.
    pub bytes: &'a [u8],
    /// Its scales: exactly `packing.scale_bytes(…)` bytes a row.
    pub scales: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    /// Its rows.
    pub fn rows(&self) -> Rows<'a> {
        let (encoding, columns) = (self.ty.encoding, self.ty.columns());
        Rows { encoding, packing: self.packing, columns, values: self.bytes, scales: self.scales, of: None }
    }
}

/// How the numbers of a weight come about.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightExpr {
    /// A stored tensor.
    Stored(String),
    /// The rows of several expressions, one after another: `rows(a, b)`.
    Rows(Vec<WeightExpr>),
    /// Each number times a factor, in f32: `scale(a, 0.125)`.
    Scale(Box<WeightExpr>, f32),
    /// Every number the same: `fill(0.015625)`.
    Fill(f32),
    /// Row `p` is `cos(p · theta^(-2j/D))`, both halves alike: `rope_cos(1e6)`.
    RopeCos(f64),
    /// Row `p` is `sin(p · theta^(-2j/D))`, both halves alike: `rope_sin(1e6)`.
    RopeSin(f64),
}

/// Why the numbers of a weight cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// The source has no such tensor.
    #[error("there is no tensor `{0}`")]
    Missing(String),
    /// The stored tensor does not fit the weight.
    #[error("tensor `{name}`: {what}")]
    Unfit {
        /// Name of the tensor.
        name: String,
        /// What does not fit.
        what: String,
    },
    /// A number is not finite in the encoding that was asked for.
    #[error("tensor `{tensor}`, row {row}, column {column}: {value} cannot be stored as {encoding} in `{weight}`")]
    Overflow {
        /// Name of the weight.
        weight: String,
        /// Name of the stored tensor that the number comes from, or of the weight where a formula made it.
        tensor: String,
        /// Row of the number in that tensor; a vector has rows of one number.
        row: usize,
        /// Column of the number.
        column: usize,
        /// The number itself.
        value: f32,
        /// The encoding that cannot hold it.
        encoding: Encoding,
    },
}

impl Weight {
    /// Rows of this weight in its encoding, put into `out`; `numbers` holds them in f32 on the way. Both are cleared
    /// first, so that many chunks of rows can share their memory.
    ///
    /// # Errors
    /// When the expression cannot be evaluated, or a number has no finite value in the encoding.
    pub fn encode(
        &self,
        source: &dyn WeightSource,
        rows: Range<usize>,
        numbers: &mut Vec<f32>,
        out: &mut Encoded,
    ) -> Result<(), WeightError> {
        let (encoding, columns) = (self.ty.encoding, self.ty.columns());
        numbers.clear();
        out.clear();
        out.grid = self.grid;
        self.expr.rows(source, columns, rows.clone(), numbers)?;
        if numbers.len() != rows.len() * columns {
            let asked = WeightType::new(encoding, [rows.len() as u32, columns as u32]);
            let what = format!("makes {} numbers, not {asked}", numbers.len());
            return Err(WeightError::Unfit { name: self.name.clone(), what });
        }
        quant::encode(encoding, self.search, columns, numbers, out).map_err(|bad| {
            let row = rows.start + bad / columns;
            let (tensor, row) = self.expr.origin(source, columns, row).unwrap_or((&self.name, row));
            WeightError::Overflow {
                weight: self.name.clone(),
                tensor: tensor.into(),
                row,
                column: bad % columns,
                value: numbers[bad],
                encoding,
            }
        })
    }
}

impl WeightExpr {
    /// Names of the stored tensors it reads, in order.
    pub fn stored(&self) -> Vec<&str> {
        match self {
            WeightExpr::Stored(name) => vec![name],
            WeightExpr::Rows(parts) => parts.iter().flat_map(WeightExpr::stored).collect(),
            WeightExpr::Scale(inner, _) => inner.stored(),
            WeightExpr::Fill(_) | WeightExpr::RopeCos(_) | WeightExpr::RopeSin(_) => Vec::new(),
        }
    }

    /// Whether it can make a weight of that shape, as far as that can be seen without the stored tensors.
    ///
    /// # Errors
    /// Says which part of it makes no sense.
    pub fn check(&self, shape: &[u32]) -> Result<(), String> {
        self.check_nested(shape, 1)
    }

    fn check_nested(&self, shape: &[u32], depth: usize) -> Result<(), String> {
        let finite = |x: f64| if x.is_finite() { Ok(()) } else { Err(format!("{x} is not finite")) };
        if depth > MAX_DEPTH {
            return Err("the expression is nested too deeply".into());
        }
        match self {
            WeightExpr::Stored(_) => Ok(()),
            WeightExpr::Rows(parts) if parts.is_empty() => Err("`rows` joins nothing".into()),
            WeightExpr::Rows(parts) => parts.iter().try_for_each(|p| p.check_nested(shape, depth + 1)),
            WeightExpr::Scale(inner, factor) => {
                finite(f64::from(*factor)).and_then(|()| inner.check_nested(shape, depth + 1))
            }
            WeightExpr::Fill(value) => finite(f64::from(*value)),
            WeightExpr::RopeCos(theta) | WeightExpr::RopeSin(theta) => match shape {
                [_, columns] if columns % 2 == 0 && theta.is_finite() && *theta > 0.0 => Ok(()),
                _ => Err("a rotary table has two halves of columns and a base above 0".into()),
            },
        }
    }

    /// Computes rows `range` of a weight of `columns` columns in f32.
    ///
    /// # Errors
    /// When a stored tensor is missing or does not fit, or when there are not as many rows.
    pub fn rows(
        &self,
        source: &dyn WeightSource,
        columns: usize,
        range: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        match self {
            WeightExpr::Stored(name) => {
                stored_rows(source, name, columns, &range)?.decode(out);
            }
            WeightExpr::Rows(parts) => {
                let mut made = 0;
                for (part, rows) in parts_of(parts, source, columns, &range)? {
                    made += rows.len();
                    part.rows(source, columns, rows, out)?;
                }
                if made < range.len() {
                    let name = self.stored().first().copied().unwrap_or("rows").to_string();
                    let what = format!("makes {} rows with those joined to it, not {}", range.start + made, range.end);
                    return Err(WeightError::Unfit { name, what });
                }
            }
            WeightExpr::Scale(inner, factor) => {
                let before = out.len();
                inner.rows(source, columns, range, out)?;
                out[before..].iter_mut().for_each(|x| *x *= factor);
            }
            WeightExpr::Fill(value) => out.resize(out.len() + range.len() * columns, *value),
            WeightExpr::RopeCos(theta) => rope_rows(*theta, columns, range, math::cos, out),
            WeightExpr::RopeSin(theta) => rope_rows(*theta, columns, range, math::sin, out),
        }
        Ok(())
    }

    /// Tells the source that nothing will read soon what rows `range` are made of.
    pub fn release(&self, source: &dyn WeightSource, columns: usize, range: Range<usize>) {
        match self {
            WeightExpr::Stored(name) => source.release(name, range),
            WeightExpr::Scale(inner, _) => inner.release(source, columns, range),
            WeightExpr::Rows(parts) => {
                // What cannot be found was never read.
                let parts = parts_of(parts, source, columns, &range).unwrap_or_default();
                parts.into_iter().for_each(|(part, rows)| part.release(source, columns, rows));
            }
            WeightExpr::Fill(_) | WeightExpr::RopeCos(_) | WeightExpr::RopeSin(_) => {}
        }
    }

    /// The stored tensor that a row is made of, and which of its rows.
    fn origin(&self, source: &dyn WeightSource, columns: usize, row: usize) -> Option<(&str, usize)> {
        match self {
            WeightExpr::Stored(name) => Some((name, row)),
            WeightExpr::Scale(inner, _) => inner.origin(source, columns, row),
            WeightExpr::Rows(parts) => {
                let (part, rows) = parts_of(parts, source, columns, &(row..row + 1)).ok()?.pop()?;
                part.origin(source, columns, rows.start)
            }
            WeightExpr::Fill(_) | WeightExpr::RopeCos(_) | WeightExpr::RopeSin(_) => None,
        }
    }

    /// Rows that the expression has by itself. A generated one has as many as asked, and one where it is joined.
    fn row_count(&self, source: &dyn WeightSource, columns: usize) -> Result<usize, WeightError> {
        match self {
            WeightExpr::Stored(name) => {
                let ty = source.tensor(name)?.ty;
                check_columns(name, &ty, columns)?;
                Ok(ty.rows())
            }
            WeightExpr::Rows(parts) => parts.iter().map(|p| p.row_count(source, columns)).sum(),
            WeightExpr::Scale(inner, _) => inner.row_count(source, columns),
            WeightExpr::Fill(_) | WeightExpr::RopeCos(_) | WeightExpr::RopeSin(_) => Ok(1),
        }
    }
}

/// The joined parts that rows `range` touch, with those rows of each.
fn parts_of<'a>(
    parts: &'a [WeightExpr],
    source: &dyn WeightSource,
    columns: usize,
    range: &Range<usize>,
) -> Result<Vec<(&'a WeightExpr, Range<usize>)>, WeightError> {
    let (mut touched, mut first) = (Vec::new(), 0);
    for part in parts {
        let rows = part.row_count(source, columns)?;
        let (from, to) = (range.start.max(first), range.end.min(first + rows));
        if from < to {
            touched.push((part, from - first..to - first));
        }
        first += rows;
    }
    Ok(touched)
}

/// Some rows of a stored tensor.
fn stored_rows<'a>(
    source: &'a dyn WeightSource,
    name: &str,
    columns: usize,
    range: &Range<usize>,
) -> Result<Rows<'a>, WeightError> {
    let tensor = source.tensor(name)?;
    check_columns(name, &tensor.ty, columns)?;
    let rows = tensor.rows();
    match range.start <= range.end && range.end <= rows.count() {
        true => Ok(rows.range(range.start, range.end)),
        false => Err(WeightError::Unfit {
            name: name.to_string(),
            what: format!("has {} rows, not {}", tensor.ty.rows(), range.end),
        }),
    }
}

fn check_columns(name: &str, ty: &WeightType, columns: usize) -> Result<(), WeightError> {
    if ty.columns() == columns {
        return Ok(());
    }
    Err(WeightError::Unfit { name: name.to_string(), what: format!("is {ty}, not {columns} wide") })
}

/// Rows of the table that holds `f(p · theta^(-2j/columns))` for positions `p`.
fn rope_rows(theta: f64, columns: usize, range: Range<usize>, f: fn(f64) -> f64, out: &mut Vec<f32>) {
    let half = columns / 2;
    for position in range {
        let start = out.len();
        out.extend((0..half).map(|j| f(math::rope_angle(position as f64, theta, j, columns)) as f32));
        out.extend_from_within(start..);
    }
}
