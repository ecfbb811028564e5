//! SHA-256 of input files. A large file is read again only when its size, time or inode changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// Told, while a file is read: which, how many bytes of how many.
pub type Progress<'a> = dyn FnMut(&Path, u64, u64) + 'a;

/// The file that they are kept in.
const FILE: &str = ".digests.json";

/// Known digests, kept in one file of the output folder. A damaged or missing file only costs time.
pub(crate) struct Digests<'a> {
    progress: &'a mut Progress<'a>,
    file: PathBuf,
    known: BTreeMap<PathBuf, Entry>,
    changed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    modified: (i64, i64),
    inode: u64,
    sha256: String,
}

impl<'a> Digests<'a> {
    /// Reads what an earlier run left in `folder`.
    pub(crate) fn open(folder: &Path, progress: &'a mut Progress<'a>) -> Digests<'a> {
        let file = folder.join(FILE);
        let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Digests { progress, file, known, changed: false }
    }

    /// Knows nothing, and keeps nothing.
    pub(crate) fn forgetful(progress: &'a mut Progress<'a>) -> Digests<'a> {
        Digests { progress, file: PathBuf::new(), known: BTreeMap::new(), changed: false }
    }

    /// The digest of a file, in hexadecimal.
    pub(crate) fn of(&mut self, path: &Path) -> Result<String, Error> {
        let (path, entry) = Entry::of(path)?;
        if let Some(known) = self.known.get(&path)
            && known.is_of(&entry)
        {
            return Ok(known.sha256.clone());
        }
        let sha256 = digest(&path, entry.size, self.progress)?;
        self.changed = true;
        self.known.insert(path, Entry { sha256: sha256.clone(), ..entry });
        Ok(sha256)
    }

    /// Takes over the digest of a file that was just written. One that is gone already only costs time.
    pub(crate) fn learn(&mut self, path: &Path, sha256: &str) {
        if let Ok((path, entry)) = Entry::of(path) {
            self.changed = true;
            self.known.insert(path, Entry { sha256: sha256.into(), ..entry });
        }
    }
}

impl Entry {
    /// What the system says of a file, and its real path.
    fn of(path: &Path) -> Result<(PathBuf, Entry), Error> {
        let path = path.canonicalize().map_err(Error::io(path))?;
        let stat = path.metadata().map_err(Error::io(&path))?;
        let modified = (stat.mtime(), stat.mtime_nsec());
        let entry = Entry { size: stat.size(), modified, inode: stat.ino(), sha256: String::new() };
        Ok((path, entry))
    }

    /// Whether it is of a file of which the system says this.
    fn is_of(&self, now: &Entry) -> bool {
        (self.size, self.modified, self.inode) == (now.size, now.modified, now.inode)
    }
}

impl Drop for Digests<'_> {
    /// Keeps what was learnt of files that are still there, whatever became of the work. Where that fails, the next run
    /// reads the files again.
    fn drop(&mut self) {
        if !self.changed || self.file.as_os_str().is_empty() {
            return;
        }
        self.known.retain(|path, _| path.exists());
        if let (Some(folder), Ok(text)) = (self.file.parent(), serde_json::to_vec(&self.known)) {
            let _ = std::fs::create_dir_all(folder);
            // What a killed program leaves of it is written over by the next one.
            let new = self.file.with_extension("new");
            // Read-only folders are nothing to complain of.
            let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.file));
        }
    }
}

fn digest(path: &Path, size: u64, progress: &mut Progress<'_>) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress(path, done, size);
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
