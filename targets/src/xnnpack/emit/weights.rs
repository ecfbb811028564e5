//! Streams a file: program, tables, delegate, constants.

use std::collections::HashMap;
use std::io::{self, Write};

use diffulex_compiler::ir::{Module, Weight, WeightId, WeightSource};
use diffulex_compiler::quant::Encoded;

use super::EmitError;
use super::delegate::Delegate;
use super::layout::Layout;

/// Numbers that are evaluated at a time.
const CHUNK: usize = 1 << 19;

/// What a file consists of.
pub(super) struct Parts<'a> {
    /// The module.
    pub(super) module: &'a Module,
    /// Where its numbers come from.
    pub(super) source: &'a dyn WeightSource,
    /// The program with its header.
    pub(super) program: &'a [u8],
    /// The delegate.
    pub(super) graph: &'a Delegate,
    /// Where everything goes.
    pub(super) layout: &'a Layout,
}

/// Writes all parts.
pub(super) fn write(
    parts: &Parts<'_>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), EmitError> {
    let Parts { module, layout, .. } = parts;
    let base = layout.base(parts.program.len());
    let total = layout.file_bytes(parts.program.len());
    let mut out = Counted { out, written: 0, total, progress };
    let tables = layout.tables.iter().map(|(id, offset)| (*id, base + layout.segments[0].0 + offset));
    let constants = parts.graph.constants.iter().zip(&layout.segments[2..]).map(|(c, (offset, _))| (*c, base + offset));
    let numbers = constants.clone().filter(|(constant, _)| !constant.scales).map(|(constant, _)| constant.weight);
    let mut reads = Reads::of(module, tables.clone().map(|(id, _)| id).chain(numbers));

    out.write(parts.program)?;
    for (id, offset) in tables {
        out.pad_to(offset)?;
        write_weight(module.weight(id), parts.source, &mut out, &mut Vec::new())?;
        reads.done(module, id, parts.source);
    }
    out.pad_to(base + layout.segments[1].0)?;
    out.write(&parts.graph.bytes)?;
    // Those of the weight before: scales follow their numbers.
    let mut scales = Vec::new();
    for (constant, offset) in constants {
        out.pad_to(offset)?;
        if constant.scales {
            out.write(&scales)?;
            continue;
        }
        scales.clear();
        write_weight(module.weight(constant.weight), parts.source, &mut out, &mut scales)?;
        reads.done(module, constant.weight, parts.source);
    }
    out.pad_to(total)?;
    Ok(out.out.flush()?)
}

/// Evaluates some rows at a time; writes their numbers and keeps their scales.
fn write_weight(
    weight: &Weight,
    source: &dyn WeightSource,
    out: &mut Counted<'_>,
    scales: &mut Vec<u8>,
) -> Result<(), EmitError> {
    let rows = weight.ty.rows();
    let chunk = (CHUNK / weight.ty.columns().max(1)).max(1);
    let (mut numbers, mut encoded) = (Vec::new(), Encoded::default());
    for start in (0..rows).step_by(chunk) {
        weight.encode(source, start..rows.min(start + chunk), &mut numbers, &mut encoded)?;
        out.write(&encoded.values)?;
        scales.extend_from_slice(&encoded.scales);
    }
    Ok(())
}

/// How many weights still have to read each stored tensor.
struct Reads(HashMap<String, usize>);

impl Reads {
    fn of(module: &Module, weights: impl Iterator<Item = WeightId>) -> Reads {
        let mut reads = HashMap::new();
        for id in weights {
            for name in module.weight(id).expr.stored() {
                *reads.entry(name.to_string()).or_insert(0) += 1;
            }
        }
        Reads(reads)
    }

    /// After a weight is written: gives back the tensors that nothing else reads.
    fn done(&mut self, module: &Module, id: WeightId, source: &dyn WeightSource) {
        for name in module.weight(id).expr.stored() {
            if let Some(left) = self.0.get_mut(name) {
                *left -= 1;
                if *left == 0 {
                    source.release(name);
                }
            }
        }
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

    /// Writes zeros up to an offset of the file.
    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let mut left = offset.saturating_sub(self.written);
        while left > 0 {
            let part = left.min(4096);
            self.write(&[0; 4096][..part as usize])?;
            left -= part;
        }
        Ok(())
    }
}
