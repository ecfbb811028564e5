//! The nodes of a delegate.

use std::collections::HashMap;

use diffulex_compiler::ir::Op;
use planus::Vector;

use super::error::{Place, Result};
use crate::xnnpack::schema::constants::{MAX_RANK, NO_ID, TRANSPOSE_B};
use crate::xnnpack::schema::delegate::{ConcatenateRef, NodeRef, NodeUnionRef, OneInputRef, TwoInputsRef};

/// A node whose operands are places in the list of values.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) inputs: Vec<usize>,
    pub(super) output: usize,
}

/// What a node does.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// What the op of the IR does.
    Op(Op),
    /// A reshape; 0 is the axis that is inferred.
    Reshape(Vec<u32>),
    /// A part along several axes, as offsets and sizes; size 0 is all up to the end.
    Slice(Vec<u32>, Vec<u32>),
    /// A change of datatype.
    Convert,
    /// The same numbers again.
    Copy,
}

impl Node {
    /// Whether XNNPACK copies this operand when the graph is loaded.
    pub(super) fn packs(&self, operand: usize) -> bool {
        matches!(self.kind, Kind::Op(Op::Linear)) && operand > 0
    }
}

/// Reads node `index`.
pub(super) fn read(node: &NodeRef<'_>, index: usize, by_id: &HashMap<u32, usize>) -> Result<Node> {
    let place = Place::Node(index);
    if let Some(range) = place.got(node.output_min_max())? {
        let open = (place.got(range.output_min())?, place.got(range.output_max())?);
        if open != (f32::NEG_INFINITY, f32::INFINITY) {
            return Err(place.unsupported(format!("a clamp to {}..{}", open.0, open.1)));
        }
    }
    let read = Reading { place, by_id };
    let union = read.place.need("xnode_union", node.xnode_union())?;
    Ok(match union {
        NodeUnionRef::Add(node) => read.two(Op::Add, &node)?,
        NodeUnionRef::Subtract(node) => read.two(Op::Sub, &node)?,
        NodeUnionRef::Multiply(node) => read.two(Op::Mul, &node)?,
        NodeUnionRef::Div(node) => read.two(Op::Div, &node)?,
        NodeUnionRef::BatchMatrixMultiply(node) => {
            let flags = read.place.got(node.flags())?;
            let transpose = flags == TRANSPOSE_B;
            read.flags(flags & !TRANSPOSE_B)?;
            let ids = [node.input1_id(), node.input2_id()];
            read.node(Kind::Op(Op::Matmul { transpose }), ids, node.output_id())?
        }
        NodeUnionRef::Negate(node) => read.one(Kind::Op(Op::Neg), &node)?,
        NodeUnionRef::Square(node) => read.one(Kind::Op(Op::Square), &node)?,
        NodeUnionRef::ReciprocalSquareRoot(node) => read.one(Kind::Op(Op::Rsqrt), &node)?,
        NodeUnionRef::Sigmoid(node) => read.one(Kind::Op(Op::Sigmoid), &node)?,
        NodeUnionRef::Softmax(node) => read.one(Kind::Op(Op::Softmax), &node)?,
        NodeUnionRef::Convert(node) => read.one(Kind::Convert, &node)?,
        NodeUnionRef::Copy(node) => read.one(Kind::Copy, &node)?,
        NodeUnionRef::FullyConnected(node) => {
            read.flags(read.place.got(node.flags())?)?;
            let mut ids = vec![node.input1_id(), node.filter_id()];
            if read.place.got(node.bias_id())? != NO_ID {
                ids.push(node.bias_id());
            }
            read.node(Kind::Op(Op::Linear), ids, node.output_id())?
        }
        NodeUnionRef::StaticTranspose(node) => {
            read.flags(read.place.got(node.flags())?)?;
            let perm = read.axes("perm", node.num_dims(), node.perm())?;
            read.node(Kind::Op(Op::Transpose { perm }), [node.input_id()], node.output_id())?
        }
        NodeUnionRef::StaticReshape(node) => {
            read.flags(read.place.got(node.flags())?)?;
            let shape = read.axes("new_shape", node.num_dims(), node.new_shape())?;
            read.node(Kind::Reshape(shape), [node.input_id()], node.output_id())?
        }
        NodeUnionRef::StaticSlice(node) => {
            read.flags(read.place.got(node.flags())?)?;
            let offsets = read.axes("offsets", node.num_dims(), node.offsets())?;
            let sizes = read.axes("sizes", node.num_dims(), node.sizes())?;
            read.node(Kind::Slice(offsets, sizes), [node.input_id()], node.output_id())?
        }
        NodeUnionRef::Concatenate2(node) => read.concatenate(2, &node)?,
        NodeUnionRef::Concatenate3(node) => read.concatenate(3, &node)?,
        NodeUnionRef::Concatenate4(node) => read.concatenate(4, &node)?,
        NodeUnionRef::Concatenate5(node) => read.concatenate(5, &node)?,
        other => return Err(read.place.unsupported(format!("`{}`", kind_name(&other)))),
    })
}

struct Reading<'a> {
    place: Place,
    by_id: &'a HashMap<u32, usize>,
}

impl Reading<'_> {
    fn one(&self, kind: Kind, node: &OneInputRef<'_>) -> Result<Node> {
        self.flags(self.place.got(node.flags())?)?;
        self.node(kind, [node.input_id()], node.output_id())
    }

    fn two(&self, op: Op, node: &TwoInputsRef<'_>) -> Result<Node> {
        self.flags(self.place.got(node.flags())?)?;
        self.node(Kind::Op(op), [node.input1_id(), node.input2_id()], node.output_id())
    }

    fn concatenate(&self, count: usize, node: &ConcatenateRef<'_>) -> Result<Node> {
        self.flags(self.place.got(node.flags())?)?;
        let axis = self.place.got(node.axis())?;
        let ids = [node.input1_id(), node.input2_id(), node.input3_id(), node.input4_id(), node.input5_id()];
        self.node(Kind::Op(Op::Concat { axis }), ids.into_iter().take(count), node.output_id())
    }

    fn node(
        &self,
        kind: Kind,
        inputs: impl IntoIterator<Item = planus::Result<u32>>,
        output: planus::Result<u32>,
    ) -> Result<Node> {
        let inputs = inputs.into_iter().map(|id| self.value(id)).collect::<Result<Vec<usize>>>()?;
        Ok(Node { kind, inputs, output: self.value(output)? })
    }

    fn value(&self, id: planus::Result<u32>) -> Result<usize> {
        let id = self.place.got(id)?;
        self.by_id.get(&id).copied().ok_or_else(|| self.place.clone().damaged(format!("there is no value {id}")))
    }

    fn flags(&self, flags: u32) -> Result<()> {
        match flags {
            0 => Ok(()),
            flags => Err(self.place.clone().unsupported(format!("flags {flags}"))),
        }
    }

    fn axes(
        &self,
        name: &'static str,
        rank: planus::Result<u32>,
        axes: planus::Result<Option<Vector<'_, u32>>>,
    ) -> Result<Vec<u32>> {
        let (rank, axes) = (self.place.got(rank)?, self.place.need(name, axes)?);
        self.place.at_most("num_dims", rank.into(), MAX_RANK as u64)?;
        if axes.len() != rank as usize {
            return Err(self.place.clone().mismatch("num_dims", rank, format!("the {} of `{name}`", axes.len())));
        }
        Ok(axes.iter().collect())
    }
}

/// The schema's name of a node.
fn kind_name(node: &NodeUnionRef<'_>) -> String {
    let text = format!("{node:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_string()
}
