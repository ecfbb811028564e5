//! Files and folders that come into being whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::hashing::Hashing;
use super::{ArtifactError, FileEntry, MANIFEST, Manifest, io_error};

/// A folder in the making, which takes its place as a whole.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    hidden: PathBuf,
    files: BTreeMap<String, FileEntry>,
    /// Held, by the system's lock on it, as long as this build runs.
    _lock: File,
}

impl Bundle {
    /// Begins the folder of an artifact that shall stand at `folder`.
    ///
    /// # Errors
    /// When another build is at it, something else is in the way, or the system refuses.
    pub fn create(folder: &Path) -> Result<Bundle, ArtifactError> {
        Bundle::replacing(folder, MANIFEST)
    }

    /// Begins a folder. One that stands there already must have a file called `mark` to be replaced.
    ///
    /// # Errors
    /// As [`Bundle::create`].
    pub fn replacing(folder: &Path, mark: &str) -> Result<Bundle, ArtifactError> {
        // What a link leads to is replaced, not the link.
        let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
        let parent = parent(folder);
        if parent.exists() && !parent.is_dir() {
            return Err(ArtifactError::InTheWay { path: parent });
        }
        fs::create_dir_all(&parent).map_err(io_error(&parent))?;
        if folder.exists() && !folder.join(mark).exists() {
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

    /// Where its files lie until it takes its place.
    pub fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// Writes one file; its digest is taken on the way. `name` may be a path of several folders.
    ///
    /// # Errors
    /// When `content` fails or the system refuses.
    pub fn write(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        let path = self.hidden.join(name);
        let folder = self::parent(&path);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
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
        self.place()?;
        Ok(manifest)
    }

    /// Puts the folder in its place as it is.
    ///
    /// # Errors
    /// When the system refuses; an older folder then stays.
    pub fn place(self) -> Result<(), ArtifactError> {
        let inner = self.files.keys().flat_map(|name| Path::new(name).ancestors().skip(1));
        let inner: BTreeSet<PathBuf> = inner.map(|folder| self.hidden.join(folder)).collect();
        for folder in &inner {
            sync_folder(folder).map_err(io_error(folder))?;
        }
        sync_folder(&self.hidden).map_err(io_error(&self.hidden))?;
        if self.folder.exists() {
            exchange(&self.hidden, &self.folder).map_err(io_error(&self.folder))?;
        } else {
            fs::rename(&self.hidden, &self.folder).map_err(io_error(&self.folder))?;
        }
        let parent = parent(&self.folder);
        sync_folder(&parent).map_err(io_error(&parent))
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
    let mut out = Hashing::new(file);
    content(&mut out)?;
    out.flush()?;
    out.inner.get_ref().sync_all()?;
    Ok(out.entry())
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
            origin: Default::default(),
            checkpoint: BTreeMap::new(),
            reads: BTreeMap::new(),
            files: BTreeMap::new(),
            step: None,
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
        for name in ["../a", "/etc/passwd", "", "..", "a/b"] {
            let text = serde_json::to_string(&Manifest { artifact: name.into(), ..manifest() }).unwrap();
            fs::write(out.path().join(MANIFEST), text).unwrap();
            assert!(matches!(Manifest::read(out.path()), Err(ArtifactError::Manifest { .. })), "{name}");
        }
    }
}
