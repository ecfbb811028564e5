//! The strings between a module and a tract model: operands, types and names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diffulex_compiler::ir::{DType, Dim, Module, Node, NodeId, Op, Operand, ValueType, WeightId, WeightSource};
use tract_core::internal::{
    AxisOp, DatumExt, OutletId, SpecialOps, Symbol, TDim, TVec, Tensor, ToDim, TypedFact, TypedModel, TypedOp,
};
use tract_core::ops::change_axes::wire_with_rank_broadcast;

use super::error::LowerError;
use super::loan::Loan;
use super::ops::rowwise::Rowwise;
use super::ops::watch::Watch;
use super::ops::{Compute, Native};
use super::weights::{Matrix, numbers};

/// A module on its way into a tract model.
pub(super) struct Lowering<'a> {
    pub(super) module: &'a Module,
    pub(super) source: &'a Arc<dyn WeightSource>,
    pub(super) loan: &'a Arc<Loan>,
    /// Which values somebody looks at.
    pub(super) watch: Watch,
    pub(super) model: TypedModel,
    /// T, C, R.
    pub(super) symbols: [Symbol; 3],
    /// Where the value of each node is.
    pub(super) values: HashMap<NodeId, OutletId>,
    /// The `cached` nodes that need a value of their own.
    pub(super) joined: HashSet<NodeId>,
    /// Matrices by weight, so that two products with one weight share it.
    pub(super) matrices: HashMap<WeightId, Arc<Matrix>>,
}

