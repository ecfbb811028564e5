//! The demo model, which the program carries inside: a checkpoint of three million parameters.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../recipes/demo/model/", $name)).as_slice())),+]
    };
}

const FILES: [(&str, &[u8]); 6] = files![
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
];

/// The checkpoint's folder.
#[derive(Debug)]
pub enum Unpacked {
    /// In the cache, where the next call finds it.
    Cached(PathBuf),
    /// Somewhere else, as long as this value lives.
    Temporary(TempDir),
}

impl Unpacked {
    /// The folder.
    pub fn path(&self) -> &Path {
        match self {
            Unpacked::Cached(folder) => folder,
            Unpacked::Temporary(folder) => folder.path(),
        }
    }
}

/// Unpacks the demo model into `cache` unless it lies there, whole: a folder named after its content. Without a cache, and
/// where the cache cannot be written, it is unpacked into a temporary folder.
///
/// # Errors
/// When no folder at all can be written.
pub fn unpack(cache: Option<&Path>) -> io::Result<Unpacked> {
    if let Some(cache) = cache {
        let folder = cache.join(format!("demo-{}", &digest()[..16]));
        let found = is_whole(&folder) || {
            // Whoever could not place it may find that another program was faster.
            let _ = place(cache, &folder);
            is_whole(&folder)
        };
        if found {
            return Ok(Unpacked::Cached(folder));
        }
    }
    let folder = tempfile::Builder::new().prefix("diffulex-edge-demo-").tempdir()?;
    write(folder.path())?;
    Ok(Unpacked::Temporary(folder))
}

/// Whether every file is there with the bytes it must have.
fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|(name, bytes)| {
        let file = folder.join(name);
        let size = file.metadata().map(|found| found.len());
        size.is_ok_and(|size| size == bytes.len() as u64) && std::fs::read(file).is_ok_and(|found| found == *bytes)
    })
}

/// Writes the files beside the folder, then gives them its name. Where another program was faster, its folder stays.
fn place(cache: &Path, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(cache)?;
    let hidden = || tempfile::Builder::new().prefix(".demo-").tempdir_in(cache);
    let new = hidden()?;
    write(new.path())?;
    if folder.exists() {
        // Damaged: it goes away with the hidden folder.
        let old = hidden()?;
        std::fs::rename(folder, old.path().join("old"))?;
        return std::fs::rename(new.path(), folder);
    }
    std::fs::rename(new.path(), folder)
}

fn write(folder: &Path) -> io::Result<()> {
    FILES.iter().try_for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes))
}

/// The SHA-256 of all files, names and lengths included.
fn digest() -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in FILES {
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn cached(cache: &Path) -> PathBuf {
        match unpack(Some(cache)).unwrap() {
            Unpacked::Cached(folder) => folder,
            Unpacked::Temporary(_) => panic!("not cached"),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_cache_is_used_again_and_mended() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("a/b");
        let folder = cached(&cache);
        assert_eq!(names(&folder).len(), FILES.len());
        let written = folder.join("config.json").metadata().unwrap().modified().unwrap();
        assert_eq!(cached(&cache), folder);
        assert_eq!(folder.join("config.json").metadata().unwrap().modified().unwrap(), written);

        let weights = folder.join("model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[1_000_000] ^= 1;
        fs::write(&weights, bytes).unwrap();
        assert!(!is_whole(&folder));
        assert!(is_whole(&cached(&cache)));
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
        assert!(is_whole(&cached(&cache)));
        assert_eq!(names(&cache).len(), 1, "hidden folders are gone");
    }

    #[test]
    fn where_nothing_can_be_cached_it_lives_for_a_while() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        for cache in [None, Some(place.path().join("file"))] {
            let unpacked = unpack(cache.as_deref()).unwrap();
            assert!(matches!(unpacked, Unpacked::Temporary(_)) && is_whole(unpacked.path()));
            let folder = unpacked.path().to_path_buf();
            drop(unpacked);
            assert!(!folder.exists());
        }
    }
}
