//! The nodes of a delegate, one for each op.

use std::ops::Range;

use diffulex_compiler::ir::{DType, Node, Op, Operand};

use super::delegate::Assembly;
use super::plan::Tensor;
use crate::xnnpack::schema::constants::{DATATYPE_BF16, DATATYPE_FP16, DATATYPE_FP32, NO_ID, TRANSPOSE_B};
use crate::xnnpack::schema::delegate::{
    Concatenate, FullyConnected, NodeUnion, OneInput, StaticReshape, StaticSlice, StaticTranspose, TwoInputs,
};

impl Assembly<'_> {
    /// Adds a node; gives the value that it makes.
    pub(super) fn node(&mut self, node: &Node, out: &Tensor) -> Result<u32, String> {
        let op = &node.op;
        let args = node.args.iter().map(|&a| self.operand(a)).collect::<Result<Vec<u32>, String>>()?;
        let output_id = match (op, node.ty.dtype) {
            (Op::Int8Token, _) => self.dynamic_value(&out.sizes),
            (_, DType::F16) => self.value(DATATYPE_FP16, &out.sizes),
            (_, DType::BF16) => self.value(DATATYPE_BF16, &out.sizes),
            _ => self.value(DATATYPE_FP32, &out.sizes),
        };
        let same_type = |x: &Operand| self.module.operand_type(*x).dtype == node.ty.dtype;
        let one = || match args[..] {
            [input_id] => Ok(Box::new(OneInput { input_id, output_id, flags: 0 })),
            _ => Err("takes one operand".to_string()),
        };
        let two = |flags| match args[..] {
            [input1_id, input2_id] => Ok(Box::new(TwoInputs { input1_id, input2_id, output_id, flags })),
            _ => Err("takes two operands".to_string()),
        };
        let node = match op {
            Op::Add => NodeUnion::Add(two(0)?),
            Op::Sub => NodeUnion::Subtract(two(0)?),
            Op::Mul => NodeUnion::Multiply(two(0)?),
            Op::Div => NodeUnion::Div(two(0)?),
            Op::Matmul { transpose } => NodeUnion::BatchMatrixMultiply(two(if *transpose { TRANSPOSE_B } else { 0 })?),
            Op::Neg => NodeUnion::Negate(one()?),
            Op::Square => NodeUnion::Square(one()?),
            Op::Rsqrt => NodeUnion::ReciprocalSquareRoot(one()?),
            Op::Sigmoid => NodeUnion::Sigmoid(one()?),
            Op::Softmax => NodeUnion::Softmax(one()?),
            Op::Int8Token => NodeUnion::Convert(one()?),
            Op::Cast { .. } if node.args.iter().all(same_type) => NodeUnion::Copy(one()?),
            Op::Cast { .. } => NodeUnion::Convert(one()?),
            Op::Linear => fully_connected(&args, output_id)?,
            Op::Cached => concatenate(&args, 2, output_id)?,
            Op::Concat { axis } => concatenate(&args, *axis, output_id)?,
            Op::Transpose { perm } => NodeUnion::StaticTranspose(Box::new(StaticTranspose {
                num_dims: perm.len() as u32,
                perm: Some(perm.clone()),
                input_id: one()?.input_id,
                output_id,
                flags: 0,
            })),
            Op::Reshape { shape } => NodeUnion::StaticReshape(Box::new(StaticReshape {
                num_dims: shape.len() as u32,
                // 0 is the axis that XNNPACK infers; a legal reshape has at most one that depends on the step.
                new_shape: Some(shape.iter().map(|d| d.known().unwrap_or(0)).collect()),
                input_id: one()?.input_id,
                output_id,
                flags: 0,
            })),
            Op::Slice { axis, start, end } => slice(&*one()?, *axis as usize, *start..*end, out.sizes.len())?,
            other => return Err(format!("XNNPACK has no `{}`", other.name())),
        };
        self.nodes.push(node);
        Ok(output_id)
    }
}

fn fully_connected(args: &[u32], output_id: u32) -> Result<NodeUnion, String> {
    let (input1_id, filter_id, bias_id) = match *args {
        [x, filter] => (x, filter, NO_ID),
        [x, filter, bias] => (x, filter, bias),
        _ => return Err("takes two or three operands".into()),
    };
    Ok(NodeUnion::FullyConnected(Box::new(FullyConnected { input1_id, filter_id, bias_id, output_id, flags: 0 })))
}

fn concatenate(args: &[u32], axis: u32, output_id: u32) -> Result<NodeUnion, String> {
    let input = |i: usize| args.get(i).copied().unwrap_or(NO_ID);
    let node = Box::new(Concatenate {
        axis,
        input1_id: input(0),
        input2_id: input(1),
        input3_id: input(2),
        input4_id: input(3),
        output_id,
        flags: 0,
        input5_id: input(4),
    });
    match args.len() {
        // Joining one part is a copy; XNNPACK has no concatenation of one.
        1 => Ok(NodeUnion::Copy(Box::new(OneInput { input_id: args[0], output_id, flags: 0 }))),
        2 => Ok(NodeUnion::Concatenate2(node)),
        3 => Ok(NodeUnion::Concatenate3(node)),
        4 => Ok(NodeUnion::Concatenate4(node)),
        5 => Ok(NodeUnion::Concatenate5(node)),
        n => Err(format!("joins {n} parts; XNNPACK joins up to 5")),
    }
}

/// A size of 0 keeps everything up to the end, whatever the size of that axis in a step.
fn slice(one: &OneInput, axis: usize, range: Range<u32>, rank: usize) -> Result<NodeUnion, String> {
    let (mut offsets, mut sizes) = (vec![0; rank], vec![0; rank]);
    *offsets.get_mut(axis).ok_or("has no such axis")? = range.start;
    sizes[axis] = range.end - range.start;
    Ok(NodeUnion::StaticSlice(Box::new(StaticSlice {
        num_dims: rank as u32,
        offsets: Some(offsets),
        sizes: Some(sizes),
        input_id: one.input_id,
        output_id: one.output_id,
        flags: 0,
    })))
}
