//! The files of a package: manifest, model, weights.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use prost::Message;

use super::error::{Fault, Place, Result};
use crate::coreml::schema::MANIFEST_PATH;
use crate::coreml::schema::manifest::{self, Manifest};
use crate::coreml::schema::model::Model;

/// Largest manifest.
const MAX_MANIFEST: u64 = 1 << 20;
/// Largest model file; one for a hundred layers has three megabytes. A message takes some fifty times its bytes in memory.
const MAX_MODEL: u64 = 16 << 20;
/// Longest name of a file.
const MAX_PATH: usize = 1024;

/// What the files hold.
pub(in crate::coreml) struct Files {
    /// The package, links followed.
    root: PathBuf,
    /// The folder of the model file, `@model_path`.
    folder: PathBuf,
    /// Files and folders that the manifest lists.
    items: Vec<PathBuf>,
    /// The model file.
    pub(in crate::coreml) model: Model,
    /// Whether the schema knows all of its fields.
    whole: bool,
}

impl Files {
    /// Reads manifest and model of the package at `root`.
    pub(in crate::coreml) fn open(root: &Path) -> Result<Files> {
        let place = Place::Manifest;
        let root = root.canonicalize().map_err(|e| Place::File(root.into()).fault(Fault::Unreadable(e.to_string())))?;
        let bytes = read(&root, &root.join(MANIFEST_PATH), MAX_MANIFEST)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| place.damaged(e.to_string()))?;
        place.same("fileFormatVersion", manifest.file_format_version.as_str(), manifest::VERSION)?;
        let (mut items, mut model) = (Vec::new(), None);
        for (identifier, item) in &manifest.item_info_entries {
            if !is_uuid(identifier) {
                return Err(place.damaged(format!("the identifier {identifier:?} is no UUID")));
            }
            let path = inside(&root.join("Data"), &item.path)
                .ok_or_else(|| place.damaged(format!("the path {:?} leads out of the package", item.path)))?;
            place.same("path", item.path.as_str(), &format!("{}/{}", item.author, item.name))?;
            if !path.exists() {
                return Err(place.missing(format!("item {:?}", item.path)));
            }
            let path = follow(&root, &path)?;
            if items.contains(&path) {
                return Err(place.damaged(format!("two items are {:?}", item.path)));
            }
            if *identifier == manifest.root_model_identifier {
                model = Some(path.clone());
            }
            items.push(path);
        }
        let path = model.ok_or_else(|| place.damaged("rootModelIdentifier names no item"))?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let bytes = read(&root, &path, MAX_MODEL)?;
        let model = Model::decode(bytes.as_slice()).map_err(|e| Place::Model.damaged(e.to_string()))?;
        if model.ml_program.is_none() {
            return Err(Place::Model.unsupported("a model that is no ML Program"));
        }
        let whole = model.encoded_len() == bytes.len();
        Ok(Files { root, folder, items, model, whole })
    }

    /// Fails where the model file has fields that the schema leaves out.
    pub(super) fn only_known_fields(&self) -> Result<()> {
        if self.whole { Ok(()) } else { Err(Place::Model.unsupported("some of the fields it has")) }
    }

    /// A weight file, as the program names it, and its size.
    pub(in crate::coreml) fn weight_file(&self, name: &str) -> Result<(PathBuf, u64)> {
        let wrong = || Place::Program.damaged(format!("weight file {name:?}"));
        let path = name.strip_prefix("@model_path/").and_then(|path| inside(&self.folder, path)).ok_or_else(wrong)?;
        let path = follow(&self.root, &path)?;
        if !self.items.iter().any(|item| path.starts_with(item)) {
            return Err(wrong());
        }
        let bytes = size(&path)?;
        Ok((path, bytes))
    }

    /// Maps a weight file.
    pub(super) fn weights(&self, name: &str) -> Result<(Place, Mmap)> {
        let (path, _) = self.weight_file(name)?;
        let place = Place::File(path.clone());
        let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
        let file = File::open(&path).map_err(unreadable)?;
        // SAFETY: the map is read-only. That nobody changes the file meanwhile is the caller's part, as documented.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok((place, map))
    }
}

/// `8-4-4-4-12` digits in base 16.
fn is_uuid(identifier: &str) -> bool {
    let parts: Vec<usize> = identifier.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && identifier.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// What `path` leads to when links are followed. It must lie in the package.
fn follow(root: &Path, path: &Path) -> Result<PathBuf> {
    let place = Place::File(path.into());
    let real = path.canonicalize().map_err(|e| place.fault(Fault::Unreadable(e.to_string())))?;
    if real.starts_with(root) { Ok(real) } else { Err(place.damaged("it leads out of the package")) }
}

/// `folder/path`, where the path is plain and relative.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let fits = !path.is_empty() && path.len() <= MAX_PATH && !path.contains('\0');
    (fits && Path::new(path).components().all(plain)).then(|| folder.join(path))
}

/// A file of at most `limit` bytes.
fn read(root: &Path, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let path = follow(root, path)?;
    let place = Place::File(path.clone());
    place.at_most("number of bytes", size(&path)?, limit)?;
    let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    Ok(bytes)
}

/// The size of what must be a file. Asked before opening: opening a pipe would wait for its writer.
fn size(path: &Path) -> Result<u64> {
    let place = Place::File(path.into());
    let metadata = path.metadata().map_err(|e| place.fault(Fault::Unreadable(e.to_string())))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(place.damaged("it is no file")) }
}
