//! The operations of a program as a module, all nodes outside layers.
//!
//! Shapes are not taken from the program: they follow from the inputs by the typing rules of the IR, with T and C as
//! symbols, and must agree at the bounds with those that the program declares: unknown there is what depends on T.

use std::collections::{HashMap, HashSet};

use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::ir::{
    Builder, CacheId, CacheKind, DType, Dim, Encoding, Module, NodeId, Op, Operand, Stage, ValueType, WeightExpr,
    WeightId, WeightType, well_named,
};
use diffulex_compiler::quant::{Packing, Search};
use memmap2::Mmap;

use super::arguments::Arguments;
use super::blobs::Records;
use super::constant::{Constant, Type, UNKNOWN, named};
use super::error::{Fault, Place, Result};
use super::interface::Step;
use super::package::Files;
use super::{Facts, Interface};
use crate::coreml::chain::HIDDEN;
use crate::coreml::schema::program::{DataType, Operation};
use crate::coreml::schema::{CACHES, HIDDEN_IN, MASK, NEW_ROWS, POSITIONS, ROWS, STATES, TOKENS, WRITE_POS};
use crate::stored::Stored;

/// A module, and where its weights lie.
pub(super) struct Lifted {
    pub(super) module: Module,
    pub(super) tensors: HashMap<String, Stored>,
    /// The weight file, and its name in the program.
    pub(super) file: Option<(String, Mmap)>,
}

/// What stands for a value of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    /// A value of the module.
    Node(NodeId),
    /// A constant.
    Constant(Constant),
    /// A weight that is stored in fewer bits.
    Weight(WeightId),
    /// `x / sqrt(mean(x²) + eps)`, and behind it the same with the other sign.
    Halves(NodeId),
    /// Committed rows of all layers, as the host gives them.
    Caches(CacheKind),
    /// Those of one layer.
    Old(CacheId),
    /// New rows of all layers.
    New(CacheKind),
    /// What a state holds after so many writes.
    Kept(CacheKind, u32),
    /// That, with the rows of a layer put in.
    Updated(CacheId, NodeId, u32),
    /// New rows of one layer, with an axis before them.
    Rows(NodeId),
    /// Where the rows of a step begin, or end, in a kept cache.
    Bound(Bound),
    /// Where those of a layer do.
    Corner(Bound, u32),
}

/// The begin or the end of what a step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// `write_pos`.
    Start,
    /// `write_pos + T`.
    End,
}

/// What an operation makes.
pub(super) struct Made {
    pub(super) held: Held,
    pub(super) dtype: DataType,
    /// Its axes; those of a node follow from the module.
    pub(super) shape: Option<Vec<u32>>,
}

/// A value of the program.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) held: Held,
    pub(super) ty: Type,
}

/// The module as it grows.
pub(super) struct Lift<'a> {
    pub(super) step: &'a Step<'a>,
    pub(super) builder: Builder,
    search: Search,
    files: &'a Files,
    pub(super) known: HashMap<String, Known>,
    names: HashSet<String>,
    /// Blobs that became weights.
    made: HashMap<String, WeightId>,
    weights: Option<(String, Mmap, Records)>,
    /// Whether blobs that were looked through, by their offsets, are all the same.
    filled: HashMap<u64, bool>,
    tensors: HashMap<String, Stored>,
    /// The new rows that caches are joined with.
    pub(super) joined: HashMap<CacheId, NodeId>,
    /// For keys and values: how often the state was written, and the layers that were.
    pub(super) writes: [u32; 2],
    pub(super) written: HashMap<CacheId, NodeId>,
}

