//! Constants of a file: one for the numbers of a weight, and one for its scales where they lie apart.

use diffulex_compiler::ir::{Encoding, Module, WeightId};
use diffulex_compiler::quant::Packing;

use crate::xnnpack::schema::constants::{
    DATATYPE_BF16, DATATYPE_FP16, DATATYPE_FP32, DATATYPE_INVALID, DATATYPE_QBINT4, DATATYPE_QCINT4, DATATYPE_QCINT8,
    TABLE_PACKING,
};
use crate::xnnpack::schema::delegate::{PerChannelGroupQuant, PerChannelQuant, QuantParams};

/// One constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Constant {
    /// The weight.
    pub(super) weight: WeightId,
    /// Its scales, not its numbers.
    pub(super) scales: bool,
    /// Read by an embedding, from the constant segment; others are read by the delegate, by name.
    pub(super) table: bool,
}

impl Constant {
    /// The constants of a weight.
    pub(super) fn of(module: &Module, weight: WeightId, table: bool) -> impl Iterator<Item = Constant> + use<> {
        let parts = if module.weight(weight).ty.scale_bytes() > 0 { &[false, true][..] } else { &[false] };
        parts.iter().map(move |&scales| Constant { weight, scales, table })
    }

    /// Its name; the key under which the delegate finds it.
    pub(super) fn key(self, module: &Module) -> String {
        let name = &module.weight(self.weight).name;
        if self.scales { format!("{name}.scales") } else { name.clone() }
    }

    /// Its size.
    pub(super) fn bytes(self, module: &Module) -> u64 {
        let ty = &module.weight(self.weight).ty;
        match self.scales {
            true => ty.rows() as u64 * self.packing().scale_bytes(ty.encoding, ty.columns()) as u64,
            false => ty.value_bytes(),
        }
    }

    /// Whether two constants of one weight have the same bytes.
    pub(super) fn same_bytes(self, other: Constant, module: &Module) -> bool {
        let alike = self.packing() == other.packing() || !module.weight(self.weight).ty.encoding.is_int4();
        (self.weight, self.scales) == (other.weight, other.scales) && alike
    }

    /// How its bytes are laid out.
    pub(super) fn packing(self) -> Packing {
        if self.table { TABLE_PACKING } else { Packing::default() }
    }
}

/// The datatype of a stored weight.
pub(super) fn datatype(encoding: Encoding) -> i16 {
    match encoding {
        Encoding::F32 => DATATYPE_FP32,
        Encoding::F16 => DATATYPE_FP16,
        Encoding::BF16 => DATATYPE_BF16,
        Encoding::Int8Row => DATATYPE_QCINT8,
        Encoding::Int4Row => DATATYPE_QCINT4,
        Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => DATATYPE_QBINT4,
        // A legal module has none of them.
        Encoding::U16 | Encoding::U8 => DATATYPE_INVALID,
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
