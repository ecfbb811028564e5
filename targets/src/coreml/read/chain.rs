//! The packages of a model: one, or the parts of a chain, which lie side by side.
//!
//! Any part leads to the others, by their names. Each must say that it is the part that its name says, of the same
//! chain; then all are lifted one by one, and joined.

use std::path::{Path, PathBuf};

use diffulex_compiler::ir::{Module, WeightExpr, WeightSource};

use super::error::{Fault, Place, Result};
use super::functions::Functions;
use super::lift::Lifted;
use super::package::Files;
use super::{Facts, Interface, Shapes, Weights};
use crate::coreml::chain::join;
use crate::coreml::folder as folder_of;
use crate::coreml::schema::keys;
use crate::coreml::schema::model::Metadata;

/// Most packages of a chain: each has one layer at least.
const MAX_PARTS: u32 = 1024;

/// Which part of which chain a package is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    number: u32,
    of: u32,
    chain: String,
}

/// Packages that are lifted, one after another.
pub(super) struct Chain {
    /// What the first of them says of itself.
    pub(super) facts: Facts,
    /// Who keeps the committed rows.
    pub(super) interface: Interface,
    /// How they say which numbers of tokens a step may have.
    pub(super) shapes: Shapes,
    /// These numbers, ascending; of a range its ends.
    pub(super) lengths: Vec<u32>,
    /// The specification version.
    pub(super) version: i32,
    /// Their modules.
    pub(super) modules: Vec<Module>,
    /// Their weights.
    pub(super) weights: Weights,
}

impl Part {
    /// Reads it from what a package says of itself; nothing where the package stands alone.
    pub(super) fn read(facts: Option<&Metadata>) -> Result<Option<Part>> {
        let get = |key: &str| facts.and_then(|facts| facts.user_defined.get(key));
        let Some(text) = get(keys::PART) else { return Ok(None) };
        let place = Place::Metadata(keys::PART);
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let fits = |(number, of): &(u32, u32)| *number > 0 && number <= of && *of > 1 && *of <= MAX_PARTS;
        let (number, of) = numbers.filter(fits).ok_or_else(|| place.damaged(format!("{text:?} is no part")))?;
        let chain = get(keys::CHAIN).ok_or_else(|| Place::Metadata(keys::CHAIN).missing("text"))?;
        Ok(Some(Part { number, of, chain: chain.clone() }))
    }

    /// The folders of all parts, in order, from that of this one.
    fn folders(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let own = folder_of("", self.number, self.of);
        let stem = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&own));
        let unnamed = || Place::File(folder.into()).unsupported(format!("a part whose name does not end in {own:?}"));
        let stem = stem.ok_or_else(unnamed)?;
        Ok((1..=self.of).map(|number| folder.with_file_name(folder_of(stem, number, self.of))).collect())
    }
}

/// The package in `folder` and, where it is a part of a chain, all others of it, in their order.
///
/// # Errors
/// When it is none, or has another name than the part that it says it is.
pub fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = Files::open(folder)?;
    let facts = files.model.description.as_ref().and_then(|description| description.metadata.as_ref());
    Part::read(facts)?.map_or(Ok(vec![folder.into()]), |part| part.folders(folder))
}

impl Chain {
    /// The package in `folder` and, where it is a part of a chain, all others of it.
    pub(super) fn read(folder: &Path) -> Result<Chain> {
        let files = Files::open(folder)?;
        let facts = Facts::read(&files.model)?;
        let Some(part) = facts.part.clone() else { return Chain::lift(&files, facts) };
        let mut chain: Option<Chain> = None;
        for (number, folder) in (1..).zip(part.folders(folder)?) {
            let next = Chain::part(&folder, Part { number, ..part.clone() })?;
            match &mut chain {
                None => chain = Some(next),
                Some(chain) => chain.append(next).map_err(|e| e.of_part(number))?,
            }
        }
        chain.ok_or_else(|| Place::File(folder.into()).missing("parts"))
    }

