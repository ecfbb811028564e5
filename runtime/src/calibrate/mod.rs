//! Calibration: which numbers the nodes of a module make, so that they can be stored as integers.
//!
//! 1. `plan` turns texts into passes: prefixes of several lengths, and behind them windows at several noise levels;
//! 2. the float module runs them in a [`Session`], as generation would;
//! 3. [`Observed`] counts the numbers of every node while they are made;
//! 4. [`Method`] chooses a [`Range`] from the counts; [`weight_range`] finds that of a weight.
//!
//! The same texts give the same ranges on every machine and with any number of threads. Absent on purpose: which
//! nodes share a range, and where ranges are stored.

mod observed;
mod plan;
mod range;
#[cfg(test)]
mod tests;
mod weight;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, NodeId, WeightId, WeightSource};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use observed::Observed;
pub use range::{Method, Range};
pub use weight::weight_range;

use crate::session::{Session, SessionError};
use crate::tract::{LowerError, TractEngine};

/// What is observed, and what is made of it.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The nodes.
    pub nodes: &'a [NodeId],
    /// The weights; their range is always from the smallest to the largest number.
    pub weights: &'a [WeightId],
    /// How ranges are chosen.
    pub method: Method,
    /// For which numbers of levels.
    pub levels: &'a [u32],
}

/// What was observed, by place: [`Node::place`](diffulex_compiler::ir::Node::place) of a node, `@name` of a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Passes that were run.
    pub passes: usize,
    /// Tokens that were fed, all passes together.
    pub tokens: usize,
    /// What was seen where.
    pub places: BTreeMap<String, Spread>,
}

/// The numbers of one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The smallest.
    #[serde(with = "exact")]
    pub min: f32,
    /// The largest.
    #[serde(with = "exact")]
    pub max: f32,
    /// How many there were; none of a node that no output depends on.
    pub numbers: u64,
    /// How many more were at or below −1e29: masks, and the scores of hidden keys.
    #[serde(default, skip_serializing_if = "is_none")]
    pub hidden: u64,
    /// How many more were infinite or no numbers.
    #[serde(default, skip_serializing_if = "is_none")]
    pub not_finite: u64,
    /// The chosen range for each number of levels.
    pub ranges: BTreeMap<u32, Range>,
}

/// Why a module cannot be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// There is nothing to run.
    #[error("there is no text to calibrate with")]
    NoText,
    /// A node or weight that the module does not have was to be observed.
    #[error("there is no {0} to observe")]
    Unknown(String),
    /// The module cannot run.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A pass failed.
    #[error("pass {pass} of {passes}: {source}")]
    Pass {
        /// Which, counted from 1.
        pass: usize,
        /// Of how many.
        passes: usize,
        /// What failed.
        source: SessionError,
    },
    /// The blocks do not fit the engine.
    #[error(transparent)]
    Session(SessionError),
    /// A weight has no range.
    #[error("weight `{weight}`: {source}")]
    Weight {
        /// Its name.
        weight: String,
        /// What is wrong.
        source: diffulex_compiler::ir::WeightError,
    },
}

/// Runs a float module, at any stage, over texts of token ids and observes what `wanted` names. `progress` is told
/// the passes done and their number.
///
/// # Errors
/// When there is no text, the module cannot run, or a text has a token that the model does not know.
pub fn calibrate(
    module: &Module,
    source: &Arc<dyn WeightSource>,
    wanted: &Wanted<'_>,
    texts: &[Vec<u32>],
    generation: &Generation,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Ranges, CalibrateError> {
    check(module, wanted)?;
    let observed: Arc<BTreeMap<NodeId, Mutex<Observed>>> =
        Arc::new(wanted.nodes.iter().map(|&id| (id, Mutex::default())).collect());
    let seen = observed.clone();
    let see = move |id: NodeId, values: &[f32]| {
        if let Some(observed) = seen.get(&id) {
            // Counted before the lock is taken: a thread that waits for others may be given another step's work.
            let mut numbers = Observed::default();
            numbers.add(values);
            observed.lock().unwrap_or_else(PoisonError::into_inner).merge(numbers);
        }
    };
    let engine = TractEngine::watched(module, source.clone(), wanted.nodes.iter().copied(), Arc::new(see))?;
    let mut session = Session::new(Box::new(engine), generation.into()).map_err(CalibrateError::Session)?;
    let passes = plan::plan(texts, generation, session.shape());
    if passes.is_empty() {
        return Err(CalibrateError::NoText);
    }
    for (i, pass) in passes.iter().enumerate() {
        progress(i, passes.len());
        run(&mut session, pass).map_err(|source| CalibrateError::Pass { pass: i + 1, passes: passes.len(), source })?;
    }
    progress(passes.len(), passes.len());
    drop(session);
    let nodes = observed.par_iter().map(|(&id, observed)| {
        let observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
        (module.node(id).place(), Spread::of(&observed, wanted))
    });
    let mut places: BTreeMap<String, Spread> = nodes.collect();
    for &id in wanted.weights {
        let weight = module.weight(id);
        let ends = weight_range(weight, source.as_ref());
        let ends = ends.map_err(|source| CalibrateError::Weight { weight: weight.name.clone(), source })?;
        let numbers = weight.ty.rows() as u64 * weight.ty.columns() as u64;
        places.insert(format!("@{}", weight.name), Spread::of_weight(ends, numbers, wanted));
    }
    Ok(Ranges { passes: passes.len(), tokens: passes.iter().map(|pass| pass.tokens.len()).sum(), places })
}

fn check(module: &Module, wanted: &Wanted<'_>) -> Result<(), CalibrateError> {
    let node = wanted.nodes.iter().find(|id| id.0 as usize >= module.nodes.len());
    let weight = wanted.weights.iter().find(|id| id.0 as usize >= module.weights.len());
    match (node, weight) {
        (Some(id), _) => Err(CalibrateError::Unknown(format!("node {}", id.0))),
        (None, Some(id)) => Err(CalibrateError::Unknown(format!("weight {}", id.0))),
        (None, None) => Ok(()),
    }
}

fn run(session: &mut Session, pass: &plan::Pass) -> Result<(), SessionError> {
    if pass.fresh {
        session.clear();
    }
    let rows: Vec<u32> = if pass.logits { (0..pass.tokens.len() as u32).collect() } else { Vec::new() };
    session.pass(&pass.tokens, pass.start, &rows, pass.store).map(drop)
}

impl Spread {
    fn of(observed: &Observed, wanted: &Wanted<'_>) -> Spread {
        let range = |&levels: &u32| (levels, observed.range(wanted.method, levels));
        Spread {
            min: observed.min(),
            max: observed.max(),
            numbers: observed.numbers(),
            hidden: observed.hidden(),
            not_finite: observed.not_finite(),
            ranges: wanted.levels.iter().map(range).collect(),
        }
    }

    fn of_weight((min, max): (f32, f32), numbers: u64, wanted: &Wanted<'_>) -> Spread {
        let ranges = wanted.levels.iter().map(|&levels| (levels, Range::around(min, max))).collect();
        Spread { min, max, numbers, hidden: 0, not_finite: 0, ranges }
    }
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// An f32 as text: the digits of the f64 it is, which no reader rounds to another f32.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((*value).into())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        let value = f64::deserialize(from)?;
        let near = value as f32;
        if near.is_finite() { Ok(near) } else { Err(D::Error::custom(format!("{value} does not fit"))) }
    }
}
