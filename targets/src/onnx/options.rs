//! What a file can be asked to be.

/// How a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// All floats, inputs and outputs too, are `f16`.
    pub half: bool,
    /// Which sizes a step may have.
    pub shapes: Shapes,
    /// For whom it is written.
    pub form: Form,
}

/// Which sizes a step may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shapes {
    /// Any: T and C are dimensions of the file.
    #[default]
    Dynamic,
    /// The module's bounds, in a file; and one more file, with the same data, for each of these numbers of tokens.
    Static(Vec<u32>),
}

/// For whom a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Operators of the standard only: opset 23.
    #[default]
    Standard,
    /// What the QNN execution provider takes whole: opset 21, norms as the operator that ONNX Runtime adds.
    Qnn,
}

impl Form {
    /// Name of the target that it is for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Form::Standard => super::NAME,
            Form::Qnn => crate::qnn::NAME,
        }
    }
}
