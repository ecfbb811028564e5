//! The graph of a delegate as a module, all nodes outside layers.
//!
//! Shapes are not taken from the file: they follow from the inputs by the typing rules of the IR, with T and C as
//! symbols, and must agree at the bounds with the sizes that the file declares.

use std::collections::HashMap;

use diffulex_compiler::ir::{
    Builder, CacheId, DType, Dim, Encoding, Module, NodeId, Op, Operand, Stage, ValueType, WeightExpr, WeightId,
    WeightType, build::BuildError, well_named,
};

use diffulex_compiler::quant::{Packing, Search};

use super::error::{Fault, Place, Result};
use super::graph::Graph;
use super::node::{Kind, Node};
use super::plan::{Argument, Ids, Plan, Table};
use super::value::{Constant, Form, Role, Value};
use crate::stored::Stored;
use crate::xnnpack::schema::constants::{SCALAR_BFLOAT16, SCALAR_HALF, TABLE_PACKING};

/// A module and where its weights lie in the file.
pub(super) struct Lifted {
    pub(super) module: Module,
    pub(super) tensors: HashMap<String, Stored>,
}

/// Makes a module called `name` of method `forward` and its delegate; the scales of its weights were found by `search`.
pub(super) fn lift(name: &str, search: Search, plan: &Plan, graph: &Graph) -> Result<Lifted> {
    let header = Module::new(name, Stage::Read(crate::xnnpack::NAME.into()), plan.bounds, plan.cache);
    let mut lift = Lift {
        builder: Builder::new(header),
        search,
        graph,
        held: vec![None; graph.values.len()],
        constants: HashMap::new(),
        tensors: HashMap::new(),
    };
    let one = Dim::fixed(1);
    let ids = ValueType::new(DType::I32, [one, Dim::T]);
    let tokens = lift.builder.input("tokens", ids.clone());
    let positions = lift.builder.input("positions", ids);
    let mask = lift.builder.input("mask", ValueType::f32([one, one, Dim::T, Dim { c: 1, ..Dim::T }]));
    let rows = (plan.bounds.r > 0).then(|| lift.builder.input("rows", ValueType::f32([one, Dim::R, Dim::T])));
    lift.given(plan, [tokens, positions, mask], rows)?;
    for (i, node) in graph.nodes.iter().enumerate() {
        lift.node(i, node)?;
    }
    let logits = lift.outputs(plan)?;
    let module = lift.builder.finish([logits]);
    Ok(Lifted { module, tensors: lift.tensors })
}

/// What stands for a value of the delegate.
#[derive(Clone, Copy, Debug)]
struct Held {
    operand: Operand,
    /// How the delegate holds it.
    form: Form,
}

/// The module as it grows.
pub(super) struct Lift<'g> {
    pub(super) builder: Builder,
    search: Search,
    graph: &'g Graph,
    held: Vec<Option<Held>>,
    /// Weights by constant, shape and encoding.
    constants: HashMap<(usize, WeightType), WeightId>,
    tensors: HashMap<String, Stored>,
}

