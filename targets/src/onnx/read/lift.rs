//! The nodes of a graph as a module, all of them outside layers.
//!
//! Shapes are not taken from the file: they follow from the inputs by the typing rules of the IR, with T and C as symbols.

use std::collections::{HashMap, HashSet};

use diffulex_compiler::ir::{
    Builder, CacheId, CacheKind, DType, Dim, Encoding, Module, NodeId, Op, Operand, Stage, ValueType, WeightExpr,
    WeightId, WeightType, well_named,
};
use diffulex_compiler::quant::{Grid, GridType, Packing, Search};
use onnx_protobuf::{GraphProto, NodeProto};

use super::error::{Fault, Place, Result};
use super::facts::Facts;
use super::file::Files;
use super::interface::Step;
use super::node::Inputs;
use super::tensor::Tensor;
use super::{Held as Placed, Weights};
use crate::onnx::schema::{self, COS, LOGITS, MASK, SIN, TOKENS};
use crate::stored::Stored;

/// Most nodes; a hundred layers have some ten thousand.
const MAX_NODES: u64 = 1 << 18;

/// What stands for a value of the graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    /// A value of the module.
    Node(NodeId),
    /// The committed rows of a cache.
    Past(CacheId),
    /// New keys, transposed.
    New(NodeId),
    /// All keys of a layer, transposed.
    Keys(NodeId),
    /// A stored tensor.
    Tensor(String),
    /// The same in the element type of all floats.
    Floats(String),
    /// The same transposed.
    Turned(String),
    /// A filter that is stored in fewer bits.
    Filter(WeightId),
    /// A tensor of whole numbers on a grid, as floats.
    Gridded(String, Grid),
    /// The committed rows of a cache whose numbers are whole, as floats.
    Floated(CacheId, Grid),
    /// The whole numbers of a value that is on a grid.
    Whole(Box<Held>, Grid),
}

/// The module as it grows.
pub(super) struct Lift<'a> {
    pub(super) step: &'a Step,
    /// The opset.
    pub(super) opset: i64,
    pub(super) builder: Builder,
    search: Search,
    pub(super) files: Files,
    tensors: HashMap<String, Tensor>,
    used: HashSet<String>,
    known: HashMap<String, Held>,
    /// Tensors that became weights, as they are stored and transposed.
    made: HashMap<(String, bool), WeightId>,
    /// Whether tensors that were looked through are all zeros.
    zeros: HashMap<String, bool>,
    placed: HashMap<String, Placed>,
    /// The grids that nodes are on.
    pub(super) grids: HashMap<NodeId, Grid>,
    /// Outputs that are new keys, and values whose whole numbers are.
    pub(super) new_keys: HashSet<String>,
    /// The new rows that caches are joined with.
    pub(super) joined: HashMap<CacheId, NodeId>,
}

/// Makes a module of the graph.
pub(super) fn lift(
    graph: &GraphProto,
    facts: &Facts,
    step: &Step,
    opset: i64,
    files: Files,
) -> Result<(Module, Weights)> {
    let header = Module::new(&facts.name, Stage::Read(crate::onnx::NAME.into()), step.bounds, step.cache);
    let keys = schema::caches(step.cache.layers).filter(|cache| cache.kind == CacheKind::K);
    let mut lift = Lift {
        step,
        opset,
        builder: Builder::new(header),
        search: facts.search,
        files,
        tensors: HashMap::new(),
        used: HashSet::new(),
        known: HashMap::new(),
        made: HashMap::new(),
        zeros: HashMap::new(),
        placed: HashMap::new(),
        grids: HashMap::new(),
        new_keys: keys.map(schema::new).collect(),
        joined: HashMap::new(),
    };
    lift.inputs(facts.theta)?;
    for tensor in &graph.initializer {
        let place = Place::tensor(&tensor.name);
        if tensor.name.is_empty() || lift.known.contains_key(&tensor.name) || lift.tensors.contains_key(&tensor.name) {
            return Err(place.fault(Fault::Twice("its name".into())));
        }
        let read = Tensor::read(tensor, &mut lift.files)?;
        lift.tensors.insert(tensor.name.clone(), read);
    }
    Place::Graph.at_most("number of nodes", graph.node.len() as u64, MAX_NODES)?;
    for node in graph.node.iter().filter(|node| node.op_type == "QuantizeLinear") {
        if let ([x, ..], [whole]) = (&node.input[..], &node.output[..])
            && lift.new_keys.contains(whole)
        {
            lift.new_keys.insert(x.clone());
        }
    }
    for (i, node) in graph.node.iter().enumerate() {
        let result = node.output.first().map_or("nothing", String::as_str);
        lift.operator(&Place::node(i, &node.op_type, result), node)?;
    }
    let logits = lift.outputs()?;
    if let Some(tensor) = graph.initializer.iter().find(|tensor| !lift.used.contains(&tensor.name)) {
        return Err(Place::tensor(&tensor.name).damaged("nothing reads it"));
    }
    Ok((lift.builder.finish([logits]), Weights { files: lift.files, tensors: lift.placed }))
}

