//! Inputs, states and outputs: those that are described are those that the program declares, and they are a step.

use std::collections::HashMap;

use diffulex_compiler::ir::{CacheShape, Sizes};

use super::Interface;
use super::constant::{Type, named};
use super::error::{Place, Result};
use crate::coreml::schema::model::{FeatureDescription, FeatureKind, Model};
use crate::coreml::schema::program::{DataType, Operation, ValueKind};
use crate::coreml::schema::{CACHES, LOGITS, MAIN, MASK, NEW_ROWS, POSITIONS, ROWS, STATES, TOKENS, WRITE_POS, opset};

/// Most operations; a hundred layers have some ten thousand.
const MAX_OPERATIONS: u64 = 1 << 18;
/// Most layers.
const MAX_LAYERS: u64 = 1024;
/// Most cached positions or tokens.
const MAX_POSITIONS: u64 = 1 << 24;

/// The function, and what it is given and gives.
pub(super) struct Step<'a> {
    /// Specification version.
    pub(super) version: i32,
    /// Who keeps the committed rows.
    pub(super) interface: Interface,
    /// T, C and R.
    pub(super) bounds: Sizes,
    /// Layers, heads and their width.
    pub(super) cache: CacheShape,
    /// The element type of inputs and outputs that are no whole numbers.
    pub(super) float: DataType,
    /// Inputs and states by name.
    pub(super) given: HashMap<String, Type>,
    /// Outputs in order.
    pub(super) outputs: Vec<(String, Type)>,
    /// The operations in order.
    pub(super) operations: &'a [Operation],
}

