//! All packages of a model: one, or a chain of parts.
//!
//! ```text
//! NAME.mlpackage           NAME-1-of-3.mlpackage   input_ids, position_ids, attn_mask → hidden_out
//!                          NAME-2-of-3.mlpackage   hidden_in, position_ids, attn_mask → hidden_out
//!                          NAME-3-of-3.mlpackage   hidden_in, position_ids, attn_mask → logits
//! ```
//!
//! Each part has the caches of its own layers. All of them carry a digest over all programs and weights, by which a part
//! of another build is known. Weights are written first, so that it can be taken on the way. A weight that several parts
//! read, such as a table that is also the head, is in the weight files of all of them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use diffulex_compiler::ir::{CacheShape, Module, Sizes, WeightSource};
use diffulex_compiler::quant::Cost;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{EmitError, Metadata, Package, Part, check, weights};
use crate::coreml::chain::split;
use crate::coreml::lint::of_chain;
use crate::coreml::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH, keys};
use crate::coreml::{Interface, Lint, Options, Reference, folder};
use crate::emit::{Content, make_file};
use crate::stream::Work;

/// What stands for the digest of a chain as long as it is not known.
pub(super) const OPEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The packages of a model without their numbers, ready to be written.
pub struct Packages<'a> {
    list: Vec<(String, Package<'a>)>,
}

impl<'a> Packages<'a> {
    /// Plans as many packages of a legal module as `options.parts` says; no numbers are needed.
    ///
    /// # Errors
    /// When `module` is not legal or cannot be split so, or a constant of it has no place in `fp16`.
    pub fn new(
        module: &'a Module,
        name: &str,
        metadata: &Metadata,
        options: &Options,
    ) -> Result<Packages<'a>, EmitError> {
        if options.parts == 1 {
            let package = Package::new(module, metadata, options)?;
            return Ok(Packages { list: vec![(folder(name, 1, 1), package)] });
        }
        // All parts ask for the same version: then they compute what one package would.
        let version = check(module, options)?;
        let refused =
            |refusal: crate::Refusal| EmitError::Illegal { place: "module".into(), what: refusal.to_string() };
        let parts = split(module, options.parts).map_err(refused)?;
        let plan = |(number, part)| {
            let of = options.parts;
            let package =
                Package::plan(std::borrow::Cow::Owned(part), metadata, options, version, Some(Part { number, of }))?;
            Ok((folder(name, number, of), package))
        };
        Ok(Packages { list: (1..).zip(parts).map(plan).collect::<Result<_, EmitError>>()? })
    }

    /// Each package with the name of its folder, in the order in which they run.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Package<'a>)> {
        self.list.iter().map(|(folder, package)| (folder.as_str(), package))
    }

    /// All files, below the folder that the packages are to lie in, with their sizes.
    pub fn files(&self) -> Vec<(String, u64)> {
        let of = |(folder, package): (&str, &Package<'a>)| {
            package.files().map(|(name, bytes)| (format!("{folder}/{name}"), bytes))
        };
        self.iter().flat_map(of).collect()
    }

    /// What devices are known to do badly with them.
    pub fn lints(&self) -> Vec<Lint> {
        of_chain(self.list.iter().map(|(_, package)| package.lints()).collect())
    }

    /// What reference tensors of them look like.
    pub fn reference(&self) -> Reference {
        let modules = || self.list.iter().map(|(_, package)| package.module.as_ref());
        let last = modules().next_back();
        let width = |module: &Module| module.outputs.first().and_then(|id| module.node(*id).ty.width());
        let bounds = last.map_or(Sizes { t: 0, c: 0, r: 0 }, |module| module.bounds);
        let first = self.list.first();
        let cache = first.map_or(CacheShape { layers: 0, kv_heads: 1, head_dim: 1 }, |(_, first)| first.module.cache);
        Reference {
            packages: self.iter().map(|(folder, package)| (folder.into(), package.module.cache.layers)).collect(),
            bounds,
            cache: CacheShape { layers: modules().map(|module| module.cache.layers).sum(), ..cache },
            vocab: last.and_then(width).unwrap_or(0),
            interface: first.map_or(Interface::Explicit, |(_, first)| first.options.interface),
            half: first.is_none_or(|(_, first)| first.version >= 7),
        }
    }

    /// Writes all files; gives what each weight of the model became. `make` makes the file of that name, one of
    /// [`Packages::files`], with what it is given writes. `progress` is told, now and then, how many bytes of how many
    /// of the weights are written.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or `make` fails.
    pub fn write<E: From<EmitError>>(
        &self,
        work: Work<'_>,
        make: &mut dyn FnMut(&str, Content<'_>) -> Result<(), E>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, E> {
        let total = self.list.iter().map(|(_, package)| package.blobs.bytes()).sum();
        let (mut before, mut costs, mut hash) = (0, Vec::new(), Sha256::new());
        let chained = self.list.len() > 1;
        // The digest of a chain is taken of all numbers: none are left out.
        let work = if chained { Work::new(work.source) } else { work };
        for (folder, package) in &self.list {
            hash.update(package.model.encode_to_vec());
            let made = make_file(make, &format!("{folder}/{WEIGHT_PATH}"), &mut |out| {
                let mut hashed = Hashed { out, hash: &mut hash };
                let out: &mut dyn Write = if chained { &mut hashed } else { hashed.out };
                package.write_weights(work, out, &mut |bytes, _| progress(before + bytes, total))
            })?;
            before += package.blobs.bytes();
            join(&mut costs, made);
        }
        let chain: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        for (folder, package) in &self.list {
            make(&format!("{folder}/{MANIFEST_PATH}"), &mut |out| out.write_all(&package.manifest()))?;
            make(&format!("{folder}/{MODEL_PATH}"), &mut |out| out.write_all(&package.model_of(&chain)))?;
        }
        Ok(costs)
    }

    /// Writes all packages below `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// As [`Packages::write`].
    pub fn write_below(
        &self,
        source: &dyn WeightSource,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let mut make = |name: &str, content: Content<'_>| {
            let mut out = create(&folder.join(name))?;
            content(&mut out)?;
            Ok(out.flush()?)
        };
        self.write(Work::new(source), &mut make, progress)
    }
}

/// A file, and the folders that it lies in.
fn create(path: &Path) -> io::Result<io::BufWriter<fs::File>> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?))
}

impl Package<'_> {
    /// Writes the weight file; gives what each weight of the model became, in the order of the file. `progress` is told,
    /// now and then, how many bytes of how many are written.
    fn write_weights(
        &self,
        work: Work<'_>,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        weights::write(&self.module, work, &self.blobs, self.options.nibbles, out, progress)
    }

    /// The model file of a part of this chain; that of a package which is none is as it is.
    fn model_of(&self, chain: &str) -> Vec<u8> {
        let mut model = self.model.clone();
        let facts = model.description.as_mut().and_then(|description| description.metadata.as_mut());
        if let Some(digest) = facts.and_then(|facts| facts.user_defined.get_mut(keys::CHAIN)) {
            *digest = chain.into();
        }
        model.encode_to_vec()
    }
}

/// Adds what the weights of a part became. One that several parts have is one weight of the model, stored as often.
fn join(costs: &mut Vec<Cost>, more: Vec<Cost>) {
    for cost in more {
        match costs.iter_mut().find(|known| known.name == cost.name) {
            Some(known) => known.bytes += cost.bytes,
            None => costs.push(cost),
        }
    }
}

/// Passes bytes on and takes their digest.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hash: &'a mut Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
