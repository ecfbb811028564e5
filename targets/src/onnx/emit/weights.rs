//! Streams the numbers of weights: into the data file, and the few of small ones into memory.
//!
//! A matrix that is stored column after column is complete only with its last row: one is held in memory.

use std::io::Write;

use diffulex_compiler::ir::{Module, WeightId};
use diffulex_compiler::quant::{Cost, Encoded, Packing, Rounding, Scales};
use rayon::prelude::*;

use super::EmitError;
use super::graph::illegal;
use super::layout::{Holds, Layout, Tensor};
use crate::emit::Counted;
use crate::onnx::Options;
use crate::stream::{self, Part, Work};

/// The bytes of tensors that lie in the files of graphs, in the order of the layout.
pub(super) type Small = Vec<Option<Vec<u8>>>;

/// Writes the data file; gives what each weight of the model became, and the small tensors.
pub(super) fn write(
    module: &Module,
    work: Work<'_>,
    layout: &Layout,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Cost>, Small), EmitError> {
    let mut file = File { layout, out: Counted::new(out, layout.bytes, progress), small: Vec::new() };
    let scales = if options.half { Scales::F16 } else { Scales::F32 };
    let packing = Packing { signed: true, scales, ..Packing::default() };
    let mut weights: Vec<WeightId> = layout.list.iter().map(|tensor| tensor.weight).collect();
    weights.dedup();
    let mut owners = weights.iter();
    let mut now: Option<Making<'_>> = None;
    let (mut costs, mut bytes) = (Vec::new(), Encoded::default());
    let chunks = weights.iter().flat_map(|id| {
        let kept = layout.of(*id).any(|tensor| tensor.offset.is_none());
        stream::chunks(module.weight(*id)).map(move |part| Part { kept, ..part })
    });
    stream::encode(work, chunks, &mut |part, chunk| {
        let mut making = match now.take() {
            Some(making) => making,
            None => {
                let missing = || illegal(&part.weight.name, "has no place in the file");
                Making::new(*owners.next().ok_or_else(missing)?, part, layout).ok_or_else(missing)?
            }
        };
        bytes.clear();
        packing.pack(part.weight.ty.encoding, &chunk.encoded, &mut bytes);
        making.add(part, &bytes, &mut file)?;
        making.rounding.join(&chunk.rounding);
        if !part.last {
            now = Some(making);
            return Ok(());
        }
        let (id, rounding) = (making.weight, making.rounding);
        making.finish(part, packing, &mut file)?;
        // What formulas make is no weight of the model.
        if !part.weight.expr.stored().is_empty() {
            costs.push(Cost::new(part.weight, layout.bytes_of(id), &rounding));
        }
        Ok(())
    })?;
    file.out.flush()?;
    Ok((costs, file.small))
}

/// The data file as far as it is written.
struct File<'a> {
    layout: &'a Layout,
    out: Counted<'a>,
    small: Small,
}

impl File<'_> {
    /// Whether the next tensor is this one of a weight.
    fn next(&self, weight: WeightId, holds: Holds) -> Option<&Tensor> {
        self.layout.list.get(self.small.len()).filter(|tensor| tensor.weight == weight && tensor.holds == holds)
    }

    /// Writes the next tensor in one.
    fn tensor(&mut self, bytes: &[u8]) -> Result<(), EmitError> {
        let offset = self.layout.list.get(self.small.len()).and_then(|tensor| tensor.offset);
        let small = match offset {
            Some(offset) => {
                self.out.pad_to(offset)?;
                self.out.write(bytes)?;
                None
            }
            None => Some(bytes.to_vec()),
        };
        self.small.push(small);
        Ok(())
    }
}

/// A weight of which some rows are made.
struct Making<'a> {
    weight: WeightId,
    tensor: &'a Tensor,
    /// Its numbers so far where they are not written yet; a nibble has a byte.
    numbers: Vec<u8>,
    scales: Vec<u8>,
    rounding: Rounding,
}

impl<'a> Making<'a> {
    fn new(weight: WeightId, part: &Part<'_>, layout: &'a Layout) -> Option<Making<'a>> {
        let tensor = layout.find(weight, Holds::Columns).or_else(|| layout.find(weight, Holds::Rows))?;
        let ty = &part.weight.ty;
        let held = tensor.holds == Holds::Columns;
        let numbers = if held { vec![0; ty.rows() * ty.columns() * element(part)] } else { Vec::new() };
        Some(Making { weight, tensor, numbers, scales: Vec::new(), rounding: Rounding::default() })
    }

    fn add(&mut self, part: &Part<'_>, bytes: &Encoded, file: &mut File<'_>) -> Result<(), EmitError> {
        self.scales.extend_from_slice(&bytes.scales);
        let (rows, columns, width) = (part.weight.ty.rows(), part.weight.ty.columns(), element(part));
        match (self.tensor.holds, self.tensor.offset) {
            (Holds::Columns, _) if part.weight.ty.encoding.is_int4() => {
                let nibbles: Vec<u8> = bytes.values.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
                turn(&nibbles, columns, width, &mut self.numbers, rows, part.range.start);
            }
            (Holds::Columns, _) => turn(&bytes.values, columns, width, &mut self.numbers, rows, part.range.start),
            (_, Some(offset)) => {
                if part.range.start == 0 {
                    file.out.pad_to(offset)?;
                }
                file.out.write(&bytes.values)?;
            }
            (_, None) => self.numbers.extend_from_slice(&bytes.values),
        }
        Ok(())
    }

    fn finish(self, part: &Part<'_>, packing: Packing, file: &mut File<'_>) -> Result<(), EmitError> {
        let ty = &part.weight.ty;
        if self.tensor.holds == Holds::Rows && self.tensor.offset.is_some() {
            file.small.push(None);
        } else if ty.encoding.is_int4() {
            let bytes: Vec<u8> =
                self.numbers.par_chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4).collect();
            file.tensor(&bytes)?;
        } else {
            file.tensor(&self.numbers)?;
        }
        if file.next(self.weight, Holds::Scales).is_some() {
            let groups = ty.encoding.group().map_or(1, |group| ty.columns() / group);
            let width = packing.scale_bytes(ty.encoding, ty.columns()) / groups.max(1);
            let mut scales = vec![0; self.scales.len()];
            turn(&self.scales, groups, width, &mut scales, ty.rows(), 0);
            file.tensor(&scales)?;
        }
        if let Some(zeros) = file.next(self.weight, Holds::Zeros) {
            let zeros = vec![0; zeros.bytes as usize];
            file.tensor(&zeros)?;
        }
        Ok(())
    }
}

/// Bytes of a number while rows become columns.
fn element(part: &Part<'_>) -> usize {
    if part.weight.ty.encoding.is_int4() { 1 } else { part.weight.ty.encoding.row_bytes(1) }
}

/// Puts rows of `columns` elements, each of `width` bytes, into a matrix of so many `rows` that is stored column after
/// column; the first of them is row `first`.
fn turn(values: &[u8], columns: usize, width: usize, matrix: &mut [u8], rows: usize, first: usize) {
    if columns == 0 || width == 0 || rows == 0 {
        return;
    }
    matrix.par_chunks_mut(rows * width).enumerate().for_each(|(k, column)| {
        let made = column[first * width..].chunks_exact_mut(width);
        for (to, row) in made.zip(values.chunks_exact(columns * width)) {
            to.copy_from_slice(&row[k * width..(k + 1) * width]);
        }
    });
}
