//! The graph of a module: inputs, the operators of all nodes, outputs.

use std::collections::HashMap;

use diffulex_compiler::ir::{CacheId, CacheKind, Dim, Module, NodeId, Op, Operand, Sizes, ValueType, WeightId};
use diffulex_compiler::quant::Grid;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

use super::layout::{Holds, Layout, float};
use super::names::Names;
use super::{EmitError, proto};
use crate::onnx::Options;
use crate::onnx::schema::{self, COS, LOGITS, MASK, SIN, TOKENS};

/// The walk over a legal module.
pub(super) struct Graph<'a> {
    pub(super) module: &'a Module,
    pub(super) options: &'a Options,
    layout: &'a Layout,
    /// T and C, where shapes are static.
    sizes: Option<Sizes>,
    names: Names,
    nodes: Vec<NodeProto>,
    /// Lists of whole numbers, each once.
    lists: Vec<TensorProto>,
    known: HashMap<Vec<i64>, String>,
    /// What stands for each node so far. Keys of a layer, and those of a step, are transposed.
    values: Vec<String>,
    /// The grid that each node so far is on.
    grids: Vec<Option<Grid>>,
    /// Scales and zero points, by the type of the grid, the bits of its scale and its zero point.
    scales: HashMap<(DataType, u32, i32), [String; 2]>,
    /// What stands for each weight so far: as it is stored, and as a filter.
    weights: HashMap<(WeightId, bool), String>,
}

/// The graph, but for the tensors of its weights.
pub(super) fn graph(
    module: &Module,
    options: &Options,
    layout: &Layout,
    names: Names,
    sizes: Option<Sizes>,
) -> Result<GraphProto, EmitError> {
    let mut graph = Graph {
        module,
        options,
        layout,
        sizes,
        names,
        nodes: Vec::new(),
        lists: Vec::new(),
        known: HashMap::new(),
        values: Vec::new(),
        grids: Vec::new(),
        scales: HashMap::new(),
        weights: HashMap::new(),
    };
    let new_values: HashMap<NodeId, CacheId> =
        module.new_rows().filter(|(cache, _)| cache.kind == CacheKind::V).map(|(cache, id)| (id, cache)).collect();
    for (id, node) in module.iter() {
        let operands: Vec<Option<Grid>> = node.args.iter().map(|arg| graph.grid(*arg)).collect();
        let grid = schema::grid_of(&node.op, &operands);
        let new = new_values.get(&id).map(|cache| schema::new(*cache));
        let name = match (&node.op, node.name.as_str()) {
            (Op::Input, "tokens") => TOKENS.into(),
            (Op::Input, "mask") => MASK.into(),
            // Rows of the rotation are given in their place.
            (Op::Input, _) => String::new(),
            (Op::RopeCos { .. }, _) => COS.into(),
            (Op::RopeSin { .. }, _) => SIN.into(),
            _ if module.outputs.contains(&id) => LOGITS.into(),
            // Rows on a grid are given as the whole numbers that they are rounded to.
            _ => new.clone().filter(|_| grid.is_none()).unwrap_or_else(|| graph.names.of(node)),
        };
        match (grid, &node.op) {
            (Some(grid), Op::FakeQuantize(_)) => {
                let x = graph.operand(node.args[0])?;
                graph.round(&x, &name, grid, new);
            }
            // What only moves numbers keeps their grid, and says so: a transposition to another grid is computed wrongly.
            (Some(grid), _) => {
                let moved = graph.step(&name, "moved");
                graph.node(node, &moved)?;
                graph.round(&moved, &name, grid, new);
            }
            _ => graph.node(node, &name)?,
        }
        graph.values.push(name);
        graph.grids.push(grid);
    }
    let (input, output) = (graph.inputs()?, graph.outputs()?);
    let (node, initializer) = (graph.nodes, graph.lists);
    Ok(GraphProto { node, name: module.name.clone(), initializer, input, output, ..GraphProto::default() })
}

