//! The right to write at a place, and what lies beside it meanwhile.
//!
//! ```text
//! NAME              the artifact
//! .NAME.building    the one in the making
//! .NAME.journal     what of it is whole
//! .NAME.lock        locked by the system as long as a build runs
//! .NAME.replaced    the older one, for a moment, where the file system cannot exchange names
//! ```
//!
//! A build that ends, well or with an error, removes all of these but the artifact. One that is killed leaves them: the
//! next build of the place goes on with them or clears them away, and [`sweep`] does so where nothing is left to build.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ArtifactError, MANIFEST, io_error};

/// What may lie beside an artifact until its build ends.
pub(super) const BESIDE: [&str; 4] = ["building", "journal", "lock", "replaced"];

/// How long another build is waited for, which may have been killed and be about to end, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// The right to write at a place: what stands there may be replaced, and no other build is at it.
#[derive(Debug)]
pub struct Claim {
    /// The place.
    pub(super) path: PathBuf,
    /// Held, by the system's lock on it, as long as this build runs.
    _lock: File,
}

impl Claim {
    /// Claims the folder of an artifact.
    ///
    /// # Errors
    /// When another build is at it, something else is in the way, or the system refuses.
    pub fn artifact(folder: &Path) -> Result<Claim, ArtifactError> {
        Claim::folder(folder, MANIFEST)
    }

    /// Claims a folder. One that stands there already must have a file called `mark`.
    pub(super) fn folder(folder: &Path, mark: &str) -> Result<Claim, ArtifactError> {
        let folder = real(folder);
        let parent = parent(&folder);
        if parent.exists() && !parent.is_dir() {
            return Err(ArtifactError::InTheWay { path: parent });
        }
        fs::create_dir_all(&parent).map_err(io_error(&parent))?;
        if folder.exists() && !folder.join(mark).exists() {
            return Err(ArtifactError::InTheWay { path: folder });
        }
        let claim = Claim::take(folder, PATIENCE)?;
        claim.restore();
        Ok(claim)
    }

    /// Claims the place of a file.
    pub(super) fn file(path: &Path) -> Result<Claim, ArtifactError> {
        let path = real(path);
        let folder = parent(&path);
        for (place, fits) in [(&path, path.is_file()), (&folder, folder.is_dir())] {
            if place.exists() && !fits {
                return Err(ArtifactError::NoFile { path: place.clone() });
            }
        }
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        Claim::take(path, PATIENCE)
    }

    /// Takes the lock, if it becomes free in time. Its file is removed when the build ends, so one that was opened before
    /// and locked after that is nobody's: then it is tried again.
    fn take(path: PathBuf, patience: Duration) -> Result<Claim, ArtifactError> {
        let (lock, began) = (beside(&path, "lock"), Instant::now());
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(io_error(&lock))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) if began.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(fs::TryLockError::WouldBlock) => return Err(ArtifactError::Busy { path }),
                Err(fs::TryLockError::Error(error)) => return Err(ArtifactError::Io { path: lock, error }),
            }
            let own = file.metadata().map_err(io_error(&lock))?;
            if fs::metadata(&lock).is_ok_and(|there| there.ino() == own.ino()) {
                return Ok(Claim { path, _lock: file });
            }
        }
    }

    /// `out/name` → `out/.name.suffix`.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.path, suffix)
    }

    /// Removes what is in the making. What cannot be removed is removed by the next build, or stays as it is.
    pub(super) fn clear(&self) {
        self.restore();
        let _ = fs::remove_dir_all(self.beside("building"));
        let _ = fs::remove_file(self.beside("journal"));
    }

    /// Puts the older artifact back, if a build was killed between moving it aside and taking its place; removes it
    /// where the new one stands.
    fn restore(&self) {
        let aside = self.beside("replaced");
        if self.path.exists() {
            let _ = fs::remove_dir_all(aside);
        } else {
            let _ = fs::rename(aside, &self.path);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.beside("lock"));
    }
}

/// Clears away what a killed build of this artifact left behind, unless another build is at it. It is for artifacts that
/// are fresh: what lies beside others is of use to the next build.
pub fn sweep(folder: &Path) {
    let folder = real(folder);
    if BESIDE.iter().any(|suffix| beside(&folder, suffix).exists())
        && let Ok(claim) = Claim::take(folder, Duration::ZERO)
    {
        claim.clear();
    }
}

/// What a link leads to is replaced, not the link.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{suffix}"))
}

/// The folder that something lies in.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a killed build leaves.
    fn left(out: &Path) {
        fs::create_dir_all(out.join(".b.building/inner")).unwrap();
        for name in [".b.building/inner/file", ".b.journal", ".b.lock"] {
            fs::write(out.join(name), "left").unwrap();
        }
    }

    #[test]
    fn what_is_left_is_swept_when_nobody_builds() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("b");
        sweep(&folder);
        let claim = Claim::artifact(&folder).unwrap();
        left(out.path());
        sweep(&folder);
        assert!(out.path().join(".b.building/inner/file").exists() && out.path().join(".b.journal").exists());
        drop(claim);
        assert!(out.path().join(".b.building").exists(), "a build that did not begin leaves it to the next");
        sweep(&folder);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
        fs::write(out.path().join(".b.lock"), "").unwrap();
        sweep(&folder);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_moved_aside_comes_back() {
        let out = tempfile::tempdir().unwrap();
        let (folder, aside) = (out.path().join("b"), out.path().join(".b.replaced"));
        let stands = |place: &Path, content: &str| {
            fs::create_dir(place).unwrap();
            fs::write(place.join(MANIFEST), content).unwrap();
        };
        stands(&aside, "old");
        drop(Claim::artifact(&folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join(MANIFEST)).unwrap(), "old");
        stands(&aside, "older");
        drop(Claim::artifact(&folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join(MANIFEST)).unwrap(), "old");
        assert!(!aside.exists());
    }
}
