//! Streams a file: program, tables, delegate, constants.

use std::io::Write;

use diffulex_compiler::ir::Module;
use diffulex_compiler::quant::{Cost, Encoded, Rounding};

use super::EmitError;
use super::constant::Constant;
use super::delegate::Delegate;
use super::layout::Layout;
use crate::emit::Counted;
use crate::stream::{self, Work};

/// What a file consists of.
pub(super) struct Parts<'a> {
    /// The module.
    pub(super) module: &'a Module,
    /// Where its numbers come from.
    pub(super) work: Work<'a>,
    /// The program with its header.
    pub(super) program: &'a [u8],
    /// The delegate.
    pub(super) graph: &'a Delegate,
    /// Where everything goes.
    pub(super) layout: &'a Layout,
}

/// Writes all parts; gives what each weight of the model became.
pub(super) fn write(
    parts: &Parts<'_>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Cost>, EmitError> {
    let Parts { layout, graph, .. } = parts;
    let base = layout.base(parts.program.len());
    let total = layout.file_bytes(parts.program.len());
    let mut out = Counted::new(out, total, progress);
    out.write(parts.program)?;
    let tables: Vec<(Constant, u64)> =
        layout.tables.iter().map(|(c, offset)| (*c, base + layout.segments[0].0 + offset)).collect();
    let mut costs = constants(parts, &tables, &mut out)?;
    let delegate = base + layout.segments[1].0;
    out.pad_to(delegate)?;
    out.write(&graph.bytes)?;
    // What lies before the delegate is a table too, and written.
    let filters = graph.constants.iter().zip(&layout.segments[2..]).map(|(c, (offset, _))| (*c, base + offset));
    let filters: Vec<(Constant, u64)> = filters.filter(|(_, offset)| *offset > delegate).collect();
    costs.extend(constants(parts, &filters, &mut out)?);
    out.pad_to(total)?;
    out.flush()?;
    Ok(costs)
}

/// Writes constants to their offsets, which ascend. The scales of a weight follow its numbers.
fn constants(parts: &Parts<'_>, list: &[(Constant, u64)], out: &mut Counted<'_>) -> Result<Vec<Cost>, EmitError> {
    let weight = |constant: &Constant| parts.module.weight(constant.weight);
    let numbers = || list.iter().filter(|(constant, _)| !constant.scales);
    let mut places = list.iter().peekable();
    let mut costs = Vec::new();
    let (mut scales, mut rounding, mut bytes) = (Vec::new(), Rounding::default(), Encoded::default());
    let chunks = numbers().flat_map(|(constant, _)| stream::chunks(weight(constant)));
    stream::encode(parts.work, chunks, &mut |rows, chunk| {
        let ty = &rows.weight.ty;
        let missing =
            || EmitError::Illegal { place: rows.weight.name.clone(), what: "has no place in the file".into() };
        let (constant, offset) = **places.peek().ok_or_else(missing)?;
        if rows.range.start == 0 {
            out.pad_to(offset)?;
        }
        bytes.clear();
        constant.packing().pack(ty.encoding, &chunk.encoded, &mut bytes);
        out.write(&bytes.values)?;
        scales.extend_from_slice(&bytes.scales);
        rounding.join(&chunk.rounding);
        if rows.last {
            places.next();
            if let Some((_, offset)) = places.next_if(|(constant, _)| constant.scales) {
                out.pad_to(*offset)?;
                out.write(&scales)?;
            }
            scales.clear();
            let stored: u64 =
                Constant::of(parts.module, constant.weight, constant.table).map(|c| c.bytes(parts.module)).sum();
            let rounding = std::mem::take(&mut rounding);
            // What formulas make is no weight of the model.
            if !rows.weight.expr.stored().is_empty() {
                costs.push(Cost::new(rows.weight, stored, &rounding));
            }
        }
        Ok(())
    })?;
    Ok(costs)
}
