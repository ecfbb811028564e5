//! config.json and generation_config.json, in their old and new spellings.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::json::Json;
use crate::generation::Family;
use crate::models::{self, Decoder};

/// What the files of a checkpoint say, beside the tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Found from `model_type` or `architectures`; there is no default.
    pub family: Family,
    /// The sizes and switches of the network.
    pub decoder: Decoder,
    /// `block_size`, which some published folders lack.
    pub block: Option<u32>,
    /// `mask_token_id`, which some published folders lack.
    pub mask_id: Option<u32>,
    /// Longest sequence the model was made for.
    pub max_positions: u32,
    /// Tokens that end an answer: generation_config.json's, else config.json's.
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
        let decoder = match family {
            Family::Sdar => models::sdar::decoder(&Fields(&json))?,
        };
        let mut end_ids = match Json::read_if_present(folder, "generation_config.json")? {
            Some(generation) => generation.ids("eos_token_id", decoder.vocab)?,
            None => Vec::new(),
        };
        if end_ids.is_empty() {
            end_ids = json.ids("eos_token_id", decoder.vocab)?;
        }
        let mask_id = match json.ids("mask_token_id", decoder.vocab)?[..] {
            [] => None,
            [id] => Some(id),
            _ => return Err(json.error("`mask_token_id` is more than one token id")),
        };
        Ok(Config {
            family,
            decoder,
            block: json.size_if_present("block_size", 1 << 16)?,
            mask_id,
            max_positions: json.size_if_present("max_position_embeddings", 1 << 24)?.unwrap_or(1 << 24),
            end_ids,
        })
    }
}

/// The keys of config.json, for the family files in `models`.
pub struct Fields<'a>(&'a Json);

impl Fields<'_> {
    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// When the key is absent or out of range.
    pub fn size(&self, key: &str, most: u32) -> Result<u32, CheckpointError> {
        self.0.size(key, most)
    }

    /// As [`Fields::size`], for a key that may be absent.
    ///
    /// # Errors
    /// When the value is out of range.
    pub fn size_if_present(&self, key: &str, most: u32) -> Result<Option<u32>, CheckpointError> {
        self.0.size_if_present(key, most)
    }

    /// A finite number above 0.
    ///
    /// # Errors
    /// When the key is absent or something else.
    pub fn positive(&self, key: &str) -> Result<f64, CheckpointError> {
        self.0.positive(key)
    }

    /// A switch; absent counts as `false`.
    ///
    /// # Errors
    /// When the value is not true or false.
    pub fn switch(&self, key: &str) -> Result<bool, CheckpointError> {
        self.0.switch(key)
    }

    /// Refuses the checkpoint when `key` holds anything but one of `supported`; absent and `null` pass.
    ///
    /// # Errors
    /// Names the key, its value and what is supported.
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<(), CheckpointError> {
        match self.0.get(key) {
            Some(value) if !supported.contains(value) => {
                let list: Vec<String> = supported.iter().chain([&Value::Null]).map(Value::to_string).collect();
                Err(self.0.error(format!("`{key}` is {value}; supported: {}", list.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> CheckpointError {
        self.0.error(what)
    }

    /// The base of the rotary frequencies, from `rope_theta` or, in the newer spelling, `rope_parameters`.
    ///
    /// # Errors
    /// When neither is there, both are but differ, or positions are scaled in a way that is not supported.
    pub fn rope_theta(&self) -> Result<f64, CheckpointError> {
        self.only("rope_scaling", &[])?;
        let Some(parameters) = self.0.get("rope_parameters") else { return self.0.positive("rope_theta") };
        let Value::Object(object) = parameters else {
            return Err(self.0.error(format!("`rope_parameters` is {parameters}, not an object")));
        };
        let nested = Json { file: self.0.file.clone(), object: object.clone() };
        Fields(&nested).only("rope_type", &["default".into()])?;
        let unknown = |key: &&String| nested.get(key).is_some() && !["rope_theta", "rope_type"].contains(&key.as_str());
        if let Some(key) = object.keys().find(unknown) {
            return Err(self
                .0
                .error(format!("`rope_parameters` has `{}`, which is not supported", key.escape_debug())));
        }
        let theta = nested.positive("rope_theta")?;
        match self.0.get("rope_theta").map(|_| self.0.positive("rope_theta")).transpose()? {
            Some(other) if other != theta => {
                Err(self.0.error(format!("`rope_theta` is {other}, but `rope_parameters` makes it {theta}")))
            }
            _ => Ok(theta),
        }
    }
}

/// The family from `model_type`, else from `architectures`.
fn family(json: &Json) -> Result<Family, CheckpointError> {
    let model_type = json.get("model_type").and_then(Value::as_str);
    let architecture = json.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let by_type = model_type.and_then(|name| match name {
        "sdar" => Some(Family::Sdar),
        _ => None,
    });
    let by_architecture = architecture.and_then(|name| match name {
        "SDARForCausalLM" => Some(Family::Sdar),
        _ => None,
    });
    let found = |name: Option<&str>| name.map_or("absent".to_string(), |n| format!("`{n}`"));
    match (by_type, by_architecture) {
        (Some(family), None) if architecture.is_none() => Ok(family),
        (None, Some(family)) if model_type.is_none() => Ok(family),
        (Some(a), Some(b)) if a == b => Ok(a),
        _ => {
            let (model_type, architecture) = (found(model_type), found(architecture));
            let known = "`sdar` with `SDARForCausalLM`";
            Err(json.error(format!(
                "`model_type` is {model_type} and `architectures` {architecture}: no family known here ({known})"
            )))
        }
    }
}
