//! A module becomes a tract model: one tract node for each op, all values f32.
//!
//! tract's own ops do the small work (arithmetic on two operands, slices, axis changes); ours ([`super::ops`]) do the
//! products, the lookups and what goes row by row. `cached` followed by `attention` becomes one op that reads the
//! cache and the new rows where they lie; a `cached` value that something else reads is joined for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diffulex_compiler::ir::{CacheId, DType, Dim, Module, Node, NodeId, Op, Operand, WeightSource};
use diffulex_compiler::math;
use tract_core::internal::{AxisOp, OutletId, Symbol, TypedModel, tvec};
use tract_core::ops::array::{Slice, TypedConcat};
use tract_core::ops::change_axes::perm_to_ops;
use tract_core::ops::math as tract;

use super::error::LowerError;
use super::loan::Loan;
use super::ops::Native;
use super::ops::attention::{Attention, Cached};
use super::ops::linear::Linear;
use super::ops::lookup::{Embed, GatherRows, RopeTable};
use super::ops::matmul::Matmul;
use super::ops::rowwise::{Rope, Rowwise};
use super::ops::watch::Watch;
use super::table::{Memo, Table};
use super::weights::numbers;
use super::wire::{Lowering, failed, misread};

/// A tract model and how to speak to it.
pub(super) struct Lowered {
    /// Its inputs are those of the module, its outputs the values asked for.
    pub(super) model: TypedModel,
    /// T, C, R.
    pub(super) symbols: [Symbol; 3],
}

/// Lowers `module`; the values of `wanted` become the outputs, in order.
///
/// tract's optimizer is left out: with the weights inside our ops it has nothing to win, and 0.23.9 loses an output when
/// it merges three equal nodes of which two are outputs.
pub(super) fn lower(
    module: &Module,
    source: &Arc<dyn WeightSource>,
    loan: &Arc<Loan>,
    watch: Watch,
    wanted: &[NodeId],
) -> Result<Lowered, LowerError> {
    let model = TypedModel::default();
    let symbols = ["T", "C", "R"].map(|name| model.symbols.sym(name));
    let whole = joined(module, wanted.iter().chain(&watch.nodes));
    let (values, matrices) = (HashMap::new(), HashMap::new());
    let mut lowering = Lowering { module, source, loan, watch, model, symbols, values, joined: whole, matrices };
    for (id, node) in module.iter() {
        if let Some(outlet) = lowering.node(id, node)? {
            let outlet = lowering.rounded(id, outlet)?;
            let outlet = lowering.watched(id, outlet)?;
            lowering.values.insert(id, outlet);
        }
    }
    let outputs = wanted.iter().map(|id| lowering.value(*id)).collect::<Result<Vec<_>, _>>()?;
    let failed = |e| LowerError::Tract { place: "the graph".into(), message: format!("{e:#}") };
    lowering.model.select_output_outlets(&outputs).map_err(failed)?;
    Ok(Lowered { model: lowering.model, symbols: lowering.symbols })
}

/// The `cached` nodes whose value is needed as a whole: read by something else than an attention, or asked for.
fn joined<'a>(module: &'a Module, wanted: impl Iterator<Item = &'a NodeId>) -> HashSet<NodeId> {
    let reads = module.nodes.iter().flat_map(|node| {
        let attention = matches!(node.op, Op::Attention { .. });
        let args = node.args.iter().enumerate().filter(move |(i, _)| !(attention && matches!(i, 1 | 2)));
        args.filter_map(|(_, arg)| match arg {
            Operand::Node(id) => Some(*id),
            Operand::Weight(_) | Operand::Cache(_) => None,
        })
    });
    reads.chain(wanted.copied()).filter(|id| module.node(*id).op == Op::Cached).collect()
}

