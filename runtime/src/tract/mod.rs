//! The engine that is always there: a module lowered to a tract model, with our own kernels in the hot places.
//!
//! In reading order: `interface` finds the ends of the step graph; `lower` turns the module into a tract graph;
//! `weights` and `table` give its ops the rows of the mapped file; `ops` is what an op reads and calls; `kernels` is the
//! arithmetic; `loan` lets ops read the host's caches where they are.
//!
//! Three promises: weights are not copied unless their expression asks for numbers that no file holds; caches are not
//! copied at all; and the logits of a row depend on what the row sees, not on how many rows are fed with it, which
//! cache its keys come from, how many threads run or which instructions the processor has, to the last bit.

mod error;
mod interface;
mod kernels;
mod loan;
mod lower;
mod ops;
mod table;
mod weights;
mod wire;

use std::sync::Arc;

use diffulex_compiler::ir::{self, Module, NodeId, Sizes, ValueType, WeightSource};
use tract_core::internal::{
    Symbol, TValue, TVec, Tensor, TractError, TractResult, TypedModel, TypedSimplePlan, TypedSimpleState,
};

pub use error::LowerError;

use crate::engine::{Engine, EngineError, EngineShape, LayerRows, StepInput, StepOutput};
use interface::{Input, Interface, input_shape};
use loan::Loan;
use lower::{Lowered, lower};
use ops::watch::Watch;
pub use ops::watch::Watcher;

/// The name of the engine.
const NAME: &str = "tract";

/// A module running on tract and our kernels, on the threads of rayon's global pool.
pub struct TractEngine {
    shape: EngineShape,
    inputs: Vec<(Input, ValueType)>,
    symbols: [Symbol; 3],
    loan: Arc<Loan>,
    /// Gives every output.
    whole: TypedSimpleState,
    /// Gives all but the logits: enough for a step that only makes keys and values.
    headless: TypedSimpleState,
    /// Which outputs are the new keys and values of each layer.
    new_rows: Vec<(usize, usize)>,
    /// Which output is the logits, of `whole`.
    logits: usize,
    /// Whether the graph makes logits for the asked rows only.
    selects_rows: bool,
    /// Which outputs are tapped.
    tapped: Vec<(String, usize)>,
    taps: Vec<(String, Vec<f32>)>,
}

/// Sets the threads of rayon's global pool, which all kernels compute with; they are one a processor without it. Works
/// once, before anything has computed.
///
/// # Errors
/// When the pool is there already.
pub fn set_threads(threads: usize) -> Result<(), EngineError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| EngineError::Failed { engine: NAME, message: format!("the threads cannot be set: {error}") })
}

impl TractEngine {
    /// Makes an engine of a module, at any stage, with the numbers of `source`.
    ///
    /// # Errors
    /// When the module breaks a rule of the IR or is no step graph, when a weight is missing or holds a number that is
    /// not finite, or when the graph asks for something that this engine does not do.
    pub fn new(module: &Module, source: Arc<dyn WeightSource>) -> Result<TractEngine, LowerError> {
        TractEngine::with_taps(module, source, &[])
    }

    /// The same, with the values of inner nodes, by names of your choice, to be read from [`Engine::taps`] after each
    /// step. A tapped logits node has its value even when no row was asked for.
    ///
    /// # Errors
    /// As [`TractEngine::new`].
    pub fn with_taps(
        module: &Module,
        source: Arc<dyn WeightSource>,
        taps: &[(String, NodeId)],
    ) -> Result<TractEngine, LowerError> {
        TractEngine::made(module, source, taps, Watch::default())
    }

    /// The same, showing `see` the value of each node of `nodes` as a step makes it. Unlike a tap it is not kept, so
    /// that all nodes of a large model can be watched at once. What no output depends on is not made, nor is what
    /// only the logits need in a step without rows.
    ///
    /// # Errors
    /// As [`TractEngine::new`].
    pub fn watched(
        module: &Module,
        source: Arc<dyn WeightSource>,
        nodes: impl IntoIterator<Item = NodeId>,
        see: Arc<Watcher>,
    ) -> Result<TractEngine, LowerError> {
        TractEngine::made(module, source, &[], Watch { nodes: nodes.into_iter().collect(), see: Some(see) })
    }

    fn made(
        module: &Module,
        source: Arc<dyn WeightSource>,
        taps: &[(String, NodeId)],
        watch: Watch,
    ) -> Result<TractEngine, LowerError> {
        ir::verify(module)?;
        let ends = Interface::of(module)?;
        if let Some((name, id)) = taps.iter().find(|(_, id)| id.0 as usize >= module.nodes.len()) {
            return Err(LowerError::Interface(format!("there is no node {} to tap as `{name}`", id.0)));
        }
        let mut wanted = Vec::new();
        let new_rows = ends.new_rows.iter().map(|&(k, v)| (want(&mut wanted, k), want(&mut wanted, v))).collect();
        let tapped = taps.iter().map(|(name, id)| (name.clone(), want(&mut wanted, *id))).collect();
        let body = wanted.len();
        let logits = want(&mut wanted, ends.logits);
        let loan = Arc::new(Loan::default());
        let Lowered { model, symbols } = lower(module, &source, &loan, watch, &wanted)?;
        let mut headless = model.clone();
        headless.outputs.truncate(body);
        let shape = EngineShape {
            max_tokens: module.bounds.t,
            max_cache: module.bounds.c,
            layers: module.cache.layers as usize,
            kv_heads: module.cache.kv_heads as usize,
            head_dim: module.cache.head_dim as usize,
            vocab: ends.vocab,
        };
        Ok(TractEngine {
            shape,
            inputs: ends.inputs,
            symbols,
            loan,
            whole: state(model)?,
            headless: state(headless)?,
            new_rows,
            logits,
            selects_rows: module.bounds.r > 0,
            tapped,
            taps: Vec::new(),
        })
    }

