//! Reference tensors: the inputs of some calls of a package, and what each must make, as a file of safetensors.
//!
//! `callN.NAME` is the input or output NAME of call N; where a model is a chain of packages, the new rows of part I are
//! `callN.partI.NAME`. Caches are not there: they begin as zeros, and `callN.commit` tells where the new rows of a call
//! are written to. Facts stand in `__metadata__`: the packages, the outputs to compare, the largest error allowed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use diffulex_compiler::ir::{CacheShape, Sizes};
use half::f16;

use super::schema::{CACHES, LOGITS, MASK, NEW_ROWS, POSITIONS, ROWS, TOKENS, WRITE_POS};
use super::{EmitError, Interface};

/// Largest error of an output that computes in `fp16`, as a share of the largest number that is expected of it.
const MAX_ERROR: &str = "5e-2";
/// Calls of a reference, where the cache has room for them.
const CALLS: usize = 2;
/// What hides a key.
const MASKED: f32 = -1e4;

/// What the tensors of a package look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Names of the packages, in the order in which they run, with the layers of each.
    pub packages: Vec<(String, u32)>,
    /// T, C and R.
    pub bounds: Sizes,
    /// Layers, heads and their width.
    pub cache: CacheShape,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Who keeps the committed rows.
    pub interface: Interface,
    /// Whether inputs and outputs are `fp16`, not `fp32`.
    pub half: bool,
}

/// One call: its inputs, and what they make.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// T tokens.
    pub tokens: Vec<u32>,
    /// For each token how many positions it sees, from the first of all on.
    pub seen: Vec<usize>,
    /// `[T, V]`
    pub logits: Vec<f32>,
    /// New keys and values of each layer, each `[KV, T, D]`.
    pub rows: Vec<[Vec<f32>; 2]>,
}

/// A tensor: element type and shape. Bytes follow from them.
type Tensor = (&'static str, Vec<usize>);

impl Reference {
    /// The position that each call begins at.
    pub fn starts(&self) -> Vec<usize> {
        let Sizes { t, c, .. } = self.bounds;
        // What a step sees of the cache, and writes to it, must be in it.
        let fits = |start: &usize| *start == 0 || start + t <= c;
        (0..CALLS).map(|call| call * t).filter(fits).collect()
    }

    /// Writes the file. `call` makes the one that begins at a position; it is asked in the order of [`Reference::starts`].
    ///
    /// # Errors
    /// When `call` fails, or writing does.
    pub fn write<E: From<EmitError>>(
        &self,
        out: &mut dyn Write,
        call: &mut dyn FnMut(usize) -> Result<Call, E>,
    ) -> Result<(), E> {
        let starts = self.starts();
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        header.insert("__metadata__".into(), serde_json::json!(self.facts()));
        for number in 0..starts.len() {
            for (name, (dtype, shape)) in self.tensors() {
                let start = end;
                end += shape.iter().product::<usize>() * if dtype == "F16" { 2 } else { 4 };
                let tensor = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
                header.insert(format!("call{number}.{name}"), tensor);
            }
        }
        // The crate of the format keeps its metadata in no order, and these bytes are to be the same everywhere.
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let before = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        out.write_all(&before).map_err(EmitError::Io)?;
        for start in starts {
            self.write_call(start, &call(start)?, out).map_err(EmitError::Io)?;
        }
        Ok(())
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        facts.insert("package.count".into(), self.packages.len().to_string());
        for (i, (name, _)) in self.packages.iter().enumerate() {
            facts.insert(format!("package.{i}"), name.clone());
        }
        let explicit = self.interface == Interface::Explicit && self.cache.layers > 0;
        let outputs: Vec<&str> = [LOGITS].into_iter().chain(NEW_ROWS.into_iter().filter(|_| explicit)).collect();
        facts.insert("outputs".into(), outputs.join(","));
        facts.insert("max_error".into(), MAX_ERROR.into());
        if explicit {
            let pairs: Vec<String> =
                NEW_ROWS.iter().zip(CACHES).map(|(rows, cache)| format!("{rows}>{cache}")).collect();
            facts.insert("commit".into(), pairs.join(","));
        }
        facts
    }

    /// The tensors of a call, in the order of the file.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let Sizes { t, c, r } = self.bounds;
        let CacheShape { kv_heads, head_dim, .. } = self.cache;
        let float = if self.half { "F16" } else { "F32" };
        let kept = self.interface == Interface::State;
        let mut tensors: Vec<(String, Tensor)> = vec![
            (TOKENS.into(), ("I32", vec![1, t])),
            (POSITIONS.into(), ("I32", vec![1, t])),
            (MASK.into(), (float, vec![1, 1, t, if kept { c } else { c + t }])),
        ];
        if r > 0 {
            tensors.push((ROWS.into(), ("I32", vec![r])));
        }
        let place = if kept { WRITE_POS } else { "commit" };
        tensors.push((place.into(), ("I32", vec![1])));
        tensors.push((LOGITS.into(), (float, vec![1, if r > 0 { r } else { t }, self.vocab as usize])));
        for (part, (_, layers)) in self.packages.iter().enumerate().filter(|_| !kept) {
            for rows in NEW_ROWS {
                let name = if self.packages.len() > 1 { format!("part{part}.{rows}") } else { rows.into() };
                let shape = vec![*layers as usize, 1, kv_heads as usize, t, head_dim as usize];
                tensors.push((name, (float, shape)));
            }
        }
        tensors
    }

    fn write_call(&self, start: usize, call: &Call, out: &mut dyn Write) -> io::Result<()> {
        let Sizes { t, c, r } = self.bounds;
        ints(call.tokens.iter().map(|&id| id as usize), out)?;
        ints(start..start + t, out)?;
        let kept = self.interface == Interface::State;
        for &seen in &call.seen {
            // The rows of the step lie behind the cache, or in it.
            let shown = |key: usize| match kept {
                true => key < (start + t).min(seen),
                false if key < c => key < start.min(seen),
                false => start + (key - c) < seen,
            };
            let mask = (0..if kept { c } else { c + t }).map(|key| if shown(key) { 0.0 } else { MASKED });
            self.floats(&mask.collect::<Vec<f32>>(), out)?;
        }
        if r > 0 {
            ints(0..r, out)?;
        }
        ints([start], out)?;
        let rows = if r > 0 { r } else { t };
        let logits = call.logits.get(..rows * self.vocab as usize).ok_or(io::ErrorKind::InvalidInput)?;
        self.floats(logits, out)?;
        let mut layers = call.rows.iter();
        for (_, count) in self.packages.iter().filter(|_| !kept) {
            let part: Vec<&[Vec<f32>; 2]> = layers.by_ref().take(*count as usize).collect();
            for kind in 0..NEW_ROWS.len() {
                part.iter().try_for_each(|layer| self.floats(&layer[kind], out))?;
            }
        }
        Ok(())
    }

    fn floats(&self, numbers: &[f32], out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(4 * numbers.len());
        for &number in numbers {
            match self.half {
                true => bytes.extend_from_slice(&f16::from_f32(number).to_le_bytes()),
                false => bytes.extend_from_slice(&number.to_le_bytes()),
            }
        }
        out.write_all(&bytes)
    }
}

fn ints(numbers: impl IntoIterator<Item = usize>, out: &mut dyn Write) -> io::Result<()> {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(|n| (n as i32).to_le_bytes()).collect();
    out.write_all(&bytes)
}