impl Lift<'_> {
    /// What the delegate is given, by external id.
    fn given(&mut self, plan: &Plan, [tokens, positions, mask]: [NodeId; 3], rows: Option<NodeId>) -> Result<()> {
        let externals = &self.graph.externals;
        if externals.len() != plan.arguments.len() {
            return Err(Place::Delegate.mismatch("num_externs", externals.len(), plan.arguments.len()));
        }
        for (&index, (argument, tensor)) in externals.iter().zip(&plan.arguments) {
            let value = &self.graph.values[index];
            let place = Place::Value(value.id);
            let form = match tensor.scalar {
                SCALAR_HALF => Form::Half,
                SCALAR_BFLOAT16 => Form::Brain,
                _ => Form::Single,
            };
            if value.dims != tensor.sizes || value.form != form {
                let found = format!("{:?}", value.dims);
                return Err(place.mismatch("dims", found, format!("{:?} of its tensor", tensor.sizes)));
            }
            let operand = match argument {
                Argument::Logits | Argument::NewRows(_) if value.role == Role::Output => continue,
                _ if value.role != Role::Input => {
                    return Err(place.damaged("an output where the method gives an input"));
                }
                Argument::Logits | Argument::NewRows(_) => {
                    return Err(place.damaged("an input where the method expects an output"));
                }
                Argument::Embedding(ids, table) => {
                    let ids = if *ids == Ids::Tokens { tokens } else { positions };
                    let table = self.table(table)?;
                    Operand::Node(self.build(&place, Op::Embed, [Operand::Node(ids), table])?)
                }
                Argument::Mask => Operand::Node(mask),
                Argument::Rows => Operand::Node(rows.ok_or_else(|| place.clone().damaged("there are no rows"))?),
                Argument::Cache(cache) => Operand::Cache(*cache),
            };
            self.hold(index, operand, value.form)?;
        }
        Ok(())
    }

    /// The node of the logits, after checking that new rows are those that the caches are joined with.
    fn outputs(&self, plan: &Plan) -> Result<NodeId> {
        let joined: HashMap<CacheId, NodeId> = self.builder.module().new_rows().collect();
        let (one, mut logits) = (Dim::fixed(1), None);
        let rows = if plan.bounds.r > 0 { Dim::R } else { Dim::T };
        let returned = |argument: &Argument| matches!(argument, Argument::Logits | Argument::NewRows(_));
        let externals = self.graph.externals.iter().zip(&plan.arguments);
        for (&index, (argument, _)) in externals.filter(|(_, (argument, _))| returned(argument)) {
            let place = Place::Value(self.graph.values[index].id);
            let node = match self.held[index].map(|held| held.operand) {
                Some(Operand::Node(node)) => node,
                _ => return Err(place.damaged("is not made by a node")),
            };
            let shape = self.builder.module().node(node).ty.shape.as_slice();
            match argument {
                Argument::Logits if matches!(shape, [first, r, v] if *first == one && *r == rows && v.known().is_some()) =>
                {
                    logits = Some(node);
                }
                Argument::Logits => return Err(place.damaged(format!("the logits are not [1, {rows}, V]"))),
                Argument::NewRows(cache) if joined.get(cache) != Some(&node) => {
                    return Err(place.damaged(format!("is not what cache {cache} is joined with")));
                }
                Argument::NewRows(_) if shape.get(2) != Some(&Dim::T) => {
                    return Err(place.damaged("new rows are not [1, KV, T, D]"));
                }
                _ => {}
            }
        }
        logits.ok_or_else(|| Place::Delegate.damaged("makes no logits"))
    }

    fn node(&mut self, index: usize, node: &Node) -> Result<()> {
        let (place, form) = (Place::Node(index), self.graph.values[node.output].form);
        let args = node.inputs.iter().enumerate().map(|(k, &input)| self.argument(&place, node, k, input));
        let args = args.collect::<Result<Vec<Operand>>>()?;
        let made = match (&node.kind, &args[..]) {
            (Kind::Op(Op::Concat { axis: 2 }), [Operand::Cache(_), Operand::Node(_)]) => {
                self.build(&place, Op::Cached, args)?.into()
            }
            (_, args) if args.iter().any(|a| matches!(a, Operand::Cache(_))) => {
                return Err(place.unsupported("a cache that is used otherwise than joined with new rows along axis 2"));
            }
            (Kind::Op(op), _) => self.build(&place, op.clone(), args)?.into(),
            (Kind::Reshape(shape), &[x]) => self.reshape(&place, shape, x)?,
            (Kind::Slice(offsets, sizes), &[x]) => self.slice(&place, offsets, sizes, x)?,
            (Kind::Convert, &[x @ Operand::Node(_)]) if form == Form::Token => {
                self.build(&place, Op::Int8Token, [x])?.into()
            }
            (Kind::Convert, &[x @ Operand::Node(_)]) => self.cast(&place, x, form)?,
            (Kind::Copy, &[x @ Operand::Node(_)]) => x,
            _ => return Err(place.unsupported("a constant that is converted or copied")),
        };
        let converted = matches!(node.kind, Kind::Convert) && !matches!(form, Form::Quantized(_));
        let dtype = self.builder.module().operand_type(made).dtype;
        if !converted && Some(dtype) != dtype_of(form) {
            return Err(place.unsupported(format!("a result in {form:?} where {dtype} is made")));
        }
        self.hold(node.output, made, form)
    }

    /// The numbers of a value in another form; they are the same where an embedding gave them.
    fn cast(&mut self, place: &Place, x: Operand, form: Form) -> Result<Operand> {
        let to = dtype_of(form).ok_or_else(|| place.clone().unsupported("a conversion to a quantized form"))?;
        if self.builder.module().operand_type(x).dtype == to {
            return Ok(x);
        }
        self.build(place, Op::Cast { to }, [x]).map(Operand::Node)
    }

    /// Operand `k` of a node: of a kind that its op takes in the IR.
    fn argument(&mut self, place: &Place, node: &Node, k: usize, input: usize) -> Result<Operand> {
        let value = &self.graph.values[input];
        let operand = match &value.role {
            Role::Constant(constant) => Held { operand: self.constant(value, constant)?, form: value.form },
            _ => self.held[input].ok_or_else(|| place.clone().damaged(format!("value {} is not there", value.id)))?,
        };
        let constant = matches!(operand.operand, Operand::Weight(_));
        let given = self.held[node.inputs[0]].map(|held| held.form);
        match (&node.kind, k) {
            (Kind::Op(Op::Linear), 1) if constant => {
                let fits = match (given, operand.form) {
                    (Some(Form::Token), filter) => matches!(filter, Form::Quantized(_)),
                    (Some(given @ (Form::Half | Form::Brain)), filter) => filter == given,
                    (_, Form::Quantized(encoding)) => encoding.group().is_none(),
                    (_, filter) => filter != Form::Brain,
                };
                let what = || format!("a filter in {:?} for tokens in {given:?}", operand.form);
                fits.then_some(operand.operand).ok_or_else(|| place.clone().unsupported(what()))
            }
            (Kind::Op(Op::Linear), 0) if operand.form == Form::Token => Ok(operand.operand),
            (Kind::Op(Op::Linear), 0) if matches!(operand.form, Form::Half | Form::Brain) => {
                // The rows of an embedding are floats to the graph, whatever the table holds.
                let dtype = Some(self.builder.module().operand_type(operand.operand).dtype);
                let fits = dtype == dtype_of(operand.form);
                fits.then_some(operand.operand).ok_or_else(|| place.clone().unsupported("a filter for rows of a table"))
            }
            _ if matches!(operand.form, Form::Quantized(_)) => {
                Err(place.clone().unsupported("a quantized constant that is no filter"))
            }
            (Kind::Op(Op::Linear), 2) if constant => Ok(operand.operand),
            (Kind::Op(Op::Linear), 1 | 2) => Err(place.clone().unsupported("a filter or bias that is not constant")),
            (Kind::Convert, _) if operand.form != Form::Token => Ok(operand.operand),
            _ if operand.form != Form::Single => {
                Err(place.clone().unsupported("arithmetic in other than single floats"))
            }
            (Kind::Op(Op::Add | Op::Sub | Op::Mul | Op::Div), _) => Ok(operand.operand),
            _ if constant => Err(place.clone().unsupported(format!("a constant as operand {k}"))),
            _ => Ok(operand.operand),
        }
    }

    /// Notes what stands for a value, after comparing its type with the sizes in the file.
    fn hold(&mut self, index: usize, operand: Operand, form: Form) -> Result<()> {
        let value = &self.graph.values[index];
        let ty = self.builder.module().operand_type(operand);
        let bounds = self.builder.module().bounds;
        let sizes = ty.shape.iter().map(|dim| dim.at(bounds));
        if !sizes.eq(value.dims.iter().map(|&n| Some(n as usize))) {
            return Err(Place::Value(value.id).mismatch("dims", format!("{:?}", value.dims), format!("those of {ty}")));
        }
        self.held[index] = Some(Held { operand, form });
        Ok(())
    }

    fn table(&mut self, table: &Table) -> Result<Operand> {
        let ty = WeightType::new(table.encoding, table.shape);
        let packing = if table.encoding.is_int4() { TABLE_PACKING } else { Packing::default() };
        let name = table.name.clone().unwrap_or_else(|| "table".into());
        let (range, scales) = (table.range.clone(), table.scales.clone());
        self.weight(&name, Stored { ty, packing, range, scales }).map(Operand::Weight)
    }

    fn constant(&mut self, value: &Value, constant: &Constant) -> Result<Operand> {
        let encoding = match value.form {
            Form::Half => Encoding::F16,
            Form::Brain => Encoding::BF16,
            Form::Quantized(encoding) => encoding,
            Form::Single | Form::Token => Encoding::F32,
        };
        let ty = WeightType::new(encoding, value.dims.clone());
        if let Some(&known) = self.constants.get(&(constant.index, ty.clone())) {
            return Ok(Operand::Weight(known));
        }
        let name = constant.key.clone().unwrap_or_else(|| format!("const.{}", constant.index));
        let (range, scales) = (constant.range.clone(), constant.scales.clone());
        let id = self.weight(&name, Stored { ty: ty.clone(), packing: Packing::default(), range, scales })?;
        self.constants.insert((constant.index, ty), id);
        Ok(Operand::Weight(id))
    }

    /// Adds a weight; tables and constants that are the same bytes in the same form are one. A name that is taken, or is
    /// none, gives way to a number.
    fn weight(&mut self, name: &str, stored: Stored) -> Result<WeightId> {
        let place = Place::Module(format!("@{name}"));
        let count = self.builder.module().weights.len();
        let mut name = if well_named(name) { name.to_string() } else { format!("const.{count}") };
        if let Some(known) = self.builder.weight_id(&name) {
            if self.tensors.get(&name) == Some(&stored) {
                return Ok(known);
            }
            name = format!("{name}.{count}");
        }
        let id = self.builder.weight(&name, stored.ty.clone(), WeightExpr::Stored(name.clone()));
        let id = id.map_err(|e| place.fault(Fault::Broken(e.to_string())))?;
        if !stored.ty.encoding.is_float() {
            self.builder.search(id, self.search);
        }
        self.tensors.insert(name, stored);
        Ok(id)
    }

    pub(super) fn build(&mut self, place: &Place, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId> {
        // The final name is found when all nodes are known.
        let name = format!("n{}", self.builder.module().nodes.len());
        let broken = |e: BuildError| place.clone().fault(Fault::Broken(e.what));
        self.builder.node(&name, op, args).map_err(broken)
    }
}

/// The element type of floats held so; quantized numbers have none.
fn dtype_of(form: Form) -> Option<DType> {
    match form {
        Form::Single => Some(DType::F32),
        Form::Half => Some(DType::F16),
        Form::Brain => Some(DType::BF16),
        Form::Token | Form::Quantized(_) => None,
    }
}
