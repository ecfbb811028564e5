//! Between text and tokens: tokenizer, chat template, and streamed output.
//!
//! Everything comes from the files a model is published with; they are untrusted and bounded in size and in work.

mod stream;
mod template;
mod tokenizer;

pub use stream::TextStream;
pub use template::Template;
pub use tokenizer::{Special, Tokenizer};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file read, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// Why text and tokens do not come together.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is larger than any that makes sense.
    #[error("{}: {bytes} bytes are more than the {MAX_FILE} this file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A file does not hold what it should.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The folder has no chat template.
    #[error("the model has no chat template: give it a plain prompt")]
    NoTemplate,
    /// The chat template is wrong, or does more work than a template may.
    #[error("chat template: {0}")]
    Template(String),
    /// The chat template itself refuses the conversation (`raise_exception`).
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// Further variables of a chat template, such as `enable_thinking`.
pub type Variables = BTreeMap<String, serde_json::Value>;

/// What a model's folder says about text.
#[derive(Debug)]
pub struct Chat {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written; base models have none.
    pub template: Option<Template>,
}

impl Chat {
    /// Reads `tokenizer.json` and, where they are, `tokenizer_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// When a file is unreadable, too large or malformed.
    pub fn open(folder: &Path) -> Result<Self, ChatError> {
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        Ok(Self { template: Template::open(folder, &config)?, tokenizer })
    }

    /// The text and the ids of a conversation, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// Without a template, and when it refuses or fails.
    pub fn prompt(&self, messages: &[Message], variables: &Variables) -> Result<(String, Vec<u32>), ChatError> {
        let template = self.template.as_ref().ok_or(ChatError::NoTemplate)?;
        let text = template.render(messages, true, variables)?;
        let ids = self.tokenizer.encode(&text)?;
        Ok((text, ids))
    }
}

/// The bytes of a file of bounded size; `None` when there is no such file.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, ChatError> {
    let failed = |error| ChatError::Read { path: path.into(), error };
    let bytes = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.is_file() => {
            return Err(ChatError::Format { path: path.into(), message: "is not a file".into() });
        }
        Ok(metadata) => metadata.len(),
    };
    if bytes > MAX_FILE {
        return Err(ChatError::TooLarge { path: path.into(), bytes });
    }
    std::fs::read(path).map(Some).map_err(failed)
}

/// A JSON file; `null` when there is no such file.
fn read_json(path: &Path) -> Result<serde_json::Value, ChatError> {
    let Some(bytes) = read_bounded(path)? else { return Ok(serde_json::Value::Null) };
    serde_json::from_slice(&bytes).map_err(|e| ChatError::Format { path: path.into(), message: e.to_string() })
}
