//! What devices are known to do badly, although the format allows it.
//!
//! Every lint rests on public reports by people with Apple hardware, not on runs of ours; the sources stand in
//! `formats/coreml-mlpackage.md`, section 10.
//!
//! | name | what it means |
//! |---|---|
//! | `large-filter` | a filter of more than 65,536 rows does not fit the Neural Engine |
//! | `grouped-scales` | weights with several scales a row gave wrong results on the Neural Engine |
//! | `compressed-filter` | filters in `int8` and `int4` were planned on the CPU |
//! | `fused-attention` | fused attention fails on some devices for more than one token |
//! | `kept-cache` | run-time offsets into states crash the compiler of the Neural Engine |
//! | `state-width` | heads whose width is no multiple of 32 fail as states on the Neural Engine |
//! | `single-norm` | `fp32` norms take the graph apart and leave the Neural Engine |
//! | `rounded-eps` | at this version the eps of a norm is stored in `fp16` |
//! | `rounded-constant` | a constant is not exact in `fp16` |
//! | `large-weights` | weight files of more than 2 GiB failed to load on systems of 2023 |
//! | `neural-engine-memory` | a program of more than 1.5 GB does not fit the Neural Engine |

use diffulex_compiler::ir::{Encoding, Module, Op, Operand, WeightExpr};
use diffulex_compiler::quant::{self, Encoded, Search};

use super::{Attention, EmitError, Interface, Metadata, Norm, Options, Package};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Slower, elsewhere, or a little less exact.
    Note,
    /// It may fail or compute something else.
    Warning,
}

/// Something that a device may do badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The first node or weight that it concerns.
    pub place: String,
    /// What happens, and what to do about it.
    pub reason: String,
}

/// Largest dimension of the Neural Engine.
const MAX_ROWS: usize = 65_536;
/// Largest weight file of older systems.
const MAX_FILE: u64 = 1 << 31;
/// Weights that one program of the Neural Engine held; 3.4 GB did not fit.
const MAX_ENGINE: u64 = 1_500_000_000;

/// What is known against a legal module with these options, each lint once, at its first place.
///
/// # Errors
/// When there can be no such package.
pub fn lint(module: &Module, options: &Options) -> Result<Vec<Lint>, EmitError> {
    let package = Package::new(module, &Metadata::default(), options)?;
    let mut lints = Lints(Vec::new());
    weights(module, options, &mut lints);
    nodes(module, options, package.version(), &mut lints);
    if options.interface == Interface::State {
        let reason =
            "offsets known at run time crash the compiler of the Neural Engine: use the explicit interface there";
        lints.add("kept-cache", Severity::Warning, "cache", reason.into());
        let width = module.cache.head_dim;
        if !width.is_multiple_of(32) {
            let reason = format!("heads of {width} are no multiple of 32: such states fail on the Neural Engine");
            lints.add("state-width", Severity::Warning, "cache", reason);
        }
    }
    let bytes: u64 = package.files().iter().map(|(_, bytes)| bytes).sum();
    if bytes > MAX_FILE {
        let reason = format!("{bytes} bytes of weights; files beyond 2^31 failed to load on systems of 2023");
        lints.add("large-weights", Severity::Warning, "weights", reason);
    }
    if bytes > MAX_ENGINE {
        let reason = format!("{bytes} bytes of weights; the Neural Engine held 1.5 GB: expect the GPU");
        lints.add("neural-engine-memory", Severity::Note, "weights", reason);
    }
    Ok(lints.0)
}

struct Lints(Vec<Lint>);

impl Lints {
    fn add(&mut self, name: &'static str, severity: Severity, place: impl Into<String>, reason: String) {
        if self.0.iter().all(|lint| lint.name != name) {
            self.0.push(Lint { name, severity, place: place.into(), reason });
        }
    }
}

fn weights(module: &Module, options: &Options, lints: &mut Lints) {
    for node in &module.nodes {
        let (Op::Linear | Op::Embed, [_, Operand::Weight(id), ..]) = (&node.op, node.args.as_slice()) else { continue };
        let weight = module.weight(*id);
        let (place, rows) = (format!("@{}", weight.name), weight.ty.rows());
        let split = options.split_rows.is_some_and(|limit| limit as usize <= MAX_ROWS);
        if node.op == Op::Linear && rows > MAX_ROWS && !split {
            let reason = format!("{rows} rows; the Neural Engine takes {MAX_ROWS}: split it, or it runs elsewhere");
            lints.add("large-filter", Severity::Note, place.clone(), reason);
        }
        if weight.ty.encoding.group().is_some() {
            let reason =
                format!("{} has several scales a row, which gave wrong results on the Neural Engine", weight.ty);
            lints.add("grouped-scales", Severity::Warning, place.clone(), reason);
        }
        if node.op == Op::Linear && !weight.ty.encoding.is_float() {
            let reason = format!("{}: such filters were planned on the CPU only", weight.ty);
            lints.add("compressed-filter", Severity::Note, place, reason);
        }
    }
}

fn nodes(module: &Module, options: &Options, version: i32, lints: &mut Lints) {
    for node in &module.nodes {
        match node.op {
            Op::RmsNorm { .. } if options.norm == Norm::Single => {
                let reason = "norms in fp32 take the graph apart and leave the Neural Engine".to_string();
                lints.add("single-norm", Severity::Note, node.place(), reason);
            }
            Op::RmsNorm { eps } if version < 8 => {
                if let Some(found) = rounded(eps).filter(|found| *found != eps) {
                    let reason = format!("eps {eps:e} is stored in fp16, as {found:e}, up to version 7");
                    lints.add("rounded-eps", Severity::Note, node.place(), reason);
                }
            }
            Op::Attention { .. } if options.attention == Attention::Fused => {
                let reason = "fused attention of several tokens crashed on CPUs and failed on the Neural Engine";
                lints.add("fused-attention", Severity::Warning, node.place(), reason.to_string());
            }
            _ => {}
        }
        for arg in &node.args {
            let Operand::Weight(id) = arg else { continue };
            let weight = module.weight(*id);
            let WeightExpr::Fill(exact) = weight.expr else { continue };
            if let Some(found) = rounded(exact).filter(|found| *found != exact) {
                let reason = format!("{exact:e} is stored in fp16, as {found:e}");
                lints.add("rounded-constant", Severity::Note, format!("@{}", weight.name), reason);
            }
        }
    }
}

/// The number as `fp16` keeps it, if it does.
fn rounded(number: f32) -> Option<f32> {
    let (mut bytes, mut back) = (Encoded::default(), Vec::new());
    quant::encode(Encoding::F16, Search::Max, 1, &[number], &mut bytes).ok()?;
    bytes.rows(Encoding::F16, 1).decode(&mut back);
    back.first().copied()
}
