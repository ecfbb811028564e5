//! The file of a conversation: JSON with messages, settings and the name of the model.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diffulex_compiler::generation::{Attention, Generation};
use diffulex_targets::artifact;
use serde::{Deserialize, Serialize};

use super::{Role, Turn};
use crate::Error;

/// Most bytes of a file that is read.
pub const MAX_FILE: u64 = 16 << 20;

/// A conversation as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The name of the model.
    pub model: String,
    /// The turn that sets the scene.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What was said.
    pub messages: Vec<Turn>,
    /// Whether the algorithm was asked for by name, so that it makes every pass of the original.
    pub original: bool,
    /// The values of generation.
    pub settings: Generation,
}

/// Why a file holds no conversation.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// It is something else than a file.
    #[error("is not a file; `/save FILE` writes one that can be loaded")]
    NoFile,
    /// It is larger than any conversation.
    #[error("{0} bytes are more than the {MAX_FILE} that a conversation may have")]
    TooLarge(u64),
    /// It is not the JSON of a conversation.
    #[error("is no saved conversation: {0}")]
    Format(#[from] serde_json::Error),
    /// The messages are not those of a conversation.
    #[error("is no conversation: message {0} is not {1}; user and assistant take turns, and the assistant ends it")]
    Turns(usize, &'static str),
}

impl Saved {
    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        let wrong = |error| Error::Conversation { file: file.into(), error: ConversationError::Format(error) };
        let mut text = serde_json::to_vec_pretty(self).map_err(wrong)?;
        text.push(b'\n');
        artifact::write_alone(file, |out| out.write_all(&text))?;
        Ok(())
    }

    /// Reads a file, which may come from anybody: whether the settings have a meaning for a model is not known here.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or holds no conversation.
    pub fn read(file: &Path) -> Result<Saved, Error> {
        let wrong = |error| Error::Conversation { file: file.into(), error };
        let found = file.metadata().map_err(Error::io(file))?;
        if !found.is_file() {
            return Err(wrong(ConversationError::NoFile));
        }
        if found.len() > MAX_FILE {
            return Err(wrong(ConversationError::TooLarge(found.len())));
        }
        let mut text = vec![];
        let open = File::open(file).map_err(Error::io(file))?;
        open.take(MAX_FILE).read_to_end(&mut text).map_err(Error::io(file))?;
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| wrong(error.into()))?;
        saved.check().map_err(wrong)?;
        Ok(saved)
    }

    fn check(&self) -> Result<(), ConversationError> {
        let wanted = [(Role::User, "of the user"), (Role::Assistant, "of the assistant")];
        let turns = self.messages.iter().map(|turn| turn.role);
        match turns.zip(wanted.iter().cycle()).position(|(role, (wanted, _))| role != *wanted) {
            Some(at) => Err(ConversationError::Turns(at + 1, wanted[at % 2].1)),
            None if self.messages.len() % 2 == 1 => Err(ConversationError::Turns(self.messages.len() + 1, wanted[1].1)),
            None => Ok(()),
        }
    }

    /// Whether its settings are those of a model that generates as `mine` does.
    pub fn settings_fit(&self, mine: &Generation) -> bool {
        let g = &self.settings;
        let block = g.attention == Attention::Full || g.block == mine.block;
        let facts =
            (g.family, g.attention, g.logits, g.mask_id) == (mine.family, mine.attention, mine.logits, mine.mask_id);
        facts && block && g.end_ids == mine.end_ids
    }
}
