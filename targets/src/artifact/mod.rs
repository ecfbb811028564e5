//! The folder of an artifact, which runs by itself on another machine, and how it comes into being whole or not at all.
//!
//! A [`Bundle`] is written into a hidden folder beside its final place: each file is synced, the manifest comes last, and
//! the folder takes its place by one rename (or one exchange, where an older build stands). A build that is killed
//! leaves the hidden folder and the old artifact untouched; the next one goes on with what its [`Journal`] knows, or
//! clears it away.

mod bundle;
mod claim;
mod clean;
mod hashing;
mod journal;
mod manifest;

use std::io;
use std::path::{Path, PathBuf};

pub use bundle::{Bundle, write_alone};
pub use claim::{Claim, sweep};
pub use clean::{remove, size, unfinished};
pub use journal::Journal;
pub use manifest::{FileEntry, MANIFEST, Manifest, Origin, Step, Tensor};

/// Name of the file with the digests of all others but the manifest, for `sha256sum -c`.
pub const SUMS: &str = "SHA256SUMS";

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
    #[error("{}: is in the way: it is no artifact of an earlier build; remove it, or write elsewhere", path.display())]
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
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and build again, nothing half-written is left behind"
        }
        io::ErrorKind::FileTooLarge => {
            "; allow larger files (`ulimit -f`) or write elsewhere, nothing half-written is left behind"
        }
        _ => "",
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    move |error| ArtifactError::Io { path: path.to_path_buf(), error }
}
