//! The targets, each with what a recipe may ask of it.

use std::fmt;
use std::io::Write;

use diffulex_compiler::ir::{Module, WeightSource};
use diffulex_compiler::quant::Cost;

use crate::emit::{EmitError, Metadata};
use crate::refusal::Refusal;
use crate::{coreml, xnnpack};

/// What a module is compiled to.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// ExecuTorch programs with one XNNPACK delegate, for CPUs.
    Xnnpack(xnnpack::Options),
    /// ML Programs, for Apple's devices.
    Coreml(coreml::Options),
}

impl Target {
    /// The name in recipes and stages.
    pub fn name(&self) -> &'static str {
        match self {
            Target::Xnnpack(_) => xnnpack::NAME,
            Target::Coreml(_) => coreml::NAME,
        }
    }

    /// Ending of the artifact's name.
    pub fn extension(&self) -> &'static str {
        match self {
            Target::Xnnpack(_) => xnnpack::EXTENSION,
            Target::Coreml(_) => coreml::EXTENSION,
        }
    }

    /// The passes it wants, in any order; see `diffulex_compiler::passes::PASSES`.
    pub fn passes(&self) -> &'static [&'static str] {
        match self {
            Target::Xnnpack(_) => &["fold-scale", "fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead", "quantize"],
            Target::Coreml(_) => {
                &["fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead", "quantize", "round-constants"]
            }
        }
    }

    /// The module as the target can express it.
    ///
    /// # Errors
    /// Names the first thing that the target lacks.
    pub fn legalize(&self, module: &Module) -> Result<Module, Refusal> {
        match self {
            Target::Xnnpack(_) => xnnpack::legalize(module),
            Target::Coreml(options) => coreml::legalize(module, options),
        }
    }

    /// The artifact called `name` of a legal module, all but the numbers of its weights.
    ///
    /// # Errors
    /// When `module` is not legal, or a limit of the format is exceeded.
    pub fn plan<'a>(&self, module: &'a Module, metadata: &Metadata, name: &str) -> Result<Planned<'a>, EmitError> {
        let artifact = format!("{name}.{}", self.extension());
        Ok(match self {
            Target::Xnnpack(options) => {
                let file = xnnpack::Program::new(module, metadata, options)?;
                Planned { files: vec![(artifact, file.bytes())], content: Content::Xnnpack(file) }
            }
            Target::Coreml(options) => {
                let package = coreml::Package::new(module, metadata, options)?;
                let files = package.files().map(|(file, bytes)| (format!("{artifact}/{file}"), bytes));
                Planned { files: files.into(), content: Content::Coreml(package) }
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An artifact that is yet to be written.
pub struct Planned<'a> {
    files: Vec<(String, u64)>,
    content: Content<'a>,
}

enum Content<'a> {
    Xnnpack(xnnpack::Program<'a>),
    Coreml(coreml::Package<'a>),
}

impl Planned<'_> {
    /// Paths of its files, relative to where it is put, with their sizes.
    pub fn files(&self) -> &[(String, u64)] {
        &self.files
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Writes one of [`Planned::files`]; gives what each weight of the model became. `progress` is told, now and then,
    /// how many bytes of how many are written, of all files in their order.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or writing fails.
    pub fn write(
        &self,
        file: usize,
        source: &dyn WeightSource,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let (before, total): (u64, u64) = (self.files.iter().take(file).map(|(_, bytes)| bytes).sum(), self.bytes());
        let progress = &mut |written, _| progress(before + written, total);
        match &self.content {
            Content::Xnnpack(program) => program.write(source, out, progress),
            Content::Coreml(package) => package.write_file(file, source, out, progress),
        }
    }
}
