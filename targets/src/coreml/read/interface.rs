//! Inputs, states and outputs of a function: those that are described are those that it declares, and they are a step.

use std::collections::HashMap;

use diffulex_compiler::ir::{CacheShape, Dim, Sizes};

use super::constant::{Type, named};
use super::error::{Place, Result};
use super::feature::{Described, Feature, Lengths};
use super::{Interface, Shapes};
use crate::coreml::options::flexible;
use crate::coreml::schema::model::FeatureDescription;
use crate::coreml::schema::program::{DataType, Function, Operation, ValueKind};
use crate::coreml::schema::{
    CACHES, HIDDEN_IN, HIDDEN_OUT, LOGITS, MASK, NEW_ROWS, POSITIONS, ROWS, STATES, TOKENS, WRITE_POS, opset,
};

/// Most operations; a hundred layers have some ten thousand.
const MAX_OPERATIONS: u64 = 1 << 18;
/// Most layers.
const MAX_LAYERS: u64 = 1024;
/// Most cached positions or tokens.
const MAX_POSITIONS: u64 = 1 << 24;

/// What describes a function.
pub(super) struct Description<'a> {
    pub(super) input: &'a [FeatureDescription],
    pub(super) output: &'a [FeatureDescription],
    pub(super) state: &'a [FeatureDescription],
}

/// A function, and what it is given and gives.
pub(super) struct Step<'a> {
    /// Specification version.
    pub(super) version: i32,
    /// Who keeps the committed rows.
    pub(super) interface: Interface,
    /// The numbers of tokens that it may have.
    pub(super) lengths: Lengths,
    /// T, C and R.
    pub(super) bounds: Sizes,
    /// Layers, heads and their width.
    pub(super) cache: CacheShape,
    /// The element type of inputs and outputs that are no whole numbers.
    pub(super) float: DataType,
    /// Inputs and states by name, as the program declares them.
    pub(super) given: HashMap<String, Type>,
    /// The same as they are described.
    pub(super) described: HashMap<String, Feature>,
    /// Outputs in order; those whose shape depends on the step have none.
    pub(super) outputs: Vec<(String, Type)>,
    /// The operations in order.
    pub(super) operations: &'a [Operation],
}

impl<'a> Step<'a> {
    /// The step of a function.
    pub(super) fn read(version: i32, function: &'a Function, description: &Description<'_>) -> Result<Step<'a>> {
        let place = Place::Program;
        let opset =
            opset(version).ok_or_else(|| Place::Model.unsupported(format!("specification version {version}")))?;
        place.same("opset", function.opset.as_str(), opset)?;
        let block = function.block_specializations.get(opset).filter(|_| function.block_specializations.len() == 1);
        let block = block.ok_or_else(|| place.missing(format!("one block, for {opset}")))?;
        if !function.attributes.is_empty() || !block.attributes.is_empty() || !block.inputs.is_empty() {
            return Err(place.unsupported("attributes of functions, and inputs of blocks"));
        }
        place.at_most("number of operations", block.operations.len() as u64, MAX_OPERATIONS)?;

