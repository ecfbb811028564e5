//! Taking artifacts away again.

use std::fs;
use std::path::{Path, PathBuf};

use super::claim::{BESIDE, Claim, beside};
use super::{ArtifactError, MANIFEST, io_error};

/// Removes an artifact and what killed builds of it left; gives the bytes that are free now, nothing where nothing was
/// there. The manifest goes first, so that what remains of an interrupted removal is no artifact.
///
/// # Errors
/// When a build is at it, it is no artifact, or the system refuses.
pub fn remove(folder: &Path) -> Result<Option<u64>, ArtifactError> {
    let Some(bytes) = size(folder) else { return Ok(None) };
    let claim = Claim::artifact(folder)?;
    claim.clear();
    if claim.path.exists() {
        let manifest = claim.path.join(MANIFEST);
        fs::remove_file(&manifest).map_err(io_error(&manifest))?;
        fs::remove_dir_all(&claim.path).map_err(io_error(&claim.path))?;
    }
    Ok(Some(bytes))
}

/// Bytes of an artifact and of what killed builds of it left; nothing where nothing is there.
pub fn size(folder: &Path) -> Option<u64> {
    let left = BESIDE.map(|suffix| beside(folder, suffix));
    let there: Vec<&Path> =
        [folder].into_iter().chain(left.iter().map(PathBuf::as_path)).filter(|path| path.exists()).collect();
    (!there.is_empty()).then(|| there.into_iter().map(bytes).sum())
}

/// The artifacts in `out` of which killed builds left something.
pub fn unfinished(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let artifact = |name: String| {
        let (artifact, suffix) = name.strip_prefix('.')?.rsplit_once('.')?;
        BESIDE.contains(&suffix).then(|| out.join(artifact))
    };
    let mut found: Vec<PathBuf> = names.filter_map(artifact).collect();
    found.sort();
    found.dedup();
    found
}

/// Bytes of a file, or of all files below a folder.
fn bytes(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| bytes(&entry.path())).sum()
        }
        Ok(found) => found.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_go_and_nothing_else() {
        let out = tempfile::tempdir().unwrap();
        let (made, other) = (out.path().join("made"), out.path().join("other"));
        for folder in [&made, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "12345").unwrap();
        }
        fs::write(made.join(MANIFEST), "{}").unwrap();
        fs::create_dir(out.path().join(".made.building")).unwrap();
        fs::write(out.path().join(".made.building/file"), "123").unwrap();
        fs::write(out.path().join(".killed.journal"), "1").unwrap();
        assert_eq!(unfinished(out.path()), [out.path().join("killed"), made.clone()]);
        assert!(matches!(remove(&other), Err(ArtifactError::InTheWay { .. })));
        assert_eq!(remove(&made).unwrap(), Some(10));
        assert_eq!(remove(&made).unwrap(), None);
        assert_eq!(remove(&out.path().join("killed")).unwrap(), Some(1));
        let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other"]);
    }

    #[test]
    fn what_is_being_built_stays() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("made");
        let claim = Claim::artifact(&folder).unwrap();
        assert!(matches!(remove(&folder), Err(ArtifactError::Busy { .. })));
        drop(claim);
    }
}
