//! Tokens with a meaning of their own, found by their texts in the tokenizer's files.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::json::Json;

/// The tokens that were added to the learned ones.
#[derive(Debug)]
pub(super) struct Added {
    /// The text of the mask token, where tokenizer_config.json names it.
    mask: Option<String>,
    /// Text and id; some folders list a token under more than one text.
    tokens: Vec<(String, u32)>,
}

impl Added {
    /// Reads `added_tokens_decoder` and `mask_token` of tokenizer_config.json, added_tokens.json and the `added_tokens`
    /// of tokenizer.json, where they exist.
    ///
    /// # Errors
    /// When a file is damaged.
    pub(super) fn read(folder: &Path) -> Result<Added, CheckpointError> {
        let config = Json::read_if_present(folder, "tokenizer_config.json")?;
        let mask = config.as_ref().and_then(|c| c.get("mask_token")).and_then(text).map(str::to_string);
        let mut known: Vec<(String, u64)> = Vec::new();
        if let Some(Value::Object(tokens)) = config.as_ref().and_then(|c| c.get("added_tokens_decoder")) {
            known.extend(tokens.iter().filter_map(|(id, t)| Some((text(t)?.to_string(), id.parse().ok()?))));
        }
        if let Some(added) = Json::read_if_present(folder, "added_tokens.json")? {
            known.extend(added.object.iter().filter_map(|(t, id)| Some((t.clone(), id.as_u64()?))));
        }
        if let Some(tokenizer) = Json::read_if_present(folder, "tokenizer.json")?
            && let Some(Value::Array(tokens)) = tokenizer.get("added_tokens")
        {
            known.extend(tokens.iter().filter_map(|t| Some((text(t)?.to_string(), t.get("id")?.as_u64()?))));
        }
        // No id of a model is larger than 32 bits: what is, is out of every range.
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        Ok(Added { mask, tokens: known.into_iter().map(|(text, n)| (text, id(n))).collect() })
    }

    /// The id of the mask token: the one of `mask_token` in tokenizer_config.json, else of the first of `texts`.
    ///
    /// # Errors
    /// When no file has the token with an id below `vocab`.
    pub(super) fn mask_id(&self, folder: &Path, vocab: u32, texts: &[&str]) -> Result<u32, CheckpointError> {
        let texts: Vec<&str> = self.mask.as_deref().into_iter().chain(texts.iter().copied()).collect();
        let id = texts.iter().find_map(|text| self.id(text));
        id.filter(|id| *id < vocab).ok_or_else(|| {
            let what = format!(
                "has no mask token: config.json has no `mask_token_id`, and the tokenizer's files list none of {} with \
                 an id below {vocab}",
                texts.join(", ")
            );
            CheckpointError::File { file: folder.to_path_buf(), what }
        })
    }

    /// The ids below `vocab` of those of `texts` that there are, in the order of `texts`.
    pub(super) fn ids(&self, vocab: u32, texts: &[&str]) -> Vec<u32> {
        texts.iter().filter_map(|text| self.id(text)).filter(|id| *id < vocab).collect()
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|(t, _)| t == text).map(|(_, id)| *id)
    }
}

/// A token is written as its text or as an object with `content`.
fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
