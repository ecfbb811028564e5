//! The files on disk: the model, and those that its tensors lie in.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use onnx_protobuf::{Message, ModelProto};

use super::error::{Fault, Place, Result};
use super::scan::scan;

/// Largest file of a graph; the numbers of weights lie beside it.
const MAX_MODEL: u64 = 16 << 20;
/// Most files that tensors lie in.
const MAX_FILES: usize = 64;
/// Longest path of one.
const MAX_PATH: usize = 4096;

/// Bytes that tensors lie in: a mapped file, or what stood in the file of the graph.
#[derive(Debug)]
pub(super) enum Bytes {
    Map(Mmap),
    Own(Vec<u8>),
}

/// All of them; the first are those of the file of the graph.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    names: Vec<String>,
    pub(super) list: Vec<Bytes>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Map(map) => map,
            Bytes::Own(bytes) => bytes,
        }
    }
}

impl Files {
    /// Reads the model at `path`.
    pub(super) fn open(path: &Path) -> Result<(ModelProto, Files)> {
        let place = Place::File(path.into());
        let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
        let path = path.canonicalize().map_err(unreadable)?;
        place.at_most("number of bytes", size(&path)?, MAX_MODEL)?;
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(MAX_MODEL).read_to_end(&mut bytes)).map_err(unreadable)?;
        scan(&bytes)?;
        let model = ModelProto::parse_from_bytes(&bytes).map_err(|e| Place::Model.damaged(e.to_string()))?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Ok((model, Files { folder, names: vec![String::new()], list: vec![Bytes::Own(Vec::new())] }))
    }

    /// Keeps bytes that stood in the file of the graph; gives where.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> (usize, std::ops::Range<usize>) {
        let Some(Bytes::Own(own)) = self.list.first_mut() else { return (0, 0..0) };
        let start = own.len();
        own.extend_from_slice(bytes);
        (0, start..own.len())
    }

    /// The file of that name, if it is mapped.
    pub(super) fn find(&self, name: &str) -> Option<&[u8]> {
        let at = self.names.iter().skip(1).position(|known| known == name)?;
        self.list.get(at + 1).map(|bytes| &**bytes)
    }

    /// The number of the file of that name, mapped.
    pub(super) fn map(&mut self, place: &Place, name: &str) -> Result<usize> {
        if let Some(known) = self.names.iter().skip(1).position(|known| known == name) {
            return Ok(known + 1);
        }
        place.at_most("number of files", self.names.len() as u64, MAX_FILES as u64)?;
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let fits = !name.is_empty() && name.len() <= MAX_PATH && !name.contains(['\0', '\\']);
        if !fits || !Path::new(name).components().all(plain) {
            return Err(place.damaged(format!("its file is {:?}", name.chars().take(64).collect::<String>())));
        }
        let path = self.folder.join(name);
        let place = Place::File(path.clone());
        let unreadable = |e: std::io::Error| place.fault(Fault::Unreadable(e.to_string()));
        let real = path.canonicalize().map_err(unreadable)?;
        if !real.starts_with(&self.folder) {
            return Err(place.damaged("it leads out of the folder of the model"));
        }
        size(&real)?;
        let file = File::open(&real).map_err(unreadable)?;
        // SAFETY: the map is read-only. That nobody changes the file meanwhile is the caller's part, as documented.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        self.names.push(name.into());
        self.list.push(Bytes::Map(map));
        Ok(self.list.len() - 1)
    }
}

/// The size of what must be a file. Asked before opening: opening a pipe would wait for its writer.
fn size(path: &Path) -> Result<u64> {
    let place = Place::File(path.into());
    let metadata = path.metadata().map_err(|e| place.fault(Fault::Unreadable(e.to_string())))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(place.damaged("it is no file")) }
}
