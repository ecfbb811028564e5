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
    /// A quantization scheme of `recipes/base.toml`, which says what each of them is.
    Dtype {
        /// Floats of 32 bits.
        F32 = "f32",
        /// Floats of 16 bits.
        F16 = "f16",
        /// Brain floats, tokens too.
        Bf16 = "bf16",
        /// Floats of 16 bits, tokens too.
        FullF16 = "full-f16",
        /// A byte a number, one scale a row.
        Int8 = "int8",
        /// Half a byte a number, one scale a row.
        Int4 = "int4",
        /// As [`Dtype::Int8`], with tokens rounded to a byte while it runs.
        Int8Tokens8 = "8da8w",
        /// Half a byte a number, a scale for each 32, with tokens rounded to a byte while it runs.
        Int4Tokens8 = "8da4w",
        /// A byte a number, every value in 16 bits.
        W8A16 = "w8a16",
        /// The same with caches in 16 bits.
        W8A16Kv16 = "w8a16-kv16",
        /// Half a byte a number, every value in 16 bits.
        W4A16 = "w4a16",
        /// The same with a scale for each 32 numbers.
        W4A16G32 = "w4a16-g32",
        /// A byte a number, every value in 8 bits.
        W8A8 = "w8a8",
    }
}

impl Dtype {
    /// Whether it rounds every value, which only Qualcomm's HTP does.
    pub fn rounds_values(self) -> bool {
        matches!(self, Dtype::W8A16 | Dtype::W8A16Kv16 | Dtype::W4A16 | Dtype::W4A16G32 | Dtype::W8A8)
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
