//! The lints themselves.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Slower, elsewhere, or a little less exact.
    Note,
    /// It may fail or compute something else.
    Warning,
}

/// A lint that there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What a package has that gets it.
    pub meaning: &'static str,
    /// What happens, and what to do.
    pub help: &'static str,
}

impl Severity {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
        }
    }
}

const fn note(name: &'static str, meaning: &'static str, help: &'static str) -> Rule {
    Rule { name, severity: Severity::Note, meaning, help }
}

const fn warning(name: &'static str, meaning: &'static str, help: &'static str) -> Rule {
    Rule { name, severity: Severity::Warning, meaning, help }
}

pub(super) const OMITTED_PARAMETER: Rule = warning(
    "coreml::omitted-parameter",
    "an operation leaves out a parameter that has a default",
    "Apple's loader asks for it on some systems; spell it out",
);
pub(super) const HIGH_RANK: Rule =
    warning("coreml::high-rank", "a value has more than five axes", "Core ML takes five at most; reshape it");
pub(super) const GATHER_RANK: Rule = warning(
    "coreml::gather-rank",
    "a gather makes a value of five axes",
    "compilers refused it as one of six; keep it at four and reshape afterwards",
);
pub(super) const STATE_WIDTH: Rule = warning(
    "coreml::state-width",
    "the last axis of a state is no multiple of 32",
    "such states fail on the Neural Engine; use the explicit interface, or the GPU",
);
pub(super) const FLEXIBLE_STATE: Rule = warning(
    "coreml::flexible-state",
    "a state has an axis of unknown size",
    "no system takes that; give it a size, or use the explicit interface",
);
pub(super) const UPDATE_LENGTH: Rule = note(
    "coreml::update-length",
    "a state is updated by other than 16 or 32 rows",
    "only such updates ran on the Neural Engine; let a step have 16 or 32 tokens, or expect the GPU",
);
pub(super) const RUN_TIME_OFFSET: Rule = warning(
    "coreml::run-time-offset",
    "a state is updated at a place that is known at run time only",
    "the compiler of the Neural Engine crashes on it; use the explicit interface there",
);
pub(super) const COMPRESSED_FILTER: Rule = note(
    "coreml::compressed-filter",
    "a filter is stored in fewer bits",
    "such filters were planned on the CPU only; measure it against f16",
);
pub(super) const GROUPED_SCALES: Rule = warning(
    "coreml::grouped-scales",
    "weights have several scales a row",
    "they gave wrong results on the Neural Engine; use one scale a row there",
);
pub(super) const PALETTE_SCALE: Rule = warning(
    "coreml::palette-scale",
    "a palette of four bits is scaled blockwise",
    "such packages crash at load on macOS 26; put the scales into the palettes",
);
pub(super) const FUSED_ATTENTION: Rule = warning(
    "coreml::fused-attention",
    "attention is one operation",
    "it was wrong for batches of 10 and more on GPUs, crashed for several tokens on CPUs and failed to compile for the \
     Neural Engine; write it decomposed",
);
pub(super) const LARGE_WEIGHTS: Rule = warning(
    "coreml::large-weights",
    "a weight file has more than 2^31 bytes",
    "such files failed to load on systems of 2023; split the model into several packages",
);
pub(super) const ENGINE_MEMORY: Rule = note(
    "coreml::engine-memory",
    "the weights have more than 1.5 GB",
    "a program of the Neural Engine held no more; split the model into several packages, or expect the GPU",
);
pub(super) const LARGE_FILTER: Rule = note(
    "coreml::large-filter",
    "a filter has a dimension above 65,536",
    "it does not fit the Neural Engine; split it into parts of at most 65,536 rows, or it runs elsewhere",
);
pub(super) const LARGE_DIMENSION: Rule = note(
    "coreml::large-dimension",
    "another value has a dimension above 65,536",
    "the operation does not fit the Neural Engine and runs elsewhere",
);
pub(super) const FLEXIBLE_SHAPE: Rule = note(
    "coreml::flexible-shape",
    "an input has an axis of unknown size",
    "such programs usually leave the Neural Engine; give each size a package or a function of its own",
);
pub(super) const FLEXIBLE_MEAN: Rule = warning(
    "coreml::flexible-mean",
    "a mean is taken where shapes are flexible, for iOS 15",
    "it failed on iOS 15.4; use fixed shapes, or ask for iOS 16",
);
pub(super) const SEVERAL_FUNCTIONS: Rule = note(
    "coreml::several-functions",
    "there are several functions",
    "memory grows with their number although the file shares the weights; use as few as possible",
);
pub(super) const HALF_VECTOR: Rule = note(
    "coreml::half-vector",
    "numbers in fp16, more than one, stand in the program itself",
    "other writers keep them in the weight file; do the same",
);
pub(super) const ROUNDED_EPSILON: Rule = note(
    "coreml::rounded-epsilon",
    "an epsilon is stored in fp16, where it has fewer digits",
    "from version 8 on, for iOS 17, it can be stored in fp32",
);
pub(super) const ROUNDED_SCALE: Rule = note(
    "coreml::rounded-scale",
    "the scale of attention is not exact in fp16",
    "every score departs by as much; compare with a reference that has the rounded scale",
);
pub(super) const SINGLE_PRECISION: Rule = note(
    "coreml::single-precision",
    "a part of the program computes in fp32",
    "it takes the graph apart and leaves the Neural Engine; compute in fp16 there",
);

/// Every lint that there is.
pub const LINTS: [Rule; 22] = [
    OMITTED_PARAMETER,
    HIGH_RANK,
    GATHER_RANK,
    STATE_WIDTH,
    FLEXIBLE_STATE,
    UPDATE_LENGTH,
    RUN_TIME_OFFSET,
    COMPRESSED_FILTER,
    GROUPED_SCALES,
    PALETTE_SCALE,
    FUSED_ATTENTION,
    LARGE_WEIGHTS,
    ENGINE_MEMORY,
    LARGE_FILTER,
    LARGE_DIMENSION,
    FLEXIBLE_SHAPE,
    FLEXIBLE_MEAN,
    SEVERAL_FUNCTIONS,
    HALF_VECTOR,
    ROUNDED_EPSILON,
    ROUNDED_SCALE,
    SINGLE_PRECISION,
];
