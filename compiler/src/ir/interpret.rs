//! What a module means: one step, node by node, in plain loops. Slow and simple: passes and engines are judged against
//! it. `ops` gives each op its meaning.

mod ops;

use std::collections::HashMap;

use super::graph::{CacheId, Module, Node, NodeId, Operand, Weight, WeightId};
use super::op::Op;
use super::types::{Dim, Sizes};
use super::weights::{WeightError, WeightSource};
use crate::quant::Encoded;

/// Numbers with a shape, row-major. Integers are held as floats too: ids stay far below 2^24.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
}

/// What a step is given.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Inputs of the graph by name.
    pub values: HashMap<String, Array>,
    /// Committed rows, `[1, KV, C, D]` each.
    pub caches: HashMap<CacheId, Array>,
}

/// What a step gives.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The module's outputs, in order.
    pub values: Vec<Array>,
    /// New rows of each cache, `[1, KV, T, D]`.
    pub new_rows: HashMap<CacheId, Array>,
    /// The value of every node, for those who look for the first one that departs.
    pub nodes: Vec<Array>,
}

/// Why a module cannot be interpreted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InterpretError {
    /// An input is absent or has another shape than its type says.
    #[error("input `{0}` is absent or misshapen")]
    Input(String),
    /// The numbers of a weight cannot be had.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// An id or a row number lies outside its table.
    #[error("{place}: {index} is outside a table of {rows} rows")]
    Index {
        /// The node.
        place: String,
        /// The id or row number.
        index: usize,
        /// Rows of the table.
        rows: usize,
    },
}

/// Runs one step of a verified module.
///
/// # Errors
/// When an input is missing or misshapen, an id is out of range, or the numbers of a weight cannot be had.
pub fn interpret(module: &Module, source: &dyn WeightSource, inputs: &Inputs) -> Result<Outputs, InterpretError> {
    let sizes = sizes(module, inputs)?;
    let mut run = Run { module, source, inputs, weights: HashMap::new(), nodes: Vec::new() };
    for (_, node) in module.iter() {
        let shape: Option<Vec<usize>> = node.ty.shape.iter().map(|d| d.at(sizes)).collect();
        let shape = shape.ok_or_else(|| InterpretError::Input(node.name.clone()))?;
        let value = run.value(node, &shape)?;
        if value.shape != shape || value.data.len() != shape.iter().product::<usize>() {
            return Err(InterpretError::Input(node.name.clone()));
        }
        run.nodes.push(value);
    }
    let value = |id: NodeId| run.nodes[id.0 as usize].clone();
    Ok(Outputs {
        values: module.outputs.iter().map(|&id| value(id)).collect(),
        new_rows: module.new_rows().map(|(cache, id)| (cache, value(id))).collect(),
        nodes: run.nodes,
    })
}

/// T, C and R from the shapes of the inputs.
fn sizes(module: &Module, inputs: &Inputs) -> Result<Sizes, InterpretError> {
    let axis = |name: &str, i: usize| inputs.values.get(name).and_then(|a| a.shape.get(i)).copied();
    let t = axis("tokens", 1).ok_or_else(|| InterpretError::Input("tokens".into()))?;
    let c = inputs.caches.values().next().and_then(|a| a.shape.get(2)).copied().unwrap_or(0);
    let rows = module.input("rows").map(|id| module.node(id).ty.shape.iter().position(|dim| *dim == Dim::R));
    let r = rows.flatten().and_then(|i| axis("rows", i)).unwrap_or(0);
    Ok(Sizes { t, c, r })
}

struct Run<'a> {
    module: &'a Module,
    source: &'a dyn WeightSource,
    inputs: &'a Inputs,
    weights: HashMap<WeightId, Array>,
    nodes: Vec<Array>,
}

impl Run<'_> {
    fn value(&mut self, node: &Node, shape: &[usize]) -> Result<Array, InterpretError> {
        if node.op == Op::Input {
            return Ok(self.inputs.values.get(&node.name).cloned().unwrap_or_default());
        }
        let args = node.args.iter().map(|a| self.operand(*a)).collect::<Result<Vec<_>, _>>()?;
        let outside = |(index, rows)| InterpretError::Index { place: node.place(), index, rows };
        let data = ops::evaluate(&node.op, &args, shape).map_err(outside)?;
        let data = ops::rounded(data, node.ty.dtype);
        Ok(Array { shape: shape.to_vec(), data })
    }

    fn operand(&mut self, operand: Operand) -> Result<Array, InterpretError> {
        match operand {
            Operand::Node(id) => Ok(self.nodes[id.0 as usize].clone()),
            Operand::Cache(id) => {
                let (shape, cache) = (&self.module.cache, self.inputs.caches.get(&id));
                let wanted = |c| [1, shape.kv_heads as usize, c, shape.head_dim as usize];
                let fits = |a: &&Array| {
                    a.shape.get(2).is_some_and(|&c| a.shape == wanted(c))
                        && a.data.len() == a.shape.iter().product::<usize>()
                };
                cache.filter(fits).cloned().ok_or_else(|| InterpretError::Input(format!("${id}")))
            }
            Operand::Weight(id) => {
                if let Some(known) = self.weights.get(&id) {
                    return Ok(known.clone());
                }
                let array = numbers(self.module.weight(id), self.source)?;
                self.weights.insert(id, array.clone());
                Ok(array)
            }
        }
    }
}

/// The numbers of a weight as its encoding keeps them.
fn numbers(weight: &Weight, source: &dyn WeightSource) -> Result<Array, WeightError> {
    let (mut exact, mut kept, mut data) = (Vec::new(), Encoded::default(), Vec::new());
    weight.encode(source, 0..weight.ty.rows(), &mut exact, &mut kept)?;
    kept.rows(weight.ty.encoding, weight.ty.columns()).decode(&mut data);
    Ok(Array { shape: weight.ty.shape.iter().map(|&n| n as usize).collect(), data })
}