impl Graph<'_> {
    fn inputs(&self) -> Result<Vec<ValueInfoProto>, EmitError> {
        let mut inputs = Vec::new();
        for (name, op) in [(TOKENS, "tokens"), (COS, COS), (SIN, SIN), (MASK, "mask")] {
            let node = self.module.nodes.iter().find(|node| match (&node.op, name) {
                (Op::RopeCos { .. }, COS) | (Op::RopeSin { .. }, SIN) => true,
                (Op::Input, _) => node.name == op,
                _ => false,
            });
            let node = node.ok_or_else(|| illegal(name, "is made of nothing"))?;
            inputs.push(self.value(name, &node.ty)?);
        }
        for cache in schema::caches(self.module.cache.layers) {
            inputs.push(self.rows(cache, schema::past(cache), Dim::C)?);
        }
        Ok(inputs)
    }

    fn outputs(&self) -> Result<Vec<ValueInfoProto>, EmitError> {
        let [logits] = self.module.outputs[..] else { return Err(illegal("return", "is not the logits")) };
        let mut outputs = vec![self.value(LOGITS, &self.module.node(logits).ty)?];
        for cache in schema::caches(self.module.cache.layers) {
            outputs.push(self.rows(cache, schema::new(cache), Dim::T)?);
        }
        Ok(outputs)
    }

    /// So many rows of a cache as the file has them.
    fn rows(&self, cache: CacheId, name: String, rows: Dim) -> Result<ValueInfoProto, EmitError> {
        let shape = self.module.cache;
        let (heads, width) = (Dim::fixed(shape.kv_heads), Dim::fixed(shape.head_dim));
        let (before, behind) = if cache.kind == CacheKind::K { (width, rows) } else { (rows, width) };
        let grid = self.module.new_rows().find(|(id, _)| *id == cache).and_then(|(_, id)| self.grids[id.0 as usize]);
        let dtype = grid.map_or(float(self.options), |grid| schema::grid_type(grid.ty));
        self.typed(&name, dtype, &[Dim::fixed(1), heads, before, behind])
    }

    /// The grid that an operand is on.
    pub(super) fn grid(&self, operand: Operand) -> Option<Grid> {
        match operand {
            Operand::Node(id) => self.grids[id.0 as usize],
            Operand::Weight(id) => self.module.weight(id).grid,
            Operand::Cache(_) => None,
        }
    }

    /// Adds the rounding of `x` to a grid, which makes `name`; `whole` is the name of the whole numbers, if they have one.
    pub(super) fn round(&mut self, x: &str, name: &str, grid: Grid, whole: Option<String>) {
        let [scale, zero] = self.scales(grid);
        let whole = whole.unwrap_or_else(|| self.step(name, "whole"));
        self.push("QuantizeLinear", &[x, &scale, &zero], &whole, vec![]);
        self.push("DequantizeLinear", &[&whole, &scale, &zero], name, vec![]);
    }

    /// Scale and zero point of a grid as operands.
    pub(super) fn scales(&mut self, grid: Grid) -> [String; 2] {
        let dtype = schema::grid_type(grid.ty);
        let key = (dtype, grid.scale.to_bits(), grid.zero);
        if let Some(known) = self.scales.get(&key) {
            return known.clone();
        }
        let number = self.scales.len();
        let [scale, zero] = ["scale", "zero"].map(|word| self.names.free(&format!("grid.{number}.{word}")));
        let bytes = grid.zero.to_le_bytes()[..grid.ty.bytes()].to_vec();
        self.lists.push(proto::inline(&scale, DataType::FLOAT, &[], grid.scale.to_le_bytes().to_vec()));
        self.lists.push(proto::inline(&zero, dtype, &[], bytes));
        self.scales.insert(key, [scale.clone(), zero.clone()]);
        [scale, zero]
    }

    fn value(&self, name: &str, ty: &ValueType) -> Result<ValueInfoProto, EmitError> {
        let dtype = if ty.dtype.is_integer() { DataType::INT32 } else { float(self.options) };
        self.typed(name, dtype, &ty.shape)
    }

    fn typed(&self, name: &str, dtype: DataType, shape: &[Dim]) -> Result<ValueInfoProto, EmitError> {
        let dim = |dim: &Dim| match (self.sizes, dim.known()) {
            (_, Some(n)) => Ok(Ok(i64::from(n))),
            (None, _) => Ok(Err(dim.to_string())),
            (Some(sizes), _) => match dim.at(sizes).and_then(|n| i64::try_from(n).ok()) {
                Some(n) => Ok(Ok(n)),
                None => Err(illegal(name, "is too large")),
            },
        };
        Ok(proto::value(name, dtype, shape.iter().map(dim).collect::<Result<_, _>>()?))
    }

    /// Adds an operator.
    pub(super) fn push(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) {
        self.nodes.push(proto::node(op, inputs, output, attributes));
    }

    /// A name for a step on the way to `name`.
    pub(super) fn step(&mut self, name: &str, suffix: &str) -> String {
        self.names.free(&format!("{name}.{suffix}"))
    }

    /// A list of whole numbers as an operand.
    pub(super) fn list(&mut self, numbers: &[i64]) -> String {
        if let Some(known) = self.known.get(numbers) {
            return known.clone();
        }
        let words: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let name = self.names.free(&format!("ints.{}", words.join(".")));
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.lists.push(proto::inline(&name, DataType::INT64, &[numbers.len() as u64], bytes));
        self.known.insert(numbers.to_vec(), name.clone());
        name
    }

    /// The value of an operand that is no matrix.
    pub(super) fn operand(&mut self, operand: Operand) -> Result<String, EmitError> {
        match operand {
            Operand::Node(id) => Ok(self.values[id.0 as usize].clone()),
            Operand::Weight(id) => self.stored(id),
            Operand::Cache(cache) => Ok(schema::past(cache)),
        }
    }

    /// The numbers of a weight as floats, in the shape in which they are stored.
    fn stored(&mut self, id: WeightId) -> Result<String, EmitError> {
        if let Some(known) = self.weights.get(&(id, false)) {
            return Ok(known.clone());
        }
        let layout = self.layout;
        let weight = self.module.weight(id);
        let missing = || illegal(&weight.name, "has no place in the file");
        let tensor = layout.find(id, Holds::Columns).or_else(|| layout.find(id, Holds::Rows)).ok_or_else(missing)?;
        let encoding = weight.ty.encoding;
        let made = if let Some(grid) = weight.grid {
            let ([scale, zero], made) = (self.scales(grid), self.step(&tensor.name, "float"));
            self.push("DequantizeLinear", &[&tensor.name, &scale, &zero], &made, vec![]);
            made
        } else if !encoding.is_float() {
            let scales = layout.find(id, Holds::Scales).ok_or_else(missing)?;
            let made = self.step(&tensor.name, "float");
            let mut inputs = vec![tensor.name.as_str(), scales.name.as_str()];
            inputs.extend(layout.find(id, Holds::Zeros).map(|zeros| zeros.name.as_str()));
            let attributes = match encoding.group() {
                Some(group) => vec![proto::int("axis", 0), proto::int("block_size", group as i64)],
                None => vec![proto::int("axis", 1)],
            };
            self.push("DequantizeLinear", &inputs, &made, attributes);
            made
        } else if schema::stored_as(encoding) != float(self.options) {
            let made = self.step(&tensor.name, "float");
            self.push("Cast", &[&tensor.name], &made, vec![proto::int("to", float(self.options) as i64)]);
            made
        } else {
            tensor.name.clone()
        };
        self.weights.insert((id, false), made.clone());
        Ok(made)
    }

    /// A weight as the second factor of a product.
    pub(super) fn filter(&mut self, id: WeightId) -> Result<String, EmitError> {
        let stored = self.stored(id)?;
        if self.layout.find(id, Holds::Rows).is_none() {
            return Ok(stored);
        }
        if let Some(known) = self.weights.get(&(id, true)) {
            return Ok(known.clone());
        }
        let made = self.step(&self.module.weight(id).name, "turned");
        self.push("Transpose", &[&stored], &made, vec![proto::ints("perm", vec![1, 0])]);
        self.weights.insert((id, true), made.clone());
        Ok(made)
    }
}

/// Something in the module that a legal one has not.
pub(super) fn illegal(place: &str, what: &str) -> EmitError {
    EmitError::Illegal { place: place.into(), what: what.into() }
}
