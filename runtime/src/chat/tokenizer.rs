//! Text to ids and back, by the model's `tokenizer.json`.

use super::{ChatError, read_bounded};
use std::path::Path;

/// What becomes of special tokens in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They are written out.
    Keep,
    /// They are left out.
    Skip,
}

/// A tokenizer, as published.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is missing, larger than [`super::MAX_FILE`] or malformed.
    pub fn open(path: &Path) -> Result<Self, ChatError> {
        let bytes = read_bounded(path)?
            .ok_or_else(|| ChatError::Read { path: path.into(), error: std::io::ErrorKind::NotFound.into() })?;
        let wrong = |message| ChatError::Format { path: path.into(), message };
        // The library indexes by what the file says, so a file that lies can make it panic.
        let read = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes));
        let mut inner = read
            .map_err(|_| wrong("not a tokenizer: it contradicts itself".into()))?
            .map_err(|e| wrong(format!("not a tokenizer: {e}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| ChatError::Tokenizer(e.to_string()))?;
        Ok(Self { inner })
    }

    /// The ids of a text. Nothing is put around it; special tokens in the text get their ids.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| ChatError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Broken UTF-8 becomes U+FFFD; ids the tokenizer does not know become nothing.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32], special: Special) -> Result<String, ChatError> {
        self.inner.decode(ids, special == Special::Skip).map_err(|e| ChatError::Tokenizer(e.to_string()))
    }

    /// The id of a token, by its text.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as the tokenizer writes it, `Ġthe`; `None` for an id it does not know.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}
