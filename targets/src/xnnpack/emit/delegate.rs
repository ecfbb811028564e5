//! The XNNPACK delegate: its graph, and the header before it.

use std::collections::{HashMap, HashSet};

use diffulex_compiler::ir::{Module, NodeId, Op, Operand};

use super::EmitError;
use super::constant::{Constant, datatype, quant_params};
use super::plan::{Given, Step, Tensor};
use crate::xnnpack::schema::constants::{
    DATATYPE_BF16, DATATYPE_FP16, DATATYPE_FP32, DATATYPE_QDINT8, DELEGATE_LENGTH, DELEGATE_MAGIC, GRAPH_IDENTIFIER,
    NAMED, NO_ID, SCALAR_BFLOAT16, SCALAR_FLOAT, SCALAR_HALF, VALUE_EXTERNAL_INPUT, VALUE_EXTERNAL_OUTPUT,
};
use crate::xnnpack::schema::delegate::{
    ConstantDataOffset, Graph, Node, NodeUnion, OneInput, PerTokenDynamicQuant, QuantParams, QuantizedTensorValue,
    TensorValue, Value, ValueUnion,
};
use crate::xnnpack::schema::finish;

/// Bytes before the graph in a delegate.
const GRAPH_START: usize = 32;

/// A delegate, ready to be written.
pub(super) struct Delegate {
    /// Header, graph, and an empty region of inline constants.
    pub(super) bytes: Vec<u8>,
    /// What it finds by name, in the order of `Graph.constant_data` from 1 on.
    pub(super) constants: Vec<Constant>,
}

/// Builds the delegate of a legal module.
pub(super) fn build(module: &Module, step: &Step) -> Result<Delegate, EmitError> {
    let mut graph = Assembly { module, values: vec![], nodes: vec![], constants: vec![], known: HashMap::new() };
    let externals = graph.externals(step)?;
    for (id, node) in module.iter().filter(|(_, n)| !matches!(n.op, Op::Input | Op::Embed)) {
        let made = graph
            .node(node, &Tensor::of(module, &node.ty)?)
            .map_err(|what| EmitError::Illegal { place: node.place(), what })?;
        graph.known.insert(Operand::Node(id), made);
    }
    let outputs = graph.outputs(step, externals)?;
    let constants = graph.constants.clone();
    Ok(Delegate { bytes: wrap(&graph.finish(externals, outputs))?, constants })
}

/// The graph as it grows.
pub(super) struct Assembly<'a> {
    pub(super) module: &'a Module,
    values: Vec<(TensorValue, Option<QuantParams>)>,
    pub(super) nodes: Vec<NodeUnion>,
    constants: Vec<Constant>,
    /// The value that stands for an operand.
    known: HashMap<Operand, u32>,
}

