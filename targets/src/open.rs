//! Reading an artifact of any target.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, WeightSource};

use crate::{coreml, onnx, qnn, xnnpack};

/// Endings of the names of artifacts.
pub const EXTENSIONS: [&str; 3] = [xnnpack::EXTENSION, coreml::EXTENSION, onnx::EXTENSION];

/// What every target's artifact is read as.
pub struct Opened {
    /// The step graph, in the primitives of its target.
    pub module: Module,
    /// The numbers of its weights.
    pub source: Arc<dyn WeightSource>,
    /// How to generate text with the model, if the artifact says so.
    pub generation: Option<Generation>,
}

/// Why an artifact cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file of ExecuTorch.
    #[error(transparent)]
    Xnnpack(#[from] xnnpack::ReadError),
    /// A Core ML package.
    #[error(transparent)]
    Coreml(#[from] coreml::ReadError),
    /// An ONNX file.
    #[error(transparent)]
    Onnx(#[from] onnx::ReadError),
    /// An ONNX file for Qualcomm's HTP that would not run there as it says.
    #[error(transparent)]
    Qnn(#[from] qnn::Broken),
}

/// Reads the artifact at `path`, as the ending of its name says. Its files are mapped; they must not be changed while the
/// artifact is in use.
///
/// # Errors
/// Names the part of the artifact that is wrong, and what is wrong with it.
pub fn open(path: &Path) -> Result<Opened, OpenError> {
    if path.extension().is_some_and(|ending| ending == coreml::EXTENSION) {
        let coreml::Artifact { module, source, generation, .. } = coreml::read(path)?;
        return Ok(Opened { module, source, generation });
    }
    if path.extension().is_some_and(|ending| ending == onnx::EXTENSION) {
        qnn::check_file(path)??;
        let onnx::Artifact { module, source, generation, .. } = onnx::read(path)?;
        return Ok(Opened { module, source, generation });
    }
    let xnnpack::Artifact { module, source, generation, .. } = xnnpack::read(&File::open(path)?)?;
    Ok(Opened { module, source, generation })
}
