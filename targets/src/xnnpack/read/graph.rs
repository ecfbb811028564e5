//! The delegate: its header, and its graph in an order that can be run.

use std::collections::HashMap;
use std::ops::Range;

use planus::ReadAsRoot;

use super::error::{Fault, Place, Result};
use super::file::{File, u32_at, u64_at};
use super::node::{self, Node};
use super::value::{Constants, Externals, Role, Value, read_value};
use crate::xnnpack::schema::constants::{DELEGATE_LENGTH, DELEGATE_MAGIC, GRAPH_IDENTIFIER, GRAPH_IDENTIFIER_OLD};
use crate::xnnpack::schema::delegate::{GraphRef, ValueUnionRef};

/// Largest graph flatbuffer; one for a hundred layers has less than a megabyte.
const MAX_GRAPH: u64 = 64 << 20;
/// Most values; a decoder layer has about a hundred.
const MAX_VALUES: u64 = 1 << 16;
/// Most nodes; a decoder layer has about fifty.
const MAX_NODES: u64 = 1 << 15;

/// The graph of a delegate.
pub(super) struct Graph {
    /// The values, in the order of the file.
    pub(super) values: Vec<Value>,
    /// The nodes, in the order of the file; operands are places in `values`.
    pub(super) nodes: Vec<Node>,
    /// The values of the externals, by external id.
    pub(super) externals: Vec<usize>,
}

/// Reads the delegate that lies at `range`.
pub(super) fn read(file: &File<'_>, range: Range<usize>) -> Result<Graph> {
    let place = Place::Delegate;
    let head = Head::new(&file.bytes[range.clone()])?;
    let graph =
        place.got(GraphRef::read_as_root(&file.bytes[range.start + head.graph.start..range.start + head.graph.end]))?;
    let inline = range.start + head.constants.start..range.start + head.constants.end;
    let data = place.got(graph.constant_data())?;
    let constants = Constants { file, inline, data };

    let listed = place.need("xvalues", graph.xvalues())?;
    place.at_most("xvalues", listed.len() as u64, MAX_VALUES)?;
    let mut values = Vec::new();
    let mut by_id = HashMap::new();
    let mut externals = Externals::new(&graph)?;
    for (i, value) in listed.iter().enumerate() {
        let place = Place::Value(i as u32);
        match place.need("xvalue_union", place.got(value)?.xvalue_union())? {
            ValueUnionRef::TensorValue(tensor) => {
                values.push(read_value(&tensor, None, i, &constants, &mut externals)?);
            }
            ValueUnionRef::QuantizedTensorValue(value) => {
                let tensor = place.need("tensor_value", value.tensor_value())?;
                let quant = place.need("quant_params", value.quant_params())?;
                values.push(read_value(&tensor, Some(&quant), i, &constants, &mut externals)?);
            }
        }
        if by_id.insert(values[i].id, i).is_some() {
            return Err(place.fault(Fault::Twice(format!("the id {}", values[i].id))));
        }
    }
    let externals = externals.all(&graph, &values)?;
    let listed = place.need("xnodes", graph.xnodes())?;
    place.at_most("xnodes", listed.len() as u64, MAX_NODES)?;
    let mut nodes = Vec::new();
    for (i, node) in listed.iter().enumerate() {
        nodes.push(node::read(&Place::Node(i).got(node)?, i, &by_id)?);
    }
    check_order(&nodes, &values)?;
    Ok(Graph { values, nodes, externals })
}

/// Regions of a delegate, relative to its first byte.
struct Head {
    graph: Range<usize>,
    constants: Range<usize>,
}

impl Head {
    fn new(bytes: &[u8]) -> Result<Head> {
        let place = Place::Delegate;
        let length = bytes.len() as u64;
        if length < u64::from(DELEGATE_LENGTH) || bytes[4..8] != DELEGATE_MAGIC {
            return Err(place.damaged("has no header `XH00`"));
        }
        let header = u16::from_le_bytes([bytes[8], bytes[9]]);
        if header != DELEGATE_LENGTH {
            return Err(place.mismatch("header length", header, DELEGATE_LENGTH));
        }
        let start = place.at_most("flatbuffer_offset", u32_at(bytes, 10).into(), length)?;
        let size =
            place.at_most("flatbuffer_size", u32_at(bytes, 14).into(), (length - start as u64).min(MAX_GRAPH))?;
        let constants = place.at_most("constant_data_offset", u32_at(bytes, 18).into(), length)?;
        let constants_size = place.at_most("constant_data_size", u64_at(bytes, 22), length - constants as u64)?;
        if size < 12 || start < usize::from(DELEGATE_LENGTH) || start + size > constants {
            return Err(place.damaged("header, graph and constants overlap"));
        }
        if ![GRAPH_IDENTIFIER, GRAPH_IDENTIFIER_OLD].iter().any(|id| bytes[start + 4..start + 8] == *id) {
            return Err(place.damaged("the graph's identifier is neither `XN01` nor `XN00`"));
        }
        Ok(Head { graph: start..start + size, constants: constants..constants + constants_size })
    }
}

/// Every value is made before it is read, and once; constants that XNNPACK does not copy are not inline.
fn check_order(nodes: &[Node], values: &[Value]) -> Result<()> {
    let mut made: Vec<bool> = values.iter().map(|v| matches!(v.role, Role::Input | Role::Constant(_))).collect();
    for (i, node) in nodes.iter().enumerate() {
        let place = Place::Node(i);
        for (k, &input) in node.inputs.iter().enumerate() {
            if !made[input] {
                return Err(place.damaged(format!("reads value {}, which nothing made before", values[input].id)));
            }
            let inline = matches!(&values[input].role, Role::Constant(constant) if constant.key.is_none());
            if inline && !node.packs(k) {
                return Err(place.damaged("keeps a pointer to an inline constant, whose memory ExecuTorch frees"));
            }
        }
        if std::mem::replace(&mut made[node.output], true) {
            return Err(place.damaged(format!("makes value {}, which is there already", values[node.output].id)));
        }
    }
    match values.iter().zip(&made).find(|(value, made)| value.role == Role::Output && !**made) {
        Some((value, _)) => Err(Place::Value(value.id).damaged("an output that nothing makes")),
        None => Ok(()),
    }
}
