use diffulex_compiler::ir::WeightError;
use diffulex_compiler::ir::verify::VerifyError;

use crate::engine::EngineError;

/// Why a module cannot run on tract.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The module breaks a rule of the IR.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The numbers of a weight cannot be had.
    #[error("weight `{weight}`: {source}")]
    Weight {
        /// Name of the weight.
        weight: String,
        /// What is wrong.
        source: WeightError,
    },
    /// A stored number is infinite or not a number.
    #[error("weight `{weight}`, tensor `{tensor}`: row {row}, column {column} is not finite")]
    NotFinite {
        /// Name of the weight.
        weight: String,
        /// Name of the stored tensor.
        tensor: String,
        /// Row of the number.
        row: usize,
        /// Column of the number.
        column: usize,
    },
    /// The inputs or outputs are not those of the step graph.
    #[error("{0}")]
    Interface(String),
    /// A node that the IR allows and this engine does not.
    #[error("{place}: {what}")]
    Unsupported {
        /// The node.
        place: String,
        /// What it asks for.
        what: String,
    },
    /// tract does not take the graph.
    #[error("{place}: tract: {message}")]
    Tract {
        /// The node, or the whole graph.
        place: String,
        /// What tract says.
        message: String,
    },
}

impl From<LowerError> for EngineError {
    fn from(error: LowerError) -> EngineError {
        EngineError::Failed { engine: super::NAME, message: error.to_string() }
    }
}