        let mut given = HashMap::new();
        let (mut described, mut left) = (HashMap::new(), Vec::new());
        for (list, state) in [(description.input, false), (description.state, true)] {
            list.iter().try_for_each(|feature| add(&mut described, feature, state))?;
            left.extend(list.iter().map(|feature| feature.name.as_str()));
        }
        for input in &function.inputs {
            let place = Place::Feature(input.name.clone());
            let kind = input.r#type.as_ref().and_then(|ty| ty.kind.as_ref());
            let (ty, state) = match kind {
                Some(ValueKind::State(state)) => (Type::read(&place, state.wrapped_type.as_deref())?, true),
                _ => (named(&place, input)?.1, false),
            };
            let told = described.get(&input.name).ok_or_else(|| place.missing("description"))?;
            place.same("description", (told.declared(), told.state), (ty.clone(), state))?;
            if given.insert(input.name.clone(), ty).is_some() {
                return Err(place.damaged("it is declared twice"));
            }
        }
        if let Some(name) = left.into_iter().find(|name| !given.contains_key(*name)) {
            return Err(Place::Feature(name.into()).damaged("it is described, but not declared"));
        }
        let mut told = HashMap::new();
        description.output.iter().try_for_each(|feature| add(&mut told, feature, false))?;
        place.same("number of outputs", block.outputs.len(), description.output.len())?;
        let mut outputs = Vec::new();
        for (name, feature) in block.outputs.iter().zip(description.output) {
            place.same("name of an output", name.as_str(), feature.name.as_str())?;
            let place = Place::Feature(name.clone());
            let feature = told.remove(name).ok_or_else(|| place.damaged("it is no output"))?;
            place.same("shapes", feature.shapes, Described::One)?;
            outputs.push((name.clone(), feature.ty));
        }
        let from = if given.contains_key(HIDDEN_IN) { HIDDEN_IN } else { TOKENS };
        let place = Place::Feature(from.into());
        let fed = described.get(from).ok_or_else(|| Place::Program.missing(format!("input {from:?}")))?;
        sizes(Step {
            version,
            interface: if given.contains_key(WRITE_POS) { Interface::State } else { Interface::Explicit },
            lengths: Lengths::read(&place, fed)?,
            bounds: Sizes { t: 0, c: 0, r: 0 },
            cache: CacheShape { layers: 0, kv_heads: 1, head_dim: 1 },
            float: if version < 7 { DataType::Float32 } else { DataType::Float16 },
            given,
            described,
            outputs,
            operations: &block.operations,
        })
    }

    /// Whether it goes on from the hidden state of a package before it.
    pub(super) fn goes_on(&self) -> bool {
        self.given.contains_key(HIDDEN_IN)
    }

    /// Whether it makes the logits, and no hidden state for a package after it.
    pub(super) fn ends(&self) -> bool {
        self.result() == LOGITS
    }

    /// Its result beside new rows: the logits, or the hidden state for the next package.
    pub(super) fn result(&self) -> &'static str {
        if self.outputs.iter().any(|(name, _)| name == HIDDEN_OUT) { HIDDEN_OUT } else { LOGITS }
    }

    /// Whether it serves several numbers of tokens: then axes that depend on T are unknown in the program.
    pub(super) fn flexible(&self) -> bool {
        flexible(self.lengths.shapes)
    }

    /// An input or a state that must have this type, at each number of tokens that a step may have.
    fn expect(&self, name: &str, dtype: DataType, dims: &[Dim]) -> Result<()> {
        let place = Place::Feature(name.into());
        let found = self.described.get(name).ok_or_else(|| Place::Program.missing(format!("input {name:?}")))?;
        let wanted = Feature::expected(dtype, dims, self.bounds, &self.lengths);
        place.same("type", &found.ty, &wanted.ty)?;
        place.same("list of shapes", &found.shapes, &wanted.shapes)
    }
}

/// Adds a described feature to others.
fn add(told: &mut HashMap<String, Feature>, feature: &FeatureDescription, state: bool) -> Result<()> {
    match told.insert(feature.name.clone(), Feature::read(feature, state)?) {
        None => Ok(()),
        Some(_) => Err(Place::Feature(feature.name.clone()).damaged("it is described twice")),
    }
}

