//! Types of values and weights: element types, encodings, and shapes with three symbols.

use std::fmt;

use crate::choice::choices;
use crate::quant::GridType;

/// Element type of a value that flows through the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float, the type of all activations unless a target asks otherwise.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// Token ids, positions and row numbers.
    I32,
    /// The same, as ExecuTorch wants them.
    I64,
}

choices! {
    /// How the numbers of a weight are stored, most precise first.
    Encoding {
        /// IEEE single, little-endian.
        F32 = "f32",
        /// IEEE half, little-endian.
        F16 = "f16",
        /// bfloat16, the upper half of a single, little-endian.
        BF16 = "bf16",
        /// Two bytes a number, one scale and zero point for the whole tensor.
        U16 = "uint16",
        /// A byte a number, one scale a row.
        Int8Row = "int8.row",
        /// A byte a number, one scale and zero point for the whole tensor.
        U8 = "uint8",
        /// Half a byte a number, a scale for each 32 inputs.
        Int4G32 = "int4.g32",
        /// The same for each 64 inputs.
        Int4G64 = "int4.g64",
        /// The same for each 128 inputs.
        Int4G128 = "int4.g128",
        /// Half a byte a number, one scale a row.
        Int4Row = "int4.row",
    }
}

impl DType {
    /// All element types, in the order of their names in the printed form.
    pub const ALL: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64];

    /// The name in the printed form.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
        }
    }

    /// Whether values of this type count or index something.
    pub fn is_integer(self) -> bool {
        matches!(self, DType::I32 | DType::I64)
    }
}

impl Encoding {
    /// Bytes of the numbers of one row of `columns` numbers.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Encoding::F32 => 4 * columns,
            Encoding::F16 | Encoding::BF16 | Encoding::U16 => 2 * columns,
            Encoding::Int8Row | Encoding::U8 => columns,
            Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => columns.div_ceil(2),
        }
    }

    /// Bytes of the scales of one row of `columns` numbers, which lie apart from the numbers.
    pub fn scale_bytes(self, columns: usize) -> usize {
        match (self, self.group()) {
            (_, Some(group)) => 2 * columns.div_ceil(group),
            (Encoding::Int8Row | Encoding::Int4Row, None) => 4,
            _ => 0,
        }
    }

    /// Inputs that share a scale, where a row has several.
    pub fn group(self) -> Option<usize> {
        match self {
            Encoding::Int4G32 => Some(32),
            Encoding::Int4G64 => Some(64),
            Encoding::Int4G128 => Some(128),
            _ => None,
        }
    }

    /// Whether two numbers share a byte.
    pub fn is_int4(self) -> bool {
        matches!(self, Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128)
    }

    /// The whole numbers of an encoding with one scale and zero point for a whole tensor.
    pub fn grid(self) -> Option<GridType> {
        match self {
            Encoding::U16 => Some(GridType::U16),
            Encoding::U8 => Some(GridType::U8),
            _ => None,
        }
    }

    /// Whether numbers are stored as floats, each by itself.
    pub fn is_float(self) -> bool {
        matches!(self, Encoding::F32 | Encoding::F16 | Encoding::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One axis of a shape: `c*C + t*T + r*R + n`, where C counts cached positions, T the tokens of a step and R the rows
/// that need logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dim {
    /// How many times C.
    pub c: u32,
    /// How many times T.
    pub t: u32,
    /// How many times R.
    pub r: u32,
    /// The constant part.
    pub n: u32,
}

/// Sizes that stand for C, T and R: the upper bounds of a module, or the actual sizes of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens of a step.
    pub t: usize,
    /// Cached positions.
    pub c: usize,
    /// Rows that need logits.
    pub r: usize,
}

impl Dim {
    /// Cached positions.
    pub const C: Dim = Dim { c: 1, t: 0, r: 0, n: 0 };
    /// Tokens of the step.
    pub const T: Dim = Dim { c: 0, t: 1, r: 0, n: 0 };
    /// Rows that need logits.
    pub const R: Dim = Dim { c: 0, t: 0, r: 1, n: 0 };

