//! Names, element types and versions.

use diffulex_compiler::ir::{CacheId, CacheKind, Encoding, Module, NodeId, Op, Operand};
use diffulex_compiler::quant::{Grid, GridType};
use onnx_protobuf::tensor_proto::DataType;

use super::Form;

/// Token ids.
pub(super) const TOKENS: &str = "input_ids";
/// Rows of the rotation.
pub(super) const COS: &str = "cos";
/// The same of the sine.
pub(super) const SIN: &str = "sin";
/// The additive mask.
pub(super) const MASK: &str = "attn_mask";
/// What a step gives.
pub(super) const LOGITS: &str = "logits";

/// The dimension of tokens, of cached positions, and of both.
pub(super) const DIMS: [&str; 3] = ["T", "C", "C+T"];

/// Keys of the metadata.
pub(super) mod keys {
    pub(in crate::onnx) const NAME: &str = "diffulex.name";
    pub(in crate::onnx) const GENERATION: &str = "diffulex.generation";
    pub(in crate::onnx) const RECIPE: &str = "diffulex.recipe";
    pub(in crate::onnx) const THETA: &str = "diffulex.rope_theta";
    pub(in crate::onnx) const MAX_TOKENS: &str = "diffulex.max_tokens";
    pub(in crate::onnx) const MAX_CACHE: &str = "diffulex.max_cache";
    pub(in crate::onnx) const SEARCH: &str = "diffulex.search";
}

/// The norm as ONNX Runtime adds it to the default domain, and as the standard has it since opset 23.
pub(super) const NORMS: [&str; 2] = ["SimplifiedLayerNormalization", "RMSNormalization"];

/// Offsets in the data file are multiples of this.
pub(super) const ALIGNMENT: u64 = 64;
/// Tensors of fewer bytes lie in the file of the graph.
pub(super) const INLINE: u64 = 1024;

/// The order of axes that stands for storing keys transposed.
pub(super) const KEYS: [u32; 4] = [0, 1, 3, 2];

/// Opset and version of the file format.
pub(super) fn versions(form: Form) -> (i64, i64) {
    match form {
        Form::Standard => (23, 11),
        Form::Qnn => (21, 10),
    }
}

/// The committed rows of a cache.
pub(super) fn past(cache: CacheId) -> String {
    format!("past_{}_{}", cache.kind.name(), cache.layer)
}

/// The new rows of a cache.
pub(super) fn new(cache: CacheId) -> String {
    format!("new_{}_{}", cache.kind.name(), cache.layer)
}

/// All caches, in the order of inputs and outputs.
pub(super) fn caches(layers: u32) -> impl Iterator<Item = CacheId> {
    (0..layers).flat_map(|layer| [CacheKind::K, CacheKind::V].map(|kind| CacheId { layer, kind }))
}

/// The element type of stored numbers.
pub(super) fn stored_as(encoding: Encoding) -> DataType {
    match encoding {
        Encoding::F32 => DataType::FLOAT,
        Encoding::F16 => DataType::FLOAT16,
        Encoding::BF16 => DataType::BFLOAT16,
        Encoding::U16 => DataType::UINT16,
        Encoding::U8 => DataType::UINT8,
        Encoding::Int8Row => DataType::INT8,
        Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => DataType::INT4,
    }
}

/// Bytes of so many elements.
pub(super) fn bytes_of(dtype: DataType, count: u64) -> Option<u64> {
    Some(match dtype {
        DataType::INT4 | DataType::UINT4 => count.div_ceil(2),
        DataType::INT8 | DataType::UINT8 => count,
        DataType::FLOAT16 | DataType::BFLOAT16 | DataType::INT16 | DataType::UINT16 => count.checked_mul(2)?,
        DataType::FLOAT | DataType::INT32 => count.checked_mul(4)?,
        DataType::INT64 => count.checked_mul(8)?,
        _ => return None,
    })
}

/// The element type of the whole numbers of a grid.
pub(super) fn grid_type(ty: GridType) -> DataType {
    match ty {
        GridType::U8 => DataType::UINT8,
        GridType::I8 => DataType::INT8,
        GridType::U16 => DataType::UINT16,
        GridType::I16 => DataType::INT16,
    }
}

/// The grid that the values of a node lie on: that of its rounding or, where numbers are only moved, of all its operands.
pub(super) fn grid_of(op: &Op, operands: &[Option<Grid>]) -> Option<Grid> {
    match (op, operands) {
        (Op::FakeQuantize(grid), _) => Some(*grid),
        // A cache is on the grid of its new rows.
        (Op::Cached, [_, rows]) => *rows,
        (Op::Embed, [_, table]) => *table,
        (Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. }, [first, rest @ ..]) => {
            first.filter(|_| rest.iter().all(|other| other == first))
        }
        _ => None,
    }
}

/// The grid that a value of a module lies on. Only where numbers are moved it depends on operands, which are followed no
/// further than that: else every path through the module would be walked.
pub(super) fn grid_at(module: &Module, id: NodeId) -> Option<Grid> {
    let node = module.node(id);
    let of = |arg: &Operand| match arg {
        Operand::Node(id) => grid_at(module, *id),
        Operand::Weight(id) => module.weight(*id).grid,
        Operand::Cache(_) => None,
    };
    let operands: Vec<Option<Grid>> = match node.op {
        Op::Cached | Op::Embed | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } => {
            node.args.iter().map(of).collect()
        }
        _ => vec![],
    };
    grid_of(&node.op, &operands)
}
