//! A Hugging Face folder: what its files say of the model, and its tensors, mapped and checked but not read.
//!
//! Reading order: [`config`] (config.json and generation_config.json), [`names`] (tensor names), [`shards`] (the
//! files), [`tokens`] (the mask token). Only this folder and `models` know Hugging Face names.

pub mod config;
mod json;
pub mod names;
pub mod shards;
pub mod tokens;

use std::path::{Path, PathBuf};

pub use config::Config;
pub use shards::Shards;

use crate::ir::{StoredTensor, WeightError, WeightSource, WeightType};

/// An opened checkpoint. Its tensors carry the names of the IR: `layers.0.self_attn.q_proj`.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    shards: Shards,
}

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

impl Checkpoint {
    /// Opens a folder and checks it: the configuration makes sense, every tensor of the model is there with the right
    /// shape and a float type, and nothing else is.
    ///
    /// # Errors
    /// One error that names the file, and the tensor where there is one.
    pub fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let config = Config::read(folder)?;
        let shards = Shards::open(folder)?.select(&names::expected(&config.decoder), config.decoder.tied)?;
        Ok(Checkpoint { folder: folder.to_path_buf(), config, shards })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What config.json and generation_config.json say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files of tensors, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.files()
    }

    /// Type of a tensor by its name in the IR.
    pub fn tensor_type(&self, name: &str) -> Option<WeightType> {
        self.tensor(name).ok().map(|t| t.ty)
    }

    /// The id of the mask token: config.json's, else the one that the tokenizer's files name.
    ///
    /// # Errors
    /// When a tokenizer file is damaged, or neither place has it; the error says where it was looked for.
    pub fn mask_id(&self) -> Result<u32, CheckpointError> {
        match self.config.mask_id {
            Some(id) => Ok(id),
            None => tokens::mask_id(&self.folder, self.config.decoder.vocab),
        }
    }
}

impl WeightSource for Checkpoint {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        self.shards.tensor(name).ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    fn release(&self, name: &str) {
        self.shards.release(name);
    }
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
