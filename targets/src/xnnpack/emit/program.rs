//! The program: method `forward`, the metadata, and where the segments lie.

use std::collections::HashMap;

use diffulex_compiler::ir::{Encoding, Module, NodeId, WeightId};

use super::constant::Constant;
use super::layout::Layout;
use super::plan::{Given, Step, Tensor};
use super::{EmitError, Metadata, methods};
use crate::xnnpack::schema::constants::{
    BACKEND, EMBEDDING, EMBEDDING_BYTE, EXTENDED_LENGTH, EXTENDED_MAGIC, LOCATION_SEGMENT, PROGRAM_IDENTIFIER,
    SCALAR_BFLOAT16, SCALAR_BYTE, SCALAR_CHAR, SCALAR_FLOAT, SCALAR_HALF, SHAPE_DYNAMIC_BOUND, SHAPE_STATIC,
};
use crate::xnnpack::schema::finish;
use crate::xnnpack::schema::program::{
    AllocationDetails, BackendDelegate, BackendDelegateDataReference, Bool, Chain, DataSegment, DelegateCall, EValue,
    ExecutionPlan, ExtraTensorInfo, Instruction, InstructionArguments, Int, KernelCall, KernelTypes, NamedData, Null,
    Operator, Program, SubsegmentOffsets, Tensor as StoredTensor,
};

/// The first planned arena.
const ARENA: u32 = 1;
/// Segments before those of the constants: the tables and the delegate.
const FIRST_CONSTANT: u32 = 2;
/// Flatbuffer offsets are signed.
const LIMIT: u64 = i32::MAX as u64;

/// The program with its extended header, to the end of the flatbuffer.
pub(super) fn build(
    module: &Module,
    step: &Step,
    layout: &Layout,
    constants: &[Constant],
    metadata: &Metadata,
) -> Result<Vec<u8>, EmitError> {
    let mut plans = vec![forward(module, step, layout)?];
    plans.extend(methods::all(module, metadata));
    let offsets = std::iter::once(0).chain(layout.tables.iter().map(|(_, offset)| *offset)).collect();
    let named = constants.iter().zip(FIRST_CONSTANT..);
    let named = named.map(|(constant, segment_index)| NamedData { key: Some(constant.key(module)), segment_index });
    let program = Program {
        version: 0,
        execution_plan: Some(plans),
        constant_buffer: Some(vec![]),
        backend_delegate_data: Some(vec![]),
        segments: Some(layout.segments.iter().map(|&(offset, size)| DataSegment { offset, size }).collect()),
        constant_segment: Some(Box::new(SubsegmentOffsets { segment_index: 0, offsets: Some(offsets) })),
        mutable_data_segments: None,
        named_data: Some(named.collect()),
    };
    with_header(&finish(&program, PROGRAM_IDENTIFIER), layout)
}

