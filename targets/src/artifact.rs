//! The folder of an artifact, which runs by itself on another machine, and how it comes into being whole or not at all.
//!
//! A [`Bundle`] is written into a hidden folder beside its final place: each file is synced, the manifest comes last, and
//! the folder takes its place by one rename (or one exchange, where an older build stands). A build that is killed
//! leaves the hidden folder, which the next one clears away, and the old artifact untouched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Name of the manifest in an artifact's folder.
pub const MANIFEST: &str = "manifest.json";
/// Largest manifest that is read.
const MAX_MANIFEST: u64 = 16 << 20;

/// What an artifact's folder holds and what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the build.
    pub name: String,
    /// Target of the build.
    pub target: String,
    /// The file that is the artifact itself.
    pub artifact: String,
    /// Program and version that wrote it.
    pub tool: String,
    /// The effective values of the recipe.
    pub recipe: BTreeMap<String, String>,
    /// SHA-256 of each file of the checkpoint.
    pub checkpoint: BTreeMap<String, String>,
    /// The files of the folder, without the manifest.
    pub files: BTreeMap<String, FileEntry>,
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

/// Why a folder cannot be written or does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The system refused.
    #[error("{}: {error}{}", path.display(), hint(error))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process is writing the same artifact.
    #[error("{}: another build is writing this artifact; wait for it to end", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// There is something else where the artifact should go.
    #[error("{}: is in the way: it is no artifact of an earlier build; remove it or build elsewhere with `--out`", path.display())]
    InTheWay {
        /// What stands there.
        path: PathBuf,
    },
    /// There is something else where a file, or its folder, should go.
    #[error("{}: cannot be replaced by a file, or hold one", path.display())]
    NoFile {
        /// What stands there.
        path: PathBuf,
    },
    /// The manifest is not one.
    #[error("{}: {what}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file is not what the manifest says.
    #[error("{}: {what}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space and build again, nothing half-written is left behind",
        _ => "",
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    move |error| ArtifactError::Io { path: path.to_path_buf(), error }
}

/// An artifact's folder in the making.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    hidden: PathBuf,
    files: BTreeMap<String, FileEntry>,
    /// Held, by the system's lock on it, as long as this build runs.
    _lock: File,
}

impl Bundle {
    /// Begins the artifact that shall stand at `folder`.
    ///
    /// # Errors
    /// When another build is at it, something else is in the way, or the system refuses.
    pub fn create(folder: &Path) -> Result<Bundle, ArtifactError> {
        let parent = parent(folder);
        if parent.exists() && !parent.is_dir() {
            return Err(ArtifactError::InTheWay { path: parent });
        }
        fs::create_dir_all(&parent).map_err(io_error(&parent))?;
        if folder.exists() && !folder.join(MANIFEST).exists() {
            return Err(ArtifactError::InTheWay { path: folder.into() });
        }
        let lock = lock(folder)?;
        let hidden = beside(folder, "building");
        if hidden.exists() {
            fs::remove_dir_all(&hidden).map_err(io_error(&hidden))?;
        }
        fs::create_dir(&hidden).map_err(io_error(&hidden))?;
        Ok(Bundle { folder: folder.into(), hidden, files: BTreeMap::new(), _lock: lock })
    }

    /// Writes one file; its digest is taken on the way.
    ///
    /// # Errors
    /// When `content` fails or the system refuses.
    pub fn write(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        let path = self.hidden.join(name);
        let entry = write_file(&path, content).map_err(io_error(&path))?;
        self.files.insert(name.into(), entry);
        Ok(())
    }

