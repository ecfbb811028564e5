//! The weight file, blob storage version 2: a header, then records with their data, all little-endian.
//!
//! | bytes | header | record |
//! |---|---|---|
//! | 0..4 | number of records | `DE AD BE EF`, backwards |
//! | 4..8 | version, 2 | element type |
//! | 8..16 | zero | bytes of the data |
//! | 16..24 | zero | where the data begins: right behind the record |
//! | 24..32 | zero | unused bits at the end of the data |
//! | 32..64 | zero | zero |
//!
//! Records begin at multiples of 64, and what lies between is zero. Half a byte a number: the first of two in the low
//! half.

use super::program::DataType;

/// Bytes of the header and of a record, and what records are aligned to.
pub(crate) const ALIGNMENT: u64 = 64;
/// The version of the storage.
pub(crate) const VERSION: u32 = 2;
/// How a record begins.
pub(crate) const SENTINEL: u32 = 0xDEAD_BEEF;

/// A record: what stands before the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Element type.
    pub(crate) dtype: DataType,
    /// Bytes of the data.
    pub(crate) bytes: u64,
    /// Where the data begins.
    pub(crate) start: u64,
    /// Bits at its end that hold nothing.
    pub(crate) unused_bits: u64,
}

/// The header of a file with so many records.
pub(crate) fn header(records: u32) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0..4].copy_from_slice(&records.to_le_bytes());
    bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

impl Record {
    /// Its 64 bytes.
    pub(crate) fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&SENTINEL.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.dtype.in_blobs().unwrap_or(0).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.start.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.unused_bits.to_le_bytes());
        bytes
    }
}

impl DataType {
    /// Its number in a record, other than in the program; text and truth values have none.
    pub(crate) fn in_blobs(self) -> Option<u32> {
        match self {
            DataType::Float16 => Some(1),
            DataType::Float32 => Some(2),
            DataType::Int8 => Some(4),
            DataType::Int4 => Some(8),
            DataType::Uint4 => Some(11),
            DataType::Int32 => Some(14),
            DataType::Unused | DataType::Bool | DataType::String => None,
        }
    }

    /// The type of that number in a record.
    pub(crate) fn of_blobs(number: u32) -> Option<DataType> {
        let all =
            [DataType::Float16, DataType::Float32, DataType::Int8, DataType::Int4, DataType::Uint4, DataType::Int32];
        all.into_iter().find(|dtype| dtype.in_blobs() == Some(number))
    }

    /// Bits of an element; none where elements differ in length.
    pub(crate) fn bits(self) -> Option<u64> {
        match self {
            DataType::Float32 | DataType::Int32 => Some(32),
            DataType::Float16 => Some(16),
            DataType::Int8 | DataType::Bool => Some(8),
            DataType::Int4 | DataType::Uint4 => Some(4),
            DataType::Unused | DataType::String => None,
        }
    }

    /// Its name in the text form.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DataType::Unused => "unused",
            DataType::Bool => "bool",
            DataType::String => "string",
            DataType::Float16 => "fp16",
            DataType::Float32 => "fp32",
            DataType::Int8 => "int8",
            DataType::Int32 => "int32",
            DataType::Int4 => "int4",
            DataType::Uint4 => "uint4",
        }
    }
}
