//! The step as Core ML sees it: inputs, the operations of all nodes, outputs.
//!
//! Inputs are `input_ids`, `position_ids`, `attn_mask`, `row_ids` where a step has rows, `k_cache`, `v_cache`; outputs
//! are `logits`, `k_new`, `v_new`. A part of a chain is given `hidden_in` in place of what it does not read, and gives
//! `hidden_out` in place of `logits`. All shapes are those at the module's bounds, but where one function serves steps of
//! several lengths: there the axes that depend on T are unknown.

use std::collections::{BTreeMap, HashMap};

use diffulex_compiler::ir::{CacheId, CacheShape, DType, Dim, Module, Node, Op, ValueType};

use super::blobs::Blobs;
use super::block::Block;
use super::cache::{Cache, KINDS};
use super::constant::Constants;
use super::value::{self, Val};
use super::{EmitError, Part};
use crate::coreml::chain::HIDDEN;
use crate::coreml::schema::program::{self, DataType, Function, NamedValueType};
use crate::coreml::schema::{
    CACHES, HIDDEN_IN, HIDDEN_OUT, LOGITS, MASK, NEW_ROWS, POSITIONS, ROWS, STATES, TOKENS, WRITE_POS, opset,
};
use crate::coreml::{Interface, Options};

/// The walk over a legal module.
pub(super) struct Step<'a> {
    pub(super) module: &'a Module,
    pub(super) options: &'a Options,
    pub(super) version: i32,
    pub(super) block: Block,
    pub(super) constants: Constants<'a>,
    /// What stands for each node so far.
    pub(super) values: Vec<Val>,
    /// The new rows of each cache.
    pub(super) new_rows: HashMap<CacheId, Val>,
    /// The committed rows of all layers: keys, values.
    pub(super) caches: Vec<Cache>,
    /// Where a step writes its rows, and where they end.
    pub(super) write_pos: Option<Val>,
    pub(super) write_end: Option<Val>,
    part: Option<Part>,
    inputs: Vec<(Val, ValueType, &'static str)>,
    states: Vec<(Val, &'static str)>,
    outputs: Vec<(Val, &'static str)>,
}

/// A step as a function.
pub(super) struct Made {
    /// The function.
    pub(super) function: Function,
    /// What it is given, with the types of the module.
    pub(super) inputs: Vec<(Val, ValueType, &'static str)>,
    /// What it keeps.
    pub(super) states: Vec<(Val, &'static str)>,
    /// What it gives.
    pub(super) outputs: Vec<(Val, &'static str)>,
    /// The records of the weight file, those of earlier functions among them.
    pub(super) blobs: Blobs,
}

/// The function of a module, which may be a part of a chain; `blobs` are the records that other functions have.
pub(super) fn function(
    module: &Module,
    options: &Options,
    version: i32,
    part: Option<Part>,
    blobs: Blobs,
) -> Result<Made, EmitError> {
    let mut step = Step {
        module,
        options,
        version,
        block: Block::default(),
        constants: Constants::new(module, version, options.nibbles, blobs),
        values: Vec::new(),
        new_rows: HashMap::new(),
        caches: Vec::new(),
        write_pos: None,
        write_end: None,
        part,
        inputs: Vec::new(),
        states: Vec::new(),
        outputs: Vec::new(),
    };
    step.inputs()?;
    for (id, node) in module.iter().skip_while(|(_, node)| node.op == Op::Input) {
        let is_result = module.outputs.contains(&id) && version >= 7;
        let name = if is_result { step.block.release(step.result().0) } else { name_of(node) };
        let made = step.node(node, &name)?;
        step.values.push(made);
    }
    step.outputs()?;
    Ok(step.finish())
}

impl Step<'_> {
    /// Declares all inputs; below version 7 those in `fp32` are cast.
    fn inputs(&mut self) -> Result<(), EmitError> {
        let outputs = [LOGITS, HIDDEN_OUT].into_iter().chain(NEW_ROWS);
        let inputs = [TOKENS, HIDDEN_IN, POSITIONS, MASK, ROWS, WRITE_POS].into_iter().chain(CACHES).chain(STATES);
        outputs.chain(inputs).for_each(|name| self.block.reserve(name));
        for node in self.module.nodes.iter().take_while(|node| node.op == Op::Input) {
            let (name, what) = match node.name.as_str() {
                "tokens" => (TOKENS, "the tokens of the step"),
                HIDDEN => (HIDDEN_IN, "what the package before made of them"),
                "positions" => (POSITIONS, "the position of each token"),
                "mask" => (MASK, "added to the scores: 0 where a token sees a key, -10000 where it does not"),
                _ => (ROWS, "the tokens whose logits are wanted"),
            };
            let dtype = if node.ty.dtype.is_integer() { DataType::Int32 } else { DataType::Float16 };
            let input = self.input(name, dtype, &node.ty, what)?;
            self.values.push(input);
        }
        let CacheShape { layers, kv_heads, head_dim } = self.module.cache;
        if layers > 0 {
            // `verify` keeps C below 2^24.
            let all = [layers, 1, kv_heads, self.module.bounds.c as u32, head_dim].map(Dim::fixed);
            let all = ValueType::f32(all);
            let kept = self.options.interface == Interface::State;
            if kept {
                let place = ValueType::new(DType::I32, [Dim::fixed(1)]);
                self.write_pos = Some(self.input(WRITE_POS, DataType::Int32, &place, "where the rows are written")?);
            }
            let names = if kept { STATES } else { CACHES };
            for (name, what) in names.into_iter().zip(["committed keys of all layers", "committed values"]) {
                let all = if kept {
                    let state = Val { name: name.into(), dtype: DataType::Float16, shape: self.shape(&all)? };
                    self.states.push((state.clone(), what));
                    state
                } else {
                    self.input(name, DataType::Float16, &all, what)?
                };
                self.caches.push(Cache { all, held: None });
            }
        }
        Ok(())
    }

    fn input(&mut self, name: &str, dtype: DataType, ty: &ValueType, what: &'static str) -> Result<Val, EmitError> {
        let wide = dtype == DataType::Float16 && self.version < 7;
        let given = if wide { DataType::Float32 } else { dtype };
        let input = Val { name: name.into(), dtype: given, shape: self.shape(ty)? };
        self.inputs.push((input.clone(), ty.clone(), what));
        Ok(if wide { self.cast(&input, dtype, &format!("{name}_fp16")) } else { input })
    }

    /// The one result beside new rows, and what it is.
    fn result(&self) -> (&'static str, &'static str) {
        match self.part {
            Some(Part { number, of }) if number < of => (HIDDEN_OUT, "what the next package is given"),
            _ => (LOGITS, "scores of each token of the vocabulary"),
        }
    }

    /// The result and the new rows; below version 7 they are cast.
    fn outputs(&mut self) -> Result<(), EmitError> {
        let illegal = |place: &str| EmitError::Illegal { place: place.into(), what: "is not made".into() };
        let made = self.module.outputs.first().and_then(|id| self.values.get(id.0 as usize)).cloned();
        let (name, what) = self.result();
        self.output(made.ok_or_else(|| illegal(name))?, name, what);
        if self.caches.is_empty() || self.options.interface == Interface::State {
            return Ok(());
        }
        for ((kind, name), what) in KINDS.into_iter().zip(NEW_ROWS).zip(["new keys of all layers", "new values"]) {
            let layers = 0..self.module.cache.layers;
            let rows = layers.map(|layer| self.new_rows.get(&CacheId { layer, kind }).cloned());
            let rows: Vec<Val> = rows.collect::<Option<_>>().ok_or_else(|| illegal(name))?;
            let mut shape = rows.first().map_or(Vec::new(), |first| first.shape.clone());
            shape.insert(0, rows.len() as u64);
            let axis = self.block.int(0);
            let rows: Vec<&Val> = rows.iter().collect();
            let base = if self.version < 7 { format!("{name}_fp16") } else { self.block.release(name) };
            let inputs: [(&str, &[&Val]); 2] = [("values", &rows), ("axis", &[&axis])];
            let all = self.block.add("stack", &base, &inputs, (DataType::Float16, &shape));
            self.output(all, name, what);
        }
        Ok(())
    }

    fn output(&mut self, made: Val, name: &str, what: &'static str) {
        let made = if self.version < 7 {
            let name = self.block.release(name);
            self.cast(&made, DataType::Float32, &name)
        } else {
            made
        };
        self.outputs.push((made, what));
    }

    fn finish(self) -> Made {
        let opset = opset(self.version).unwrap_or_default().to_string();
        let block = program::Block {
            outputs: self.outputs.iter().map(|(val, _)| val.name.clone()).collect(),
            operations: self.block.operations,
            ..program::Block::default()
        };
        let state = |(val, _): &(Val, &str)| NamedValueType {
            name: val.name.clone(),
            r#type: Some(value::state(val.dtype, &val.shape)),
        };
        let inputs = self.inputs.iter().map(|(val, ..)| val.named()).chain(self.states.iter().map(state));
        let function = Function {
            inputs: inputs.collect(),
            opset: opset.clone(),
            block_specializations: [(opset, block)].into(),
            attributes: BTreeMap::new(),
        };
        let (inputs, states, outputs) = (self.inputs, self.states, self.outputs);
        Made { function, inputs, states, outputs, blobs: self.constants.blobs }
    }
}

/// `layers_3_attn_in`: what the value of a node is called.
fn name_of(node: &Node) -> String {
    node.layer.map_or(node.name.clone(), |layer| format!("layers_{layer}_{}", node.name))
}
