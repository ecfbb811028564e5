//! The passes, one flat list, and the runner.
//!
//! A pass looks at a module and proposes another one, with a note for every place it looked at: done, or why not. The
//! runner verifies the proposal before it counts; what breaks a rule is a bug of the pass and is reported as one.

mod drop_dead;
mod fold_scale;
mod fuse_gate_up;
mod fuse_qkv;
mod fuse_swiglu;
mod join;
mod quantize;
mod rewrite;
mod round_constants;
mod select_rows;

use crate::ir::build::BuildError;
use crate::ir::verify::VerifyError;
use crate::ir::{self, Module, Stage};
use crate::quant::Scheme;

pub use rewrite::Rewriter;

/// A pass: its name appears in dumps, timings and errors.
pub struct Pass {
    /// Verb-object, `fuse-qkv`; also the name of its file.
    pub name: &'static str,
    /// One line on what it does and what for.
    pub about: &'static str,
    run: Rule,
}

enum Rule {
    Graph(fn(&Module) -> Result<Proposal, BuildError>),
    Quantize,
}

/// All passes in the order in which they run. Targets name the ones they want.
pub const PASSES: [Pass; 8] = [
    Pass {
        name: "fold-scale",
        about: "multiply the attention scale into the gain of the query norm, so that scores need no scaling",
        run: Rule::Graph(fold_scale::run),
    },
    Pass {
        name: "fuse-qkv",
        about: "join the projections of queries, keys and values into one matrix",
        run: Rule::Graph(fuse_qkv::run),
    },
    Pass {
        name: "fuse-gate-up",
        about: "join the gate and up projections of the MLP into one matrix",
        run: Rule::Graph(fuse_gate_up::run),
    },
    Pass {
        name: "fuse-swiglu",
        about: "replace silu and multiplication of two halves by one op",
        run: Rule::Graph(fuse_swiglu::run),
    },
    Pass {
        name: "select-rows",
        about: "compute the head only for the rows that the new input `rows` names",
        run: Rule::Graph(select_rows::run),
    },
    Pass {
        name: "drop-dead",
        about: "drop nodes and weights that nothing reads, and list weights in the order of their use",
        run: Rule::Graph(drop_dead::run),
    },
    Pass { name: "quantize", about: "give every weight the encoding that the recipe asks for", run: Rule::Quantize },
    Pass {
        name: "round-constants",
        about: "store vectors and the tables of the rotation in f16, for targets that compute in it",
        run: Rule::Graph(round_constants::run),
    },
];

/// What a pass proposes.
pub struct Proposal {
    /// The new module; `None` when nothing changed.
    pub module: Option<Module>,
    /// One entry for every place where the pass did something or could have.
    pub notes: Vec<Note>,
}

/// What a pass did at one place, or why it did nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The node: `layers.3 %q`.
    pub place: String,
    /// Whether something changed.
    pub changed: bool,
    /// What changed, or the condition that failed.
    pub what: String,
}

/// A pass that made a wrong module: a bug of ours. The modules before and after are the evidence.
#[derive(Debug, thiserror::Error)]
#[error("bug[{rule}] after pass {pass}: {what}\n  {place}")]
pub struct PassError {
    /// The pass.
    pub pass: &'static str,
    /// The rule that is broken, `verify::types`.
    pub rule: String,
    /// The node.
    pub place: String,
    /// How.
    pub what: String,
    /// The module that the pass was given.
    pub before: Box<Module>,
    /// The module that it made, if it made one.
    pub after: Option<Box<Module>>,
}

/// What the runner tells about each pass.
pub struct Step<'a> {
    /// The pass.
    pub pass: &'static Pass,
    /// The module after it.
    pub module: &'a Module,
    /// What it did.
    pub notes: &'a [Note],
}

/// Runs the passes that `wanted` names, in the order of [`PASSES`], and tells `observe` of each. The module ends as
/// stage *fused*, or *quantized* when that pass ran.
///
/// # Errors
/// When a pass makes a module that breaks a rule.
pub fn run(
    module: Module,
    wanted: &[&str],
    scheme: &Scheme,
    observe: &mut dyn FnMut(Step<'_>),
) -> Result<Module, PassError> {
    let mut module = module;
    for pass in PASSES.iter().filter(|p| wanted.contains(&p.name)) {
        let notes;
        (module, notes) = apply(pass, module, scheme)?;
        observe(Step { pass, module: &module, notes: &notes });
    }
    Ok(module)
}

/// The pass of that name.
pub fn find(name: &str) -> Option<&'static Pass> {
    PASSES.iter().find(|p| p.name == name)
}

fn apply(pass: &'static Pass, before: Module, scheme: &Scheme) -> Result<(Module, Vec<Note>), PassError> {
    let (proposal, stage) = match pass.run {
        Rule::Graph(run) => (run(&before), Stage::Fused),
        Rule::Quantize => (quantize::run(&before, scheme), Stage::Quantized),
    };
    let fail = |rule: &str, place, what, after| {
        let before = Box::new(before.clone());
        PassError { pass: pass.name, rule: rule.into(), place, what, before, after }
    };
    let Proposal { module, notes } = proposal.map_err(|e| fail("build", e.place, e.what, None))?;
    let mut after = module.unwrap_or_else(|| before.clone());
    if after.stage == Stage::Imported || stage == Stage::Quantized {
        after.stage = stage;
    }
    if let Err(VerifyError { rule, place, what }) = ir::verify(&after) {
        return Err(fail(&format!("verify::{rule}"), place, what, Some(Box::new(after))));
    }
    Ok((after, notes))
}

impl Note {
    fn done(place: String, what: impl Into<String>) -> Note {
        Note { place, changed: true, what: what.into() }
    }

    fn not(place: String, why: impl Into<String>) -> Note {
        Note { place, changed: false, what: why.into() }
    }
}
