//! Constants of the delegate: one for the numbers of a weight, and one for its scales where they lie apart.

use diffulex_compiler::ir::{Encoding, Module, WeightId};

use crate::xnnpack::schema::constants::{
    DATATYPE_FP16, DATATYPE_FP32, DATATYPE_QBINT4, DATATYPE_QCINT4, DATATYPE_QCINT8,
};
use crate::xnnpack::schema::delegate::{PerChannelGroupQuant, PerChannelQuant, QuantParams};

/// One constant: a segment of the file with a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Constant {
    /// The weight.
    pub(super) weight: WeightId,
    /// Its scales, not its numbers.
    pub(super) scales: bool,
}

impl Constant {
    /// The key under which the delegate finds it.
    pub(super) fn key(self, module: &Module) -> String {
        let name = &module.weight(self.weight).name;
        if self.scales { format!("{name}.scales") } else { name.clone() }
    }

    /// Its size.
    pub(super) fn bytes(self, module: &Module) -> u64 {
        let ty = &module.weight(self.weight).ty;
        if self.scales { ty.bytes() - ty.value_bytes() } else { ty.value_bytes() }
    }
}

/// The datatype of a stored weight.
pub(super) fn datatype(encoding: Encoding) -> Result<i16, String> {
    match encoding {
        Encoding::F32 => Ok(DATATYPE_FP32),
        Encoding::F16 => Ok(DATATYPE_FP16),
        Encoding::BF16 => Err("bf16 constants are not written".into()),
        Encoding::Int8Row => Ok(DATATYPE_QCINT8),
        Encoding::Int4Row => Ok(DATATYPE_QCINT4),
        Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => Ok(DATATYPE_QBINT4),
    }
}

/// Where the scales of a quantized weight `[rows, columns]` are found: constant `index`.
pub(super) fn quant_params(encoding: Encoding, shape: &[u32], index: u32) -> QuantParams {
    let (rows, columns) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
    // The list of scales inside the graph stays empty, but must be there.
    match encoding.group() {
        None => QuantParams::PerChannelQuant(Box::new(PerChannelQuant {
            scale: Some(vec![]),
            channel_dim: 0,
            scale_buffer_idx: index,
            num_scales: rows,
        })),
        Some(group) => QuantParams::PerChannelGroupQuant(Box::new(PerChannelGroupQuant {
            scale: Some(vec![]),
            channel_dim: 0,
            group_size: group as i32,
            scale_buffer_idx: index,
            num_scales: rows * (columns / group as u32),
        })),
    }
}
