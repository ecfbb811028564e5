//! The weight file: every record is found by walking from the first, and checked on the way.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{Place, Result};
use crate::coreml::schema::blob::{ALIGNMENT, Record, SENTINEL, VERSION};
use crate::coreml::schema::program::DataType;

/// Most records: those of a thousand layers are some ten thousand.
const MAX_RECORDS: u64 = 1 << 20;

/// The records of a weight file by their offsets.
#[derive(Debug, Default)]
pub(super) struct Records(HashMap<u64, Record>);

impl Records {
    /// Walks the file.
    pub(super) fn walk(file: &Place, bytes: &[u8]) -> Result<Records> {
        let head = bytes.get(..ALIGNMENT as usize).ok_or_else(|| file.damaged("it is shorter than its header"))?;
        file.same("version", u32_at(head, 4), VERSION)?;
        zero(file, bytes, 8..ALIGNMENT)?;
        let count = file.at_most("number of records", u32_at(head, 0).into(), MAX_RECORDS)?;
        let (length, mut records) = (bytes.len() as u64, HashMap::new());
        let mut end = ALIGNMENT;
        while end < length && records.len() <= count {
            // At most 64 beyond the end of a file, which is far from the largest number.
            let offset = end.next_multiple_of(ALIGNMENT);
            zero(file, bytes, end..offset.min(length))?;
            if offset >= length {
                break;
            }
            let record = record(bytes, offset)?;
            end = record.start + record.bytes;
            records.insert(offset, record);
        }
        file.same("number of records", count, records.len())?;
        Ok(Records(records))
    }

    /// Where the data of the record at `offset` lies, which must be `count` elements of `dtype`.
    pub(super) fn find(&self, offset: u64, dtype: DataType, count: u64) -> Result<Range<usize>> {
        let place = Place::Record(offset);
        let record = self.0.get(&offset).ok_or_else(|| place.damaged("there is none"))?;
        place.same("element type", record.dtype.name(), dtype.name())?;
        let bits = dtype.bits().and_then(|bits| count.checked_mul(bits));
        let bits = bits.ok_or_else(|| place.damaged("its elements have no size"))?;
        let bytes = bits.div_ceil(8);
        place.same("number of bytes", record.bytes, bytes)?;
        place.same("number of unused bits", record.unused_bits, 8 * bytes - bits)?;
        // `walk` has seen that they are in the file.
        Ok(record.start as usize..(record.start + record.bytes) as usize)
    }
}

/// Reads the record at `offset`, which is inside the file.
fn record(bytes: &[u8], offset: u64) -> Result<Record> {
    let place = Place::Record(offset);
    let (length, from) = (bytes.len() as u64, offset as usize);
    let head = bytes.get(from..from + ALIGNMENT as usize).ok_or_else(|| place.damaged("it is cut off"))?;
    place.same("sentinel", u32_at(head, 0), SENTINEL)?;
    let number = u32_at(head, 4);
    let dtype = DataType::of_blobs(number).ok_or_else(|| place.unsupported(format!("element type {number}")))?;
    let record = Record { dtype, bytes: u64_at(head, 8), start: u64_at(head, 16), unused_bits: u64_at(head, 24) };
    place.same("start of the data", record.start, offset + ALIGNMENT)?;
    place.at_most("number of bytes", record.bytes, length - record.start)?;
    place.at_most("number of unused bits", record.unused_bits, 7)?;
    zero(&place, bytes, offset + 32..offset + ALIGNMENT)?;
    Ok(record)
}

fn zero(place: &Place, bytes: &[u8], range: Range<u64>) -> Result<()> {
    let bytes = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(place.damaged(format!("bytes {}..{} are not zero", range.start, range.end)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
