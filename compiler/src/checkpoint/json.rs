//! Reading small JSON files of strangers: size-limited, with errors that name file and key.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::CheckpointError;

/// Largest JSON file that is read. The largest published ones are tokenizer.json of Qwen (11 MB) and of LLaDA (6 MB).
const MAX_BYTES: u64 = 64 << 20;

/// A JSON object and the file it came from. It knows no model: which keys there are stands with the families.
#[derive(Debug)]
pub struct Json {
    pub(super) file: PathBuf,
    pub(super) object: Map<String, Value>,
}

impl Json {
    /// Reads a file that must exist.
    pub(super) fn read(file: PathBuf) -> Result<Json, CheckpointError> {
        let io = |error| CheckpointError::Io { file: file.clone(), error };
        let wrong = |what: String| CheckpointError::File { file: file.clone(), what };
        let mut text = String::new();
        let read = open(&file)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(io)?;
        if read as u64 > MAX_BYTES {
            return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
        }
        match serde_json::from_str(&text).map_err(|e| wrong(format!("is not JSON: {e}")))? {
            Value::Object(object) => match repeated_key(text.as_bytes()) {
                Some(key) => Err(wrong(format!("has `{}` twice", key.escape_debug()))),
                None => Ok(Json { file, object }),
            },
            _ => Err(wrong("is not a JSON object".into())),
        }
    }

    /// Reads a file that may be absent.
    pub(super) fn read_if_present(folder: &Path, name: &str) -> Result<Option<Json>, CheckpointError> {
        let file = folder.join(name);
        if is_absent(&file) { Ok(None) } else { Json::read(file).map(Some) }
    }

    /// The value of a key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::File { file: self.file.clone(), what: what.into() }
    }

    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// When the key is absent or out of range.
    pub fn size(&self, key: &str, most: u32) -> Result<u32, CheckpointError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("has no `{key}`")))?;
        let size = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        size.ok_or_else(|| self.error(format!("`{key}` is {value}, not a whole number from 1 to {most}")))
    }

    /// As [`Json::size`], for a key that may be absent.
    ///
    /// # Errors
    /// When the value is out of range.
    pub fn size_if_present(&self, key: &str, most: u32) -> Result<Option<u32>, CheckpointError> {
        self.get(key).map(|_| self.size(key, most)).transpose()
    }

    /// A token id below `vocab`, or a list of them, as both occur; absent is none.
    ///
    /// # Errors
    /// When the value is neither.
    pub fn ids(&self, key: &str, vocab: u32) -> Result<Vec<u32>, CheckpointError> {
        let wrong =
            || self.error(format!("`{key}` is neither a token id below `vocab_size` {vocab} nor a list of them"));
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n < vocab).ok_or_else(wrong);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(single) => Ok(vec![id(single)?]),
        }
    }

    /// A switch; absent counts as `false`.
    ///
    /// # Errors
    /// When the value is not true or false.
    pub fn switch(&self, key: &str) -> Result<bool, CheckpointError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.error(format!("`{key}` is {other}, not true or false"))),
        }
    }

    /// A finite number above 0.
    ///
    /// # Errors
    /// When the key is absent or something else.
    pub fn positive(&self, key: &str) -> Result<f64, CheckpointError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("has no `{key}`")))?;
        let number = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| self.error(format!("`{key}` is {value}, not a number above 0")))
    }

    /// Refuses the file when `key` holds anything but one of `supported`; absent and `null` pass.
    ///
    /// # Errors
    /// Names the key, its value and what is supported.
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<(), CheckpointError> {
        match self.get(key) {
            Some(value) if !supported.contains(value) => {
                let list: Vec<String> = supported.iter().chain([&Value::Null]).map(Value::to_string).collect();
                Err(self.error(format!("`{key}` is {value}; supported: {}", list.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// As [`Json::only`] with a single value, for a key whose absence means something else.
    ///
    /// # Errors
    /// Names the key, its value and what is supported.
    pub fn must_be(&self, key: &str, supported: &Value) -> Result<(), CheckpointError> {
        match self.get(key) {
            Some(value) if value == supported => Ok(()),
            Some(value) => Err(self.error(format!("`{key}` is {value}; supported: {supported}"))),
            None => Err(self.error(format!("has no `{key}`; supported: {supported}"))),
        }
    }

    /// The object that a key holds, as if it were a file of its own.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn nested(&self, key: &str) -> Result<Option<Json>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Json { file: self.file.clone(), object: object.clone() })),
            Some(other) => Err(self.error(format!("`{key}` is {other}, not an object"))),
        }
    }

    /// The keys whose values are not `null`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.object.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }
}

/// Whether nothing has that name; a link that leads nowhere is something.
pub(super) fn is_absent(path: &Path) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Opens a file, but no folder, pipe or device: some of these would never answer.
pub(super) fn open(path: &Path) -> Result<File, CheckpointError> {
    let io = |error| CheckpointError::Io { file: path.to_path_buf(), error };
    match fs::metadata(path).map_err(io)?.is_file() {
        true => File::open(path).map_err(io),
        false => Err(CheckpointError::File { file: path.to_path_buf(), what: "is not a file".into() }),
    }
}

/// The first key that a JSON object has a second time, where a parser would let the last one win.
pub(super) fn repeated_key(object: &[u8]) -> Option<String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
            let mut seen = HashSet::new();
            let mut repeated = None;
            while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(key.clone()) {
                    repeated.get_or_insert(key);
                }
            }
            Ok(repeated)
        }
    }
    serde_json::Deserializer::from_slice(object).deserialize_map(Keys).ok().flatten()
}
