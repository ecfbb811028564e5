//! The records of the weight file: what each holds, and where it stands.

use std::collections::HashMap;
use std::ops::Range;

use diffulex_compiler::ir::{Module, WeightId};

use crate::coreml::schema::blob::{ALIGNMENT, Record};
use crate::coreml::schema::program::DataType;

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holds {
    /// The numbers of some rows of a weight, in its encoding.
    Numbers(WeightId, Range<usize>),
    /// Their scales in `fp16`.
    Scales(WeightId, Range<usize>),
    /// So many elements, all the same: zeros of a bias, eights of an offset.
    Filled(DataType, u64),
}

/// A record with its place.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// What it holds.
    pub(super) holds: Holds,
    /// Where it stands.
    pub(super) offset: u64,
    /// Itself.
    pub(super) record: Record,
}

/// All records, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    /// The records.
    pub(super) list: Vec<Blob>,
    known: HashMap<Holds, u64>,
}

impl Blobs {
    /// The place of the record that holds this: an old one, or a new one of `count` elements at the end.
    pub(super) fn place(&mut self, holds: Holds, dtype: DataType, count: u64) -> u64 {
        if let Some(&offset) = self.known.get(&holds) {
            return offset;
        }
        let offset = self.bytes().next_multiple_of(ALIGNMENT);
        // Weights have at most 2^40 numbers, see `verify`.
        let bits = count * dtype.bits().unwrap_or(0);
        let bytes = bits.div_ceil(8);
        let record = Record { dtype, bytes, start: offset + ALIGNMENT, unused_bits: 8 * bytes - bits };
        self.list.push(Blob { holds: holds.clone(), offset, record });
        self.known.insert(holds, offset);
        offset
    }

    /// Size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.list.last().map_or(ALIGNMENT, |last| last.record.start + last.record.bytes)
    }

    /// Bytes that all records of a weight take.
    pub(super) fn bytes_of(&self, weight: WeightId) -> u64 {
        let own = |blob: &&Blob| match &blob.holds {
            Holds::Numbers(id, _) | Holds::Scales(id, _) => *id == weight,
            Holds::Filled(..) => false,
        };
        self.list.iter().filter(own).map(|blob| blob.record.bytes).sum()
    }
}

/// Element type of the numbers of a weight.
pub(super) fn stored_as(module: &Module, weight: WeightId, nibbles: DataType) -> DataType {
    match module.weight(weight).ty.encoding {
        encoding if encoding.is_int4() => nibbles,
        encoding if encoding.is_float() => DataType::Float16,
        _ => DataType::Int8,
    }
}
