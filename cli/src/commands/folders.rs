//! Where a user's files belong, by the XDG base directory specification.

use std::path::PathBuf;

/// The folder for what can be made again.
pub(super) fn cache() -> Option<PathBuf> {
    base("XDG_CACHE_HOME", ".cache")
}

/// The folder for what is kept between runs but belongs to this machine.
pub(super) fn state() -> Option<PathBuf> {
    base("XDG_STATE_HOME", ".local/state")
}

/// A folder that the environment names, else one in the home. Relative ones do not count.
fn base(variable: &str, usual: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(usual)))?;
    Some(base.join("diffulex-edge"))
}
