//! Making modules node by node, with types found and names kept unique on the way.

use std::collections::HashMap;

use super::graph::{CacheId, CacheKind, Module, Node, NodeId, Operand, Weight, WeightId};
use super::infer::infer;
use super::op::Op;
use super::types::{ValueType, WeightType};
use super::weights::WeightExpr;
use crate::quant::{Grid, Search};

/// A node whose operands do not fit its op, or whose name is not free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct BuildError {
    /// The node.
    pub place: String,
    /// The rule that is broken.
    pub what: String,
}

/// Appends nodes and weights to a module. `layer` and `section` apply to what is added from then on.
#[derive(Debug)]
pub struct Builder {
    module: Module,
    /// Names in use, each with the number that the next node of that name gets.
    names: HashMap<(Option<u32>, String), u32>,
    weights: HashMap<String, WeightId>,
    /// The layer that new nodes belong to.
    pub layer: Option<u32>,
    /// The section that new nodes belong to.
    pub section: Option<String>,
}

impl Builder {
    /// Goes on from `module`.
    pub fn new(module: Module) -> Builder {
        let names = module.nodes.iter().map(|n| ((n.layer, n.name.clone()), 2)).collect();
        let weights = module.weights.iter().enumerate().map(|(i, w)| (w.name.clone(), WeightId(i as u32))).collect();
        Builder { module, names, weights, layer: None, section: None }
    }

    /// A module with the header and the weights of `module`, and no nodes.
    pub fn like(module: &Module) -> Builder {
        let mut empty = Module::new(&module.name, module.stage.clone(), module.bounds, module.cache);
        empty.weights = module.weights.clone();
        Builder::new(empty)
    }

    /// The module so far.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Declares the dimension R, bounded by T: for modules that get an input `rows`.
    pub fn bound_rows(&mut self) {
        self.module.bounds.r = self.module.bounds.t;
    }

    /// Adds an input of the step graph.
    pub fn input(&mut self, name: &str, ty: ValueType) -> NodeId {
        self.push(name, Op::Input, vec![], ty)
    }

    /// Adds a node. A name that is taken in this layer gets a number: `%q`, `%q.2`.
    ///
    /// # Errors
    /// When the operands break the typing rule of `op`.
    pub fn node(&mut self, name: &str, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId, BuildError> {
        let args = args.into();
        let types: Vec<ValueType> = args.iter().map(|&a| self.module.operand_type(a)).collect();
        let ty = infer(&op, &types).map_err(|what| BuildError { place: format!("%{name}"), what })?;
        Ok(self.push(name, op, args, ty))
    }

    /// Adds a weight and gives its id; the same name, type and expression give the same id.
    ///
    /// # Errors
    /// When the name stands for something else already.
    pub fn weight(&mut self, name: &str, ty: WeightType, expr: WeightExpr) -> Result<WeightId, BuildError> {
        match self.weight_id(name).map(|id| (id, self.module.weight(id))) {
            Some((id, known)) if known.ty == ty && known.expr == expr => Ok(id),
            Some(_) => Err(BuildError { place: format!("@{name}"), what: "the name is taken".into() }),
            None => {
                let id = WeightId(self.module.weights.len() as u32);
                self.weights.insert(name.into(), id);
                self.module.weights.push(Weight { name: name.into(), ty, search: Search::Max, grid: None, expr });
                Ok(id)
            }
        }
    }

    /// Says how the scales of a weight are found.
    pub fn search(&mut self, id: WeightId, search: Search) {
        self.module.weights[id.0 as usize].search = search;
    }

    /// Says where the numbers of a weight lie.
    pub fn grid(&mut self, id: WeightId, grid: Grid) {
        self.module.weights[id.0 as usize].grid = Some(grid);
    }

    /// The weight of that full name.
    pub fn weight_id(&self, name: &str) -> Option<WeightId> {
        self.weights.get(name).copied()
    }

    /// Ends the module: these are the outputs of the step.
    pub fn finish(mut self, outputs: impl Into<Vec<NodeId>>) -> Module {
        self.module.outputs = outputs.into();
        self.module
    }

    fn push(&mut self, name: &str, op: Op, args: Vec<Operand>, ty: ValueType) -> NodeId {
        let mut free = name.to_string();
        while self.names.contains_key(&(self.layer, free.clone())) {
            let number = self.names.entry((self.layer, name.to_string())).or_insert(2);
            free = format!("{name}.{number}");
            *number += 1;
        }
        self.names.insert((self.layer, free.clone()), 2);
        let name = free;
        self.module.nodes.push(Node { name, layer: self.layer, section: self.section.clone(), op, args, ty });
        NodeId(self.module.nodes.len() as u32 - 1)
    }
}

impl From<NodeId> for Operand {
    fn from(id: NodeId) -> Operand {
        Operand::Node(id)
    }
}

impl From<WeightId> for Operand {
    fn from(id: WeightId) -> Operand {
        Operand::Weight(id)
    }
}

impl CacheId {
    /// The key cache of a layer, as an operand.
    pub fn k(layer: u32) -> Operand {
        Operand::Cache(CacheId { layer, kind: CacheKind::K })
    }

    /// The value cache of a layer, as an operand.
    pub fn v(layer: u32) -> Operand {
        Operand::Cache(CacheId { layer, kind: CacheKind::V })
    }
}
