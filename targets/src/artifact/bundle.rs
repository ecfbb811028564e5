//! Files and folders that come into being whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::claim::{Claim, parent};
use super::hashing::{BUFFER, Hashing};
use super::journal::Journal;
use super::{ArtifactError, FileEntry, MANIFEST, Manifest, SUMS, io_error};

/// A folder in the making, which takes its place as a whole.
///
/// What it has written is cleared away when it is dropped, whether it was finished, or an error stopped it. A build that
/// is killed leaves it, and with it a [`Journal`] of what is whole: the next build with the same key goes on there, one
/// with another key clears it away, and so does [`sweep`](super::sweep).
#[derive(Debug)]
pub struct Bundle {
    hidden: PathBuf,
    files: BTreeMap<String, FileEntry>,
    journal: Option<Rc<Journal>>,
    /// Given up last.
    claim: Claim,
}

impl Bundle {
    /// Begins the folder of an artifact, or goes on with it where an interrupted build had the same `key`: a digest of
    /// all that the bytes of its files depend on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(claim: Claim, key: &str) -> Result<Bundle, ArtifactError> {
        let journal = Journal::open(claim.beside("journal"), key);
        Bundle::begin(claim, Some(journal))
    }

    /// Begins a folder. One that stands there already must have a file called `mark` to be replaced.
    ///
    /// # Errors
    /// When another build is at it, something else is in the way, or the system refuses.
    pub fn replacing(folder: &Path, mark: &str) -> Result<Bundle, ArtifactError> {
        Bundle::begin(Claim::folder(folder, mark)?, None)
    }

    fn begin(claim: Claim, journal: Option<Journal>) -> Result<Bundle, ArtifactError> {
        let hidden = claim.beside("building");
        let whole = journal.as_ref().map(Journal::files).unwrap_or_default();
        match fs::symlink_metadata(&hidden) {
            Ok(there) if there.is_dir() && !whole.is_empty() => keep(&hidden, "", &|name| whole.contains(name)),
            Ok(there) if there.is_dir() => fs::remove_dir_all(&hidden),
            Ok(_) => fs::remove_file(&hidden),
            Err(_) => Ok(()),
        }
        .map_err(io_error(&hidden))?;
        fs::create_dir_all(&hidden).map_err(io_error(&hidden))?;
        Ok(Bundle { hidden, files: BTreeMap::new(), journal: journal.map(Rc::new), claim })
    }

    /// Where its files lie until it takes its place.
    pub fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// What is known of weights that an interrupted build made, and of those that this one makes.
    pub fn journal(&self) -> Option<Rc<Journal>> {
        self.journal.clone()
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
        let folder = parent(&path);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let entry = match &self.journal {
            Some(journal) => journal.write(name, &path, content),
            None => write_file(&path, content),
        };
        self.files.insert(name.into(), entry.map_err(io_error(&path))?);
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

    /// The files so far, by name.
    pub fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.files
    }

    /// Writes the digests of all files as `sha256sum -c` reads them, then the manifest, and puts the folder in its place.
    /// `manifest.files` is filled in here.
    ///
    /// # Errors
    /// When the system refuses; the old artifact then stays.
    pub fn finish(mut self, manifest: Manifest) -> Result<Manifest, ArtifactError> {
        let sums: String = self.files.iter().map(|(name, file)| format!("{}  {name}\n", file.sha256)).collect();
        self.write(SUMS, |out| out.write_all(sums.as_bytes()))?;
        // What a build with the same key wrote is written by this one too, unless its journal was not its own.
        keep(&self.hidden, "", &|name| self.files.contains_key(name)).map_err(io_error(&self.hidden))?;
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
        let folder = &self.claim.path;
        if folder.exists() {
            exchange(&self.hidden, &self.claim).map_err(io_error(folder))?;
        } else {
            fs::rename(&self.hidden, folder).map_err(io_error(folder))?;
        }
        let parent = parent(folder);
        sync_folder(&parent).map_err(io_error(&parent))
    }
}

impl Drop for Bundle {
    /// Clears away what was not finished, or the older build that was exchanged. What cannot be removed is removed by
    /// the next build.
    fn drop(&mut self) {
        self.claim.clear();
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
    let claim = Claim::file(path)?;
    let hidden = claim.beside("building");
    let written = write_file(&hidden, content).and_then(|entry| {
        fs::rename(&hidden, &claim.path)?;
        sync_folder(&parent(&claim.path))?;
        Ok(entry)
    });
    if written.is_err() {
        // What cannot be removed is overwritten by the next attempt.
        let _ = fs::remove_file(&hidden);
    }
    written.map_err(io_error(&claim.path))
}

/// Removes all files below a folder that are none of these, and folders that are then empty.
fn keep(folder: &Path, prefix: &str, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            keep(&path, &format!("{name}/"), wanted)?;
            // One that is not empty stays.
            let _ = fs::remove_dir(&path);
        } else if !(kind.is_file() && wanted(&name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Both folders stand at every moment, where the file system can exchange names; else the old one is moved aside first,
/// and [`Claim`] knows where it is.
fn exchange(new: &Path, claim: &Claim) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, &claim.path, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::rename(&claim.path, claim.beside("replaced"))?;
            fs::rename(new, &claim.path)
        }
        done => Ok(done?),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_file(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<FileEntry> {
    let mut out = Hashing::new(BufWriter::with_capacity(BUFFER, File::create(path)?));
    content(&mut out)?;
    out.close()
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
        let mut bundle = Bundle::create(Claim::artifact(folder)?, "key")?;
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
        let mut bundle = Bundle::create(Claim::artifact(&folder).unwrap(), "key").unwrap();
        let error = bundle.write("a", |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err().to_string();
        assert!(error.contains("free some space"), "{error}");
        assert!(matches!(Claim::artifact(&folder), Err(ArtifactError::Busy { .. })));
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
        assert!(matches!(Claim::artifact(out.path()), Err(ArtifactError::InTheWay { .. })));
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
