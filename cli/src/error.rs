//! Everything that can stop a command, in one type. The sentences belong to the crates that found the mistake.

use std::path::PathBuf;

use diffulex_compiler::checkpoint::CheckpointError;
use diffulex_compiler::ir::WeightError;
use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::passes::PassError;
use diffulex_compiler::recipe::Diagnostics;
use diffulex_runtime::calibrate::CalibrateError;
use diffulex_runtime::chat::ChatError;
use diffulex_runtime::engine::EngineError;
use diffulex_runtime::generate::GenerateError;
use diffulex_runtime::session::SessionError;
use diffulex_runtime::tract::LowerError;
use diffulex_runtime::verify::VerifyError;
use diffulex_targets::artifact::ArtifactError;
use diffulex_targets::{EmitError, OpenError};

use crate::conversation::ConversationError;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Mistakes in a recipe, or things that a recipe asks for and a target cannot do.
    #[error(transparent)]
    Recipe(#[from] Diagnostics),
    /// A checkpoint that cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A module that cannot be built: ours to mend, unless the checkpoint changed meanwhile.
    #[error("bug[build] {0}")]
    Build(#[from] BuildError),
    /// A pass that made a wrong module: ours to mend.
    #[error(transparent)]
    Pass(#[from] Box<PassError>),
    /// Numbers of a weight that cannot be had or stored.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// An artifact that cannot be written.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// An artifact that cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The artifact.
        file: PathBuf,
        /// What is wrong with it.
        error: Box<OpenError>,
    },
    /// The files of an artifact's folder.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A calibration that cannot be carried out.
    #[error("calibration: {0}")]
    Calibrate(#[from] CalibrateError),
    /// A module that our engine cannot run.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// An engine that is not installed or cannot open a file.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A session that cannot begin.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A conversation that cannot be read from its file.
    #[error("{}: {error}", file.display())]
    Conversation {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: ConversationError,
    },
    /// A run that cannot go on.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A verification that cannot be carried out.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A file that cannot be read or written.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// An artifact that devices are known to do badly, in a way that the user denied.
    #[error("{0}")]
    Denied(String),
    /// Anything else that the user can mend; one sentence, with what to do.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// An error about a file.
    pub fn io(file: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let file = file.into();
        move |error| Error::Io { file, error }
    }
}
