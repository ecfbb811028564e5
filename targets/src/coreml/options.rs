//! What a package can be asked to be.

pub use diffulex_compiler::recipe::coreml::{Attention, Deployment, Interface, Nibbles, Norm, Shapes};

/// How a package is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The oldest system that must run it. A package never asks for a newer one than it needs.
    pub deployment: Deployment,
    /// Who keeps the committed rows.
    pub interface: Interface,
    /// How norms are computed.
    pub norm: Norm,
    /// How attention is written.
    pub attention: Attention,
    /// The numbers of `int4` weights.
    pub nibbles: Nibbles,
    /// Which numbers of tokens a step may have.
    pub shapes: Shapes,
    /// The list of them, where shapes are enumerated or there are several functions. The module's bound is always in it.
    pub lengths: Vec<u32>,
    /// Filters of more rows than this are split. The Neural Engine takes at most 65,536.
    pub split_rows: Option<u32>,
    /// Packages that the layers are spread over, one after another; 1 for a single package.
    pub parts: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deployment: Deployment::Ios18,
            interface: Interface::Explicit,
            norm: Norm::Half,
            attention: Attention::Decomposed,
            nibbles: Nibbles::Signed,
            shapes: Shapes::Static,
            lengths: Vec::new(),
            split_rows: None,
            parts: 1,
        }
    }
}

/// The newest specification version that a system reads.
pub(crate) fn version(deployment: Deployment) -> i32 {
    match deployment {
        Deployment::Ios15 => 6,
        Deployment::Ios16 => 7,
        Deployment::Ios17 => 8,
        Deployment::Ios18 => 9,
        Deployment::Ios26 => 10,
    }
}

/// Whether one program serves steps of different shapes.
pub(crate) fn flexible(shapes: Shapes) -> bool {
    matches!(shapes, Shapes::Range | Shapes::Enumerated)
}
