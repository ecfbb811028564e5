//! Tensors that lie in a mapped file.

use std::ops::Range;

use diffulex_compiler::ir::{StoredTensor, WeightType};
use diffulex_compiler::quant::Packing;
use memmap2::Mmap;

/// Where a stored tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Its type.
    pub(crate) ty: WeightType,
    /// What the format does its own way.
    pub(crate) packing: Packing,
    /// Its numbers.
    pub(crate) range: Range<usize>,
    /// Its scales; nothing for floats.
    pub(crate) scales: Range<usize>,
}

impl Stored {
    /// The tensor in the bytes of its file, if it lies in them.
    pub(crate) fn tensor<'a>(&self, bytes: &'a [u8]) -> Option<StoredTensor<'a>> {
        let Stored { ty, packing, range, scales } = self;
        let (range, scales) = (bytes.get(range.clone())?, bytes.get(scales.clone())?);
        Some(StoredTensor { ty: ty.clone(), packing: *packing, bytes: range, scales })
    }

    /// Gives the mapped pages of some rows back to the system.
    pub(crate) fn release(&self, map: &Mmap, rows: Range<usize>) {
        let Stored { ty, packing, range, scales } = self;
        if packing.turned && rows.end < ty.rows() {
            // Every page has numbers of every row.
            return;
        }
        let rows = if packing.turned { 0..rows.end } else { rows };
        for (range, width) in [(range, ty.row_bytes()), (scales, packing.scale_bytes(ty.encoding, ty.columns()))] {
            let to = rows.end.saturating_mul(width).min(range.len());
            let from = rows.start.saturating_mul(width).min(to);
            // SAFETY: the map is a read-only view of a file, so a page that is given back is read again from the file.
            // That it is given back is only a hint; whether it succeeds does not matter.
            #[cfg(unix)]
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start + from, to - from)
            };
        }
    }
}