    /// The package in `folder`, which must be this part.
    fn part(folder: &Path, part: Part) -> Result<Chain> {
        let place = Place::File(folder.into());
        if !folder.exists() {
            return Err(place.fault(Fault::Unreadable(format!("part {} of {} is not there", part.number, part.of))));
        }
        let within = |e: super::ReadError| e.of_part(part.number);
        let files = Files::open(folder).map_err(within)?;
        let facts = Facts::read(&files.model).map_err(within)?;
        match &facts.part {
            None => return Err(place.damaged("it is no part of a chain")),
            Some(found) if (found.number, found.of) != (part.number, part.of) => {
                let [found, wanted] = [found, &part].map(|part| format!("{}/{}", part.number, part.of));
                return Err(place.mismatch("part", found, wanted));
            }
            Some(found) if found.chain != part.chain => return Err(place.damaged("it is a part of another build")),
            Some(_) => {}
        }
        Chain::lift(&files, facts).map_err(within)
    }

    fn lift(files: &Files, facts: Facts) -> Result<Chain> {
        files.only_known_fields()?;
        let functions = Functions::read(&files.model)?;
        let step = functions.longest()?;
        let (goes_on, ends) =
            facts.part.as_ref().map_or((false, true), |part| (part.number > 1, part.number == part.of));
        let place = Place::Metadata(keys::PART);
        place.same("goes on from a package", step.goes_on(), goes_on)?;
        place.same("ends the step", step.ends(), ends)?;
        let Lifted { module, tensors, file } = functions.lift(&facts, files)?;
        let tensors = tensors.into_iter().map(|(name, stored)| (name, (0, stored))).collect();
        let weights = Weights { maps: vec![file.map(|(_, map)| map)], tensors };
        let (shapes, lengths) = (functions.shapes, functions.lengths());
        let (interface, version) = (step.interface, step.version);
        Ok(Chain { facts, interface, shapes, lengths, version, modules: vec![module], weights })
    }

    /// Adds the package that follows. A weight that is the same as one of the same name before is that one.
    fn append(&mut self, mut next: Chain) -> Result<()> {
        Place::Program.same("interface", next.interface, self.interface)?;
        Place::Model.same("specification version", next.version, self.version)?;
        Place::Program.same("list of lengths", (next.shapes, &next.lengths), (self.shapes, &self.lengths))?;
        let before = self.weights.maps.len();
        for module in &mut next.modules {
            for i in 0..module.weights.len() {
                let WeightExpr::Stored(name) = &module.weights[i].expr else { continue };
                if self.weights.has_same(&next.weights, name) {
                    continue;
                }
                let taken = |name: &String| {
                    self.weights.tensors.contains_key(name)
                        || module.weight_id(name).is_some_and(|id| id.0 as usize != i)
                };
                let mut free = name.clone();
                for number in 2.. {
                    if !taken(&free) {
                        break;
                    }
                    free = format!("{name}.{number}");
                }
                if let Some((file, stored)) = next.weights.tensors.remove(name) {
                    self.weights.tensors.insert(free.clone(), (before + file, stored));
                }
                module.weights[i].name.clone_from(&free);
                module.weights[i].expr = WeightExpr::Stored(free);
            }
        }
        self.weights.maps.append(&mut next.weights.maps);
        self.modules.append(&mut next.modules);
        Ok(())
    }

    /// The one module of all of them.
    pub(super) fn joined(&mut self) -> Result<Module> {
        match &mut self.modules[..] {
            [_] => Ok(self.modules.remove(0)),
            parts => join(parts).map_err(|e| Place::Module(e.place().into()).fault(Fault::Broken(e.to_string()))),
        }
    }
}

impl Weights {
    /// Whether another package stores the same under a name.
    fn has_same(&self, other: &Weights, name: &str) -> bool {
        let (Ok(ours), Ok(theirs)) = (self.tensor(name), other.tensor(name)) else { return false };
        let same = (&ours.ty, ours.packing, ours.bytes, ours.scales)
            == (&theirs.ty, theirs.packing, theirs.bytes, theirs.scales);
        for weights in [self, other] {
            weights.release(name, 0..ours.ty.rows());
        }
        same
    }
}