    /// Copies one file.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy(&mut self, name: &str, from: &Path) -> Result<(), ArtifactError> {
        let mut file = File::open(from).map_err(io_error(from))?;
        self.write(name, |out| io::copy(&mut file, out).map(drop))
    }

    /// Writes the manifest and puts the folder in its place. `manifest.files` is filled in here.
    ///
    /// # Errors
    /// When the system refuses; the old artifact then stays.
    pub fn finish(self, manifest: Manifest) -> Result<Manifest, ArtifactError> {
        let manifest = Manifest { files: self.files.clone(), ..manifest };
        let path = self.hidden.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest).map_err(io::Error::from).map_err(io_error(&path))? + "\n";
        write_file(&path, |out| out.write_all(text.as_bytes())).map_err(io_error(&path))?;
        sync_folder(&self.hidden).map_err(io_error(&self.hidden))?;
        if self.folder.exists() {
            exchange(&self.hidden, &self.folder).map_err(io_error(&self.folder))?;
        } else {
            fs::rename(&self.hidden, &self.folder).map_err(io_error(&self.folder))?;
        }
        let parent = parent(&self.folder);
        sync_folder(&parent).map_err(io_error(&parent))?;
        Ok(manifest)
    }
}

/// Writes one file that stands alone, whole or not at all.
///
/// # Errors
/// When another process is writing it, `content` fails or the system refuses; an older file then stays.
pub fn write_alone(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<FileEntry, ArtifactError> {
    // What a link leads to is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let folder = parent(path);
    for (place, fits) in [(path.as_path(), path.is_file()), (&folder, folder.is_dir())] {
        if place.exists() && !fits {
            return Err(ArtifactError::NoFile { path: place.into() });
        }
    }
    fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    let lock_held = lock(path)?;
    let hidden = beside(path, "building");
    let written = write_file(&hidden, content).and_then(|entry| {
        fs::rename(&hidden, path)?;
        sync_folder(&folder)?;
        Ok(entry)
    });
    if written.is_err() {
        // What cannot be removed is overwritten by the next attempt.
        let _ = fs::remove_file(&hidden);
    }
    let _ = fs::remove_file(beside(path, "lock"));
    drop(lock_held);
    written.map_err(io_error(path))
}

/// Clears away what a killed build of this artifact left behind, unless another build is at it.
pub fn sweep(folder: &Path) {
    let hidden = beside(folder, "building");
    if hidden.exists()
        && let Ok(_lock) = lock(folder)
    {
        // What cannot be removed is removed by the next build, or stays as it is.
        let _ = fs::remove_dir_all(&hidden);
        let _ = fs::remove_file(beside(folder, "lock"));
    }
}

impl Drop for Bundle {
    /// Clears away what was not finished, or the older build that was exchanged. What cannot be removed is removed by
    /// the next build.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.hidden);
        let _ = fs::remove_file(beside(&self.folder, "lock"));
    }
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
        let plain = |name: &str| !name.is_empty() && name != ".." && name != "." && !name.contains(['/', '\\', '\0']);
        if let Some(name) = manifest.files.keys().chain([&manifest.artifact]).find(|name| !plain(name)) {
            return Err(wrong(format!("names `{name}`, which is no file of this folder")));
        }
        if !manifest.files.contains_key(&manifest.artifact) {
            return Err(wrong(format!("does not list the artifact `{}` among its files", manifest.artifact)));
        }
        Ok(manifest)
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
            let mut hash = Hashing { inner: io::sink(), hash: Sha256::new(), bytes: 0 };
            io::copy(&mut io::BufReader::with_capacity(1 << 20, file), &mut hash).map_err(io_error(&path))?;
            if hash.entry().sha256 != entry.sha256 {
                return Err(changed("its content changed since it was built (SHA-256 differs)".into()));
            }
        }
        Ok(())
    }
}

/// Takes the lock of an artifact. Its file is removed when the build ends, so one that was opened before and locked
/// after that is nobody's: then it is tried again.
fn lock(folder: &Path) -> Result<File, ArtifactError> {
    let path = beside(folder, "lock");
    loop {
        let file = File::create(&path).map_err(io_error(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(ArtifactError::Busy { path: folder.into() }),
            Err(fs::TryLockError::Error(error)) => return Err(ArtifactError::Io { path, error }),
        }
        let own = file.metadata().map_err(io_error(&path))?;
        if fs::metadata(&path).is_ok_and(|there| there.ino() == own.ino()) {
            return Ok(file);
        }
    }
}

/// `out/name` → `out/.name.suffix`.
fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    parent(folder).join(format!(".{name}.{suffix}"))
}