impl Lift<'_> {
    fn inputs(&mut self, theta: f64) -> Result<()> {
        let one = Dim::fixed(1);
        let ids = || ValueType::new(DType::I32, [one, Dim::T]);
        let tokens = self.builder.input("tokens", ids());
        let positions = self.builder.input("positions", ids());
        let mask = self.builder.input("mask", ValueType::f32([one, one, Dim::T, Dim { c: 1, ..Dim::T }]));
        let dim = self.step.cache.head_dim;
        let place = Place::value(COS);
        let cos = self.build(&place, Op::RopeCos { dim, theta }, [positions.into()])?;
        let sin = self.build(&place, Op::RopeSin { dim, theta }, [positions.into()])?;
        for (name, id) in [(TOKENS, tokens), (COS, cos), (SIN, sin), (MASK, mask)] {
            self.known.insert(name.into(), Held::Node(id));
        }
        for cache in schema::caches(self.step.cache.layers) {
            self.known.insert(schema::past(cache), Held::Past(cache));
        }
        Ok(())
    }

    fn operator(&mut self, place: &Place, node: &NodeProto) -> Result<()> {
        place.known(&node.special_fields)?;
        if !node.domain.is_empty() || !node.overload.is_empty() || !node.metadata_props.is_empty() {
            return Err(place.unsupported("operators of other domains, overloads and metadata of nodes"));
        }
        let [result] = &node.output[..] else { return Err(place.unsupported("several results")) };
        if result.is_empty() || self.known.contains_key(result) || self.tensors.contains_key(result) {
            return Err(place.damaged("its result is defined twice"));
        }
        let held = node.input.iter().map(|name| self.held(place, name)).collect::<Result<Vec<Held>>>()?;
        let made = self.lift(&node.op_type, result, Inputs::read(place, node, held)?)?;
        self.known.insert(result.clone(), made);
        Ok(())
    }

    /// What stands for a value of that name.
    fn held(&mut self, place: &Place, name: &str) -> Result<Held> {
        if self.tensors.contains_key(name) {
            self.used.insert(name.into());
            return Ok(Held::Tensor(name.into()));
        }
        let known = self.known.get(name).cloned();
        known.ok_or_else(|| place.missing(format!("operand {:?}", name.chars().take(64).collect::<String>())))
    }

    /// A stored tensor.
    pub(super) fn tensor(&self, place: &Place, held: &Held) -> Result<(&str, &Tensor)> {
        match held {
            Held::Tensor(name) | Held::Floats(name) | Held::Turned(name) | Held::Gridded(name, _) => {
                self.tensors.get_key_value(name)
            }
            _ => None,
        }
        .map(|(name, tensor)| (name.as_str(), tensor))
        .ok_or_else(|| place.unsupported("a value where a stored tensor stands"))
    }

    /// The whole numbers of a list.
    pub(super) fn list(&self, place: &Place, held: &Held) -> Result<Vec<i64>> {
        self.tensor(place, held)?.1.list(place, &self.files)
    }

    /// Whether all bytes of a tensor are 0. It is looked through once, however often it is used.
    pub(super) fn is_zero(&mut self, place: &Place, held: &Held) -> Result<bool> {
        let (name, tensor) = self.tensor(place, held)?;
        if let Some(known) = self.zeros.get(name) {
            return Ok(*known);
        }
        let (name, zero) = (name.to_string(), tensor.bytes(&self.files).iter().all(|byte| *byte == 0));
        self.zeros.insert(name, zero);
        Ok(zero)
    }

    /// A value of the module, or a stored tensor as a vector or table.
    pub(super) fn operand(&mut self, place: &Place, held: &Held) -> Result<Operand> {
        match held {
            Held::Node(id) => Ok(Operand::Node(*id)),
            Held::Tensor(_) | Held::Floats(_) | Held::Gridded(..) => {
                self.floats(place, held, false).map(Operand::Weight)
            }
            _ => Err(place.unsupported("this use of keys, caches or filters")),
        }
    }

    /// Stored floats as a weight; `columns` says that they are its columns, one after another.
    pub(super) fn floats(&mut self, place: &Place, held: &Held, columns: bool) -> Result<WeightId> {
        let (name, tensor) = self.tensor(place, held)?;
        if matches!(held, Held::Tensor(_)) {
            place.same("element type", tensor.dtype, self.step.float)?;
        }
        let grid = if let Held::Gridded(_, grid) = held { Some(*grid) } else { None };
        if columns && grid.is_some() {
            return Err(place.unsupported("a filter that is no int8 or int4"));
        }
        let key = (name.to_string(), columns);
        if let Some(id) = self.made.get(&key) {
            place.same("grid of the tensor", self.builder.module().weight(*id).grid, grid)?;
            return Ok(*id);
        }
        let encoding = match (grid.map(|grid| grid.ty), tensor.encoding()) {
            (Some(GridType::U8), _) => Encoding::U8,
            (Some(GridType::U16), _) => Encoding::U16,
            (None, Some(encoding)) => encoding,
            _ => return Err(place.unsupported(format!("{:?} as floats", tensor.dtype))),
        };
        let mut shape = if tensor.dims.is_empty() { vec![1] } else { tensor.dims.clone() };
        if columns {
            shape.reverse();
        }
        let packing = Packing { turned: columns, grid, ..Packing::default() };
        let numbers =
            Stored { ty: WeightType::new(encoding, shape), packing, range: tensor.range.clone(), scales: 0..0 };
        let placed = Placed { numbers, file: tensor.file, scales: (0, 0..0) };
        let id = self.weight(place, &key.0, placed)?;
        self.made.insert(key, id);
        Ok(id)
    }

    /// Adds a weight, called after a tensor.
    pub(super) fn weight(&mut self, place: &Place, name: &str, placed: Placed) -> Result<WeightId> {
        let count = self.builder.module().weights.len();
        let mut name = if well_named(name) { name.to_string() } else { format!("const.{count}") };
        while self.builder.weight_id(&name).is_some() {
            name = format!("{name}.{count}");
        }
        let ty = placed.numbers.ty.clone();
        let integers = !ty.encoding.is_float();
        let id = self.builder.weight(&name, ty, WeightExpr::Stored(name.clone()));
        let id = id.map_err(|e| place.fault(Fault::Broken(e.to_string())))?;
        if let Some(grid) = placed.numbers.packing.grid {
            self.builder.grid(id, grid);
        } else if integers {
            self.builder.search(id, self.search);
        }
        self.placed.insert(name, placed);
        Ok(id)
    }

    pub(super) fn build(&mut self, place: &Place, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId> {
        // The final name is found when all nodes are known.
        let name = format!("n{}", self.builder.module().nodes.len());
        let args = args.into();
        let operands: Vec<Option<Grid>> = args.iter().map(|arg| self.grid(*arg)).collect();
        let grid = schema::grid_of(&op, &operands);
        let id = self.builder.node(&name, op, args).map_err(|e| place.fault(Fault::Broken(e.what)))?;
        self.grids.extend(grid.map(|grid| (id, grid)));
        Ok(id)
    }

    /// The grid that an operand is on.
    fn grid(&self, operand: Operand) -> Option<Grid> {
        match operand {
            Operand::Node(id) => self.grids.get(&id).copied(),
            Operand::Weight(id) => self.builder.module().weight(id).grid,
            Operand::Cache(_) => None,
        }
    }

    pub(super) fn shape(&self, id: NodeId) -> &[Dim] {
        &self.builder.module().node(id).ty.shape
    }

    /// The node of the logits, after checking that new rows are those that the caches are joined with.
    fn outputs(&self) -> Result<NodeId> {
        for cache in schema::caches(self.step.cache.layers) {
            let name = schema::new(cache);
            let place = Place::value(&name);
            let mut held = self.known.get(&name);
            let mut dtype = self.step.float;
            if let Some(Held::Whole(value, grid)) = held {
                (held, dtype) = (Some(value.as_ref()), schema::grid_type(grid.ty));
            }
            let made = match held {
                Some(Held::Node(id)) if cache.kind == CacheKind::V => Some(*id),
                Some(Held::New(id)) if cache.kind == CacheKind::K => Some(*id),
                _ => None,
            };
            let made = made.ok_or_else(|| place.missing("node that makes it"))?;
            place.same("element type", dtype, self.step.dtype(cache))?;
            place.same("rows that the cache is joined with", self.joined.get(&cache), Some(&made))?;
        }
        let place = Place::value(LOGITS);
        let Some(Held::Node(id)) = self.known.get(LOGITS) else { return Err(place.missing("node that makes it")) };
        let expected = [Dim::fixed(1), Dim::T, Dim::fixed(self.step.vocab)];
        place.same("shape", self.shape(*id), &expected[..])?;
        Ok(*id)
    }
}
