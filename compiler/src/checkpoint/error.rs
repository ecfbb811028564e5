//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// Why a folder cannot serve as a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file does not say what it must, or says something that is not supported.
    #[error("{}: {what}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// One tensor is not what the configuration says.
    #[error("{}: tensor `{}` {what}", file.display(), tensor.escape_debug())]
    Tensor {
        /// The file that holds it, or should.
        file: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// Tensors that the configuration asks for are in no file, or tensors in a file have no place in the model.
    #[error("{}: {}", folder.display(), describe_lists(missing, extra))]
    Tensors {
        /// The checkpoint.
        folder: PathBuf,
        /// Names that no file holds.
        missing: Vec<String>,
        /// `name (file)` of tensors that the model does not have.
        extra: Vec<String>,
    },
}

fn describe_lists(missing: &[String], extra: &[String]) -> String {
    const SHOWN: usize = 8;
    let list = |what: &str, names: &[String]| match names.len() {
        0 => String::new(),
        n if n > SHOWN => format!("{what} {}, … ({n} in all)", names[..SHOWN].join(", ")),
        _ => format!("{what} {}", names.join(", ")),
    };
    let parts = [list("missing tensors:", missing), list("tensors that the model does not have:", extra)];
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("; ")
}
