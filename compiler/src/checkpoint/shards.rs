//! The safetensors files of a checkpoint: one, or several with an index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::CheckpointError;
use super::json::{self, Json};
use super::names::Expected;
use crate::ir::{Encoding, StoredTensor, WeightType};
use crate::quant::Packing;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Mapped files and where the tensors lie in them.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    ty: Result<WeightType, String>,
    bytes: Range<usize>,
}

impl Shards {
    /// Maps the files and reads their headers. Tensors go by their names in the files.
    ///
    /// # Errors
    /// When a file is absent, damaged or cut short, or the index and the files disagree.
    pub fn open(folder: &Path) -> Result<Shards, CheckpointError> {
        let mut shards = Shards { folder: folder.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        let single = folder.join(SINGLE);
        if !json::is_absent(&single) {
            shards.add(single)?;
            return Ok(shards);
        }
        let Some(index) = Json::read_if_present(folder, INDEX)? else {
            return Err(CheckpointError::File {
                file: folder.to_path_buf(),
                what: format!("holds neither {SINGLE} nor {INDEX}"),
            });
        };
        let placed = weight_map(&index)?;
        let mut names: Vec<&str> = placed.iter().map(|(_, file)| file.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            shards.add(folder.join(name))?;
        }
        for (tensor, file) in &placed {
            let place = shards.tensors.get(tensor).map(|p| &shards.files[p.file].0);
            if place != Some(&folder.join(file)) {
                let what = format!("is not in this file, although {INDEX} says so");
                return Err(CheckpointError::Tensor { file: folder.join(file), tensor: tensor.clone(), what });
            }
        }
        Ok(shards)
    }

    /// Keeps the tensors of the model, under their names in the IR. `tied_head` is the name that a tied head would have
    /// in the files: there it is dropped when it repeats the token table.
    ///
    /// # Errors
    /// Names the tensor that is misshapen or of a type that no weight has, or all that are missing or too many.
    pub fn select(mut self, expected: &[Expected], tied_head: Option<&str>) -> Result<Shards, CheckpointError> {
        let mut tensors = BTreeMap::new();
        let mut missing = Vec::new();
        for Expected { name, stored, shape } in expected {
            let Some(place) = self.tensors.remove(stored) else {
                missing.push(stored.clone());
                continue;
            };
            let wrong = |what| {
                let file = self.files[place.file].0.clone();
                Err(CheckpointError::Tensor { file, tensor: stored.clone(), what })
            };
            match &place.ty {
                Err(dtype) => return wrong(format!("is {dtype}; supported: F32, F16, BF16")),
                Ok(ty) if ty.shape != *shape => return wrong(format!("is {ty}, but config.json makes it {shape:?}")),
                Ok(_) => tensors.insert(name.clone(), place),
            };
        }
        let repeated = tied_head.and_then(|name| self.tensors.get_key_value(name));
        if let (Some((name, head)), Some(table)) = (repeated, tensors.get("embed_tokens")) {
            if head.ty != table.ty || !self.same_bytes(head, table) {
                let file = self.files[head.file].0.clone();
                let what = "differs from the token table, although config.json ties them".into();
                return Err(CheckpointError::Tensor { file, tensor: name.clone(), what });
            }
            let name = name.clone();
            self.tensors.remove(&name);
        }
        if !missing.is_empty() || !self.tensors.is_empty() {
            let file = |p: &Place| self.files[p.file].0.file_name().unwrap_or_default().display().to_string();
            let line = |(name, place): (&String, &Place)| format!("{} ({})", name.escape_debug(), file(place));
            let extra = self.tensors.iter().map(line).collect();
            return Err(CheckpointError::Tensors { folder: self.folder, missing, extra });
        }
        Ok(Shards { tensors, ..self })
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let place = self.tensors.get(name)?;
        Some(StoredTensor {
            ty: place.ty.clone().ok()?,
            packing: Packing::default(),
            bytes: self.bytes(place),
            scales: &[],
        })
    }

    /// Gives the pages of some rows of a tensor back to the system; reading them again maps them anew.
    pub fn release(&self, name: &str, rows: Range<usize>) {
        let Some(place) = self.tensors.get(name) else { return };
        let width = place.ty.as_ref().map_or(0, WeightType::row_bytes);
        self.give_back(place, rows.start.saturating_mul(width)..rows.end.saturating_mul(width));
    }

    /// Gives the pages of some bytes of a tensor back.
    fn give_back(&self, place: &Place, bytes: Range<usize>) {
        let to = bytes.end.min(place.bytes.len());
        let from = bytes.start.min(to);
        // SAFETY: the map is read-only and backed by a file: dropped pages are read again when touched. Failing to drop
        // them changes nothing but memory use.
        let _ = unsafe {
            self.files[place.file].1.unchecked_advise_range(
                UncheckedAdvice::DontNeed,
                place.bytes.start + from,
                to - from,
            )
        };
    }

    /// Whether two tensors have the same bytes. Pages are given back behind the comparison.
    fn same_bytes(&self, a: &Place, b: &Place) -> bool {
        const STEP: usize = 1 << 20;
        let (x, y) = (self.bytes(a), self.bytes(b));
        let mut steps = x.chunks(STEP).zip(y.chunks(STEP)).enumerate();
        x.len() == y.len()
            && steps.all(|(i, (x, y))| {
                let same = x == y;
                let done = (i * STEP).saturating_sub(STEP)..(i + 1) * STEP;
                [a, b].into_iter().for_each(|place| self.give_back(place, done.clone()));
                same
            })
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        &self.files[place.file].1[place.bytes.clone()]
    }

    /// Maps one file and notes its tensors.
    fn add(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let io = |error| CheckpointError::Io { file: path.clone(), error };
        let file = json::open(&path)?;
        // SAFETY: the map is only read. Nobody may cut the file short while it is in use, which the system answers
        // with a signal; that is the price every memory-mapping reader pays.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let wrong = |what| CheckpointError::File { file: path.clone(), what };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| wrong(explain(&e)))?;
        if let Some(name) = json::repeated_key(&map[8..8 + header]) {
            let what = "is described twice".to_string();
            return Err(CheckpointError::Tensor { file: path, tensor: name, what });
        }
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                ty: weight_type(info.dtype, &info.shape),
                bytes: start + header + 8..end + header + 8,
            };
            if let Some(first) = self.tensors.insert(name.clone(), place) {
                let what = format!("is also in {}", self.files[first.file].0.display());
                return Err(CheckpointError::Tensor { file: path, tensor: name, what });
            }
        }
        self.files.push((path, map));
        Ok(())
    }
}

