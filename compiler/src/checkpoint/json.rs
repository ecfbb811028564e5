//! Reading small JSON files of strangers: size-limited, with errors that name file and key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CheckpointError;

/// Largest JSON file that is read. Published index files stay below 100 KB, tokenizer_config.json below 1 MB.
const MAX_BYTES: u64 = 16 << 20;

/// A JSON object and the file it came from.
#[derive(Debug)]
pub(super) struct Json {
    pub(super) file: PathBuf,
    pub(super) object: Map<String, Value>,
}

impl Json {
    /// Reads a file that must exist.
    pub(super) fn read(file: PathBuf) -> Result<Json, CheckpointError> {
        let io = |error| CheckpointError::Io { file: file.clone(), error };
        let mut text = String::new();
        let read = File::open(&file).and_then(|f| f.take(MAX_BYTES + 1).read_to_string(&mut text)).map_err(io)?;
        let wrong = |what: String| CheckpointError::File { file: file.clone(), what };
        if read as u64 > MAX_BYTES {
            return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
        }
        match serde_json::from_str(&text).map_err(|e| wrong(format!("is not JSON: {e}")))? {
            Value::Object(object) => Ok(Json { file, object }),
            _ => Err(wrong("is not a JSON object".into())),
        }
    }

    /// Reads a file that may be absent.
    pub(super) fn read_if_present(folder: &Path, name: &str) -> Result<Option<Json>, CheckpointError> {
        let file = folder.join(name);
        if file.exists() { Json::read(file).map(Some) } else { Ok(None) }
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn error(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::File { file: self.file.clone(), what: what.into() }
    }

    /// A whole number from 1 to `most`.
    pub(super) fn size(&self, key: &str, most: u32) -> Result<u32, CheckpointError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("has no `{key}`")))?;
        let size = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        size.ok_or_else(|| self.error(format!("`{key}` is {value}, not a whole number from 1 to {most}")))
    }

    /// As [`Json::size`], for a key that may be absent.
    pub(super) fn size_if_present(&self, key: &str, most: u32) -> Result<Option<u32>, CheckpointError> {
        self.get(key).map(|_| self.size(key, most)).transpose()
    }

    /// A token id, or a list of them, as both occur.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<u32>, CheckpointError> {
        let wrong = || self.error(format!("`{key}` is neither a token id nor a list of them"));
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(single) => Ok(vec![id(single)?]),
        }
    }

    /// A switch; absent counts as `false`.
    pub(super) fn switch(&self, key: &str) -> Result<bool, CheckpointError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.error(format!("`{key}` is {other}, not true or false"))),
        }
    }

    /// A finite number above 0.
    pub(super) fn positive(&self, key: &str) -> Result<f64, CheckpointError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("has no `{key}`")))?;
        let number = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| self.error(format!("`{key}` is {value}, not a number above 0")))
    }
}
