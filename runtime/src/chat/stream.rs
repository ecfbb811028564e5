//! Text that grows while tokens arrive.

use super::{ChatError, Special, Tokenizer};

/// Prints an answer piece by piece: what it gave out never changes, so half a character waits for its other half.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that gave out nothing yet.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, given: 0 }
    }

    /// The text that `answer`, the whole answer so far, adds to what was given out. Special tokens are left out.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn advance(&mut self, answer: &[u32]) -> Result<String, ChatError> {
        let text = self.tokenizer.decode(answer, Special::Skip)?;
        // The bytes of an unfinished character decode to one U+FFFD at the end.
        let settled = text.strip_suffix('\u{fffd}').unwrap_or(&text);
        Ok(self.give(settled))
    }

    /// The rest, when no token will follow.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn finish(&mut self, answer: &[u32]) -> Result<String, ChatError> {
        let text = self.tokenizer.decode(answer, Special::Skip)?;
        Ok(self.give(&text))
    }

    fn give(&mut self, text: &str) -> String {
        let piece = text.get(self.given..).unwrap_or_default().to_string();
        self.given += piece.len();
        piece
    }
}