/// Encoding and shape, or the name of a type that no weight has.
fn weight_type(dtype: Dtype, shape: &[usize]) -> Result<WeightType, String> {
    let encoding = match dtype {
        Dtype::F32 => Encoding::F32,
        Dtype::F16 => Encoding::F16,
        Dtype::BF16 => Encoding::BF16,
        other => return Err(format!("{other:?}")),
    };
    let shape = shape.iter().map(|&n| u32::try_from(n)).collect::<Result<Vec<u32>, _>>();
    shape.map(|shape| WeightType::new(encoding, shape)).map_err(|_| "larger than 2^32 along one axis".into())
}

/// `weight_map` of an index: tensor → file in the same folder.
fn weight_map(index: &Json) -> Result<Vec<(String, String)>, CheckpointError> {
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(index.error("has no object `weight_map`"));
    };
    let strange = |c: char| c == '/' || c == '\\' || c.is_control();
    let entry = |(tensor, file): (&String, &Value)| match file.as_str() {
        Some(name) if !["", ".", ".."].contains(&name) && !name.contains(strange) => {
            Ok((tensor.clone(), name.to_string()))
        }
        _ => Err(index.error(format!(
            "`weight_map` puts `{}` into {file}, which is no file of this folder",
            tensor.escape_debug()
        ))),
    };
    map.iter().map(entry).collect()
}

/// The safetensors library's word, and what it usually means.
fn explain(error: &safetensors::SafeTensorError) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::HeaderTooSmall | E::InvalidHeaderLength | E::MetadataIncompleteBuffer => {
            format!("is cut short, or is no safetensors file ({error})")
        }
        E::InvalidHeader(_) | E::InvalidHeaderDeserialization(_) | E::HeaderTooLarge => {
            format!("has a damaged header ({error})")
        }
        E::InvalidOffset(tensor) => format!("has a damaged header: tensor `{tensor}` overlaps another or leaves a gap"),
        other => format!("has a damaged header ({other})"),
    }
}
