//! Whether an earlier build can stay, and if not, what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use diffulex_compiler::recipe::Build;
use diffulex_targets::artifact::Manifest;

use super::digests::Digests;

/// Fresh, or the first reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The manifest names the same recipe values, inputs and tool, and its files are there.
    Fresh,
    /// There is no finished build.
    Absent,
    /// Something that can change the bytes is different.
    Stale(String),
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Fresh => f.write_str("fresh"),
            Freshness::Absent => f.write_str("not built yet"),
            Freshness::Stale(why) => write!(f, "stale: {why}"),
        }
    }
}

/// Compares what a build would be made from with the manifest in `folder`.
pub(super) fn of(
    build: &Build,
    inputs: &BTreeMap<String, String>,
    folder: &Path,
    digests: &mut Digests<'_>,
) -> Freshness {
    let Ok(manifest) = Manifest::read(folder) else { return Freshness::Absent };
    let tool = format!("diffulex-edge {}", env!("CARGO_PKG_VERSION"));
    if manifest.tool != tool {
        return Freshness::Stale(format!("{} → {tool}", manifest.tool));
    }
    let values: BTreeMap<String, String> = build.effective_values().iter().cloned().collect();
    if let Some(why) = first_difference(&manifest.recipe, &values) {
        return Freshness::Stale(why);
    }
    if let Some(why) = first_difference(&manifest.checkpoint, inputs) {
        let file = why.split(' ').next().unwrap_or_default();
        return Freshness::Stale(format!("{file} changed"));
    }
    let mut same = |name: &str, digest: &str| digests.of(&folder.join(name)).is_ok_and(|found| found == digest);
    match manifest.files.iter().find(|(name, file)| !same(name, &file.sha256)) {
        Some((name, _)) => Freshness::Stale(format!("{name} is missing or was changed")),
        None => Freshness::Fresh,
    }
}

/// `key old → new` of the first entry that differs.
fn first_difference(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Option<String> {
    let absent = String::from("none");
    let keys = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k)));
    keys.map(|key| (key, old.get(key).unwrap_or(&absent), new.get(key).unwrap_or(&absent)))
        .find(|(_, old, new)| old != new)
        .map(|(key, old, new)| format!("{key} {old} → {new}"))
}
