//! Steps as a session makes them, and as a file is given them.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "judged within a tolerance, so the platform's functions will do")]

use std::cell::RefCell;
use std::rc::Rc;

use diffulex_runtime::engine::{Engine, EngineError, EngineShape, HIDDEN, LayerRows, StepInput, StepOutput};
use diffulex_runtime::session::{Attention, Session, Store};

use super::judge::{Tensors, integers, singles};

/// What a step is made of; [`StepInput`] borrows it.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) tokens: Vec<u32>,
    positions: Vec<u32>,
    mask: Vec<f32>,
    cached: usize,
    cache: Vec<LayerRows>,
}

/// An engine that notes what it is given.
struct Noting {
    engine: Box<dyn Engine>,
    steps: Rc<RefCell<Vec<Step>>>,
}

impl Engine for Noting {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn shape(&self) -> &EngineShape {
        self.engine.shape()
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        let StepInput { tokens, positions, mask, cached, cache, .. } = *input;
        let step =
            Step { tokens: tokens.into(), positions: positions.into(), mask: mask.into(), cached, cache: cache.into() };
        self.steps.borrow_mut().push(step);
        self.engine.step(input, out)
    }
}

/// The steps of a session on that engine: a prompt as long as a step; over it, half as many tokens, all but two of them
/// masks; one less; and as many as a step takes.
pub(crate) fn steps(engine: Box<dyn Engine>, attention: Attention, mask: u32) -> Vec<Step> {
    let EngineShape { max_tokens: most, max_cache, vocab, .. } = *engine.shape();
    let noted = Rc::new(RefCell::new(Vec::new()));
    let mut session = Session::new(Box::new(Noting { engine, steps: noted.clone() }), attention).unwrap();
    let token = |i: usize| (i * 37 + i * i * 11 + 5) as u32 % (vocab as u32 - 1);
    let prompt = most.min(max_cache);
    let mut pass = |start: usize, tokens: Vec<u32>, store| {
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        session.pass(&tokens, start, &rows, store).unwrap();
    };
    pass(0, (0..prompt).map(token).collect(), Store::Keep);
    let half = most.div_ceil(2);
    let masked = |n: usize| (0..n).map(|i| if i % 3 == 0 { token(i + 40) } else { mask }).collect();
    for length in [half, half.saturating_sub(1).max(1), most] {
        pass(prompt, masked(length), Store::Discard);
    }
    noted.take()
}

impl Step {
    /// The step, all of whose rows are asked for.
    fn run(&self, engine: &mut dyn Engine) -> StepOutput {
        let rows: Vec<u32> = (0..self.tokens.len() as u32).collect();
        let Step { tokens, positions, mask, cached, cache } = self;
        let mut out = StepOutput::default();
        engine.step(&StepInput { tokens, positions, mask, rows: &rows, cached: *cached, cache }, &mut out).unwrap();
        out
    }

    /// The same in a file for `s` tokens over `p` cached positions: what is behind the tokens sees itself only, what is
    /// behind the cache nobody.
    pub(crate) fn padded(&self, s: usize, p: usize, shape: &EngineShape) -> Step {
        let (t, c, d) = (self.tokens.len(), self.cached, shape.head_dim);
        let mut mask = vec![HIDDEN; s * (p + s)];
        for (i, row) in mask.chunks_mut(p + s).enumerate() {
            if i < t {
                let given = &self.mask[i * (c + t)..][..c + t];
                row[..c].copy_from_slice(&given[..c]);
                row[p..p + t].copy_from_slice(&given[c..]);
            } else {
                row[p + i] = 0.0;
            }
        }
        let longer = |ids: &[u32]| ids.iter().copied().chain(std::iter::repeat_n(0, s - t)).collect();
        let rows = |data: &[f32]| {
            let zeros = vec![0.0; (p - c) * d];
            data.chunks(c * d).flat_map(|head| head.iter().chain(&zeros).copied()).collect()
        };
        let cache = self.cache.iter().map(|layer| LayerRows { k: rows(&layer.k), v: rows(&layer.v) }).collect();
        Step { tokens: longer(&self.tokens), positions: longer(&self.positions), mask, cached: p, cache }
    }
}

/// Columns as rows, in each matrix of `[.., rows, columns]`.
fn turned(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    data.chunks(rows * columns)
        .flat_map(|m| (0..columns).flat_map(move |j| (0..rows).map(move |i| m[i * columns + j])))
        .collect()
}

/// What a file is given in these steps.
pub(crate) fn given(steps: &[Step], shape: &EngineShape, theta: f64) -> Tensors {
    let EngineShape { kv_heads: kv, head_dim: d, .. } = *shape;
    let mut tensors = Tensors::new();
    for (call, step) in steps.iter().enumerate() {
        let (t, c) = (step.tokens.len(), step.cached);
        let mut add = |name: String, tensor| tensors.insert(format!("call{call}.{name}"), tensor);
        add("input_ids".into(), integers(&[1, t], &step.tokens));
        for (name, f) in [("cos", f64::cos as fn(f64) -> f64), ("sin", f64::sin)] {
            let entry = |p: u32, j: usize| f(f64::from(p) * theta.powf(-((j % (d / 2)) as f64) * 2.0 / d as f64));
            let table: Vec<f32> =
                step.positions.iter().flat_map(|&p| (0..d).map(move |j| entry(p, j) as f32)).collect();
            add(name.into(), singles(&[1, 1, t, d], &table));
        }
        add("attn_mask".into(), singles(&[1, 1, t, c + t], &step.mask));
        for (i, layer) in step.cache.iter().enumerate() {
            add(format!("past_k_{i}"), singles(&[1, kv, d, c], &turned(&layer.k, c, d)));
            add(format!("past_v_{i}"), singles(&[1, kv, c, d], &layer.v));
        }
    }
    tensors
}

/// What an engine makes of them, as a file would say it.
pub(crate) fn made(steps: &[Step], engine: &mut dyn Engine) -> Tensors {
    let EngineShape { kv_heads: kv, head_dim: d, vocab, .. } = *engine.shape();
    let mut tensors = Tensors::new();
    for (call, step) in steps.iter().enumerate() {
        let (t, out) = (step.tokens.len(), step.run(engine));
        let mut add = |name: String, tensor| tensors.insert(format!("call{call}.{name}"), tensor);
        add("logits".into(), singles(&[1, t, vocab], &out.logits));
        for (i, layer) in out.new.iter().enumerate() {
            add(format!("new_k_{i}"), singles(&[1, kv, d, t], &turned(&layer.k, t, d)));
            add(format!("new_v_{i}"), singles(&[1, kv, t, d], &layer.v));
        }
    }
    tensors
}

/// How far the logits of a step are from those of the same step in a longer file, as a share of the largest.
pub(crate) fn padding_costs(step: &Step, s: usize, p: usize, engine: &mut dyn Engine) -> f32 {
    let padded = step.padded(s, p, engine.shape()).run(engine).logits;
    let plain = step.run(engine).logits;
    let worst = plain.iter().zip(&padded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / plain.iter().fold(1e-6f32, |most, x| most.max(x.abs()))
}
