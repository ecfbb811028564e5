//! A graph as rules look at it: what makes and what uses each value, its element and rank, and the grid it is rounded to.
//!
//! Nodes are taken in the order of the file, which ONNX demands to be one of execution: a value that nothing before makes
//! is missing, so that cycles are, too. Each value and each number is looked at once, whatever the graph.

use std::cell::RefCell;
use std::collections::BTreeMap;

use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

use super::infer;
use super::numbers::{self, Element, Range};
use super::{External, Found, list};

/// A graph and what is known of its values.
pub(super) struct Graph<'a> {
    pub(super) proto: &'a GraphProto,
    /// Version of the default domain; 0 if it is not imported.
    pub(super) opset: i64,
    /// Whether numbers that are not constant are rounded anywhere.
    pub(super) quantized: bool,
    values: BTreeMap<&'a str, Value<'a>>,
    external: &'a External<'a>,
    ranges: RefCell<BTreeMap<&'a str, Option<Range>>>,
}

/// One value.
#[derive(Default)]
pub(super) struct Value<'a> {
    pub(super) element: Option<Element>,
    pub(super) rank: Option<usize>,
    /// Whether it is the same in each run.
    pub(super) constant: bool,
    /// Where its numbers are stored.
    pub(super) tensor: Option<&'a TensorProto>,
    /// What makes it.
    pub(super) producer: Option<&'a NodeProto>,
    /// The nodes that use it, and as which input.
    pub(super) users: Vec<(&'a NodeProto, usize)>,
    pub(super) is_output: bool,
}

/// What a `QuantizeLinear` or `DequantizeLinear` rounds to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grid<'a> {
    pub(super) element: Element,
    pub(super) scale: &'a str,
    pub(super) zero: Option<&'a str>,
    pub(super) axis: i64,
    /// Numbers that share a scale along `axis`; 0 where the scales are not blockwise.
    pub(super) block: i64,
}

impl<'a> Graph<'a> {
    pub(super) fn new(model: &'a ModelProto, external: &'a External<'a>, found: &mut Found) -> Graph<'a> {
        let proto: &GraphProto = &model.graph;
        let default = model.opset_import.iter().find(|opset| is_default(&opset.domain));
        let mut graph = Graph {
            proto,
            opset: default.map_or(0, |opset| opset.version),
            quantized: false,
            values: BTreeMap::new(),
            external,
            ranges: RefCell::default(),
        };
        for tensor in &proto.initializer {
            graph.add_constant(&tensor.name, tensor, found);
        }
        for input in &proto.input {
            let ty = input.type_.tensor_type();
            let value =
                Value { element: Element::of(ty.elem_type), rank: infer::declared_rank(ty), ..Value::default() };
            graph.add(&input.name, value, found);
        }
        let declared: BTreeMap<_, _> =
            proto.value_info.iter().chain(&proto.output).map(|info| (info.name.as_str(), info)).collect();
        for node in &proto.node {
            graph.add_node(node, &declared, found);
        }
        for output in &proto.output {
            match graph.values.get_mut(output.name.as_str()) {
                Some(value) => value.is_output = true,
                None => found.add(&list::MISSING_VALUE, format!("output \"{}\"", output.name), "nothing makes it"),
            }
        }
        graph
    }

    fn add_constant(&mut self, name: &'a str, tensor: &'a TensorProto, found: &mut Found) {
        let value = Value {
            element: Element::of(tensor.data_type),
            rank: Some(tensor.dims.len()),
            constant: true,
            tensor: Some(tensor),
            ..Value::default()
        };
        self.add(name, value, found);
    }

    /// A second value of a name is not looked at.
    fn add(&mut self, name: &'a str, value: Value<'a>, found: &mut Found) {
        match self.values.entry(name) {
            std::collections::btree_map::Entry::Vacant(place) => _ = place.insert(value),
            std::collections::btree_map::Entry::Occupied(_) => {
                found.add(&list::DUPLICATE_NAME, format!("value \"{name}\""), "it is made a second time");
            }
        }
    }

    fn add_node(
        &mut self,
        node: &'a NodeProto,
        declared: &BTreeMap<&'a str, &'a onnx_protobuf::ValueInfoProto>,
        found: &mut Found,
    ) {
        if let Some(tensor) = constant_of(node)
            && let [name] = &node.output[..]
        {
            return self.add_constant(name, tensor, found);
        }
        for (i, name) in inputs(node) {
            match self.values.get_mut(name) {
                Some(value) => value.users.push((node, i)),
                None => {
                    found.add(&list::MISSING_VALUE, place(node), format!("nothing before makes its input \"{name}\""))
                }
            }
        }
        let constant = inputs(node).count() > 0
            && inputs(node).all(|(_, name)| self.values.get(name).is_some_and(|value| value.constant));
        self.quantized |= is_rounding(node) && !constant;
        let (element, rank) = (infer::element(self, node), infer::rank(self, node));
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            let ty = declared.get(name.as_str()).map(|info| info.type_.tensor_type());
            let value = Value {
                element: element.or(ty.and_then(|ty| Element::of(ty.elem_type))),
                rank: rank.or(ty.and_then(infer::declared_rank)),
                constant,
                producer: Some(node),
                ..Value::default()
            };
            self.add(name, value, found);
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value<'a>> {
        self.values.get(name)
    }

    /// All values, by name.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// The value that is this input of a node.
    pub(super) fn operand(&self, node: &NodeProto, i: usize) -> Option<&Value<'a>> {
        self.value(input(node, i)?)
    }