/// Makes a module of the program.
pub(super) fn lift(facts: &Facts, step: &Step<'_>, files: &Files) -> Result<Lifted> {
    let header = Module::new(&facts.name, Stage::Read(crate::coreml::NAME.into()), step.bounds, step.cache);
    let mut lift = Lift {
        step,
        builder: Builder::new(header),
        search: facts.search,
        files,
        known: HashMap::new(),
        names: HashSet::new(),
        made: HashMap::new(),
        weights: None,
        filled: HashMap::new(),
        tensors: HashMap::new(),
        joined: HashMap::new(),
        writes: [0; 2],
        written: HashMap::new(),
    };
    lift.inputs();
    for (i, operation) in step.operations.iter().enumerate() {
        let result = operation.outputs.first().map_or("nothing", |result| result.name.as_str());
        lift.operation(&Place::operation(i, &operation.r#type, result), operation)?;
    }
    let result = lift.outputs()?;
    let module = lift.builder.finish([result]);
    Ok(Lifted { module, tensors: lift.tensors, file: lift.weights.map(|(name, map, _)| (name, map)) })
}

impl Lift<'_> {
    fn inputs(&mut self) {
        let one = Dim::fixed(1);
        let ids = || ValueType::new(DType::I32, [one, Dim::T]);
        let hidden = self.step.given.get(HIDDEN_IN).and_then(|ty| ty.shape.last()).map_or(one, |&n| Dim::fixed(n));
        let inputs = [
            (HIDDEN_IN, HIDDEN, ValueType::f32([one, Dim::T, hidden])),
            (TOKENS, "tokens", ids()),
            (POSITIONS, "positions", ids()),
            (MASK, "mask", ValueType::f32([one, one, Dim::T, Dim { c: 1, ..Dim::T }])),
            (ROWS, "rows", ValueType::new(DType::I32, [Dim::R])),
        ];
        let mut given = Vec::new();
        for (name, input, ty) in inputs.into_iter().filter(|(name, ..)| self.step.given.contains_key(*name)) {
            given.push((name, Held::Node(self.builder.input(input, ty))));
        }
        for (i, kind) in [CacheKind::K, CacheKind::V].into_iter().enumerate() {
            given.push((CACHES[i], Held::Caches(kind)));
        }
        given.push((WRITE_POS, Held::Bound(Bound::Start)));
        for (name, held) in given {
            if let Some(ty) = self.step.given.get(name) {
                self.known.insert(name.into(), Known { name: name.into(), held, ty: ty.clone() });
            }
        }
    }

    fn operation(&mut self, place: &Place, operation: &Operation) -> Result<()> {
        let mut attributes = operation.attributes.clone();
        let name = attributes.remove("name").ok_or_else(|| place.missing("attribute `name`"))?;
        let (_, Constant::Text(name)) = Constant::read(place, &name)? else {
            return Err(place.damaged("its name is no text"));
        };
        if !self.names.insert(name) {
            return Err(place.damaged("its name is taken"));
        }
        if operation.r#type == "write_state" {
            place.same("number of results", operation.outputs.len(), 0)?;
            let arguments = Arguments::read(self, place, operation, &attributes)?;
            return self.write_state(arguments);
        }
        let [result] = &operation.outputs[..] else { return Err(place.unsupported("several results")) };
        let (result, declared) = named(place, result)?;
        if self.known.contains_key(result) || STATES.contains(&result) {
            return Err(place.damaged("its result is defined twice"));
        }
        let made = if operation.r#type == "const" {
            let val = attributes.remove("val").filter(|_| attributes.is_empty() && operation.inputs.is_empty());
            let val = val.ok_or_else(|| place.damaged("it has no value, or more than that"))?;
            self.constant(place, &val)?
        } else {
            let arguments = Arguments::read(self, place, operation, &attributes)?;
            self.lift(&operation.r#type, result, arguments)?
        };
        let shape = match (&made.shape, &made.held) {
            (Some(shape), _) => shape.clone(),
            (None, Held::Node(id)) => self.declared(place, &self.builder.module().node(*id).ty.shape)?,
            (None, _) => return Err(place.damaged("it has no shape")),
        };
        place.same("type of the result", &declared, &Type { dtype: made.dtype, shape })?;
        let known = Known { name: result.into(), held: made.held, ty: declared };
        self.known.insert(result.into(), known);
        Ok(())
    }

    fn constant(&mut self, place: &Place, val: &crate::coreml::schema::program::Value) -> Result<Made> {
        let (ty, constant) = Constant::read(place, val)?;
        if let Constant::Blob(file, offset) = &constant {
            self.blob(place, file, *offset, &ty)?;
        }
        Ok(Made { held: Held::Constant(constant), dtype: ty.dtype, shape: Some(ty.shape) })
    }

    /// Where the data of a blob lies, which must be of that type.
    pub(super) fn blob(&mut self, place: &Place, file: &str, offset: u64, ty: &Type) -> Result<std::ops::Range<usize>> {
        if self.weights.is_none() {
            let (at, map) = self.files.weights(file)?;
            let records = Records::walk(&at, &map)?;
            self.weights = Some((file.into(), map, records));
        }
        let narrow = matches!(ty.dtype, DataType::Int4 | DataType::Uint4 | DataType::Int32);
        if narrow && self.step.version < 9 {
            return Err(place.damaged(format!("{} in the weight file came with version 9", ty.dtype.name())));
        }
        match &self.weights {
            Some((name, _, records)) if name == file => records.find(offset, ty.dtype, ty.count()),
            _ => Err(place.unsupported("several weight files")),
        }
    }

    /// Whether the blob at `offset`, of that type, is all zeros or, where a number has half a byte, all eights. It is looked
    /// through once, however often it is used.
    pub(super) fn is_filled(&mut self, place: &Place, file: &str, offset: u64, ty: &Type) -> Result<bool> {
        let range = self.blob(place, file, offset, ty)?;
        if let Some(known) = self.filled.get(&offset) {
            return Ok(*known);
        }
        let bytes = self.weights.as_ref().and_then(|(_, map, _)| map.get(range)).unwrap_or_default();
        let (all, end) = match (ty.dtype, ty.count() % 2) {
            (DataType::Uint4, 1) => (0x88, 0x08),
            (DataType::Uint4, _) => (0x88, 0x88),
            _ => (0, 0),
        };
        let filled = bytes.split_last().is_none_or(|(last, most)| *last == end && most.iter().all(|byte| *byte == all));
        self.filled.insert(offset, filled);
        Ok(filled)
    }

    /// A constant of the weight file as a weight of the module.
    pub(super) fn float_weight(&mut self, place: &Place, known: &Known) -> Result<WeightId> {
        let Held::Constant(Constant::Blob(file, offset)) = &known.held else {
            return Err(place.unsupported(format!("{:?} as a weight", known.name)));
        };
        if let Some(id) = self.made.get(&known.name) {
            return Ok(*id);
        }
        let encoding = match known.ty.dtype {
            DataType::Float16 => Encoding::F16,
            DataType::Float32 => Encoding::F32,
            other => return Err(place.unsupported(format!("a weight in {}", other.name()))),
        };
        let range = self.blob(place, &file.clone(), *offset, &known.ty)?;
        let ty = WeightType::new(encoding, known.ty.shape.clone());
        let stored = Stored { ty, packing: Packing::default(), range, scales: 0..0 };
        let id = self.weight(place, &known.name, stored)?;
        self.made.insert(known.name.clone(), id);
        Ok(id)
    }

    /// Adds a weight, called after a value of the program, where two `_` stand for a dot.
    pub(super) fn weight(&mut self, place: &Place, name: &str, stored: Stored) -> Result<WeightId> {
        let count = self.builder.module().weights.len();
        let dotted = name.replace("__", ".");
        let mut name = if well_named(&dotted) { dotted } else { format!("const.{count}") };
        while self.builder.weight_id(&name).is_some() {
            name = format!("{name}.{count}");
        }
        let id = self.builder.weight(&name, stored.ty.clone(), WeightExpr::Stored(name.clone()));
        let id = id.map_err(|e| place.fault(Fault::Broken(e.to_string())))?;
        if !stored.ty.encoding.is_float() {
            self.builder.search(id, self.search.in_f16());
        }
        self.tensors.insert(name, stored);
        Ok(id)
    }

    /// A number as a weight that every node shares.
    pub(super) fn number(&mut self, place: &Place, number: f32) -> Result<Operand> {
        let name = format!("number.{:08x}", number.to_bits());
        let ty = WeightType::new(Encoding::F32, [1]);
        let id = self.builder.weight(&name, ty, WeightExpr::Fill(number));
        id.map(Operand::Weight).map_err(|e| place.fault(Fault::Broken(e.to_string())))
    }

    /// Sizes of a shape as the program declares them.
    fn declared(&self, place: &Place, shape: &[Dim]) -> Result<Vec<u32>> {
        let mut sizes = self.at_bounds(place, shape)?;
        sizes.iter_mut().zip(shape).filter(|(_, dim)| self.is_unknown(**dim)).for_each(|(n, _)| *n = UNKNOWN);
        Ok(sizes)
    }

    /// Whether the size of an axis differs from step to step.
    pub(super) fn is_unknown(&self, dim: Dim) -> bool {
        self.step.flexible() && dim.t > 0
    }

    /// Sizes of a shape at the bounds.
    pub(super) fn at_bounds(&self, place: &Place, shape: &[Dim]) -> Result<Vec<u32>> {
        let size = |dim: &Dim| self.size(*dim);
        let sizes: Option<Vec<u32>> = shape.iter().map(size).collect();
        sizes.ok_or_else(|| place.damaged("its result is too large, or has cached rows without those of the step"))
    }

    /// The size of an axis. The rows of a step lie in a kept cache itself: `C+T` is `C` then.
    pub(super) fn size(&self, dim: Dim) -> Option<u32> {
        let kept = self.step.interface == Interface::State;
        let dim = if kept { Dim { t: dim.t.checked_sub(dim.c)?, ..dim } } else { dim };
        dim.at(self.step.bounds).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0 && n <= i32::MAX as u32)
    }

    pub(super) fn build(&mut self, place: &Place, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId> {
        // The final name is found when all nodes are known.
        let name = format!("n{}", self.builder.module().nodes.len());
        self.builder.node(&name, op, args).map_err(|e: BuildError| place.fault(Fault::Broken(e.what)))
    }

    /// The node of the result, after checking that new rows are those that the caches are joined with.
    fn outputs(&self) -> Result<NodeId> {
        let (written, caches) = (self.written.len() as u64, 2 * u64::from(self.step.cache.layers));
        if self.step.interface == Interface::State {
            Place::Program.same("number of written caches", written, caches)?;
        }
        let held = |name: &str, ty: &Type| {
            let place = Place::Feature(name.into());
            let known = self.known.get(name).ok_or_else(|| place.missing("operation that makes it"))?;
            let mut made = known.ty.clone();
            if made.shape.contains(&UNKNOWN) {
                made.shape.clear();
            }
            place.same("type", &made, ty)?;
            Ok(&known.held)
        };
        let (mut made, result) = (None, self.step.result());
        for (name, ty) in &self.step.outputs {
            let place = Place::Feature(name.clone());
            match (held(name, ty)?, name.as_str()) {
                (Held::Node(id), name) if name == result && self.builder.module().node(*id).op != Op::Input => {
                    made = Some(*id);
                }
                (Held::New(CacheKind::K), name) if name == NEW_ROWS[0] => {}
                (Held::New(CacheKind::V), name) if name == NEW_ROWS[1] => {}
                _ => return Err(place.damaged("it is something else")),
            }
        }
        let made = made.ok_or_else(|| Place::Program.damaged(format!("it makes no {result:?}")))?;
        let rows = if self.step.bounds.r > 0 && self.step.ends() { Dim::R } else { Dim::T };
        let shape = &self.builder.module().node(made).ty.shape;
        if !matches!(shape[..], [one, r, v] if one == Dim::fixed(1) && r == rows && v.known().is_some()) {
            return Err(Place::Feature(result.into()).damaged(format!("it is not [1, {rows}, n]")));
        }
        Ok(made)
    }
}