impl Lowering<'_> {
    /// Wires one node; `None` for a `cached` that only attention reads.
    fn node(&mut self, id: NodeId, node: &Node) -> Result<Option<OutletId>, LowerError> {
        let outlet = match &node.op {
            Op::Input => {
                let fact = self.fact(&node.ty);
                let name = self.name(id);
                self.model.add_source(name, fact).map_err(|e| failed(node, e))?
            }
            Op::Embed => {
                let weight = self.module.weight(self.weight_arg(node, 1)?);
                let table = Arc::new(Table::new(weight, self.source)?);
                self.native(id, Embed(table), &[0])?
            }
            Op::RopeCos { dim, theta } => self.rope_table(id, *dim, *theta, math::cos)?,
            Op::RopeSin { dim, theta } => self.rope_table(id, *dim, *theta, math::sin)?,
            Op::RmsNorm { eps } => {
                let gain = numbers(self.module.weight(self.weight_arg(node, 1)?), self.source.as_ref())?;
                self.native(id, Rowwise::RmsNorm { gain, eps: *eps }, &[0])?
            }
            Op::Linear => {
                let w = self.matrix(self.weight_arg(node, 1)?)?;
                let bias = match node.args.get(2) {
                    Some(_) => Some(numbers(self.module.weight(self.weight_arg(node, 2)?), self.source.as_ref())?),
                    None => None,
                };
                self.native(id, Linear { w, bias }, &[0])?
            }
            Op::Heads { n } => {
                let x = self.arg(id, 0)?;
                let (width, n) = (node.ty.shape[3], Dim::fixed(*n));
                let whole = width.times(n.n).unwrap_or(width);
                let split = AxisOp::Reshape(2, tvec!(self.dim(whole)), tvec!(self.dim(n), self.dim(width)));
                self.axes(id, x, [split, AxisOp::Move(2, 1)])?
            }
            Op::MergeHeads => {
                let x = self.arg(id, 0)?;
                let heads = &self.module.operand_type(node.args[0]).shape;
                let (n, d, whole) = (self.dim(heads[1]), self.dim(heads[3]), self.dim(node.ty.shape[2]));
                self.axes(id, x, [AxisOp::Move(1, 2), AxisOp::Reshape(2, tvec!(n, d), tvec!(whole))])?
            }
            Op::Rope => self.native(id, Rope, &[0, 1, 2])?,
            Op::Cached => {
                if !self.joined.contains(&id) {
                    return Ok(None);
                }
                let Some(Operand::Cache(cache)) = node.args.first().copied() else { return Err(misread(node)) };
                self.native(id, Cached { cache, loan: self.loan.clone() }, &[1])?
            }
            Op::Attention { scale } => self.attention(id, node, *scale)?,
            Op::Silu => self.native(id, Rowwise::Silu, &[0])?,
            Op::Int8Token => self.native(id, Rowwise::Int8Token, &[0])?,
            Op::FakeQuantize(grid) => self.native(id, Rowwise::FakeQuantize(*grid), &[0])?,
            Op::Swiglu => self.native(id, Rowwise::Swiglu, &[0])?,
            Op::GatherRows => self.native(id, GatherRows, &[0, 1])?,
            Op::Add => self.two(id, tract::add())?,
            Op::Sub => self.two(id, tract::sub())?,
            Op::Mul => self.two(id, tract::mul())?,
            Op::Div => self.two(id, tract::div())?,
            Op::Neg => self.one(id, tract::neg())?,
            Op::Square => self.one(id, tract::square())?,
            Op::Rsqrt => self.one(id, tract::rsqrt())?,
            Op::Sigmoid => self.native(id, Rowwise::Sigmoid, &[0])?,
            Op::Softmax => self.native(id, Rowwise::Softmax, &[0])?,
            Op::Mean => self.native(id, Rowwise::Mean, &[0])?,
            Op::Matmul { transpose } => self.native(id, Matmul { transpose: *transpose }, &[0, 1])?,
            Op::Reshape { shape } => {
                let x = self.arg(id, 0)?;
                let from = self.dims(&self.module.operand_type(node.args[0]).shape);
                let to = self.dims(shape);
                self.axes(id, x, (from != to).then_some(AxisOp::Reshape(0, from, to)))?
            }
            Op::Transpose { perm } => {
                let x = self.arg(id, 0)?;
                let perm: Vec<usize> = perm.iter().map(|&p| p as usize).collect();
                self.axes(id, x, perm_to_ops(&perm))?
            }
            Op::Slice { axis, start, end } => {
                self.one(id, Slice::new(*axis as usize, *start as usize, *end as usize))?
            }
            Op::Concat { axis } => {
                let args = (0..node.args.len()).map(|i| self.arg(id, i)).collect::<Result<Vec<_>, _>>()?;
                self.wire(id, TypedConcat { axis: *axis as usize }, &args)?
            }
            Op::Cast { to: DType::F32 } => self.arg(id, 0)?,
            Op::Cast { to } => self.native(id, Rowwise::Cast(*to), &[0])?,
        };
        Ok(Some(outlet))
    }

    fn attention(&mut self, id: NodeId, node: &Node, scale: f32) -> Result<OutletId, LowerError> {
        let (q, mask) = (self.arg(id, 0)?, self.arg(id, 3)?);
        let ((keys, k), (values, v)) = (self.pieces(id, 1)?, self.pieces(id, 2)?);
        let op = Native::new(Attention { scale, keys, values, loan: self.loan.clone() }, self.fact(&node.ty));
        self.wire(id, op, &[q, k, v, mask])
    }

    /// Keys or values as the rows of a cache and a value, or as a value alone.
    fn pieces(&mut self, id: NodeId, i: usize) -> Result<(Option<CacheId>, OutletId), LowerError> {
        if let Operand::Node(whole) = self.module.node(id).args[i]
            && !self.watch.nodes.contains(&whole)
            && let (Op::Cached, [Operand::Cache(cache), Operand::Node(rows)]) =
                (&self.module.node(whole).op, self.module.node(whole).args.as_slice())
        {
            return Ok((Some(*cache), self.value(*rows)?));
        }
        Ok((None, self.arg(id, i)?))
    }

    fn rope_table(&mut self, id: NodeId, dim: u32, theta: f64, f: fn(f64) -> f64) -> Result<OutletId, LowerError> {
        self.native(id, RopeTable { dim: dim as usize, theta, f, known: Memo::default() }, &[0])
    }
}