    /// The inputs as tract wants them.
    fn feed(&self, input: &StepInput<'_>, rows: &[u32], sizes: Sizes) -> Result<TVec<TValue>, EngineError> {
        let floats = |ids: &[u32]| -> Vec<f32> { ids.iter().map(|&id| id as f32).collect() };
        let tensor = |(name, ty): &(Input, ValueType)| {
            let shape = input_shape(*name, ty, sizes).map_err(EngineError::Input)?;
            let tensor = match name {
                Input::Tokens => Tensor::from_shape(&shape, &floats(input.tokens)),
                Input::Positions => Tensor::from_shape(&shape, &floats(input.positions)),
                Input::Mask => Tensor::from_shape(&shape, input.mask),
                Input::Rows => Tensor::from_shape(&shape, &floats(rows)),
            };
            tensor.map(Tensor::into).map_err(failed)
        };
        self.inputs.iter().map(tensor).collect()
    }
}

impl Engine for TractEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn shape(&self) -> &EngineShape {
        &self.shape
    }

    fn taps(&self) -> &[(String, Vec<f32>)] {
        &self.taps
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        let t = input.tokens.len();
        // The graph knows no empty axis; the row is not computed.
        let rows = if input.rows.is_empty() { &[0] } else { input.rows };
        let sizes = Sizes { t, c: input.cached, r: rows.len() };
        let values = self.feed(input, rows, sizes)?;
        let state = if input.rows.is_empty() { &mut self.headless } else { &mut self.whole };
        for (symbol, size) in self.symbols.iter().zip([sizes.t, sizes.c, sizes.r]) {
            state.turn_state.resolved_symbols.set(symbol, size as i64);
        }
        // On a thread of the pool, so that no op has to hand its work over and wait.
        let ran = rayon::scope(|_| self.loan.during(input.cache, input.cached, || state.run(values)));
        let outputs = ran.inspect_err(|_| drop(state.reset_turn())).map_err(failed)?;

        out.new.resize_with(self.shape.layers, LayerRows::default);
        let count = self.shape.kv_heads * t * self.shape.head_dim;
        for (layer, (k, v)) in out.new.iter_mut().zip(&self.new_rows) {
            copy(&outputs[*k], count, &mut layer.k)?;
            copy(&outputs[*v], count, &mut layer.v)?;
        }
        self.taps.clear();
        for (name, i) in &self.tapped {
            self.taps.push((name.clone(), numbers(&outputs[*i], outputs[*i].len())?.to_vec()));
        }
        out.logits.clear();
        if input.rows.is_empty() {
            return Ok(());
        }
        let (logits, vocab) = (&outputs[self.logits], self.shape.vocab);
        if self.selects_rows {
            return copy(logits, rows.len() * vocab, &mut out.logits);
        }
        let all = numbers(logits, t * vocab)?;
        rows.iter().for_each(|&row| out.logits.extend_from_slice(&all[row as usize * vocab..][..vocab]));
        Ok(())
    }
}

/// The place of `id` among the outputs, where it is put if it has none.
fn want(outputs: &mut Vec<NodeId>, id: NodeId) -> usize {
    outputs.iter().position(|&known| known == id).unwrap_or_else(|| {
        outputs.push(id);
        outputs.len() - 1
    })
}

fn state(model: TypedModel) -> Result<TypedSimpleState, LowerError> {
    let spawn = || -> TractResult<TypedSimpleState> { TypedSimplePlan::new(model)?.spawn() };
    spawn().map_err(|e| LowerError::Tract { place: "the graph".into(), message: format!("{e:#}") })
}

fn failed(error: TractError) -> EngineError {
    EngineError::Failed { engine: NAME, message: format!("{error:#}") }
}

/// The `count` numbers of an output.
fn numbers(value: &TValue, count: usize) -> Result<&[f32], EngineError> {
    let numbers = value.as_plain_ram().and_then(|plain| plain.as_slice::<f32>().ok());
    numbers.filter(|numbers| numbers.len() == count).ok_or_else(|| EngineError::Failed {
        engine: NAME,
        message: format!("an output is {:?}, not {count} numbers", value.shape()),
    })
}

/// Overwrites `out` with an output of `count` numbers.
fn copy(value: &TValue, count: usize, out: &mut Vec<f32>) -> Result<(), EngineError> {
    out.clear();
    out.extend_from_slice(numbers(value, count)?);
    Ok(())
}
