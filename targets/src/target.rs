//! The targets, each with what a recipe may ask of it.

use std::fmt;

use diffulex_compiler::ir::Module;
use diffulex_compiler::quant::Cost;

use crate::coreml::Lint;
use crate::emit::{Content, EmitError, Metadata, make_file};
use crate::qnn::Rounding;
use crate::refusal::Refusal;
use crate::stream::Work;
use crate::{coreml, onnx, qnn, xnnpack};

/// What a module is compiled to.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// ExecuTorch programs with one XNNPACK delegate, for CPUs.
    Xnnpack(xnnpack::Options),
    /// ML Programs, for Apple's devices.
    Coreml(coreml::Options),
    /// ONNX files, for ONNX Runtime.
    Onnx(onnx::Options),
    /// Bundles of such files for Qualcomm's HTP.
    Qnn(qnn::Options),
}

impl Target {
    /// The name in recipes and stages.
    pub fn name(&self) -> &'static str {
        match self {
            Target::Xnnpack(_) => xnnpack::NAME,
            Target::Coreml(_) => coreml::NAME,
            Target::Onnx(_) => onnx::NAME,
            Target::Qnn(_) => qnn::NAME,
        }
    }

    /// The file or folder of the artifact called `name`, or of its first part.
    pub fn artifact(&self, name: &str) -> String {
        match self {
            Target::Xnnpack(_) => format!("{name}.{}", xnnpack::EXTENSION),
            Target::Coreml(options) => coreml::folder(name, 1, options.parts),
            Target::Onnx(_) => format!("{name}.{}", onnx::EXTENSION),
            Target::Qnn(_) => format!("{}.{}", qnn::GRAPH, onnx::EXTENSION),
        }
    }

    /// The folder of the build called `name`.
    pub fn folder(&self, name: &str) -> String {
        match self {
            Target::Qnn(_) => format!("{name}.{}", qnn::EXTENSION),
            _ => name.into(),
        }
    }

    /// What every value of a legal module is rounded to before it is written, where it is.
    pub fn rounding(&self) -> Option<Rounding> {
        if let Target::Qnn(options) = self { options.rounding } else { None }
    }

    /// The passes it wants, in any order; see `diffulex_compiler::passes::PASSES`.
    pub fn passes(&self) -> &'static [&'static str] {
        match self {
            Target::Xnnpack(_) => &["fold-scale", "fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead", "quantize"],
            Target::Coreml(_) => {
                &["fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead", "quantize", "round-constants"]
            }
            Target::Onnx(_) | Target::Qnn(_) => &["fold-scale", "drop-dead", "quantize"],
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
            Target::Onnx(options) => onnx::legalize(module, options),
            Target::Qnn(options) => onnx::legalize(module, &options.onnx()),
        }
    }

    /// The artifact called `name` of a legal module, all but the numbers of its weights.
    ///
    /// # Errors
    /// When `module` is not legal, or a limit of the format is exceeded.
    pub fn plan<'a>(&self, module: &'a Module, metadata: &Metadata, name: &str) -> Result<Planned<'a>, EmitError> {
        Ok(match self {
            Target::Xnnpack(options) => {
                let file = xnnpack::Program::new(module, metadata, options)?;
                Planned::Xnnpack(format!("{name}.{}", xnnpack::EXTENSION), file)
            }
            Target::Coreml(options) => Planned::Coreml(coreml::Packages::new(module, name, metadata, options)?),
            Target::Onnx(options) => Planned::Onnx(onnx::Files::new(module, name, metadata, options)?),
            Target::Qnn(options) => Planned::Onnx(qnn::plan(module, metadata, options)?),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An artifact that is yet to be written.
pub enum Planned<'a> {
    /// A file with its name.
    Xnnpack(String, xnnpack::Program<'a>),
    /// One package, or several that feed each other.
    Coreml(coreml::Packages<'a>),
    /// Files of graphs, with one that holds their weights.
    Onnx(onnx::Files<'a>),
}

impl Planned<'_> {
    /// Paths of its files, relative to where it is put, with their sizes.
    pub fn files(&self) -> Vec<(String, u64)> {
        match self {
            Planned::Xnnpack(name, program) => vec![(name.clone(), program.bytes())],
            Planned::Coreml(packages) => packages.files(),
            Planned::Onnx(files) => files.files(),
        }
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files().iter().map(|(_, bytes)| bytes).sum()
    }

    /// What devices are known to do badly with it.
    pub fn lints(&self) -> Vec<Lint> {
        match self {
            Planned::Xnnpack(..) | Planned::Onnx(_) => vec![],
            Planned::Coreml(packages) => packages.lints(),
        }
    }

    /// Writes all files; gives what each weight of the model became. `make` makes the file of that name, one of
    /// [`Planned::files`], with what it is given writes. `progress` is told, now and then, how many bytes of how many are
    /// written.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or `make` fails.
    pub fn write<E: From<EmitError>>(
        &self,
        work: Work<'_>,
        make: &mut dyn FnMut(&str, Content<'_>) -> Result<(), E>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, E> {
        match self {
            Planned::Xnnpack(name, program) => make_file(make, name, &mut |out| program.write(work, out, progress)),
            Planned::Coreml(packages) => packages.write(work, make, progress),
            Planned::Onnx(files) => files.write(work, make, progress),
        }
    }
}
