//! The mask token, where config.json does not name it.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::json::Json;

/// The texts under which published folders list the mask token; some folders contradict themselves on it.
const TEXTS: [&str; 2] = ["<|MASK|>", "<MASK>"];

/// Looks through `added_tokens_decoder` and `mask_token` of tokenizer_config.json, `added_tokens.json` and the
/// `added_tokens` of tokenizer.json.
///
/// # Errors
/// When a file is damaged, or none has the token.
pub fn mask_id(folder: &Path, vocab: u32) -> Result<u32, CheckpointError> {
    let config = Json::read_if_present(folder, "tokenizer_config.json")?;
    let named = config.as_ref().and_then(|c| c.get("mask_token")).and_then(text).map(str::to_string);
    let texts: Vec<&str> = named.as_deref().into_iter().chain(TEXTS).collect();

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

    let id = texts.iter().find_map(|text| known.iter().find(|(t, _)| t == text).map(|(_, id)| *id));
    match id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id < vocab) {
        Some(id) => Ok(id),
        None => {
            let what = format!(
                "has no mask token: config.json has no `mask_token_id`, and the tokenizer's files list none of {} \
                 with an id below {vocab}",
                texts.join(", ")
            );
            Err(CheckpointError::File { file: folder.to_path_buf(), what })
        }
    }
}

/// A token is written as its text or as an object with `content`.
fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
