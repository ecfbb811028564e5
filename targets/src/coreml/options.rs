//! What a package can be asked to be.

/// The oldest system that must run a package; macOS, watchOS and tvOS of the same year count alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deployment {
    /// No compressed weights; inputs and outputs are `fp32`.
    Ios15,
    /// `int8` weights; inputs and outputs are `fp16`, from here on.
    Ios16,
    /// The same.
    Ios17,
    /// `int4` weights, states, fused attention.
    Ios18,
    /// The same.
    Ios26,
}

/// How the mean of squares of a norm is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// In `fp16`, by `layer_norm` over `(x, −x)`, whose mean is 0 and whose variance is the mean of squares: nothing is
    /// squared that could exceed 65504, and the Neural Engine computes it.
    Half,
    /// In `fp32`, between two casts, which take the graph apart into regions: more exact, slower.
    Single,
}

/// How attention is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Two matrix products and a softmax.
    Decomposed,
    /// `scaled_dot_product_attention`, which needs iOS 18.
    Fused,
}

/// Who keeps the committed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The host: a step is given all rows and returns the new ones. A step changes nothing.
    Explicit,
    /// The package, as states, which needs iOS 18: a step writes its rows at `write_pos`, over what an earlier step wrote
    /// there, and attends to all rows of the cache that the mask shows, its own among them.
    State,
}

/// The numbers of `int4` weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nibbles {
    /// Two's complement.
    Signed,
    /// Eight more, with an offset of 8 for each scale.
    Unsigned,
}

/// Which numbers of tokens a step may have. The cache always has its whole capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// The module's bound, nothing else.
    Static,
    /// Each from 1 to the bound.
    Range,
    /// Those of a list, which needs iOS 18: the shapes of several inputs change together.
    Enumerated,
    /// Those of a list, which needs iOS 18: a function of static shapes for each. All have one weight file.
    Functions,
}

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
        }
    }
}

impl Shapes {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Shapes::Static => "static",
            Shapes::Range => "range",
            Shapes::Enumerated => "enumerated",
            Shapes::Functions => "functions",
        }
    }

    /// Whether one program serves steps of different shapes.
    pub(crate) fn flexible(self) -> bool {
        matches!(self, Shapes::Range | Shapes::Enumerated)
    }
}

impl Deployment {
    /// All of them, the oldest first.
    pub const ALL: [Deployment; 5] =
        [Deployment::Ios15, Deployment::Ios16, Deployment::Ios17, Deployment::Ios18, Deployment::Ios26];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Deployment::Ios15 => "ios15",
            Deployment::Ios16 => "ios16",
            Deployment::Ios17 => "ios17",
            Deployment::Ios18 => "ios18",
            Deployment::Ios26 => "ios26",
        }
    }

    /// The newest specification version that it reads.
    pub(crate) fn version(self) -> i32 {
        match self {
            Deployment::Ios15 => 6,
            Deployment::Ios16 => 7,
            Deployment::Ios17 => 8,
            Deployment::Ios18 => 9,
            Deployment::Ios26 => 10,
        }
    }
}
