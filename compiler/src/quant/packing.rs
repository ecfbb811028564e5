//! What formats do differently with the same encoding.

use super::{Encoded, Grid, half};
use crate::ir::types::Encoding;

/// How a format stores rows. [`encode`](super::encode) makes the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Packing {
    /// Of two numbers in a byte the first stands in the high half.
    pub high_first: bool,
    /// Half a byte holds `q` in two's complement, not `q + 8`.
    pub signed: bool,
    /// How scales are stored.
    pub scales: Scales,
    /// The first numbers of all rows come first, then the second ones: the matrix is stored transposed, and so are its
    /// scales. [`Packing::pack`] leaves rows as they are.
    pub turned: bool,
    /// Where numbers lie that have one scale for a whole tensor.
    pub grid: Option<Grid>,
}

/// How a format stores scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scales {
    /// As the encoding has it: those of rows in f32, those of groups in bf16.
    #[default]
    Own,
    /// All in f32.
    F32,
    /// All in f16, which holds those that were searched in it: [`Search::in_f16`](super::Search::in_f16).
    F16,
}

impl Packing {
    /// Bytes of the scales of one row.
    pub fn scale_bytes(self, encoding: Encoding, columns: usize) -> usize {
        let count = encoding.group().map_or(1, |group| columns.div_ceil(group));
        match self.scales {
            Scales::F32 if !encoding.is_float() => 4 * count,
            Scales::F16 if !encoding.is_float() => 2 * count,
            _ => encoding.scale_bytes(columns),
        }
    }

    /// Appends rows that [`encode`](super::encode) made, packed like this.
    pub fn pack(self, encoding: Encoding, rows: &Encoded, out: &mut Encoded) {
        let sign = if self.signed { 0x88 } else { 0 };
        match (encoding.is_int4(), self.high_first) {
            (true, true) => out.values.extend(rows.values.iter().map(|byte| byte.rotate_left(4) ^ sign)),
            (true, false) => out.values.extend(rows.values.iter().map(|byte| byte ^ sign)),
            _ => out.values.extend_from_slice(&rows.values),
        }
        let own = Packing::default();
        if self.scale_bytes(encoding, 1) == own.scale_bytes(encoding, 1) && self.scales != Scales::F16 {
            return out.scales.extend_from_slice(&rows.scales);
        }
        let scales = own.scales(encoding, &rows.scales);
        match self.scales {
            Scales::F16 => half::encode_f16(&scales, &mut out.scales),
            Scales::F32 | Scales::Own => scales.iter().for_each(|s| out.scales.extend_from_slice(&s.to_le_bytes())),
        }
    }

    /// The scales of rows in `encoding`.
    pub(super) fn scales(self, encoding: Encoding, bytes: &[u8]) -> Vec<f32> {
        let mut scales = Vec::new();
        match (self.scales, encoding.group()) {
            (Scales::F16, _) => half::decode_f16(bytes, &mut scales),
            (Scales::Own, Some(_)) => half::decode_bf16(bytes, &mut scales),
            (Scales::F32, _) | (Scales::Own, None) => {
                scales.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
        }
        scales
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::reference;
    use super::super::{Rows, Search, encode};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scales_are_read_as_they_are_stored() {
        let packing = |scales| Packing { scales, ..Packing::default() };
        let (row, group) = (Encoding::Int8Row, Encoding::Int4G32);
        for (encoding, scales, bytes) in [
            (row, Scales::Own, &[0, 0, 0x80, 0x3e][..]),
            (row, Scales::F32, &[0, 0, 0x80, 0x3e]),
            (row, Scales::F16, &[0, 0x34]),
            (group, Scales::Own, &[0x80, 0x3e]),
            (group, Scales::F32, &[0, 0, 0x80, 0x3e]),
            (group, Scales::F16, &[0, 0x34]),
        ] {
            assert_eq!(packing(scales).scales(encoding, bytes), [0.25]);
            assert_eq!(packing(scales).scale_bytes(encoding, 32), bytes.len());
            assert_eq!(packing(scales).scale_bytes(Encoding::F16, 32), 0);
        }
    }

    #[test]
    fn nibbles_are_turned_and_signed() {
        let rows = Encoded { values: vec![0x4f, 0xa8], scales: vec![0, 0, 0x80, 0x3e], grid: None };
        for (high_first, signed, values) in [
            (false, false, [0x4f, 0xa8]),
            (true, false, [0xf4, 0x8a]),
            (false, true, [0xc7, 0x20]),
            (true, true, [0x7c, 0x02]),
        ] {
            let mut out = Encoded::default();
            Packing { high_first, signed, scales: Scales::F16, turned: false, grid: None }.pack(
                Encoding::Int4Row,
                &rows,
                &mut out,
            );
            assert_eq!((out.values, out.scales), (values.to_vec(), vec![0, 0x34]));
        }
    }

    proptest! {
        #[test]
        fn packed_rows_read_as_the_same_numbers(numbers in reference::rows(128), which in 0usize..8) {
            for encoding in Encoding::ALL.iter().copied().filter(|e| !e.is_float() && e.grid().is_none()) {
                for (scales, search) in
                    [(Scales::Own, Search::Mse), (Scales::F32, Search::Max), (Scales::F16, Search::MaxF16)]
                {
                    let packing = Packing { high_first: which & 1 != 0, signed: which & 2 != 0, scales, turned: false, grid: None };
                    let mut rows = Encoded::default();
                    if encode(encoding, search, 128, &numbers, &mut rows).is_err() {
                        continue;
                    }
                    let (mut packed, mut expected, mut found) = (Encoded::default(), Vec::new(), Vec::new());
                    packing.pack(encoding, &rows, &mut packed);
                    rows.rows(encoding, 128).decode(&mut expected);
                    prop_assert_eq!(packed.scales.len(), packing.scale_bytes(encoding, 128));
                    Rows { packing, ..packed.rows(encoding, 128) }.decode(&mut found);
                    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                    prop_assert_eq!(bits(&expected), bits(&found));
                }
            }
        }
    }
}
