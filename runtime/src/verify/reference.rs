//! Recorded logits: a safetensors file with `CASE.ids` (int64 `[N]`), `CASE.logits` (float32 `[N, rows]`) and, for some
//! cases, `CASE.hidden.NAME` or `CASE.layer0.NAME` (float32 `[N, hidden]`). Row `i` belongs to input position `i`.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use diffulex_compiler::ir::{Module, NodeId};

use super::{Check, VerifyError, max_error};
use crate::session::{Session, Store};

/// What logits of float32 arithmetic may differ by from the original's, on sequences of some hundred tokens at most: the
/// original rounds the angles of the rotation to float32, as we do, and a float64 recording departs from both with the
/// position (2e-4 at 500 tokens).
pub const LOGITS_LIMIT: f32 = 2e-4;
/// What hidden states may differ by.
pub const HIDDEN_LIMIT: f32 = 1e-4;

/// One recorded sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name in the file.
    pub name: String,
    /// Token ids, `[N]`.
    pub tokens: Vec<u32>,
    /// Logits, `[N, vocabulary]`.
    pub logits: Vec<f32>,
    /// Rows of the logits, N.
    pub rows: usize,
    /// Hidden states by the part of their name after the case's, each `[N, hidden]`.
    pub hidden: BTreeMap<String, Vec<f32>>,
}

/// Reads all cases of a file, by name.
///
/// # Errors
/// When the file is no safetensors file of this layout.
pub fn read(file: &Path) -> Result<Vec<Case>, VerifyError> {
    let bytes = std::fs::read(file).map_err(|error| VerifyError::Io { file: file.into(), error })?;
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("is no safetensors file: {e}")))?;
    let mut cases: BTreeMap<&str, Case> = BTreeMap::new();
    for name in tensors.names() {
        let Some((case, part)) = name.split_once('.') else {
            return Err(wrong(format!("`{name}` is not named CASE.ids, CASE.logits or CASE.hidden.NAME")));
        };
        let tensor = tensors.tensor(name).map_err(|e| wrong(e.to_string()))?;
        let empty = || Case { name: case.into(), tokens: vec![], logits: vec![], rows: 0, hidden: BTreeMap::new() };
        let entry = cases.entry(case).or_insert_with(empty);
        let type_error = |want: &str| wrong(format!("`{name}` is {:?}, not {want}", tensor.dtype()));
        let floats = || tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match (part, tensor.dtype()) {
            ("ids", Dtype::I64) => {
                let ids = tensor.data().as_chunks::<8>().0.iter().map(|b| u32::try_from(i64::from_le_bytes(*b)));
                entry.tokens =
                    ids.collect::<Result<_, _>>().map_err(|_| wrong(format!("`{name}` has a negative id")))?;
            }
            ("ids", _) => return Err(type_error("I64")),
            ("logits", Dtype::F32) => {
                entry.logits = floats();
                entry.rows = *tensor.shape().first().unwrap_or(&0);
            }
            (_, Dtype::F32) if is_hidden(part) => _ = entry.hidden.insert(part.into(), floats()),
            (_, Dtype::F32) => return Err(wrong(format!("`{name}` is nothing that a recording has"))),
            _ => return Err(type_error("F32")),
        }
    }
    match cases.values().find(|c| c.tokens.is_empty() || c.rows != c.tokens.len() || c.logits.is_empty()) {
        Some(case) => Err(wrong(format!("case `{}` has no `ids` and `logits` that fit", case.name))),
        None if cases.is_empty() => Err(wrong("holds no case".into())),
        None => Ok(cases.into_values().collect()),
    }
}

/// `hidden.embed`, `hidden.layer3`, `layer0.mlp_out` and the like.
fn is_hidden(part: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match part.split_once('.') {
        Some(("hidden", "embed" | "final_norm")) => true,
        Some(("hidden", layer)) => layer.strip_prefix("layer").is_some_and(number),
        Some((layer, "attn_out" | "mlp_out")) => layer.strip_prefix("layer").is_some_and(number),
        _ => false,
    }
}

/// The nodes of an imported module that compute the hidden states of a recording, under the names they have there:
/// `hidden.embed`, `hidden.layer0` (the residual stream after the layer), `hidden.final_norm`, `layer0.attn_out` and
/// `layer0.mlp_out` (before the sum).
pub fn taps(module: &Module) -> Vec<(String, NodeId)> {
    let mut wanted = vec![("hidden.embed".to_string(), None, "x"), ("hidden.final_norm".to_string(), None, "x.norm")];
    for layer in 0..module.cache.layers {
        wanted.push((format!("hidden.layer{layer}"), Some(layer), "x"));
        wanted.push((format!("layer{layer}.attn_out"), Some(layer), "attn"));
        wanted.push((format!("layer{layer}.mlp_out"), Some(layer), "down"));
    }
    let find = |layer: Option<u32>, name: &str| {
        module.iter().find(|(_, n)| n.layer == layer && n.name == name).map(|(id, _)| id)
    };
    wanted.into_iter().filter_map(|(name, layer, node)| Some((name, find(layer, node)?))).collect()
}

/// Feeds a case without a cache and compares all its logits, and the hidden states that the engine was asked to keep
/// ([`crate::engine::Engine::taps`]); recorded ones that it does not show are named in the result.
///
/// # Errors
/// When the pass cannot be run.
pub fn check(session: &mut Session, case: &Case, limit: f32) -> Result<Check, VerifyError> {
    let (width, vocab) = (case.logits.len() / case.tokens.len().max(1), session.shape().vocab);
    if width != vocab {
        return Err(VerifyError::Case {
            case: case.name.clone(),
            what: format!("has {width} logits a row, the model {vocab}"),
        });
    }
    if let Some(id) = case.tokens.iter().find(|&&id| id as usize >= vocab) {
        let what = format!("has token id {id}, which is not below the model's {vocab}");
        return Err(VerifyError::Case { case: case.name.clone(), what });
    }
    session.clear();
    let rows: Vec<u32> = (0..case.tokens.len() as u32).collect();
    let logits = session.pass(&case.tokens, 0, &rows, Store::Discard)?;
    let error = max_error(logits, &case.logits);
    let whole = case.tokens.len() <= session.shape().max_tokens;
    let taps = session.taps().iter().filter(|_| whole);
    let hidden: BTreeMap<String, f32> =
        taps.filter_map(|(name, values)| Some((name.clone(), max_error(values, case.hidden.get(name)?)))).collect();
    let not_compared: Vec<String> = case.hidden.keys().filter(|name| !hidden.contains_key(*name)).cloned().collect();
    // An engine that shows hidden states shows all that a model has.
    let shown = session.taps().is_empty() || !whole || not_compared.is_empty();
    let passed = error <= limit && hidden.values().all(|&e| e <= HIDDEN_LIMIT) && shown;
    Ok(Check::Logits {
        case: case.name.clone(),
        attention: session.attention().to_string(),
        rows: rows.len(),
        max_error: error,
        limit,
        hidden,
        hidden_limit: HIDDEN_LIMIT,
        not_compared,
        passed,
    })
}