    /// The grid of a node that is a `QuantizeLinear` or `DequantizeLinear`.
    pub(super) fn grid(&self, node: &'a NodeProto) -> Option<Grid<'a>> {
        let zero = input(node, 2);
        let element = if is(node, "DequantizeLinear") {
            self.operand(node, 0)?.element?
        } else if is(node, "QuantizeLinear") {
            infer::quantized_element(self, node)?
        } else {
            return None;
        };
        let (axis, block) = (int(node, "axis").unwrap_or(1), int(node, "block_size").unwrap_or(0));
        Some(Grid { element, scale: input(node, 1)?, zero, axis, block })
    }

    /// The grid that an input of an op comes from.
    pub(super) fn read_grid(&self, node: &NodeProto, i: usize) -> Option<Grid<'a>> {
        let producer = self.operand(node, i)?.producer?;
        if is(producer, "DequantizeLinear") { self.grid(producer) } else { None }
    }

    /// The grids that the results of an op are rounded to.
    pub(super) fn written_grids(&self, node: &'a NodeProto) -> impl Iterator<Item = Grid<'a>> {
        let values = node.output.iter().filter_map(|name| self.value(name));
        let users = values.flat_map(|value| value.users.iter());
        users.filter(|(user, i)| *i == 0 && is(user, "QuantizeLinear")).filter_map(|(user, _)| self.grid(user))
    }

    /// The stored integers that an input of an op comes from, through one `DequantizeLinear`.
    pub(super) fn stored(&self, node: &NodeProto, i: usize) -> Option<&'a TensorProto> {
        let producer = self.operand(node, i)?.producer?;
        if is(producer, "DequantizeLinear") { self.operand(producer, 0)?.tensor } else { None }
    }

    /// Which numbers a stored value holds.
    pub(super) fn range(&self, name: &str) -> Option<Range> {
        let (name, value) = self.values.get_key_value(name)?;
        let tensor = value.tensor?;
        let read = || {
            let is_external = tensor.data_location.value() == 1;
            let outside = if is_external { Some((self.external)(tensor)?) } else { None };
            numbers::range(tensor, outside)
        };
        *self.ranges.borrow_mut().entry(name).or_insert_with(read)
    }

    /// Whether there is one scale for all numbers, and it is stored.
    pub(super) fn is_single(&self, grid: Grid<'_>) -> bool {
        let scale = self.value(grid.scale).and_then(|scale| scale.tensor);
        grid.block == 0 && scale.and_then(numbers::count) == Some(1)
    }

    /// The zero points, which are 0 where none are written; nothing if they cannot be read.
    pub(super) fn zeros(&self, grid: Grid<'_>) -> Option<Range> {
        grid.zero.map_or(Some(Range { min: 0.0, max: 0.0 }), |zero| self.range(zero))
    }

    /// Whether two grids are the same, also if their scales are stored twice.
    pub(super) fn is_same(&self, a: Grid<'_>, b: Grid<'_>) -> bool {
        let shared = a.scale == b.scale && a.zero == b.zero && a.axis == b.axis && a.block == b.block;
        let equal = || {
            let (scale, zero) = (self.range(a.scale), self.zeros(a));
            let single = self.is_single(a) && self.is_single(b);
            single && scale.is_some() && scale == self.range(b.scale) && zero.is_some() && zero == self.zeros(b)
        };
        a.element == b.element && (shared || equal())
    }
}

/// Whether it is that op of the default domain.
pub(super) fn is(node: &NodeProto, op: &str) -> bool {
    node.op_type == op && is_default(&node.domain)
}

pub(super) fn is_rounding(node: &NodeProto) -> bool {
    is(node, "QuantizeLinear") || is(node, "DequantizeLinear")
}

/// Both names of the default domain.
pub(super) fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// An input of a node, unless it is left out.
pub(super) fn input(node: &NodeProto, i: usize) -> Option<&str> {
    node.input.get(i).map(String::as_str).filter(|name| !name.is_empty())
}

/// The inputs that are not left out.
pub(super) fn inputs(node: &NodeProto) -> impl Iterator<Item = (usize, &str)> {
    node.input.iter().map(String::as_str).enumerate().filter(|(_, name)| !name.is_empty())
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// The integer attribute of that name.
pub(super) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

/// Where a reader looks for it: its name, or what it makes.
pub(super) fn place(node: &NodeProto) -> String {
    match (&node.name[..], node.output.first()) {
        ("", Some(output)) => format!("{} of \"{output}\"", node.op_type),
        ("", None) => node.op_type.clone(),
        (name, _) => name.to_string(),
    }
}

/// The numbers of a `Constant`.
fn constant_of(node: &NodeProto) -> Option<&TensorProto> {
    if is(node, "Constant") { attribute(node, "value")?.t.as_ref() } else { None }
}
