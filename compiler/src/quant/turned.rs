//! Matrices that are stored transposed: column after column, and so are their scales.
//!
//! The numbers of column `k` are `values[k·N ..][..N]` for N rows, in the encoding's own bytes; nibbles of all columns
//! follow one another without a gap, so a column may begin in the middle of a byte. The scales of group `g` are
//! `scales[g·N ..][..N]`.

use super::{Rows, half};
use crate::ir::types::Encoding;

/// Numbers of a column, before scales.
struct Columns<'a> {
    rows: Rows<'a>,
    /// Rows of the whole matrix.
    all: usize,
}

/// The rows that are meant, of those that there are.
pub(super) fn window(rows: &Rows<'_>) -> (usize, usize) {
    rows.of.unwrap_or((0, all(rows)))
}

/// Appends the numbers, row after row.
pub(super) fn decode(rows: &Rows<'_>, out: &mut Vec<f32>) {
    let (from, to) = window(rows);
    let (start, columns) = (out.len(), rows.columns);
    out.resize(start + (to - from) * columns, 0.0);
    let out = &mut out[start..];
    let (stored, mut column) = (Columns { rows: *rows, all: all(rows) }, Vec::new());
    for k in 0..columns {
        column.clear();
        stored.read(k, from, to, &mut column);
        column.iter().enumerate().for_each(|(i, x)| out[i * columns + k] = *x);
    }
    if rows.encoding.is_float() || rows.encoding.grid().is_some() {
        return;
    }
    let group = rows.encoding.group().unwrap_or(columns).max(1);
    let blocks = out.chunks_mut(columns.max(1)).flat_map(|row| row.chunks_mut(group));
    blocks.zip(scales(rows)).for_each(|(block, scale)| block.iter_mut().for_each(|x| *x *= scale));
}

/// The scales, row after row.
pub(super) fn scales(rows: &Rows<'_>) -> Vec<f32> {
    if rows.encoding.is_float() || rows.encoding.grid().is_some() {
        return Vec::new();
    }
    let ((from, to), all) = (window(rows), all(rows));
    let stored = rows.packing.scales(rows.encoding, rows.scales);
    let groups = rows.encoding.group().map_or(1, |group| rows.columns.div_ceil(group));
    let at = |row: usize, group: usize| stored.get(group * all + row).copied().unwrap_or_default();
    (from..to).flat_map(|row| (0..groups).map(move |group| (row, group))).map(|(row, group)| at(row, group)).collect()
}

/// Rows of the whole matrix. Nibbles have an even number of columns, so that no byte is half empty.
fn all(rows: &Rows<'_>) -> usize {
    rows.values.len() / rows.encoding.row_bytes(rows.columns).max(1)
}

impl Columns<'_> {
    /// Appends the numbers of rows `from..to` in column `k`.
    fn read(&self, k: usize, from: usize, to: usize, out: &mut Vec<f32>) {
        let Columns { rows, all } = self;
        let (first, last) = (k * all + from, k * all + to);
        let bytes = |width: usize| rows.values.get(first * width..last * width).unwrap_or_default();
        match rows.encoding {
            Encoding::F32 => out.extend(bytes(4).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Encoding::F16 => half::decode_f16(bytes(2), out),
            Encoding::BF16 => half::decode_bf16(bytes(2), out),
            Encoding::U16 | Encoding::U8 => {
                let width = rows.encoding.row_bytes(1);
                rows.packing.grid.iter().for_each(|grid| grid.decode(bytes(width), out));
            }
            Encoding::Int8Row => out.extend(bytes(1).iter().map(|&q| f32::from(q as i8))),
            Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => {
                let (sign, odd) = (if rows.packing.signed { 8 } else { 0 }, usize::from(!rows.packing.high_first));
                out.extend((first..last).map(|i| {
                    let byte = rows.values.get(i / 2).copied().unwrap_or_default();
                    let nibble = if i % 2 == odd { byte >> 4 } else { byte & 15 };
                    f32::from((nibble ^ sign) as i8 - 8)
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::reference;
    use super::super::{Encoded, Packing, Search, encode};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_matrix_reads_the_same_when_it_is_stored_transposed(numbers in reference::rows(128), which in 0usize..4) {
            let count = numbers.len() / 128;
            for encoding in Encoding::ALL.iter().copied() {
                let packing = Packing { high_first: which & 1 != 0, signed: which & 2 != 0, ..Packing::default() };
                let (mut rows, mut packed) = (Encoded::default(), Encoded::default());
                if encode(encoding, Search::Max, 128, &numbers, &mut rows).is_err() {
                    continue;
                }
                packing.pack(encoding, &rows, &mut packed);
                let packing = Packing { grid: rows.grid, ..packing };
                let plain = Rows { packing, ..packed.rows(encoding, 128) };
                let values = turn(&packed.values, count, 128, encoding.row_bytes(128), packing.high_first);
                let scales = turn(&packed.scales, count, encoding.group().map_or(1, |g| 128 / g), encoding.scale_bytes(128), false);
                let packing = Packing { turned: true, ..packing };
                let turned = Rows { packing, values: &values, scales: &scales, ..plain };
                prop_assert_eq!(turned.count(), count);
                for (from, to) in [(0, count), (count / 2, count), (0, count / 2)] {
                    let (mut expected, mut found) = (Vec::new(), Vec::new());
                    plain.range(from, to).decode(&mut expected);
                    turned.range(from, to).decode(&mut found);
                    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                    prop_assert_eq!(bits(&expected), bits(&found));
                    prop_assert_eq!(plain.range(from, to).scales(), turned.range(from, to).scales());
                }
            }
        }
    }

    /// Elements of `bytes`, `rows × columns`, as `columns × rows`; `width` bytes make a row.
    fn turn(bytes: &[u8], rows: usize, columns: usize, width: usize, high_first: bool) -> Vec<u8> {
        if width * 2 == columns {
            let (low, high) = if high_first { (4, 0) } else { (0, 4) };
            let nibble = |i: usize| bytes[i / 2] >> (if i.is_multiple_of(2) { low } else { high }) & 15;
            let turned: Vec<u8> =
                (0..columns).flat_map(|k| (0..rows).map(move |n| n * columns + k)).map(nibble).collect();
            return turned.chunks(2).map(|pair| pair[0] << low | pair[1] << high).collect();
        }
        let size = width / columns;
        let at = (0..columns).flat_map(|k| (0..rows).map(move |n| (n * columns + k) * size));
        at.flat_map(|i| bytes[i..i + size].to_vec()).collect()
    }
}
