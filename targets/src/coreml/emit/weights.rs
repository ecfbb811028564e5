//! Streams the weight file.

use std::io::{self, Write};

use diffulex_compiler::ir::{Encoding, Module, WeightError, WeightId, WeightSource};
use diffulex_compiler::quant::{self, Cost, Encoded, Packing, Rounding, Rows, Scales, Search};

use super::EmitError;
use super::blobs::{Blob, Blobs, Holds};
use crate::coreml::Nibbles;
use crate::coreml::schema::blob::header;
use crate::coreml::schema::program::DataType;
use crate::stream::{self, Part};

/// Writes the weight file; gives what each weight of the model became.
pub(super) fn write(
    module: &Module,
    source: &dyn WeightSource,
    blobs: &Blobs,
    nibbles: Nibbles,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Cost>, EmitError> {
    let mut out = Counted { out, written: 0, total: blobs.bytes(), progress };
    out.write(&header(blobs.list.len() as u32))?;
    let mut places = blobs.list.iter().peekable();
    let mut costs = Costs { module, blobs, list: Vec::new(), now: None };
    let mut scales = Vec::new();
    let signed = nibbles == Nibbles::Signed;
    let numbers = blobs.list.iter().filter_map(|blob| match &blob.holds {
        Holds::Numbers(id, rows) => Some((*id, rows.clone())),
        _ => None,
    });
    // The weight of each chunk, in the order of the chunks.
    let mut owners = numbers.clone().flat_map(|(id, rows)| {
        stream::chunks_of(module.weight(id), rows.clone()).map(move |part| (id, part.range.end == rows.end))
    });
    let chunks = numbers.flat_map(|(id, rows)| stream::chunks_of(module.weight(id), rows));
    let pack = |part: &Part<'_>, encoded: &mut Encoded| pack(part, encoded, signed);
    stream::encode(source, chunks, &pack, &mut |_, chunk| {
        while let Some(blob) = places.next_if(|blob| matches!(blob.holds, Holds::Filled(..))) {
            out.filled(blob)?;
        }
        let missing = || EmitError::Illegal { place: "weights".into(), what: "have no place in the file".into() };
        let (owner, last) = owners.next().ok_or_else(missing)?;
        let blob = places.peek().ok_or_else(missing)?;
        if out.written < blob.record.start {
            out.record(blob)?;
        }
        out.write(&chunk.encoded.values)?;
        scales.extend_from_slice(&chunk.encoded.scales);
        costs.add(owner, &chunk.rounding);
        if last {
            places.next();
            if let Some(blob) = places.next_if(|blob| matches!(blob.holds, Holds::Scales(..))) {
                out.record(blob)?;
                out.write(&scales)?;
            }
            scales.clear();
        }
        Ok::<(), EmitError>(())
    })?;
    for blob in places {
        out.filled(blob)?;
    }
    out.out.flush()?;
    Ok(costs.finish())
}

/// Rows as the weight file has them: scales in `fp16`, nibbles in two's complement where they are `signed`.
///
/// A scale is rounded to the nearest, which changes each number of its row or group by 2^-11 of itself at most: as much
/// as storing the numbers in `fp16` would. Where that bound does not hold, below 2^-14, the scale is rounded up and the
/// numbers are rounded anew to its multiples, which moves them by less than another such scale, 2^-14 at most.
fn pack(part: &Part<'_>, encoded: &mut Encoded, signed: bool) -> Result<Packing, WeightError> {
    const NORMAL: f32 = 1.0 / 16_384.0;
    const STEP: f32 = 1.0 / 16_777_216.0;
    let (encoding, columns) = (part.weight.ty.encoding, part.weight.ty.columns());
    if encoding.is_float() {
        return Ok(Packing::default());
    }
    let exact = Rows { encoding, packing: Packing::default(), columns, values: &[], scales: &encoded.scales }.scales();
    let rounded: Vec<f32> = exact.iter().map(|&s| if s < NORMAL { (s / STEP).ceil() * STEP } else { s }).collect();
    let group = encoding.group().unwrap_or(columns);
    let groups = columns.div_ceil(group).max(1);
    for (i, (exact, rounded)) in exact.iter().zip(&rounded).enumerate().filter(|(_, (a, b))| a != b) {
        let start = i % groups * group;
        let row = &mut encoded.values[i / groups * encoding.row_bytes(columns)..][..encoding.row_bytes(columns)];
        round_anew(row, encoding, start..columns.min(start + group), exact / rounded);
    }
    let mut halves = Encoded::default();
    let overflow = |row: usize, value: f32| WeightError::Overflow {
        weight: part.weight.name.clone(),
        tensor: part.weight.expr.stored().first().map_or(part.weight.name.clone(), |name| (*name).to_string()),
        row,
        column: 0,
        value,
        encoding: Encoding::F16,
    };
    let too_large = |i: usize| overflow(part.range.start + i / groups, rounded[i]);
    // The largest number times its scale must be one of fp16, too: it is what a device computes with.
    let largest = if encoding.is_int4() { 8.0 } else { 127.0 };
    if let Some(i) = rounded.iter().position(|s| s * largest >= 65504.0) {
        return Err(too_large(i));
    }
    quant::encode(Encoding::F16, Search::Max, 1, &rounded, &mut halves).map_err(too_large)?;
    encoded.scales = halves.values;
    if encoding.is_int4() && signed {
        encoded.values.iter_mut().for_each(|byte| *byte ^= 0x88);
    }
    Ok(Packing { signed: signed && encoding.is_int4(), high_first: false, scales: Scales::F16 })
}

/// Multiplies the numbers of one scale by `factor`, at most 1, and rounds them to the nearest.
fn round_anew(row: &mut [u8], encoding: Encoding, columns: std::ops::Range<usize>, factor: f32) {
    let anew = |q: i8| (f32::from(q) * factor).round_ties_even() as i8;
    for column in columns {
        if !encoding.is_int4() {
            row[column] = anew(row[column] as i8) as u8;
            continue;
        }
        let (byte, shift) = (&mut row[column / 2], column % 2 * 4);
        let q = (*byte >> shift & 15) as i8 - 8;
        *byte = *byte & !(15 << shift) | ((anew(q) + 8) as u8) << shift;
    }
}

/// What the weights became, in the order of the file.
struct Costs<'a> {
    module: &'a Module,
    blobs: &'a Blobs,
    list: Vec<(WeightId, Rounding)>,
    now: Option<usize>,
}