impl<'a> Step<'a> {
    pub(super) fn read(model: &'a Model) -> Result<Step<'a>> {
        let version = model.specification_version;
        let opset =
            opset(version).ok_or_else(|| Place::Model.unsupported(format!("specification version {version}")))?;
        let missing = |what: &str| Place::Model.missing(what);
        let description = model.description.as_ref().ok_or_else(|| missing("description"))?;
        if model.is_updatable || !description.functions.is_empty() || !description.default_function_name.is_empty() {
            return Err(Place::Model.unsupported("a model that is updatable or has several functions"));
        }
        let program = model.ml_program.as_ref().ok_or_else(|| missing("program"))?;
        let place = Place::Program;
        place.same("version", program.version, 1)?;
        if let Some(key) = program.attributes.keys().find(|key| *key != "buildInfo") {
            return Err(place.unsupported(format!("its attribute {key:?}")));
        }
        let function = program.functions.get(MAIN).filter(|_| program.functions.len() == 1);
        let function = function.ok_or_else(|| place.unsupported("functions other than `main`"))?;
        place.same("opset", function.opset.as_str(), opset)?;
        let block = function.block_specializations.get(opset).filter(|_| function.block_specializations.len() == 1);
        let block = block.ok_or_else(|| place.missing(format!("one block, for {opset}")))?;
        if !function.attributes.is_empty() || !block.attributes.is_empty() || !block.inputs.is_empty() {
            return Err(place.unsupported("attributes of functions, and inputs of blocks"));
        }
        place.at_most("number of operations", block.operations.len() as u64, MAX_OPERATIONS)?;

        let mut given = HashMap::new();
        let mut described = Features::default();
        for (list, state) in [(&description.input, false), (&description.state, true)] {
            list.iter().try_for_each(|feature| described.add(feature, state))?;
        }
        for input in &function.inputs {
            let place = Place::Feature(input.name.clone());
            let kind = input.r#type.as_ref().and_then(|ty| ty.kind.as_ref());
            let (ty, state) = match kind {
                Some(ValueKind::State(state)) => (Type::read(&place, state.wrapped_type.as_deref())?, true),
                _ => (named(&place, input)?.1, false),
            };
            let told = described.0.remove(&input.name).ok_or_else(|| place.missing("description"))?;
            place.same("description", told, (ty.clone(), state))?;
            if given.insert(input.name.clone(), ty).is_some() {
                return Err(place.damaged("it is declared twice"));
            }
        }
        if let Some(name) = described.0.keys().min() {
            return Err(Place::Feature(name.clone()).damaged("it is described, but not declared"));
        }
        let mut told = Features::default();
        description.output.iter().try_for_each(|feature| told.add(feature, false))?;
        place.same("number of outputs", block.outputs.len(), description.output.len())?;
        let mut outputs = Vec::new();
        for (name, feature) in block.outputs.iter().zip(&description.output) {
            place.same("name of an output", name.as_str(), feature.name.as_str())?;
            let (ty, _) = told.0.remove(name).ok_or_else(|| Place::Feature(name.clone()).damaged("it is no output"))?;
            outputs.push((name.clone(), ty));
        }
        sizes(Step {
            version,
            interface: if given.contains_key(WRITE_POS) { Interface::State } else { Interface::Explicit },
            bounds: Sizes { t: 0, c: 0, r: 0 },
            cache: CacheShape { layers: 0, kv_heads: 1, head_dim: 1 },
            float: if version < 7 { DataType::Float32 } else { DataType::Float16 },
            given,
            outputs,
            operations: &block.operations,
        })
    }

    /// An input that must have this type.
    fn expect(&self, name: &str, dtype: DataType, shape: &[u32]) -> Result<()> {
        let place = Place::Feature(name.into());
        let ty = self.given.get(name).ok_or_else(|| Place::Program.missing(format!("input {name:?}")))?;
        place.same("type", ty, &Type { dtype, shape: shape.into() })
    }
}

/// Described features: type, and whether it is a state.
#[derive(Default)]
struct Features(HashMap<String, (Type, bool)>);

impl Features {
    fn add(&mut self, feature: &FeatureDescription, state: bool) -> Result<()> {
        let place = Place::Feature(feature.name.clone());
        super::constant::identifier(&place, &feature.name)?;
        let kind = feature.r#type.as_ref().filter(|ty| !ty.is_optional).and_then(|ty| ty.kind.as_ref());
        let array = match kind {
            Some(FeatureKind::MultiArray(array)) if !state => Some(array),
            Some(FeatureKind::State(kept)) if state => kept.array_type.as_ref(),
            _ => None,
        };
        let array = array.ok_or_else(|| place.unsupported("a feature that is no array"))?;
        let ty = Type::described(&place, array)?;
        match self.0.insert(feature.name.clone(), (ty, state)) {
            None => Ok(()),
            Some(_) => Err(place.damaged("it is described twice")),
        }
    }
}

/// Finds T, C and R, and checks that the inputs are those of a step.
fn sizes(mut step: Step<'_>) -> Result<Step<'_>> {
    let kept = step.interface == Interface::State;
    let axes = |name: &str| step.given.get(name).map(|ty| ty.shape.clone());
    let tokens = axes(TOKENS).ok_or_else(|| Place::Program.missing(format!("input {TOKENS:?}")))?;
    let &[_, t] = &tokens[..] else { return Err(Place::Feature(TOKENS.into()).mismatch("shape", tokens, "[1, T]")) };
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
        None => mask.saturating_sub(t).max(1),
    };
    let r = axes(ROWS).map_or(0, |rows| rows.first().copied().unwrap_or(0));
    for (name, size) in [(TOKENS, t), (keys, c)] {
        Place::Feature(name.into()).at_most("number of positions", size.into(), MAX_POSITIONS)?;
    }
    Place::Feature(ROWS.into()).at_most("number of rows", r.into(), t.into())?;
    step.bounds = Sizes { t: t as usize, c: c as usize, r: r as usize };

    let CacheShape { layers, kv_heads, head_dim } = step.cache;
    step.expect(TOKENS, DataType::Int32, &[1, t])?;
    step.expect(POSITIONS, DataType::Int32, &[1, t])?;
    step.expect(MASK, step.float, &[1, 1, t, if kept { c } else { c + t }])?;
    let mut known = vec![TOKENS, POSITIONS, MASK];
    if r > 0 {
        step.expect(ROWS, DataType::Int32, &[r])?;
        known.push(ROWS);
    }
    if layers > 0 {
        let names = if kept { STATES } else { CACHES };
        for name in names {
            step.expect(name, if kept { DataType::Float16 } else { step.float }, &[layers, 1, kv_heads, c, head_dim])?;
        }
        known.extend(names);
    }
    if kept {
        step.expect(WRITE_POS, DataType::Int32, &[1])?;
        known.push(WRITE_POS);
        if t > c || step.version < 9 || layers == 0 {
            return Err(Place::Program.damaged("it keeps a cache that cannot be kept"));
        }
    }
    if let Some(name) = step.given.keys().filter(|name| !known.contains(&name.as_str())).min() {
        return Err(Place::Feature(name.clone()).unsupported("such an input"));
    }
    let wanted: Vec<&str> =
        if kept || layers == 0 { vec![LOGITS] } else { [LOGITS].into_iter().chain(NEW_ROWS).collect() };
    let found: Vec<&str> = step.outputs.iter().map(|(name, _)| name.as_str()).collect();
    Place::Program.same("list of outputs", found, wanted)?;
    for (name, ty) in &step.outputs {
        let place = Place::Feature(name.clone());
        place.same("element type", ty.dtype.name(), step.float.name())?;
        if name != LOGITS {
            place.same("shape", &ty.shape[..], &[layers, 1, kv_heads, t, head_dim])?;
        } else {
            let rows = if r > 0 { r } else { t };
            place.same("shape", &ty.shape[..], &[1, rows, ty.shape.last().copied().unwrap_or(0)])?;
        }
    }
    Ok(step)
}
