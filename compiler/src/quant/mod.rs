//! Numbers to bytes and back, encoding by encoding.
//!
//! Every encoding has one file that states range, rounding and layout. This page only dispatches. A row of a quantized
//! encoding has scales, which lie apart from its numbers: targets want them apart.

mod grid;
mod half;
mod int4;
mod int8;
mod packing;
mod report;
mod scheme;
mod search;
mod turned;

pub use grid::{Grid, GridType};
pub use half::in_f16;
pub use packing::{Packing, Scales};
pub use report::{Cost, Rounding};
pub use scheme::{Activations, Scheme, matches};
pub use search::Search;

use crate::ir::types::Encoding;

/// Stored rows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// How they are stored.
    pub encoding: Encoding,
    /// What the format does its own way.
    pub packing: Packing,
    /// Numbers in a row.
    pub columns: usize,
    /// The numbers, row after row without gaps.
    pub values: &'a [u8],
    /// The scales, row after row without gaps; nothing for floats.
    pub scales: &'a [u8],
    /// Which rows these are of a matrix that is stored transposed, where not all: values and scales are then those of the
    /// whole matrix.
    pub of: Option<(usize, usize)>,
}

/// Rows in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// The numbers.
    pub values: Vec<u8>,
    /// The scales.
    pub scales: Vec<u8>,
    /// Where the numbers of an encoding with one scale for a whole tensor lie, once that is known.
    pub grid: Option<Grid>,
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub fn count(&self) -> usize {
        if self.packing.turned {
            let (from, to) = turned::window(self);
            return to - from;
        }
        self.values.len() / self.encoding.row_bytes(self.columns).max(1)
    }

    /// Rows `from..to`, which there are.
    pub fn range(&self, from: usize, to: usize) -> Rows<'a> {
        if self.packing.turned {
            let (first, _) = turned::window(self);
            return Rows { of: Some((first + from, first + to)), ..*self };
        }
        let values = self.encoding.row_bytes(self.columns);
        let scales = self.packing.scale_bytes(self.encoding, self.columns);
        Rows {
            values: &self.values[from * values..to * values],
            scales: &self.scales[from * scales..to * scales],
            ..*self
        }
    }

    /// Their scales, row after row.
    pub fn scales(&self) -> Vec<f32> {
        if self.packing.turned {
            return turned::scales(self);
        }
        self.packing.scales(self.encoding, self.scales)
    }

    /// Appends their numbers.
    pub fn decode(&self, out: &mut Vec<f32>) {
        let Rows { encoding, packing, columns, values, scales, .. } = *self;
        if packing.turned {
            return turned::decode(self, out);
        }
        match encoding {
            Encoding::U16 | Encoding::U8 => {
                if let Some(grid) = packing.grid {
                    grid.decode(values, out);
                }
            }
            Encoding::F32 => out.extend(values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Encoding::F16 => half::decode_f16(values, out),
            Encoding::BF16 => half::decode_bf16(values, out),
            Encoding::Int8Row => int8::decode(columns, values, &packing.scales(encoding, scales), out),
            Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => {
                int4::decode(columns, encoding.group(), packing, values, &packing.scales(encoding, scales), out);
            }
        }
    }
}

impl Encoded {
    /// The rows, of `columns` numbers each.
    pub fn rows(&self, encoding: Encoding, columns: usize) -> Rows<'_> {
        let packing = Packing { grid: self.grid, ..Packing::default() };
        Rows { encoding, packing, columns, values: &self.values, scales: &self.scales, of: None }
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.values.clear();
        self.scales.clear();
        self.grid = None;
    }
}

/// Appends `numbers`, which are whole rows of `columns` numbers, to `out`, with scales found by `search`.
///
/// `int8.row` stores `q = round(x / s)`, a byte each, with `s = max|x| / 127` for the row (or a smaller error, see
/// [`Search`]); `int4.row` two in a byte, as
/// `q + 8`, with `s = max|x| / 7`; `int4.gN` one scale for each N inputs, rounded to bf16. Ties go to the even number;
/// a row or block of zeros has scale 1. `uint8` and `uint16` have one [`Grid`] for all rows: that of `out`, or else the
/// one over `numbers`, which `out` then has. The files of the encodings have all of it.
///
/// ```
/// use diffulex_compiler::ir::Encoding;
/// use diffulex_compiler::quant::{Encoded, Search, encode};
///
/// // 31.75 / 127 = 0.25: q = 127, -4, 0 (0.5 is a tie), 2 (1.5 is a tie).
/// let mut rows = Encoded::default();
/// encode(Encoding::Int8Row, Search::Max, 4, &[31.75, -1.0, 0.125, 0.375], &mut rows).unwrap();
/// assert_eq!(rows.values, [127, 252, 0, 2]);
/// assert_eq!(rows.scales, 0.25f32.to_le_bytes());
/// let mut back = Vec::new();
/// rows.rows(Encoding::Int8Row, 4).decode(&mut back);
/// assert_eq!(back, [31.75, -1.0, 0.0, 0.5]);
///
/// // 1.75 / 7 = 0.25: q = 7, -4, 0, and 8 once more to fill the byte.
/// let mut rows = Encoded::default();
/// encode(Encoding::Int4Row, Search::Max, 3, &[1.75, -1.0, 0.125], &mut rows).unwrap();
/// assert_eq!(rows.values, [0x4f, 0x88]);
/// assert_eq!(rows.scales, 0.25f32.to_le_bytes());
///
/// // Two blocks with a scale each: 7 / 7 = 1, and 1 for the zeros.
/// let mut rows = Encoded::default();
/// let numbers: Vec<f32> = (0..64).map(|i| if i == 0 { -7.0 } else { 0.0 }).collect();
/// encode(Encoding::Int4G32, Search::Max, 64, &numbers, &mut rows).unwrap();
/// assert_eq!((rows.values.len(), rows.values[0]), (32, 0x81));
/// assert_eq!(rows.scales, [0x80, 0x3f, 0x80, 0x3f]);
/// ```
///
/// # Errors
/// The index of the first number that is finite but has no finite value in the encoding, or is not finite at all.
pub fn encode(
    encoding: Encoding,
    search: Search,
    columns: usize,
    numbers: &[f32],
    out: &mut Encoded,
) -> Result<(), usize> {
    let finite = |x: f32| match encoding {
        Encoding::F16 => half::fits_f16(x),
        Encoding::BF16 => half::fits_bf16(x),
        Encoding::F32 => x.is_finite(),
        _ if search == search.in_f16() => half::fits_f16(x),
        _ => x.is_finite(),
    };
    if let Some(bad) = numbers.iter().position(|&x| !finite(x)) {
        return Err(bad);
    }
    let Encoded { values, scales, grid } = out;
    match encoding {
        Encoding::F32 => numbers.iter().for_each(|x| values.extend_from_slice(&x.to_le_bytes())),
        Encoding::F16 => half::encode_f16(numbers, values),
        Encoding::BF16 => half::encode_bf16(numbers, values),
        Encoding::U16 | Encoding::U8 => {
            let range = || numbers.iter().fold((0.0f32, 0.0f32), |(a, b), &x| (a.min(x), b.max(x)));
            let ty = if encoding == Encoding::U8 { GridType::U8 } else { GridType::U16 };
            grid.get_or_insert_with(|| Grid::of(range(), ty)).encode(numbers, values);
        }
        Encoding::Int8Row => int8::encode(columns, numbers, search, values, scales),
        Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => {
            int4::encode(columns, encoding.group(), numbers, search, values, scales);
        }
    }
    Ok(())
}
