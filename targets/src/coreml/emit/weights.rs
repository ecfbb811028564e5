//! Streams the weight file.

use std::io::{self, Write};

use diffulex_compiler::ir::{Module, WeightId};
use diffulex_compiler::quant::{Cost, Encoded, Packing, Rounding, Scales};

use super::EmitError;
use super::blobs::{Blob, Blobs, Holds};
use crate::coreml::Nibbles;
use crate::coreml::schema::blob::header;
use crate::coreml::schema::program::DataType;
use crate::emit::Counted;
use crate::stream::{self, Work};

/// Writes the weight file; gives what each weight of the model became.
pub(super) fn write(
    module: &Module,
    work: Work<'_>,
    blobs: &Blobs,
    nibbles: Nibbles,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Cost>, EmitError> {
    let mut out = Counted::new(out, blobs.bytes(), progress);
    out.write(&header(blobs.list.len() as u32))?;
    let mut places = blobs.list.iter().peekable();
    let mut costs = Costs { module, blobs, list: Vec::new(), now: None };
    let mut scales = Vec::new();
    let numbers = blobs.list.iter().filter_map(|blob| match &blob.holds {
        Holds::Numbers(id, rows) => Some((*id, rows.clone())),
        _ => None,
    });
    // The weight of each chunk, in the order of the chunks.
    let mut owners = numbers.clone().flat_map(|(id, rows)| stream::chunks_of(module.weight(id), rows).map(move |_| id));
    let chunks = numbers.flat_map(|(id, rows)| stream::chunks_of(module.weight(id), rows));
    let (mut bytes, packing) = (Encoded::default(), packing(nibbles));
    stream::encode(work, chunks, &mut |part, chunk| {
        while let Some(blob) = places.next_if(|blob| matches!(blob.holds, Holds::Filled(..))) {
            filled(blob, &mut out)?;
        }
        let missing = || EmitError::Illegal { place: "weights".into(), what: "have no place in the file".into() };
        let owner = owners.next().ok_or_else(missing)?;
        let blob = places.peek().ok_or_else(missing)?;
        if out.written < blob.record.start {
            record(blob, &mut out)?;
        }
        bytes.clear();
        packing.pack(part.weight.ty.encoding, &chunk.encoded, &mut bytes);
        out.write(&bytes.values)?;
        scales.extend_from_slice(&bytes.scales);
        costs.add(owner, &chunk.rounding);
        if part.last {
            places.next();
            if let Some(blob) = places.next_if(|blob| matches!(blob.holds, Holds::Scales(..))) {
                record(blob, &mut out)?;
                out.write(&scales)?;
            }
            scales.clear();
        }
        Ok(())
    })?;
    for blob in places {
        filled(blob, &mut out)?;
    }
    out.flush()?;
    Ok(costs.finish())
}

/// Rows as the weight file has them.
fn packing(nibbles: Nibbles) -> Packing {
    Packing { signed: nibbles == Nibbles::Signed, scales: Scales::F16, ..Packing::default() }
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

/// Writes zeros up to a record, and the record.
fn record(blob: &Blob, out: &mut Counted<'_>) -> io::Result<()> {
    out.pad_to(blob.offset)?;
    out.write(&blob.record.to_bytes())
}

/// Writes a record of equal elements: zeros, or eights where they are nibbles.
fn filled(blob: &Blob, out: &mut Counted<'_>) -> io::Result<()> {
    record(blob, out)?;
    let byte = if blob.record.dtype == DataType::Uint4 { 0x88 } else { 0 };
    let mut left = blob.record.bytes;
    while left > 0 {
        let part = left.min(4096) as usize;
        let mut bytes = [byte; 4096];
        if part as u64 == left && blob.record.unused_bits == 4 {
            bytes[part - 1] &= 15;
        }
        out.write(&bytes[..part])?;
        left -= part as u64;
    }
    Ok(())
}
