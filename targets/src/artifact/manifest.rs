//! The manifest of an artifact's folder: what it holds, and what it was made from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hashing::Hashing;
use super::{ArtifactError, io_error};

/// Name of the manifest in an artifact's folder.
pub const MANIFEST: &str = "manifest.json";
/// Largest manifest that is read.
const MAX_MANIFEST: u64 = 16 << 20;

/// What an artifact's folder holds and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the build.
    pub name: String,
    /// Target of the build.
    pub target: String,
    /// The file or folder that is the artifact itself, or its first part.
    pub artifact: String,
    /// Program and version that wrote it.
    pub tool: String,
    /// The effective values of the recipe.
    pub recipe: BTreeMap<String, String>,
    /// Where the checkpoint comes from.
    #[serde(default)]
    pub origin: Origin,
    /// SHA-256 of each file of the checkpoint.
    pub checkpoint: BTreeMap<String, String>,
    /// SHA-256 of each other file that the recipe names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reads: BTreeMap<String, String>,
    /// The files of the folder, without the manifest.
    pub files: BTreeMap<String, FileEntry>,
    /// What a host must know to run a graph, where the artifact does not tell all of it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
}

/// Where a checkpoint comes from, and under which terms it may be passed on, as far as recipe and model card tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Where it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The models it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_models: Vec<String>,
}

/// Inputs and outputs of the graphs of an artifact; those of the largest where there are several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The files of the graphs, the largest first.
    pub graphs: Vec<String>,
    /// The numbers of tokens that they are for, ascending; none where one takes any.
    pub tokens: Vec<usize>,
    /// Most tokens of a step.
    pub max_tokens: usize,
    /// Most committed positions.
    pub max_cache: usize,
    /// Base of the rotation: column `j` of both halves of `cos` holds `cos(p · theta^(-2j/D))`.
    pub rope_theta: f64,
    /// Inputs in order.
    pub inputs: Vec<Tensor>,
    /// Outputs in order.
    pub outputs: Vec<Tensor>,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its elements, in the words of ONNX.
    pub dtype: String,
    /// Its axes.
    pub shape: Vec<String>,
    /// Of whole numbers that stand for others: a number is `(q - zero_point) · scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// The whole number that stands for 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_point: Option<i32>,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When there is none or it is not one.
    pub fn read(folder: &Path) -> Result<Manifest, ArtifactError> {
        let path = folder.join(MANIFEST);
        let mut text = String::new();
        let file = File::open(&path).map_err(io_error(&path))?;
        file.take(MAX_MANIFEST).read_to_string(&mut text).map_err(io_error(&path))?;
        let wrong = |what: String| ArtifactError::Manifest { path: path.clone(), what };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| wrong(format!("is no manifest: {e}")))?;
        let word = |word: &str| !word.is_empty() && word != ".." && word != "." && !word.contains(['\\', '\0']);
        let plain = |name: &str| name.split('/').all(word);
        let single = |name: &str| word(name) && !name.contains('/');
        if let Some(name) = manifest.files.keys().find(|name| !plain(name)) {
            return Err(wrong(format!("names `{name}`, which is no file of this folder")));
        }
        if !single(&manifest.artifact) {
            return Err(wrong(format!("names `{}`, which is no file of this folder", manifest.artifact)));
        }
        let part = |name: &String| name.split('/').next() == Some(&manifest.artifact);
        if !manifest.files.keys().any(part) {
            return Err(wrong(format!("does not list the artifact `{}` among its files", manifest.artifact)));
        }
        Ok(manifest)
    }

    /// The files of the artifact itself, in all its parts.
    pub fn artifact_files(&self) -> impl Iterator<Item = (&String, &FileEntry)> {
        let ending = Path::new(&self.artifact).extension();
        let own = move |name: &str| {
            let found = Path::new(name.split('/').next().unwrap_or_default()).extension();
            // The numbers of ONNX files lie beside them.
            found == ending || found.is_some_and(|found| found == "data")
        };
        self.files.iter().filter(move |(name, _)| own(name))
    }

    /// Their size.
    pub fn artifact_bytes(&self) -> u64 {
        self.artifact_files().map(|(_, file)| file.bytes).sum()
    }

    /// Compares every file of the folder with its size, and those of at most `largest` bytes with their digest.
    ///
    /// # Errors
    /// Names the first file that differs.
    pub fn check(&self, folder: &Path, largest: u64) -> Result<(), ArtifactError> {
        for (name, entry) in &self.files {
            let path = folder.join(name);
            let changed = |what| ArtifactError::Changed { path: path.clone(), what };
            // Asked before opening: opening a pipe would wait for its writer.
            if !path.metadata().map_err(io_error(&path))?.is_file() {
                return Err(changed("is no file".into()));
            }
            let file = File::open(&path).map_err(io_error(&path))?;
            let length = file.metadata().map_err(io_error(&path))?.len();
            if length != entry.bytes {
                return Err(changed(format!("has {length} bytes, the manifest says {}", entry.bytes)));
            }
            if length > largest {
                continue;
            }
            let mut hash = Hashing::new(io::sink());
            io::copy(&mut io::BufReader::with_capacity(1 << 20, file), &mut hash).map_err(io_error(&path))?;
            if hash.entry().sha256 != entry.sha256 {
                return Err(changed("its content changed since it was built (SHA-256 differs)".into()));
            }
        }
        Ok(())
    }
}
