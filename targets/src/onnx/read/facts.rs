//! What the file says of itself.

use std::collections::HashMap;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::well_named;
use diffulex_compiler::quant::Search;
use onnx_protobuf::ModelProto;

use super::error::{Fault, Place, Result};
use crate::onnx::schema::keys;

/// Facts beside the graph.
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) search: Search,
    pub(super) generation: Option<Generation>,
    pub(super) recipe_digest: Option<String>,
    /// Base of the frequencies.
    pub(super) theta: f64,
    /// Most tokens of a step, and most cached positions.
    pub(super) bounds: Option<(u32, u32)>,
}

impl Facts {
    pub(super) fn read(model: &ModelProto) -> Result<Facts> {
        let mut facts: HashMap<&str, &str> = HashMap::new();
        for fact in &model.metadata_props {
            let place = Place::Metadata(fact.key.chars().take(64).collect());
            place.known(&fact.special_fields)?;
            if facts.insert(&fact.key, &fact.value).is_some() {
                return Err(place.fault(Fault::Twice("it".into())));
            }
        }
        let get = |key: &str| facts.get(key).copied();
        let place = |key: &str| Place::Metadata(key.into());
        let number = |key: &str| {
            let parsed = get(key).map(|text| text.parse::<u32>().map_err(|e| place(key).damaged(e.to_string())));
            parsed.transpose()
        };
        let theta = get(keys::THETA).ok_or_else(|| Place::Model.missing(format!("metadata `{}`", keys::THETA)))?;
        let theta: f64 = theta.parse().map_err(|_| place(keys::THETA).damaged("it is no number"))?;
        let search = |word| Search::from_name(word).ok_or_else(|| place(keys::SEARCH).unsupported(format!("{word:?}")));
        let broken = |e: serde_json::Error| place(keys::GENERATION).fault(Fault::Broken(e.to_string()));
        Ok(Facts {
            name: get(keys::NAME).filter(|name| well_named(name)).unwrap_or("model").into(),
            search: get(keys::SEARCH).map_or(Ok(Search::Max), search)?,
            generation: get(keys::GENERATION).map(|text| serde_json::from_str(text).map_err(broken)).transpose()?,
            recipe_digest: get(keys::RECIPE).map(str::to_string),
            theta,
            bounds: number(keys::MAX_TOKENS)?.zip(number(keys::MAX_CACHE)?),
        })
    }
}