impl Costs<'_> {
    fn add(&mut self, weight: WeightId, rounding: &Rounding) {
        let place = match self.now.filter(|&i| self.list[i].0 == weight) {
            Some(i) => i,
            None => {
                self.list.push((weight, Rounding::default()));
                self.list.len() - 1
            }
        };
        self.now = Some(place);
        self.list[place].1.join(rounding);
    }

    fn finish(self) -> Vec<Cost> {
        let made = self.list.iter().filter(|(id, _)| !self.module.weight(*id).expr.stored().is_empty());
        let cost = |(id, rounding): &(WeightId, Rounding)| {
            Cost::new(self.module.weight(*id), self.blobs.bytes_of(*id), rounding)
        };
        let mut costs: Vec<Cost> = Vec::new();
        // A table that is also a head in parts is one weight of the model.
        for cost in made.map(cost) {
            if costs.iter().all(|known| known.name != cost.name) {
                costs.push(cost);
            }
        }
        costs
    }
}

/// Counts what is written and tells.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        (self.progress)(self.written, self.total);
        Ok(())
    }

    /// Writes zeros up to a record, and the record.
    fn record(&mut self, blob: &Blob) -> io::Result<()> {
        let gap = blob.offset.saturating_sub(self.written);
        self.write(&[0; 64][..gap.min(64) as usize])?;
        self.write(&blob.record.to_bytes())
    }

    /// Writes a record of equal elements: zeros, or eights where they are nibbles.
    fn filled(&mut self, blob: &Blob) -> io::Result<()> {
        self.record(blob)?;
        let byte = if blob.record.dtype == DataType::Uint4 { 0x88 } else { 0 };
        let mut left = blob.record.bytes;
        while left > 0 {
            let part = left.min(4096) as usize;
            let mut bytes = [byte; 4096];
            if part as u64 == left && blob.record.unused_bits == 4 {
                bytes[part - 1] &= 15;
            }
            self.write(&bytes[..part])?;
            left -= part as u64;
        }
        Ok(())
    }
}