fn parent(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

/// Both folders stand at every moment, where the file system can exchange names; else the old one is moved aside first.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let aside = beside(old, "old");
            let _ = fs::remove_dir_all(&aside);
            fs::rename(old, &aside)?;
            fs::rename(new, old)?;
            fs::remove_dir_all(&aside)
        }
        done => Ok(done?),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_file(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<FileEntry> {
    let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut out = Hashing { inner: file, hash: Sha256::new(), bytes: 0 };
    content(&mut out)?;
    out.flush()?;
    out.inner.get_ref().sync_all()?;
    Ok(out.entry())
}

/// Passes bytes on and takes their digest.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn entry(self) -> FileEntry {
        let sha256 = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        FileEntry { bytes: self.bytes, sha256 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            name: "x".into(),
            target: "t".into(),
            artifact: "a".into(),
            tool: "tool 1".into(),
            recipe: BTreeMap::new(),
            checkpoint: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    fn build(folder: &Path, content: &str) -> Result<Manifest, ArtifactError> {
        let mut bundle = Bundle::create(folder)?;
        bundle.write("a", |out| out.write_all(content.as_bytes()))?;
        bundle.finish(manifest())
    }

    /// Names in a folder, hidden ones too.
    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_build_replaces_an_older_one_whole() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("made/b");
        for content in ["one", "two"] {
            let made = build(&folder, content).unwrap();
            assert_eq!(Manifest::read(&folder).unwrap(), made);
            made.check(&folder, u64::MAX).unwrap();
            assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), content);
            assert_eq!(names(folder.parent().unwrap()), ["b"]);
        }
    }

    #[test]
    fn a_build_that_fails_leaves_the_older_one() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("b");
        build(&folder, "one").unwrap();
        let mut bundle = Bundle::create(&folder).unwrap();
        let error = bundle.write("a", |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err().to_string();
        assert!(error.contains("free some space"), "{error}");
        assert!(matches!(Bundle::create(&folder), Err(ArtifactError::Busy { .. })));
        drop(bundle);
        Manifest::read(&folder).unwrap().check(&folder, u64::MAX).unwrap();
        assert_eq!(names(out.path()), ["b"]);
    }

    #[test]
    fn a_file_alone_replaces_files_only() {
        let out = tempfile::tempdir().unwrap();
        let (real, link) = (out.path().join("real"), out.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_alone(&link, |out| out.write_all(b"new")).unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&real).unwrap() == "new");
        let nothing = |out: &mut dyn Write| out.write_all(b"x");
        for place in [PathBuf::from("/dev/null"), out.path().into(), real.join("below")] {
            assert!(matches!(write_alone(&place, nothing), Err(ArtifactError::NoFile { .. })), "{}", place.display());
        }
        write_alone(&link, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(
            (fs::read_to_string(&real).unwrap().as_str(), names(out.path())),
            ("new", vec!["link".into(), "real".into()])
        );
    }

    #[test]
    fn what_is_no_artifact_is_left_alone() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("letters"), "dear").unwrap();
        assert!(matches!(Bundle::create(out.path()), Err(ArtifactError::InTheWay { .. })));
        assert!(out.path().join("letters").exists());
    }

    #[test]
    fn a_changed_file_is_found() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("b");
        let made = build(&folder, "one").unwrap();
        for (content, what) in [("two", "content changed"), ("three", "5 bytes")] {
            fs::write(folder.join("a"), content).unwrap();
            let error = made.check(&folder, u64::MAX).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_manifest_stays_in_its_folder() {
        let out = tempfile::tempdir().unwrap();
        for name in ["../a", "/etc/passwd", "", ".."] {
            let text = serde_json::to_string(&Manifest { artifact: name.into(), ..manifest() }).unwrap();
            fs::write(out.path().join(MANIFEST), text).unwrap();
            assert!(matches!(Manifest::read(out.path()), Err(ArtifactError::Manifest { .. })), "{name}");
        }
    }
}
