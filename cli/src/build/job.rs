//! Compiling one artifact: import, passes, legal for the target.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Encoding, Module, Sizes, verify};
use diffulex_compiler::passes::{self, Note};
use diffulex_compiler::quant::{self, GridType};
use diffulex_compiler::recipe::coreml::{Coreml, Shapes};
use diffulex_compiler::recipe::{self, Diagnostic, Diagnostics, Origin, Qnn, Target as RecipeTarget};
use diffulex_targets::coreml::Lint;
use diffulex_targets::qnn::socs::UnknownSoc;
use diffulex_targets::qnn::{Rounding, Soc};
use diffulex_targets::{Target, coreml, onnx, qnn, xnnpack};

use super::calibrate::Calibration;
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
    /// There will be no context binaries, and why.
    WithoutContexts(&'a str),
    /// The model runs over texts, to see what numbers it makes.
    Calibrating {
        /// Passes done.
        pass: usize,
        /// Passes in all.
        passes: usize,
    },
    /// A weight, or a part of it that is stored by itself, is in the artifact.
    Weight {
        /// Its name.
        name: &'a str,
        /// Whether an interrupted build had written it.
        before: bool,
    },
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
    /// SHA-256 of each file of the checkpoint that takes part.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of each other file that the recipe names.
    pub reads: BTreeMap<String, String>,
    /// The folder of an earlier artifact, whose calibration may still hold.
    pub earlier: Option<PathBuf>,
}

/// A module that is ready to be written.
pub struct Compiled {
    /// The module.
    pub module: Module,
    /// What calibration saw, where values are rounded: the text of a file.
    pub calibration: Option<String>,
}

