//! Types of the two flatbuffers in a `.pte` file: the [`program`] and the [`delegate`]'s graph.
//!
//! The `.rs` files beside this one are generated from the `.fbs` files by `planus-cli` 1.3 and never edited:
//!
//! ```text
//! planus rust -o program_generated.rs program.fbs
//! planus rust -o xnnpack_generated.rs xnnpack.fbs
//! ```

#[rustfmt::skip]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]
mod program_generated;
#[rustfmt::skip]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]
mod xnnpack_generated;

pub(super) use program_generated::program;
pub(super) use xnnpack_generated::xnnpack as delegate;

/// Constants of the formats, named after the schema field or enumeration that they mirror.
pub(super) mod constants {
    use diffulex_compiler::quant::{Packing, Scales};

    /// File identifier of a program.
    pub(crate) const PROGRAM_IDENTIFIER: [u8; 4] = *b"ET12";
    /// Magic of the extended header inside a program.
    pub(crate) const EXTENDED_MAGIC: [u8; 4] = *b"eh00";
    /// Bytes of the extended header.
    pub(crate) const EXTENDED_LENGTH: u32 = 32;
    /// Magic of a delegate's header.
    pub(crate) const DELEGATE_MAGIC: [u8; 4] = *b"XH00";
    /// Bytes of a delegate's header.
    pub(crate) const DELEGATE_LENGTH: u16 = 30;
    /// File identifier of a delegate's graph.
    pub(crate) const GRAPH_IDENTIFIER: [u8; 4] = *b"XN01";
    /// The same without the deprecations.
    pub(crate) const GRAPH_IDENTIFIER_OLD: [u8; 4] = *b"XN00";
    /// `BackendDelegate.id`.
    pub(crate) const BACKEND: &str = "XnnpackBackend";

    /// `ScalarType.BYTE`.
    pub(crate) const SCALAR_BYTE: i8 = 0;
    /// `ScalarType.CHAR`.
    pub(crate) const SCALAR_CHAR: i8 = 1;
    /// `ScalarType.LONG`.
    pub(crate) const SCALAR_LONG: i8 = 4;
    /// `ScalarType.HALF`.
    pub(crate) const SCALAR_HALF: i8 = 5;
    /// `ScalarType.FLOAT`.
    pub(crate) const SCALAR_FLOAT: i8 = 6;
    /// `ScalarType.BFLOAT16`.
    pub(crate) const SCALAR_BFLOAT16: i8 = 15;
    /// `TensorShapeDynamism.STATIC`.
    pub(crate) const SHAPE_STATIC: i8 = 0;
    /// `TensorShapeDynamism.DYNAMIC_BOUND`.
    pub(crate) const SHAPE_DYNAMIC_BOUND: i8 = 1;
    /// `DataLocation.SEGMENT`.
    pub(crate) const LOCATION_SEGMENT: i8 = 1;

    /// No datatype at all.
    pub(crate) const DATATYPE_INVALID: i16 = 0;
    /// `XNNDatatype.xnn_datatype_fp32`.
    pub(crate) const DATATYPE_FP32: i16 = 1;
    /// `XNNDatatype.xnn_datatype_fp16`.
    pub(crate) const DATATYPE_FP16: i16 = 2;
    /// `XNNDatatype.xnn_datatype_qcint8`.
    pub(crate) const DATATYPE_QCINT8: i16 = 6;
    /// `XNNDatatype.xnn_datatype_qcint4`.
    pub(crate) const DATATYPE_QCINT4: i16 = 8;
    /// `XNNDatatype.xnn_datatype_qdint8`.
    pub(crate) const DATATYPE_QDINT8: i16 = 9;
    /// `XNNDatatype.xnn_datatype_qbint4`.
    pub(crate) const DATATYPE_QBINT4: i16 = 10;
    /// `XNNDatatype.xnn_datatype_bf16`.
    pub(crate) const DATATYPE_BF16: i16 = 14;
    /// `external_id` of an internal value, and an operand that is absent: `XNN_INVALID_VALUE_ID`.
    pub(crate) const NO_ID: u32 = u32::MAX;
    /// `XNNTensorValue.flags` of an external input.
    pub(crate) const VALUE_EXTERNAL_INPUT: u32 = 1;
    /// `XNNTensorValue.flags` of an external output.
    pub(crate) const VALUE_EXTERNAL_OUTPUT: u32 = 2;
    /// `flags` of a matrix multiplication whose second operand is stored transposed.
    pub(crate) const TRANSPOSE_B: u32 = 1;
    /// `ConstantDataOffset.offset` of an entry that is named.
    pub(crate) const NAMED: u64 = u64::MAX;
    /// Quantized tables as the kernels of `quantized_decomposed` read them: `embedding_4bit` takes the first of two
    /// numbers from the high half of a byte, and both take scales in f32.
    pub(crate) const TABLE_PACKING: Packing =
        Packing { high_first: true, signed: false, scales: Scales::F32, turned: false, grid: None };
    /// Kernel of tables of floats, `(name, overload)`.
    pub(crate) const EMBEDDING: (&str, &str) = ("aten::embedding", "out");
    /// Kernel of tables in int8, of the library of quantized kernels.
    pub(crate) const EMBEDDING_BYTE: (&str, &str) = ("quantized_decomposed::embedding_byte", "out");
    /// Kernel of tables in int4, of the same library.
    pub(crate) const EMBEDDING_4BIT: (&str, &str) = ("quantized_decomposed::embedding_4bit", "out");
    /// Most axes of a value.
    pub(crate) const MAX_RANK: usize = 6;
    /// Most external values.
    pub(crate) const MAX_EXTERNS: usize = 4096;
}

/// A finished flatbuffer with its identifier.
///
/// planus 1.3 puts the identifier before the offset of the root; every other flatbuffers library expects it after. So
/// the buffer is finished with room for both, and its first eight bytes are written here.
pub(super) fn finish<T>(root: impl planus::WriteAsOffset<T>, identifier: [u8; 4]) -> Vec<u8> {
    let mut builder = planus::Builder::new();
    let mut bytes = builder.finish(root, Some(identifier)).to_vec();
    if let Some((first, second)) = bytes.first_chunk_mut::<8>().and_then(|start| start.split_first_chunk_mut::<4>())
        && *first == identifier
        && let Ok(offset) = <[u8; 4]>::try_from(&*second)
    {
        *first = (u32::from_le_bytes(offset) + 4).to_le_bytes();
        second.copy_from_slice(&identifier);
    }
    bytes
}
