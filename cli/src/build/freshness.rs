//! Whether an earlier build can stay, and if not, what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use diffulex_targets::artifact::{ArtifactError, Manifest};

use super::digests::Digests;
use super::job::{Job, chips};

/// Fresh, or every reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The manifest names the same recipe values, inputs and tool, and its files are there.
    Fresh,
    /// There is no finished build.
    Absent,
    /// Something that can change the bytes is different. Never empty.
    Stale(Vec<String>),
}

impl Freshness {
    /// The state in one word: `fresh`, `absent` or `stale`.
    pub fn state(&self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Absent => "absent",
            Freshness::Stale(_) => "stale",
        }
    }

    /// Every reason why a build is not fresh.
    pub fn reasons(&self) -> &[String] {
        if let Freshness::Stale(reasons) = self { reasons } else { &[] }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Fresh => f.write_str("fresh"),
            Freshness::Absent => f.write_str("not built yet"),
            Freshness::Stale(reasons) => {
                f.write_str("stale: ")?;
                f.write_str(reasons.first().map_or("", String::as_str))?;
                match reasons.len() {
                    0 | 1 => Ok(()),
                    more => write!(f, ", and {} more", more - 1),
                }
            }
        }
    }
}

/// Compares what a job would be made from with the manifest in `folder`. With `contexts` this machine can make context
/// binaries, so that those which an earlier build lacks are missing.
pub(super) fn of(job: &Job, folder: &Path, contexts: bool, digests: &mut Digests<'_>) -> Freshness {
    let manifest = match Manifest::read(folder) {
        Ok(manifest) => manifest,
        Err(ArtifactError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => return Freshness::Absent,
        Err(error) => return Freshness::Stale(vec![error.to_string()]),
    };
    let mut reasons = Vec::new();
    let tool = super::tool();
    if manifest.tool != tool {
        reasons.push(format!("{} → {tool}", manifest.tool));
    }
    let values: BTreeMap<String, String> = job.build.effective_values().iter().cloned().collect();
    reasons.extend(differences(&manifest.recipe, &values).map(|(key, old, new)| format!("{key} {old} → {new}")));
    for (old, new) in [(&manifest.checkpoint, &job.inputs), (&manifest.reads, &job.reads)] {
        reasons.extend(differences(old, new).map(|(file, old, new)| match (old, new) {
            (NONE, _) => format!("{file} is new"),
            (_, NONE) => format!("{file} is gone"),
            _ => format!("{file} changed"),
        }));
    }
    let changed = manifest.files.iter().filter_map(|(name, file)| match digests.of(&folder.join(name)) {
        Ok(found) if found == file.sha256 => None,
        Ok(_) => Some(format!("{name} was changed after it was built")),
        Err(_) => Some(format!("{name} is missing")),
    });
    reasons.extend(changed);
    if contexts {
        let made = |soc: &str| manifest.files.keys().any(|name| name.split('/').next() == Some(soc));
        let missing = chips(&job.build).into_iter().filter(|soc| !made(soc));
        reasons.extend(missing.map(|soc| format!("{soc} has no context binary yet, and now it can be made")));
    }
    if reasons.is_empty() { Freshness::Fresh } else { Freshness::Stale(reasons) }
}

/// Stands for a value that is not there.
const NONE: &str = "none";

/// The entries that differ: key, old and new value.
fn differences<'a>(
    old: &'a BTreeMap<String, String>,
    new: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let value = |of: &'a BTreeMap<String, String>, key: &String| of.get(key).map_or(NONE, String::as_str);
    keys.map(move |key| (key.as_str(), value(old, key), value(new, key))).filter(|(_, old, new)| old != new)
}
