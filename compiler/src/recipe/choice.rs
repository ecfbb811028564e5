//! The words that only recipes know.

use crate::choice::choices;
use crate::ir::Encoding;

choices! {
    /// What a build is made for.
    TargetName {
        /// ExecuTorch with the XNNPACK delegate.
        Xnnpack = "xnnpack",
        /// Core ML.
        Coreml = "coreml",
        /// ONNX, in floats.
        Onnx = "onnx",
        /// Qualcomm's HTP, by ONNX with quantized values.
        Qnn = "qnn",
    }
}

choices! {
    /// How numbers are stored, without the extent of a scale.
    Numbers {
        /// IEEE single.
        F32 = "f32",
        /// IEEE half.
        F16 = "f16",
        /// bfloat16.
        BF16 = "bf16",
        /// A byte a number, one scale a row.
        Int8 = "int8",
        /// Half a byte a number, one scale a group.
        Int4 = "int4",
    }
}

/// Extents of a scale that `group` knows; 0 is the whole row.
pub(super) const GROUPS: [u32; 4] = [0, 32, 64, 128];

impl Numbers {
    /// The encoding, with one scale for `group` inputs, one of [`GROUPS`].
    pub(super) fn encoding(self, group: u32) -> Encoding {
        match (self, group) {
            (Numbers::F32, _) => Encoding::F32,
            (Numbers::F16, _) => Encoding::F16,
            (Numbers::BF16, _) => Encoding::BF16,
            (Numbers::Int8, _) => Encoding::Int8Row,
            (Numbers::Int4, 32) => Encoding::Int4G32,
            (Numbers::Int4, 64) => Encoding::Int4G64,
            (Numbers::Int4, 128) => Encoding::Int4G128,
            (Numbers::Int4, _) => Encoding::Int4Row,
        }
    }
}
