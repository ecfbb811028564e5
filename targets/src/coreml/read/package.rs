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
pub(super) struct Files {
    /// The folder of the model file, `@model_path`.
    folder: PathBuf,
    /// Files and folders that the manifest lists.
    items: Vec<PathBuf>,
    /// The model file.
    pub(super) model: Model,
}

impl Files {
    /// Reads manifest and model of the package at `root`.
    pub(super) fn open(root: &Path) -> Result<Files> {
        let place = Place::Manifest;
        let bytes = read(&root.join(MANIFEST_PATH), MAX_MANIFEST)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| place.damaged(e.to_string()))?;
        place.same("fileFormatVersion", manifest.file_format_version.as_str(), manifest::VERSION)?;
        let mut items = Vec::new();
        for item in manifest.item_info_entries.values() {
            let path = inside(&root.join("Data"), &item.path)
                .ok_or_else(|| place.damaged(format!("the path {:?} leads out of the package", item.path)))?;
            place.same("path", item.path.as_str(), &format!("{}/{}", item.author, item.name))?;
            if !path.exists() {
                return Err(place.missing(format!("item {:?}", item.path)));
            }
            items.push(path);
        }
        let identifiers: Vec<&String> = manifest.item_info_entries.keys().collect();
        let root = identifiers.iter().position(|id| **id == manifest.root_model_identifier);
        let root = root.ok_or_else(|| place.damaged("rootModelIdentifier names no item"))?;
        let folder = items[root].parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let bytes = read(&items[root], MAX_MODEL)?;
        let model = Model::decode(bytes.as_slice()).map_err(|e| Place::Model.damaged(e.to_string()))?;
        if model.ml_program.is_none() {
            return Err(Place::Model.unsupported("a model that is no ML Program"));
        }
        if model.encoded_len() != bytes.len() {
            return Err(Place::Model.unsupported("some of the fields it has"));
        }
        Ok(Files { folder, items, model })
    }

    /// Maps a weight file, as the program names it.
    pub(super) fn weights(&self, name: &str) -> Result<(Place, Mmap)> {
        let path = name.strip_prefix("@model_path/").and_then(|path| inside(&self.folder, path));
        let listed = |path: &PathBuf| self.items.iter().any(|item| path.starts_with(item));
        let path = path.filter(listed).ok_or_else(|| Place::Program.damaged(format!("weight file {name:?}")))?;
        let place = Place::File(path.clone());
        let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(place.damaged("it is no file"));
        }
        let file = File::open(&path).map_err(unreadable)?;
        // SAFETY: the map is read-only. That nobody changes the file meanwhile is the caller's part, as documented.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok((place, map))
    }
}

/// `folder/path`, where the path is plain and relative.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let fits = !path.is_empty() && path.len() <= MAX_PATH && !path.contains('\0');
    (fits && Path::new(path).components().all(plain)).then(|| folder.join(path))
}

/// A file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let place = Place::File(path.into());
    let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
    // Asked before opening: opening a pipe would wait for its writer.
    let metadata = path.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(place.damaged("it is no file"));
    }
    place.at_most("number of bytes", metadata.len(), limit)?;
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    Ok(bytes)
}