impl Lowering<'_> {
    /// One of our ops on some of the node's operands.
    pub(super) fn native(&mut self, id: NodeId, compute: impl Compute, args: &[usize]) -> Result<OutletId, LowerError> {
        let args = args.iter().map(|&i| self.arg(id, i)).collect::<Result<Vec<_>, _>>()?;
        let fact = self.fact(&self.module.node(id).ty);
        self.wire(id, Native::new(compute, fact), &args)
    }

    /// An op of tract with one operand.
    pub(super) fn one(&mut self, id: NodeId, op: impl Into<Box<dyn TypedOp>>) -> Result<OutletId, LowerError> {
        let x = self.arg(id, 0)?;
        self.wire(id, op, &[x])
    }

    /// An op of tract with two operands that broadcast.
    pub(super) fn two(&mut self, id: NodeId, op: impl Into<Box<dyn TypedOp>>) -> Result<OutletId, LowerError> {
        let args = [self.arg(id, 0)?, self.arg(id, 1)?];
        let name = self.name(id);
        let outlets = wire_with_rank_broadcast(name, &mut self.model, op, &args);
        outlets.map(|o| o[0]).map_err(|e| failed(self.module.node(id), e))
    }

    /// Axis changes one after another.
    pub(super) fn axes(
        &mut self,
        id: NodeId,
        mut x: OutletId,
        ops: impl IntoIterator<Item = AxisOp>,
    ) -> Result<OutletId, LowerError> {
        for (i, op) in ops.into_iter().enumerate() {
            let name = format!("{}/{i}", self.name(id));
            x = self.model.wire_node(name, op, &[x]).map_err(|e| failed(self.module.node(id), e))?[0];
        }
        Ok(x)
    }

    pub(super) fn wire(
        &mut self,
        id: NodeId,
        op: impl Into<Box<dyn TypedOp>>,
        args: &[OutletId],
    ) -> Result<OutletId, LowerError> {
        let name = self.name(id);
        let outlets = self.model.wire_node(name, op, args);
        outlets.map(|o| o[0]).map_err(|e| failed(self.module.node(id), e))
    }

    /// The value of a node as its type holds it, where that has fewer bits than the f32 it was computed in.
    pub(super) fn rounded(&mut self, id: NodeId, outlet: OutletId) -> Result<OutletId, LowerError> {
        let node = self.module.node(id);
        if matches!(node.op, Op::Cast { .. }) || !matches!(node.ty.dtype, DType::F16 | DType::BF16) {
            return Ok(outlet);
        }
        let op = Native::new(Rowwise::Cast(node.ty.dtype), self.fact(&node.ty));
        let made = self.model.wire_node(format!("{}/rounded", self.name(id)), op, &[outlet]);
        made.map(|o| o[0]).map_err(|e| failed(node, e))
    }

    /// The value of a node, seen on its way by whoever watches it.
    pub(super) fn watched(&mut self, id: NodeId, outlet: OutletId) -> Result<OutletId, LowerError> {
        let Some(watched) = self.watch.of(id) else { return Ok(outlet) };
        let node = self.module.node(id);
        let op = Native::new(watched, self.fact(&node.ty));
        let made = self.model.wire_node(format!("{}/watched", self.name(id)), op, &[outlet]);
        made.map(|o| o[0]).map_err(|e| failed(node, e))
    }

    /// Operand `i` of a node; a weight becomes a constant.
    pub(super) fn arg(&mut self, id: NodeId, i: usize) -> Result<OutletId, LowerError> {
        let node = self.module.node(id);
        match node.args.get(i) {
            Some(Operand::Node(id)) => self.value(*id),
            Some(Operand::Weight(weight)) => {
                let weight = self.module.weight(*weight);
                let shape: TVec<usize> = weight.ty.shape.iter().map(|&n| n as usize).collect();
                let tensor = Tensor::from_shape(&shape, &numbers(weight, self.source.as_ref())?);
                let name = format!("{}/{i} @{}", self.name(id), weight.name);
                tensor.and_then(|t| self.model.add_const(name, t)).map_err(|e| failed(node, e))
            }
            Some(Operand::Cache(_)) | None => Err(misread(node)),
        }
    }

    pub(super) fn value(&self, id: NodeId) -> Result<OutletId, LowerError> {
        self.values.get(&id).copied().ok_or_else(|| misread(self.module.node(id)))
    }

    pub(super) fn weight_arg(&self, node: &Node, i: usize) -> Result<WeightId, LowerError> {
        match node.args.get(i) {
            Some(Operand::Weight(id)) => Ok(*id),
            _ => Err(misread(node)),
        }
    }

    pub(super) fn matrix(&mut self, id: WeightId) -> Result<Arc<Matrix>, LowerError> {
        if let Some(known) = self.matrices.get(&id) {
            return Ok(known.clone());
        }
        let matrix = Arc::new(Matrix::new(self.module.weight(id), self.source)?);
        self.matrices.insert(id, matrix.clone());
        Ok(matrix)
    }

    /// Unique, and readable in tract's messages.
    pub(super) fn name(&self, id: NodeId) -> String {
        format!("{} {}", id.0, self.module.node(id).place())
    }

    pub(super) fn fact(&self, ty: &ValueType) -> TypedFact {
        f32::fact(self.dims(&ty.shape))
    }

    pub(super) fn dims(&self, shape: &[Dim]) -> TVec<TDim> {
        shape.iter().map(|&d| self.dim(d)).collect()
    }

    pub(super) fn dim(&self, dim: Dim) -> TDim {
        let [t, c, r] = &self.symbols;
        let terms = [(dim.c, c), (dim.t, t), (dim.r, r)];
        terms
            .into_iter()
            .filter(|(k, _)| *k > 0)
            .fold(i64::from(dim.n).to_dim(), |sum, (k, symbol)| sum + symbol.to_dim() * i64::from(k))
    }
}

/// What tract says of a node.
pub(super) fn failed(node: &Node, error: impl std::fmt::Display) -> LowerError {
    LowerError::Tract { place: node.place(), message: format!("{error:#}") }
}

/// An operand of another kind than the op takes; `verify` lets none through.
pub(super) fn misread(node: &Node) -> LowerError {
    LowerError::Unsupported { place: node.place(), what: format!("operands that `{}` does not take", node.op.name()) }
}