    /// A size known while compiling.
    pub const fn fixed(n: u32) -> Dim {
        Dim { c: 0, t: 0, r: 0, n }
    }

    /// The size, if it is known while compiling.
    pub fn known(self) -> Option<u32> {
        (self == Dim::fixed(self.n)).then_some(self.n)
    }

    /// `self + other`; `None` when a coefficient overflows.
    pub fn plus(self, other: Dim) -> Option<Dim> {
        Some(Dim {
            c: self.c.checked_add(other.c)?,
            t: self.t.checked_add(other.t)?,
            r: self.r.checked_add(other.r)?,
            n: self.n.checked_add(other.n)?,
        })
    }

    /// `self * factor`; `None` when a coefficient overflows.
    pub fn times(self, factor: u32) -> Option<Dim> {
        Some(Dim {
            c: self.c.checked_mul(factor)?,
            t: self.t.checked_mul(factor)?,
            r: self.r.checked_mul(factor)?,
            n: self.n.checked_mul(factor)?,
        })
    }

    /// The number for given sizes; `None` when it overflows.
    pub fn at(self, sizes: Sizes) -> Option<usize> {
        let part = |k: u32, size: usize| (k as usize).checked_mul(size);
        part(self.c, sizes.c)?
            .checked_add(part(self.t, sizes.t)?)?
            .checked_add(part(self.r, sizes.r)?)?
            .checked_add(self.n as usize)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (k, symbol) in [(self.c, "C"), (self.t, "T"), (self.r, "R")] {
            match k {
                0 => continue,
                1 => write!(f, "{separator}{symbol}")?,
                k => write!(f, "{separator}{k}*{symbol}")?,
            }
            separator = "+";
        }
        if self.n > 0 || separator.is_empty() {
            write!(f, "{separator}{}", self.n)?;
        }
        Ok(())
    }
}

/// Type of a value: element type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// Element type.
    pub dtype: DType,
    /// Axes, outermost first.
    pub shape: Vec<Dim>,
}

/// Type of a weight: encoding and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightType {
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Axes, outermost first; one axis for a vector, two for a matrix.
    pub shape: Vec<u32>,
}

impl ValueType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> ValueType {
        ValueType { dtype, shape: shape.into() }
    }

    /// A 32-bit float type.
    pub fn f32(shape: impl Into<Vec<Dim>>) -> ValueType {
        ValueType::new(DType::F32, shape)
    }

    /// The last axis, if its size is known while compiling.
    pub fn width(&self) -> Option<u32> {
        self.shape.last().and_then(|d| d.known())
    }
}

impl WeightType {
    /// A type from its parts.
    pub fn new(encoding: Encoding, shape: impl Into<Vec<u32>>) -> WeightType {
        WeightType { encoding, shape: shape.into() }
    }

    /// Rows: the first axis. A vector has rows of one number, so that vectors join as matrices do.
    pub fn rows(&self) -> usize {
        self.shape.first().map_or(1, |&n| n as usize)
    }

    /// Numbers in a row: all other axes, multiplied.
    pub fn columns(&self) -> usize {
        self.shape.iter().skip(1).map(|&n| n as usize).product()
    }

    /// Bytes of the numbers of one stored row.
    pub fn row_bytes(&self) -> usize {
        self.encoding.row_bytes(self.columns())
    }

    /// Bytes of the scales of one stored row.
    pub fn scale_bytes(&self) -> usize {
        self.encoding.scale_bytes(self.columns())
    }

    /// Bytes of all numbers.
    pub fn value_bytes(&self) -> u64 {
        self.rows() as u64 * self.row_bytes() as u64
    }

    /// Bytes of the whole weight, scales included.
    pub fn bytes(&self) -> u64 {
        self.rows() as u64 * (self.row_bytes() + self.scale_bytes()) as u64
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        write_list(f, &self.shape)?;
        f.write_str("]")
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.encoding)?;
        write_list(f, &self.shape)?;
        f.write_str("]")
    }
}

/// Writes `a, b, c`.
pub(crate) fn write_list<T: fmt::Display>(f: &mut impl fmt::Write, items: &[T]) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}