/// Takes a job through the passes up to `stop_after` (`import`, a pass, `legal` or `round`), or to the end. Passes that the
/// target does not ask for are left out; stopping at one gives the module as it is at that point of the list.
///
/// # Errors
/// When the target refuses something, pointing into the recipe, or a pass makes a wrong module.
pub fn compile(job: &Job, stop_after: Option<&str>, observe: &mut dyn FnMut(Event<'_>)) -> Result<Compiled, Error> {
    let target = target(&job.build);
    if let Some(stage) = stop_after {
        goes_through(job, stage)?;
    }
    let module = import(job)?;
    observe(Event::Stage { name: "import", module: &module, notes: &[] });
    let done = |module| Ok(Compiled { module, calibration: None });
    if stop_after == Some("import") {
        return done(module);
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
        return done(module);
    }
    unmatched_patterns(job, &module)?;
    let refuse = |refusal| refused(job, &module, &refusal);
    if let Target::Qnn(options) = &target {
        qnn::check_chips(options).map_err(refuse)?;
    }
    let module = target.legalize(&module).map_err(refuse)?;
    observe(Event::Stage { name: "legal", module: &module, notes: &[] });
    let (RecipeTarget::Qnn(asked), Some(rounding), true) =
        (&job.build.target.value, target.rounding(), stop_after != Some("legal"))
    else {
        return done(module);
    };
    let seen = Calibration::of(job, asked, &module, rounding, observe)?;
    let rounded = qnn::round(&module, rounding, &|place, ty| seen.range(place, ty));
    let module = rounded.map_err(|refusal| refused(job, &module, &refusal))?;
    observe(Event::Stage { name: "round", module: &module, notes: &[] });
    Ok(Compiled { module, calibration: Some(seen.to_json()?) })
}

/// Whether the target of a build asks for a pass; `import` and `legal` are stages of every build.
///
/// # Errors
/// When there is no such stage at all; names those there are.
pub fn goes_through(job: &Job, stage: &str) -> Result<bool, Error> {
    match stage {
        "import" | "legal" => return Ok(true),
        "round" => return Ok(target(&job.build).rounding().is_some()),
        _ => {}
    }
    match passes::find(stage) {
        Some(pass) => Ok(passes(&job.build).contains(&pass.name)),
        None => {
            let names: Vec<&str> = passes::PASSES.iter().map(|p| p.name).collect();
            let what = format!("there is no pass `{stage}`; there are import, {}, legal, round", names.join(", "));
            Err(Error::Usage(what))
        }
    }
}

/// The target of a build, with what the recipe asks of it.
pub(super) fn target(build: &recipe::Build) -> Target {
    match &build.target.value {
        RecipeTarget::Xnnpack { alignment, .. } => Target::Xnnpack(xnnpack::Options { alignment: alignment.value }),
        RecipeTarget::Onnx { dynamic } => Target::Onnx(onnx::Options {
            half: build.quant.weights.value == Encoding::F16,
            shapes: if dynamic.value { onnx::Shapes::Dynamic } else { onnx::Shapes::Static(vec![]) },
            form: onnx::Form::Standard,
        }),
        RecipeTarget::Qnn(asked) => Target::Qnn(qnn::Options {
            rounding: rounding(build),
            lengths: asked.lengths.as_ref().map_or_else(
                || vec![build.shape.block.value],
                |list| list.value.iter().map(|length| length.value).collect(),
            ),
            socs: socs(asked).flatten().collect(),
        }),
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

/// What values are rounded to, where they are.
fn rounding(build: &recipe::Build) -> Option<Rounding> {
    let values = build.quant.activations.as_ref()?.value.grid()?;
    Some(Rounding { values, cache: build.quant.cache.as_ref().map_or(GridType::U8, |cache| cache.value) })
}

/// The chips of a recipe.
fn socs(asked: &Qnn) -> impl Iterator<Item = Result<&'static Soc, UnknownSoc>> {
    asked.socs.iter().map(|name| qnn::socs::find(name))
}

/// Checks what a recipe says that only one target can judge.
///
/// # Errors
/// All that is wrong, pointing into the recipe.
pub(super) fn check(build: &recipe::Build) -> Result<(), Diagnostics> {
    let (asked, mut wrong) = (&build.target.origin, Vec::new());
    let refuse = |code, message: String, origin: &Origin, label: &str| {
        Diagnostic::refusal(code, message).label(origin, label).label(asked, "asked for here")
    };
    let given = build.quant.activations.as_ref().filter(|given| given.value.grid().is_some());
    match (&build.target.value, given) {
        (RecipeTarget::Qnn(qnn), given) => {
            for (name, found) in qnn.socs.iter().zip(socs(qnn)) {
                if let Err(unknown) = found {
                    wrong.push(refuse("qnn::soc", unknown.to_string(), &name.origin, "not a chip that is known here"));
                }
            }
            let float = build.quant.weights.value;
            if given.is_none() && float != Encoding::F16 {
                let message = format!("the HTP does not multiply values in floats with {float} weights");
                let refusal = refuse("qnn::activations", message, &build.quant.weights.origin, "values are floats");
                wrong.push(refusal.help("write `activations = \"uint16\"`, or `weights = \"f16\"`"));
            }
        }
        (other, Some(given)) => {
            let message = format!("{} does not round every value", other.name());
            let refusal = refuse("quant::activations", message, &given.origin, "rounds every value");
            wrong.push(refusal.help("build it for `qnn`, or leave `activations` out"));
        }
        _ => {}
    }
    if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
}

/// The chips that context binaries are asked for.
pub(super) fn chips(build: &recipe::Build) -> Vec<&'static str> {
    match &build.target.value {
        RecipeTarget::Qnn(asked) if asked.contexts.value => socs(asked).flatten().map(|soc| soc.name).collect(),
        _ => vec![],
    }
}

/// Whether matrices are stored column after column.
pub(super) fn turns(build: &recipe::Build) -> bool {
    matches!(build.target.value, RecipeTarget::Onnx { .. } | RecipeTarget::Qnn(_))
}

/// Whether the model runs while it is built.
pub(super) fn runs(build: &recipe::Build) -> bool {
    checked(build) || target(build).rounding().is_some()
}

/// Whether a check for a Mac stands beside the artifact.
pub(super) fn checked(build: &recipe::Build) -> bool {
    matches!(&build.target.value, RecipeTarget::Coreml(asked) if asked.check.value)
}

/// The passes that a build asks for.
pub(super) fn passes(build: &recipe::Build) -> Vec<&'static str> {
    let mut wanted = target(build).passes().to_vec();
    let select_rows = match &build.target.value {
        RecipeTarget::Xnnpack { select_rows, .. } => select_rows.value,
        RecipeTarget::Coreml(asked) => asked.select_rows.value,
        RecipeTarget::Onnx { .. } | RecipeTarget::Qnn(_) => false,
    };
    if select_rows {
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
