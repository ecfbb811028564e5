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
//! read, as a table that is also the head, is in the weight files of all of them.

use std::borrow::Cow;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;

use diffulex_compiler::ir::{Module, WeightSource};
use diffulex_compiler::quant::Cost;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{EmitError, Metadata, Package, Part, check};
use crate::coreml::Options;
use crate::coreml::chain::split;
use crate::coreml::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH, keys, part_ending};

/// What stands for the digest of a chain as long as it is not known.
pub(super) const OPEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The packages of a model without their numbers, ready to be written.
pub struct Packages<'a> {
    list: Vec<(String, Package<'a>)>,
    /// Digests of the weight files that are written.
    digests: Mutex<Vec<Option<[u8; 32]>>>,
}

/// A file of a package, by the package's number.
enum File {
    Weights(usize),
    Manifest(usize),
    Model(usize),
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
        let of = options.parts;
        if of == 1 {
            let package = Package::new(module, metadata, options)?;
            return Ok(Packages::of(vec![(format!("{name}.mlpackage"), package)]));
        }
        // All parts ask for the same version: then they compute what one package would.
        let version = check(module, options)?;
        let refused =
            |refusal: crate::Refusal| EmitError::Illegal { place: "module".into(), what: refusal.to_string() };
        let mut list = Vec::new();
        for (number, part) in (1..).zip(split(module, of).map_err(refused)?) {
            let package = Package::plan(Cow::Owned(part), metadata, options, version, Some(Part { number, of }))?;
            list.push((format!("{name}{}", part_ending(number, of)), package));
        }
        Ok(Packages::of(list))
    }

    fn of(list: Vec<(String, Package<'a>)>) -> Packages<'a> {
        let digests = Mutex::new(vec![None; list.len()]);
        Packages { list, digests }
    }

    /// Each package with the name of its folder, in the order in which they run.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Package<'a>)> {
        self.list.iter().map(|(folder, package)| (folder.as_str(), package))
    }

    /// Paths of all files, relative to the folder that the packages are to lie in, with their sizes. They are best
    /// written in this order.
    pub fn files(&self) -> Vec<(String, u64)> {
        let path = |file: File| match file {
            File::Weights(i) => (i, WEIGHT_PATH),
            File::Manifest(i) => (i, MANIFEST_PATH),
            File::Model(i) => (i, MODEL_PATH),
        };
        let sized = |(i, path): (usize, &'static str)| {
            let (folder, package) = &self.list[i];
            let bytes = package.files().into_iter().find(|(name, _)| *name == path).map_or(0, |(_, bytes)| bytes);
            (format!("{folder}/{path}"), bytes)
        };
        (0..).map_while(|file| self.file(file)).map(path).map(sized).collect()
    }

    /// All weights, then what names their digest.
    fn file(&self, file: usize) -> Option<File> {
        let count = self.list.len();
        match (file / count, file % count) {
            (0, i) => Some(File::Weights(i)),
            (1, i) => Some(File::Manifest(i)),
            (2, i) => Some(File::Model(i)),
            _ => None,
        }
    }

    /// Writes one of [`Packages::files`]; gives what each weight in it became. `progress` is told, now and then, how
    /// many of its bytes are written. All files are to be written from the same source.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or writing fails.
    pub fn write_file(
        &self,
        file: usize,
        source: &dyn WeightSource,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let chained = self.list.len() > 1;
        let bytes = match self.file(file) {
            Some(File::Weights(i)) if chained => return self.write_weights(i, source, out, progress),
            Some(File::Weights(i)) => return self.list[i].1.write_weights(source, out, progress),
            Some(File::Manifest(i)) => self.list[i].1.manifest().into_bytes(),
            Some(File::Model(i)) if chained => self.list[i].1.model_of(&self.chain(source)?),
            Some(File::Model(i)) => self.list[i].1.model(),
            None => {
                let what = "is none of the packages'".into();
                return Err(EmitError::Illegal { place: format!("file {file}"), what });
            }
        };
        out.write_all(&bytes)?;
        Ok(vec![])
    }

    /// Writes all files below `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// As [`Packages::write_file`], and when a file cannot be made.
    pub fn write(
        &self,
        source: &dyn WeightSource,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let mut costs = Vec::new();
        for (file, (path, _)) in self.files().into_iter().enumerate() {
            let path = folder.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
            costs.extend(self.write_file(file, source, &mut out, progress)?);
            out.flush()?;
        }
        Ok(costs)
    }

    /// Writes a weight file and keeps its digest.
    fn write_weights(
        &self,
        i: usize,
        source: &dyn WeightSource,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let mut hashed = Hashed { out, hash: Sha256::new() };
        let costs = self.list[i].1.write_weights(source, &mut hashed, progress)?;
        self.digests()[i] = Some(hashed.hash.finalize().into());
        Ok(costs)
    }

    /// The digest of the chain: of all programs, as they are without it, and all weight files. One that is not written
    /// yet is made for its digest alone.
    fn chain(&self, source: &dyn WeightSource) -> Result<String, EmitError> {
        let missing = |i: &usize| self.digests()[*i].is_none();
        for i in (0..self.list.len()).filter(missing) {
            self.write_weights(i, source, &mut io::sink(), &mut |_, _| {})?;
        }
        let mut hash = Sha256::new();
        for ((_, package), digest) in self.list.iter().zip(self.digests().iter()) {
            hash.update(Sha256::digest(package.model()));
            hash.update(digest.unwrap_or_default());
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn digests(&self) -> std::sync::MutexGuard<'_, Vec<Option<[u8; 32]>>> {
        // Digests are whole at every moment, whoever panicked.
        self.digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Package<'_> {
    /// The model file of a part of this chain.
    fn model_of(&self, chain: &str) -> Vec<u8> {
        let mut model = self.model.clone();
        let facts = model.description.as_mut().and_then(|description| description.metadata.as_mut());
        if let Some(digest) = facts.and_then(|facts| facts.user_defined.get_mut(keys::CHAIN)) {
            *digest = chain.into();
        }
        model.encode_to_vec()
    }
}

/// Passes bytes on and takes their digest.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
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
