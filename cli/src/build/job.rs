//! Compiling one artifact: import, passes, legal for the target.

use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, Sizes, verify};
use diffulex_compiler::passes::{self, Note};
use diffulex_compiler::quant;
use diffulex_compiler::recipe::coreml::{Coreml, Shapes};
use diffulex_compiler::recipe::{self, Diagnostic, Diagnostics, Target as RecipeTarget};
use diffulex_targets::coreml::Lint;
use diffulex_targets::{Target, coreml, xnnpack};

use super::refused::refused;
use crate::Error;

/// What a build tells while it works.
pub enum Event<'a> {
    /// A stage was reached: `import`, a pass, or `legal`.
    Stage {
        /// Its name.
        name: &'a str,
        /// The module after it.
        module: &'a Module,
        /// What the pass did, place by place.
        notes: &'a [Note],
    },
    /// What devices are known to do badly with the artifact, before it is written.
    Lints(&'a [Lint]),
    /// Bytes of the artifact were written.
    Written {
        /// So far.
        bytes: u64,
        /// In all.
        total: u64,
    },
}

/// One artifact to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// The matrix cell.
    pub build: recipe::Build,
    /// The checkpoint it is made from.
    pub checkpoint: Arc<Checkpoint>,
    /// What a host must know, from recipe and checkpoint.
    pub generation: Generation,
}

/// Takes a job through the passes up to `stop_after` (`import`, a pass or `legal`), or to the end. Passes that the
/// target does not ask for are left out; stopping at one gives the module as it is at that point of the list.
///
/// # Errors
/// When the target refuses something, pointing into the recipe, or a pass makes a wrong module.
pub fn compile(job: &Job, stop_after: Option<&str>, observe: &mut dyn FnMut(Event<'_>)) -> Result<Module, Error> {
    let target = target(&job.build);
    if let Some(stage) = stop_after {
        goes_through(job, stage)?;
    }
    let module = import(job)?;
    observe(Event::Stage { name: "import", module: &module, notes: &[] });
    if stop_after == Some("import") {
        return Ok(module);
    }
    let order = |name: &str| passes::PASSES.iter().position(|p| p.name == name);
    let last = stop_after.and_then(order);
    let in_reach = |name: &&str| last.is_none_or(|last| order(name).is_some_and(|at| at <= last));
    let wanted: Vec<&str> = passes(&job.build).into_iter().filter(in_reach).collect();
    let scheme = job.build.quant.scheme();
    let module = passes::run(module, &wanted, &scheme, &mut |step| {
        observe(Event::Stage { name: step.pass.name, module: step.module, notes: step.notes });
    })
    .map_err(Box::new)?;
    if last.is_some() {
        return Ok(module);
    }
    unmatched_patterns(job, &module)?;
    let module = target.legalize(&module).map_err(|refusal| refused(job, &module, &refusal))?;
    observe(Event::Stage { name: "legal", module: &module, notes: &[] });
    Ok(module)
}

/// Whether the target of a build asks for a pass; `import` and `legal` are stages of every build.
///
/// # Errors
/// When there is no such stage at all; names those there are.
pub fn goes_through(job: &Job, stage: &str) -> Result<bool, Error> {
    if matches!(stage, "import" | "legal") {
        return Ok(true);
    }
    match passes::find(stage) {
        Some(pass) => Ok(passes(&job.build).contains(&pass.name)),
        None => {
            let names: Vec<&str> = passes::PASSES.iter().map(|p| p.name).collect();
            let what = format!("there is no pass `{stage}`; there are import, {}, legal", names.join(", "));
            Err(Error::Usage(what))
        }
    }
}

/// The target of a build, with what the recipe asks of it.
pub(super) fn target(build: &recipe::Build) -> Target {
    match &build.target.value {
        RecipeTarget::Xnnpack { alignment, .. } => Target::Xnnpack(xnnpack::Options { alignment: alignment.value }),
        RecipeTarget::Coreml(asked) => Target::Coreml(coreml::Options {
            deployment: asked.deployment.value,
            interface: asked.interface.value,
            norm: asked.norm.value,
            attention: asked.attention.value,
            nibbles: asked.nibbles.value,
            shapes: asked.shapes.value,
            lengths: lengths(build, asked),
            split_rows: (asked.split_rows.value > 0).then_some(asked.split_rows.value),
            parts: asked.parts.value,
        }),
    }
}

/// The numbers of tokens that a step may have, where there are several: those that the recipe lists, else the block.
fn lengths(build: &recipe::Build, asked: &Coreml) -> Vec<u32> {
    match (&asked.lengths, asked.shapes.value) {
        (Some(list), _) => list.value.iter().map(|length| length.value).collect(),
        (None, Shapes::Enumerated | Shapes::Functions) => vec![build.shape.block.value],
        _ => vec![],
    }
}

/// Whether a check for a Mac stands beside the artifact.
pub(super) fn checked(build: &recipe::Build) -> bool {
    matches!(&build.target.value, RecipeTarget::Coreml(asked) if asked.check.value)
}

/// The passes that a build asks for.
pub(super) fn passes(build: &recipe::Build) -> Vec<&'static str> {
    let mut wanted = target(build).passes().to_vec();
    let select_rows = match &build.target.value {
        RecipeTarget::Xnnpack { select_rows, .. } => select_rows,
        RecipeTarget::Coreml(asked) => &asked.select_rows,
    };
    if select_rows.value {
        wanted.push("select-rows");
    }
    wanted
}

fn import(job: &Job) -> Result<Module, Error> {
    let shape = &job.build.shape;
    let bounds = Sizes { t: shape.prefill.value as usize, c: shape.cache.value as usize, r: 0 };
    let types = |name: &str| job.checkpoint.tensor_type(name);
    let module = job.checkpoint.config().decoder.import(&job.build.name, bounds, &types)?;
    verify(&module)
        .map_err(|e| Error::Usage(format!("bug[verify::{}] after import: {}: {}", e.rule, e.place, e.what)))?;
    Ok(module)
}

/// A pattern of `keep` that names no matrix is a slip of the pen, not a wish; vectors are always f32.
fn unmatched_patterns(job: &Job, module: &Module) -> Result<(), Diagnostics> {
    let matrices = || module.weights.iter().filter(|w| w.ty.shape.len() > 1);
    // A head that is the table too has a name of its own only where the two are stored differently.
    let names = || matrices().map(|w| w.name.as_str()).chain(["lm_head"]);
    let matches = |pattern: &str| names().any(|name| quant::matches(pattern, name));
    let wrong = job.build.quant.keep.iter().filter(|(_, pattern)| !matches(pattern)).map(|(_, pattern)| {
        let message = format!("`{}` names no matrix of build {}", pattern.value, job.build.name);
        let help = format!("`build --only {} --stop-after quantize` prints the names", job.build.name);
        Diagnostic::refusal("quant::keep", message).label(&pattern.origin, "matches nothing").help(help)
    });
    let wrong: Vec<Diagnostic> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
}
