//! `recipes.lock`: what builds were made from and what came out, so that another machine can tell whether it made the
//! same.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use diffulex_targets::artifact::{self, ArtifactError, FileEntry, SUMS};
use serde::{Deserialize, Serialize};

use super::job::Job;
use crate::Error;

/// The file, which lies beside the recipes it speaks of.
pub const LOCK: &str = "recipes.lock";
/// The largest such file that is read.
const LARGEST: u64 = 16 << 20;
/// What stands at its head.
const HEAD: &str = "# Written by `diffulex-edge build`; `build --locked` fails where a build would differ.\n\n";

/// Builds by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    #[serde(default)]
    build: BTreeMap<String, Locked>,
}

/// One build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// File name of the recipe.
    recipe: String,
    /// Program and version.
    tool: String,
    /// SHA-256 of the effective values.
    values: String,
    /// SHA-256 of what was read, by name.
    inputs: BTreeMap<String, String>,
    /// SHA-256 of what was written, by name.
    outputs: BTreeMap<String, String>,
}

impl Locked {
    /// What a job is made from, with the files that it was made into.
    pub fn new(recipe: &Path, job: &Job, files: &BTreeMap<String, FileEntry>) -> Locked {
        Locked {
            recipe: recipe.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            tool: super::tool(),
            values: job.build.digest_hex(),
            inputs: job.inputs.iter().chain(&job.reads).map(|(name, digest)| (name.clone(), digest.clone())).collect(),
            outputs: outputs(files),
        }
    }

    /// How a build would be made from something else.
    fn other_inputs(&self, now: &Locked) -> Option<String> {
        if self.tool != now.tool {
            return Some(format!("it was made by {}, and this is {}", self.tool, now.tool));
        }
        if let Some(what) = difference(&self.inputs, &now.inputs) {
            return Some(format!("it was made from another checkpoint: {what}"));
        }
        (self.values != now.values).then(|| "values of its recipe, or of one that it extends, are others".into())
    }

    /// How what came out is something else.
    pub fn other_outputs(&self, files: &BTreeMap<String, FileEntry>) -> Option<String> {
        difference(&self.outputs, &outputs(files))
    }
}

/// The digests of files, without that of their sums.
fn outputs(files: &BTreeMap<String, FileEntry>) -> BTreeMap<String, String> {
    let files = files.iter().filter(|(name, _)| *name != SUMS);
    files.map(|(name, file)| (name.clone(), file.sha256.clone())).collect()
}

/// The first file that differs, and how.
fn difference(locked: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Option<String> {
    let names = locked.keys().chain(now.keys().filter(|name| !locked.contains_key(*name)));
    names.into_iter().find_map(|name| match (locked.get(name), now.get(name)) {
        (Some(locked), Some(now)) if locked == now => None,
        (Some(_), Some(_)) => Some(format!("{name} differs")),
        (Some(_), None) => Some(format!("{name} is missing")),
        _ => Some(format!("{name} is new")),
    })
}

impl Lock {
    /// Where the lock of a recipe lies.
    pub fn beside(recipe: &Path) -> PathBuf {
        recipe.with_file_name(LOCK)
    }

    /// Reads a lock; nothing is locked where there is none.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(file: &Path) -> Result<Lock, Error> {
        let wrong =
            |what: String| Error::Usage(format!("{}: {what}; remove it, and build to have it written", file.display()));
        match file.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::default()),
            Err(error) => return Err(Error::io(file)(error)),
            Ok(found) if !found.is_file() || found.len() > LARGEST => {
                return Err(wrong("is no lock of recipes".into()));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
        toml::from_str(&text).map_err(|error| wrong(format!("is damaged: {}", error.message())))
    }

    /// What is locked of a build, where it is to be made from the same.
    ///
    /// # Errors
    /// When nothing is, or it would be made from something else.
    pub fn find(&self, file: &Path, recipe: &Path, job: &Job) -> Result<&Locked, Error> {
        let name = &job.build.name;
        let wrong = |what: &str| {
            let file = file.display();
            Error::Usage(format!("{name}: {what} ({file}); build without `--locked` to lock it as it is now"))
        };
        let locked = self.build.get(name).ok_or_else(|| wrong("it is not locked"))?;
        match locked.other_inputs(&Locked::new(recipe, job, &BTreeMap::new())) {
            Some(what) => Err(wrong(&what)),
            None => Ok(locked),
        }
    }

    /// Notes builds in the lock at `file`; with `all` these are all that there are of their recipes, and others of the same
    /// recipes are forgotten. Nothing is written where it says all that already.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn note(file: &Path, made: &BTreeMap<String, Locked>, all: bool) -> Result<(), Error> {
        let old = Lock::read(file)?;
        if old.clone().with(made, all) == old {
            return Ok(());
        }
        Ok(Lock::write(file, made, all)?)
    }

    /// Writes the lock anew. It is read again while nobody else can write it.
    fn write(file: &Path, made: &BTreeMap<String, Locked>, all: bool) -> Result<(), ArtifactError> {
        let content = |out: &mut dyn Write| {
            let new = Lock::read(file).map_err(|error| io::Error::other(error.to_string()))?.with(made, all);
            let text = toml::to_string(&new).map_err(io::Error::other)?;
            out.write_all(HEAD.as_bytes())?;
            out.write_all(text.as_bytes())
        };
        artifact::write_alone(file, content).map(drop)
    }

    fn with(mut self, made: &BTreeMap<String, Locked>, all: bool) -> Lock {
        if all {
            self.build.retain(|_, build| made.values().all(|now| now.recipe != build.recipe));
        }
        self.build.extend(made.clone());
        self
    }
}
