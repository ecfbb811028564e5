//! The targets by name.

use std::fmt;

use diffulex_compiler::ir::Module;

use crate::refusal::Refusal;
use crate::xnnpack;

/// What a module can be compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// ExecuTorch programs with one XNNPACK delegate, for CPUs.
    Xnnpack,
}

impl Target {
    /// All targets.
    pub const ALL: [Target; 1] = [Target::Xnnpack];

    /// The name in recipes and stages.
    pub fn name(self) -> &'static str {
        match self {
            Target::Xnnpack => xnnpack::NAME,
        }
    }

    /// Ending of the artifact's file name.
    pub fn extension(self) -> &'static str {
        match self {
            Target::Xnnpack => "pte",
        }
    }

    /// The passes it wants, in any order; see `diffulex_compiler::passes::PASSES`.
    pub fn passes(self) -> &'static [&'static str] {
        match self {
            Target::Xnnpack => &["fold-scale", "fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead", "quantize"],
        }
    }

    /// The module as the target can express it.
    ///
    /// # Errors
    /// Names the first thing that the target lacks.
    pub fn legalize(self, module: &Module) -> Result<Module, Refusal> {
        match self {
            Target::Xnnpack => xnnpack::legalize(module),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