impl Assembly<'_> {
    /// Adds the external inputs; gives their number.
    fn externals(&mut self, step: &Step) -> Result<u32, EmitError> {
        let given = step.given(self.module);
        for (i, given) in given.iter().enumerate() {
            let (operand, tensor) = match *given {
                Given::Embedding(i) => (Operand::Node(step.embeddings[i].node), step.embeddings[i].out.clone()),
                Given::Input(id) => (Operand::Node(id), Tensor::of(self.module, &self.module.node(id).ty)?),
                Given::Cache(id) => (Operand::Cache(id), Tensor::of(self.module, &self.module.cache.ty())?),
            };
            let datatype = match tensor.scalar {
                SCALAR_HALF => DATATYPE_FP16,
                SCALAR_BFLOAT16 => DATATYPE_BF16,
                _ => DATATYPE_FP32,
            };
            let value = self.value(datatype, &tensor.sizes);
            self.values[value as usize].0.external_id = i as u32;
            self.values[value as usize].0.flags = VALUE_EXTERNAL_INPUT;
            self.known.insert(operand, value);
        }
        for embedding in step.embeddings.iter().filter(|e| e.out.scalar != SCALAR_FLOAT) {
            let operand = Operand::Node(embedding.node);
            let output_id = self.value(DATATYPE_FP32, &embedding.out.sizes);
            let convert = OneInput { input_id: self.known[&operand], output_id, flags: 0 };
            self.nodes.push(NodeUnion::Convert(Box::new(convert)));
            self.known.insert(operand, output_id);
        }
        Ok(given.len() as u32)
    }

    /// Marks the outputs; gives their values. One that is an output already, or an input, is copied.
    fn outputs(&mut self, step: &Step, inputs: u32) -> Result<Vec<u32>, EmitError> {
        let mut taken = HashSet::new();
        let mut outputs = Vec::new();
        for (i, (node, tensor)) in step.outputs.iter().enumerate() {
            let missing =
                || EmitError::Illegal { place: self.place(*node), what: "no node of the delegate makes it".into() };
            let mut value = *self.known.get(&Operand::Node(*node)).ok_or_else(missing)?;
            if value < inputs || !taken.insert(value) {
                let output_id = self.value(DATATYPE_FP32, &tensor.sizes);
                let copy = OneInput { input_id: value, output_id, flags: 0 };
                self.nodes.push(NodeUnion::Copy(Box::new(copy)));
                value = output_id;
            }
            self.values[value as usize].0.external_id = inputs + i as u32;
            self.values[value as usize].0.flags = VALUE_EXTERNAL_OUTPUT;
            outputs.push(value);
        }
        Ok(outputs)
    }

    fn place(&self, node: NodeId) -> String {
        self.module.node(node).place()
    }

    /// Adds an internal value.
    pub(super) fn value(&mut self, datatype: i16, sizes: &[u32]) -> u32 {
        let id_out = self.values.len() as u32;
        let tensor = TensorValue {
            datatype,
            num_dims: sizes.len() as u32,
            dims: Some(sizes.to_vec()),
            constant_buffer_idx: 0,
            external_id: NO_ID,
            flags: 0,
            id_out,
        };
        self.values.push((tensor, None));
        id_out
    }

    /// Adds an internal value whose rows are quantized when they are computed.
    pub(super) fn dynamic_value(&mut self, sizes: &[u32]) -> u32 {
        let value = self.value(DATATYPE_QDINT8, sizes);
        let rows = PerTokenDynamicQuant { num_nonbatch_dims: 1 };
        self.values[value as usize].1 = Some(QuantParams::PerTokenDynamicQuant(Box::new(rows)));
        value
    }

    /// The value of an operand; a weight becomes a constant where it is first read.
    pub(super) fn operand(&mut self, operand: Operand) -> Result<u32, String> {
        if let Some(&known) = self.known.get(&operand) {
            return Ok(known);
        }
        let Operand::Weight(id) = operand else {
            return Err(format!("reads {operand:?}, which the delegate is not given"));
        };
        let ty = &self.module.weight(id).ty;
        let value = self.value(datatype(ty.encoding), &ty.shape);
        for constant in Constant::of(self.module, id, false) {
            self.constants.push(constant);
            let index = self.constants.len() as u32;
            match constant.scales {
                false => self.values[value as usize].0.constant_buffer_idx = index,
                true => self.values[value as usize].1 = Some(quant_params(ty.encoding, &ty.shape, index)),
            }
        }
        self.known.insert(operand, value);
        Ok(value)
    }

    fn finish(self, inputs: u32, outputs: Vec<u32>) -> Graph {
        let constant = |constant: &Constant| {
            let (size, key) = (constant.bytes(self.module), constant.key(self.module));
            ConstantDataOffset { offset: NAMED, size, named_key: Some(key) }
        };
        let reserved = ConstantDataOffset { offset: 0, size: 0, named_key: None };
        let node = |(i, node)| Node { xnode_union: Some(node), debug_handle: i as u32, output_min_max: None };
        let value = |(tensor, quant_params)| {
            let union = match quant_params {
                None => ValueUnion::TensorValue(Box::new(tensor)),
                quant_params => ValueUnion::QuantizedTensorValue(Box::new(QuantizedTensorValue {
                    tensor_value: Some(Box::new(tensor)),
                    quant_params,
                })),
            };
            Value { xvalue_union: Some(union) }
        };
        Graph {
            version: Some("0".into()),
            num_externs: inputs + outputs.len() as u32,
            input_ids: Some((0..inputs).collect()),
            output_ids: Some(outputs),
            constant_data: Some(std::iter::once(reserved).chain(self.constants.iter().map(constant)).collect()),
            xnodes: Some(self.nodes.into_iter().enumerate().map(node).collect()),
            xvalues: Some(self.values.into_iter().map(value).collect()),
        }
    }
}

/// Puts the header before the graph and an empty region of inline constants behind it.
fn wrap(graph: &Graph) -> Result<Vec<u8>, EmitError> {
    let graph = finish(graph, GRAPH_IDENTIFIER);
    let constants = (GRAPH_START + graph.len()).next_multiple_of(16);
    let limit = u64::from(u32::MAX) - 16;
    if constants as u64 > limit {
        return Err(EmitError::TooLarge { part: "the delegate", bytes: constants as u64, limit });
    }
    let mut bytes = Vec::with_capacity(constants);
    bytes.extend([0; 4]);
    bytes.extend(DELEGATE_MAGIC);
    bytes.extend(DELEGATE_LENGTH.to_le_bytes());
    bytes.extend((GRAPH_START as u32).to_le_bytes());
    bytes.extend((graph.len() as u32).to_le_bytes());
    bytes.extend((constants as u32).to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(GRAPH_START, 0);
    bytes.extend(graph);
    bytes.resize(constants, 0);
    Ok(bytes)
}