/// Finds T, C and R, and checks that the inputs are those of a step.
fn sizes(mut step: Step<'_>) -> Result<Step<'_>> {
    let kept = step.interface == Interface::State;
    let axes = |name: &str| step.described.get(name).map(|feature| feature.ty.shape.clone());
    let from = if step.goes_on() { HIDDEN_IN } else { TOKENS };
    let usual = step.lengths.usual;
    let t = step.lengths.all.iter().copied().fold(usual, u32::max);
    let [keys, _] = if kept { STATES } else { CACHES };
    let cache = axes(keys);
    let mask = axes(MASK).and_then(|mask| mask.last().copied()).unwrap_or(0);
    let c = match cache.as_deref() {
        Some(&[layers, _, kv_heads, c, head_dim]) => {
            Place::Feature(keys.into()).at_most("number of layers", layers.into(), MAX_LAYERS)?;
            step.cache = CacheShape { layers, kv_heads, head_dim };
            c
        }
        Some(other) => return Err(Place::Feature(keys.into()).mismatch("shape", other, "[L, 1, KV, C, D]")),
        None => mask.saturating_sub(usual).max(1),
    };
    let r = axes(ROWS).map_or(0, |rows| rows.first().copied().unwrap_or(0));
    for (name, size) in [(from, t), (keys, c)] {
        Place::Feature(name.into()).at_most("number of positions", size.into(), MAX_POSITIONS)?;
    }
    Place::Feature(ROWS.into()).at_most("number of rows", r.into(), t.into())?;
    step.bounds = Sizes { t: t as usize, c: c as usize, r: r as usize };

    let CacheShape { layers, kv_heads, head_dim } = step.cache;
    let one = Dim::fixed(1);
    let all = [layers, 1, kv_heads, c, head_dim].map(Dim::fixed);
    let ids = [one, Dim::T];
    let mask = [one, one, Dim::T, if kept { Dim::C } else { Dim { c: 1, ..Dim::T } }];
    let mut known = vec![TOKENS, POSITIONS, MASK];
    for (name, dtype, dims) in
        [(TOKENS, DataType::Int32, &ids[..]), (POSITIONS, DataType::Int32, &ids), (MASK, step.float, &mask)]
    {
        // What goes on has only those that it reads.
        if !step.goes_on() || step.given.contains_key(name) {
            step.expect(name, dtype, dims)?;
        }
    }
    if let Some(&[_, _, width]) = axes(HIDDEN_IN).as_deref() {
        step.expect(HIDDEN_IN, step.float, &[one, Dim::T, Dim::fixed(width)])?;
        known.push(HIDDEN_IN);
    }
    if r > 0 {
        step.expect(ROWS, DataType::Int32, &[Dim::R])?;
        known.push(ROWS);
    }
    if layers > 0 {
        let names = if kept { STATES } else { CACHES };
        for name in names {
            step.expect(name, if kept { DataType::Float16 } else { step.float }, &all)?;
        }
        known.extend(names);
    }
    if kept {
        step.expect(WRITE_POS, DataType::Int32, &[one])?;
        known.push(WRITE_POS);
        if t > c || step.version < 9 || layers == 0 || step.flexible() {
            return Err(Place::Program.damaged("it keeps a cache that cannot be kept"));
        }
    }
    if step.lengths.shapes == Shapes::Enumerated && step.version < 9 {
        return Err(Place::Program.damaged("it has lists of shapes, which came with version 9 for several inputs"));
    }
    if let Some(name) = step.given.keys().filter(|name| !known.contains(&name.as_str())).min() {
        return Err(Place::Feature(name.clone()).unsupported("such an input"));
    }
    let result = step.result();
    let wanted: Vec<&str> =
        if kept || layers == 0 { vec![result] } else { [result].into_iter().chain(NEW_ROWS).collect() };
    let found: Vec<&str> = step.outputs.iter().map(|(name, _)| name.as_str()).collect();
    Place::Program.same("list of outputs", found, wanted)?;
    for (name, ty) in &step.outputs {
        let place = Place::Feature(name.clone());
        place.same("element type", ty.dtype.name(), step.float.name())?;
        let width = ty.shape.last().copied().unwrap_or(0);
        let wanted = match name.as_str() {
            LOGITS if r > 0 => vec![1, r, width],
            _ if step.flexible() => vec![],
            _ if name == result => vec![1, t, width],
            _ => vec![layers, 1, kv_heads, t, head_dim],
        };
        place.same("shape", &ty.shape, &wanted)?;
    }
    Ok(step)
}
