//! A Hugging Face folder: what its files say of the model, and its tensors, mapped and checked but not read.
//!
//! Reading order: [`json`] (keys and values), [`config`] (config.json and generation_config.json), [`names`] (tensor
//! names), [`shards`] (the files), [`tokens`] (the mask token and those that end a text), [`card`] (license and origin). What differs from family to
//! family stands in `models`; only this folder and that one know Hugging Face names.

pub mod card;
pub mod config;
pub mod error;
pub mod json;
pub mod names;
pub mod shards;
pub mod tokens;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use card::Card;
pub use config::Config;
pub use error::CheckpointError;
pub use shards::Shards;

use tokens::Added;

use crate::ir::{StoredTensor, WeightError, WeightSource, WeightType};

/// An opened checkpoint. Its tensors carry the names of the IR: `layers.0.self_attn.q_proj`.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    shards: Shards,
    /// What the tokenizer's files say, once they are read.
    added: OnceLock<Added>,
}

impl Checkpoint {
    /// Opens a folder and checks it: the configuration makes sense, every tensor of the model is there with the right
    /// shape and a float type, and nothing else is.
    ///
    /// # Errors
    /// One error that names the file, and the tensor where there is one.
    pub fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let config = Config::read(folder)?;
        let stored_name = config.family.facts().stored_name;
        let head = config.decoder.tied.then(|| stored_name("lm_head"));
        let expected = names::expected(&config.decoder, stored_name);
        let shards = Shards::open(folder)?.select(&expected, head.as_deref())?;
        Ok(Checkpoint { folder: folder.to_path_buf(), config, shards, added: OnceLock::new() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What config.json and generation_config.json say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What its model card says.
    pub fn card(&self) -> Card {
        Card::read(&self.folder)
    }

    /// Names of the files in which its license stands, such as `LICENSE` or `NOTICE.txt`.
    pub fn license_files(&self) -> Vec<String> {
        let stem = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_uppercase();
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.path().is_file());
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter(|name| matches!(stem(name).as_str(), "LICENSE" | "LICENCE" | "NOTICE" | "COPYING")).collect();
        names.sort();
        names
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
            None => {
                let (vocab, texts) = (self.config.decoder.vocab, self.config.family.facts().mask_texts);
                self.added()?.mask_id(&self.folder, vocab, texts)
            }
        }
    }

    /// The tokens that end an answer: [`Config::end_ids`], then those that the tokenizer's files have under the texts
    /// that end a turn or a text in this family. Each is there once; none may be there at all.
    ///
    /// # Errors
    /// When a tokenizer file is damaged.
    pub fn end_ids(&self) -> Result<Vec<u32>, CheckpointError> {
        let Config { family, decoder, end_ids, .. } = &self.config;
        let mut all = end_ids.clone();
        for id in self.added()?.ids(decoder.vocab, family.facts().end_texts) {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        Ok(all)
    }

    fn added(&self) -> Result<&Added, CheckpointError> {
        match self.added.get() {
            Some(added) => Ok(added),
            None => {
                let added = Added::read(&self.folder)?;
                Ok(self.added.get_or_init(|| added))
            }
        }
    }
}

impl WeightSource for Checkpoint {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        self.shards.tensor(name).ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        self.shards.release(name, rows);
    }
}