/// Inserts the extended header between the identifier and the rest. Offsets in a flatbuffer are relative, so only the
/// one at its start moves.
fn with_header(program: &[u8], layout: &Layout) -> Result<Vec<u8>, EmitError> {
    let size = program.len() as u64 + u64::from(EXTENDED_LENGTH);
    let Some((start, rest)) = program.split_at_checked(8).filter(|_| size < LIMIT) else {
        return Err(EmitError::TooLarge { part: "the program", bytes: size, limit: LIMIT });
    };
    let root = u32::from_le_bytes([start[0], start[1], start[2], start[3]]) + EXTENDED_LENGTH;
    let mut bytes = Vec::with_capacity(size as usize);
    bytes.extend(root.to_le_bytes());
    bytes.extend(&start[4..]);
    bytes.extend(EXTENDED_MAGIC);
    bytes.extend(EXTENDED_LENGTH.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(size.next_multiple_of(layout.alignment).to_le_bytes());
    bytes.extend(layout.segment_data.to_le_bytes());
    bytes.extend(rest);
    Ok(bytes)
}

fn forward(module: &Module, step: &Step, layout: &Layout) -> Result<ExecutionPlan, EmitError> {
    let mut values = Vec::new();
    let mut push = |value: KernelTypes| {
        values.push(EValue { val: Some(value) });
        values.len() as i32 - 1
    };
    let given = |tensor: &Tensor| KernelTypes::Tensor(Box::new(stored(tensor)));
    let mut known: HashMap<NodeId, i32> = HashMap::new();
    for (id, tensor) in &step.inputs {
        known.insert(*id, push(given(tensor)));
    }
    let caches: Vec<i32> = step.caches.iter().map(|(_, tensor)| push(given(tensor))).collect();
    let mut tables: HashMap<(WeightId, bool), i32> = HashMap::new();
    for (i, (constant, _)) in (1..).zip(&layout.tables) {
        tables.insert((constant.weight, constant.scales), push(table(module, *constant, i)));
    }
    let rows: Vec<i32> =
        step.embeddings.iter().zip(&layout.embeddings).map(|(e, at)| push(planned(&e.out, *at))).collect();
    let outputs: Vec<i32> =
        step.outputs.iter().zip(&layout.outputs).map(|((_, t), at)| push(planned(t, *at))).collect();
    let mut kernels: Vec<(&str, &str)> = Vec::new();
    let mut instructions = Vec::new();
    for (embedding, &out) in step.embeddings.iter().zip(&rows) {
        let (numbers, ids) = (tables[&(embedding.table, false)], known[&embedding.ids]);
        let args = match embedding.kernel {
            EMBEDDING => {
                let no_padding = push(KernelTypes::Int(Box::new(Int { value: -1 })));
                let off = push(KernelTypes::Bool(Box::new(Bool { value: false })));
                vec![numbers, ids, no_padding, off, off, out, out]
            }
            kernel => {
                let (least, most) = if kernel == EMBEDDING_BYTE { (-128, 127) } else { (-8, 7) };
                let [least, most] = [least, most].map(|value| push(KernelTypes::Int(Box::new(Int { value }))));
                let no_zero_points = push(KernelTypes::Null(Box::new(Null {})));
                vec![numbers, tables[&(embedding.table, true)], no_zero_points, least, most, ids, out, out]
            }
        };
        let op_index = kernels.iter().position(|kernel| *kernel == embedding.kernel).unwrap_or_else(|| {
            kernels.push(embedding.kernel);
            kernels.len() - 1
        }) as i32;
        instructions.push(InstructionArguments::KernelCall(Box::new(KernelCall { op_index, args: Some(args) })));
    }
    let external = |given: Given| match given {
        Given::Embedding(i) => rows[i],
        Given::Input(id) => known[&id],
        Given::Cache(id) => caches[step.caches.iter().position(|(c, _)| *c == id).unwrap_or_default()],
    };
    let args = step.given(module).into_iter().map(external).chain(outputs.iter().copied()).collect();
    let call = InstructionArguments::DelegateCall(Box::new(DelegateCall { delegate_index: 0, args: Some(args) }));
    instructions.push(call);
    let instructions = instructions.into_iter().map(|args| Instruction { instr_args: Some(args) }).collect();
    let operator =
        |(name, overload): (&str, &str)| Operator { name: Some(name.into()), overload: Some(overload.into()) };
    let arena = i64::try_from(layout.arena).unwrap_or(i64::MAX);
    let inputs = step.inputs.iter().map(|(id, _)| known[id]).chain(caches.iter().copied()).collect();
    Ok(ExecutionPlan {
        name: Some("forward".into()),
        container_meta_type: Some(methods::no_metadata()),
        inputs: Some(inputs),
        outputs: Some(outputs),
        values: Some(values),
        chains: Some(vec![Chain { inputs: Some(vec![]), outputs: Some(vec![]), instructions: Some(instructions) }]),
        operators: Some(kernels.into_iter().map(operator).collect()),
        delegates: Some(vec![BackendDelegate {
            id: Some(BACKEND.into()),
            processed: Some(Box::new(BackendDelegateDataReference { location: LOCATION_SEGMENT, index: 1 })),
            compile_specs: Some(vec![]),
        }]),
        non_const_buffer_sizes: Some(vec![0, arena]),
    })
}

/// A tensor whose memory the caller brings.
fn stored(tensor: &Tensor) -> StoredTensor {
    StoredTensor {
        scalar_type: tensor.scalar,
        storage_offset: 0,
        sizes: Some(tensor.sizes.iter().map(|&n| n as i32).collect()),
        dim_order: Some((0..tensor.sizes.len() as u8).collect()),
        requires_grad: false,
        data_buffer_idx: 0,
        allocation_info: None,
        layout: 0,
        shape_dynamism: if tensor.dynamic { SHAPE_DYNAMIC_BOUND } else { SHAPE_STATIC },
        extra_tensor_info: None,
    }
}

/// A tensor in the arena.
fn planned(tensor: &Tensor, offset: u64) -> KernelTypes {
    let place = AllocationDetails {
        memory_id: ARENA,
        memory_offset_low: offset as u32,
        memory_offset_high: (offset >> 32) as u32,
    };
    KernelTypes::Tensor(Box::new(StoredTensor { allocation_info: Some(Box::new(place)), ..stored(tensor) }))
}

/// A table in the constant segment, or its scales. ExecuTorch has no use for the name; a reader has.
fn table(module: &Module, constant: Constant, data_buffer_idx: u32) -> KernelTypes {
    let ty = &module.weight(constant.weight).ty;
    let (rows, columns) = (ty.rows() as u32, ty.columns() as u32);
    let groups = ty.encoding.group().map(|group| columns / group as u32);
    let (scalar, sizes) = match ty.encoding {
        _ if constant.scales => (SCALAR_FLOAT, std::iter::once(rows).chain(groups).collect()),
        Encoding::F32 => (SCALAR_FLOAT, vec![rows, columns]),
        Encoding::F16 => (SCALAR_HALF, vec![rows, columns]),
        Encoding::BF16 => (SCALAR_BFLOAT16, vec![rows, columns]),
        Encoding::Int8Row => (SCALAR_CHAR, vec![rows, columns]),
        // A legal module has no table of these.
        Encoding::U16 | Encoding::U8 => (SCALAR_BYTE, vec![rows, ty.row_bytes() as u32]),
        Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => {
            (SCALAR_BYTE, vec![rows, columns / 2])
        }
    };
    let tensor = Tensor { scalar, sizes, dynamic: false };
    let name = ExtraTensorInfo { fully_qualified_name: Some(constant.key(module)), ..Default::default() };
    KernelTypes::Tensor(Box::new(StoredTensor {
        data_buffer_idx,
        extra_tensor_info: Some(Box::new(name)),
        ..stored(&tensor)
    }))
}
