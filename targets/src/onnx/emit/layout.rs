//! Where the numbers of weights lie: in the data file, or, where they are few, in the files of the graphs.

use diffulex_compiler::ir::{Encoding, Module, Op, Operand, WeightId};
use onnx_protobuf::TensorProto;
use onnx_protobuf::tensor_proto::DataType;

use super::EmitError;
use super::names::Names;
use super::proto;
use crate::onnx::Options;
use crate::onnx::schema::{ALIGNMENT, INLINE, bytes_of, stored_as};

/// What a tensor consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// The numbers of a weight, row after row.
    Rows,
    /// The same, column after column.
    Columns,
    /// The scales of a weight, stored as its columns are.
    Scales,
    /// Zero points of a weight.
    Zeros,
}

/// A tensor of a weight.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) weight: WeightId,
    pub(super) holds: Holds,
    pub(super) name: String,
    pub(super) dtype: DataType,
    pub(super) dims: Vec<u64>,
    pub(super) bytes: u64,
    /// Where it begins in the data file, if it lies there.
    pub(super) offset: Option<u64>,
}

/// All tensors of weights, in the order of the data file; those of a weight follow one another.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) list: Vec<Tensor>,
    /// Size of the data file.
    pub(super) bytes: u64,
}

impl Layout {
    /// The tensors of a legal module.
    pub(super) fn new(module: &Module, options: &Options, names: &mut Names) -> Result<Layout, EmitError> {
        let mut layout = Layout::default();
        for (i, weight) in module.weights.iter().enumerate() {
            let id = WeightId(i as u32);
            let Some(columns) = stored_columns(module, id) else { continue };
            let mut shape: Vec<u64> = weight.ty.shape.iter().map(|&n| u64::from(n)).collect();
            let holds = if columns { Holds::Columns } else { Holds::Rows };
            if columns {
                shape.reverse();
            }
            let encoding = weight.ty.encoding;
            layout.add(id, holds, names.free(&weight.name), stored_as(encoding), shape.clone())?;
            if encoding.is_float() || encoding.grid().is_some() {
                continue;
            }
            let rows = shape.last().copied().unwrap_or(1);
            let scales = match encoding.group() {
                Some(group) => vec![weight.ty.columns() as u64 / group as u64, rows],
                None => vec![rows],
            };
            layout.add(id, Holds::Scales, names.free(&format!("{}.scale", weight.name)), float(options), scales)?;
            // Without zero points the HTP computes something else, and says nothing.
            if encoding == Encoding::Int4Row {
                layout.add(
                    id,
                    Holds::Zeros,
                    names.free(&format!("{}.zero", weight.name)),
                    DataType::INT4,
                    vec![rows],
                )?;
            }
        }
        Ok(layout)
    }

    fn add(
        &mut self,
        weight: WeightId,
        holds: Holds,
        name: String,
        dtype: DataType,
        dims: Vec<u64>,
    ) -> Result<(), EmitError> {
        let count = dims.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
        let end = count.and_then(|count| {
            let bytes = bytes_of(dtype, count)?;
            let offset = (bytes >= INLINE).then(|| self.bytes.checked_next_multiple_of(ALIGNMENT));
            match offset {
                Some(offset) => Some((bytes, Some(offset?), offset?.checked_add(bytes)?)),
                None => Some((bytes, None, self.bytes)),
            }
        });
        let Some((bytes, offset, end)) = end.filter(|(.., end)| *end <= i64::MAX as u64) else {
            return Err(EmitError::TooLarge { part: "data file", bytes: u64::MAX, limit: i64::MAX as u64 });
        };
        self.bytes = end;
        self.list.push(Tensor { weight, holds, name, dtype, dims, bytes, offset });
        Ok(())
    }

    /// The tensors of a weight.
    pub(super) fn of(&self, weight: WeightId) -> impl Iterator<Item = &Tensor> {
        self.list.iter().filter(move |tensor| tensor.weight == weight)
    }

    /// The tensor of a weight that holds this.
    pub(super) fn find(&self, weight: WeightId, holds: Holds) -> Option<&Tensor> {
        self.of(weight).find(|tensor| tensor.holds == holds)
    }

    /// Bytes of a weight, scales included.
    pub(super) fn bytes_of(&self, weight: WeightId) -> u64 {
        self.of(weight).map(|tensor| tensor.bytes).sum()
    }
}

impl Tensor {
    /// Its message; `small` are its bytes, where they lie in the file of the graph.
    pub(super) fn message(&self, file: &str, small: Option<Vec<u8>>) -> TensorProto {
        match self.offset {
            Some(offset) => proto::external(&self.name, self.dtype, &self.dims, file, [offset, self.bytes]),
            None => {
                let bytes = small.unwrap_or_else(|| vec![0; self.bytes as usize]);
                proto::inline(&self.name, self.dtype, &self.dims, bytes)
            }
        }
    }
}

/// The element type of floats.
pub(super) fn float(options: &Options) -> DataType {
    if options.half { DataType::FLOAT16 } else { DataType::FLOAT }
}

/// Whether a weight is stored column after column: a filter that is no table. Nothing, where nobody reads it.
fn stored_columns(module: &Module, id: WeightId) -> Option<bool> {
    let mut filter = None;
    for node in &module.nodes {
        for (i, arg) in node.args.iter().enumerate().filter(|(_, arg)| **arg == Operand::Weight(id)) {
            let columns = matches!((&node.op, i, arg), (Op::Linear, 1, _));
            filter = Some(filter.unwrap_or(true) && columns);
        }
    }
    filter
}
