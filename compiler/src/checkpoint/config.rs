//! config.json and generation_config.json: which family it is, and what every family says.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::json::Json;
use crate::generation::Family;
use crate::models::Decoder;

/// What the files of a checkpoint say, beside the tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Found from `model_type` or `architectures`; there is no default.
    pub family: Family,
    /// The sizes and switches of the network.
    pub decoder: Decoder,
    /// Tokens of a block, where the family has a key for it; some published folders lack it.
    pub block: Option<u32>,
    /// `mask_token_id`, which some published folders lack.
    pub mask_id: Option<u32>,
    /// Longest sequence the model was made for.
    pub max_positions: u32,
    /// `eos_token_id` of generation_config.json, then that of config.json, each token once. The tokenizer may know
    /// more: see [`super::Checkpoint::end_ids`].
    pub end_ids: Vec<u32>,
}

impl Config {
    /// Reads both files of a folder.
    ///
    /// # Errors
    /// Names the file and the key that is missing, wrong or not supported.
    pub fn read(folder: &Path) -> Result<Config, CheckpointError> {
        let json = Json::read(folder.join("config.json"))?;
        let family = family(&json)?;
        let facts = family.facts();
        let decoder = (facts.decoder)(&json)?;
        let mut all_ends = match Json::read_if_present(folder, "generation_config.json")? {
            Some(generation) => generation.ids("eos_token_id", decoder.vocab)?,
            None => Vec::new(),
        };
        all_ends.extend(json.ids("eos_token_id", decoder.vocab)?);
        let mut end_ids = Vec::new();
        for id in all_ends {
            if !end_ids.contains(&id) {
                end_ids.push(id);
            }
        }
        let mask_id = match json.ids("mask_token_id", decoder.vocab)?[..] {
            [] => None,
            [id] => Some(id),
            _ => return Err(json.error("`mask_token_id` is more than one token id")),
        };
        let block = facts.block_key.map(|key| json.size_if_present(key, 1 << 16)).transpose()?.flatten();
        let max_positions = json.size_if_present(facts.positions_key, 1 << 24)?.unwrap_or(1 << 24);
        Ok(Config { family, decoder, block, mask_id, max_positions, end_ids })
    }
}

/// The family from `model_type`, else from `architectures`.
fn family(json: &Json) -> Result<Family, CheckpointError> {
    let model_type = json.get("model_type").and_then(Value::as_str);
    let architecture = json.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let fits = |name: Option<&str>, own: &str| name.is_none_or(|name| name == own);
    let found = Family::ALL.iter().find(|family| {
        let facts = family.facts();
        fits(model_type, facts.model_type) && fits(architecture, facts.architecture)
    });
    match found {
        Some(family) if model_type.is_some() || architecture.is_some() => Ok(*family),
        _ => {
            let name = |name: Option<&str>| name.map_or("absent".to_string(), |n| format!("`{}`", n.escape_debug()));
            let (model_type, architecture) = (name(model_type), name(architecture));
            let pair = |f: &Family| format!("`{}` with `{}`", f.facts().model_type, f.facts().architecture);
            let known: Vec<String> = Family::ALL.iter().map(pair).collect();
            Err(json.error(format!(
                "`model_type` is {model_type} and `architectures` {architecture}: no family known here ({})",
                known.join(", ")
            )))
        }
    }
}
