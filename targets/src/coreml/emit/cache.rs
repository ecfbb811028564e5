//! Committed rows: given by the host, or kept as states.

use diffulex_compiler::ir::{CacheId, CacheKind};

use super::EmitError;
use super::step::Step;
use super::value::Val;
use crate::coreml::Interface;
use crate::coreml::schema::program::DataType;

/// Keys, then values: the order of their inputs, states and outputs.
pub(super) const KINDS: [CacheKind; 2] = [CacheKind::K, CacheKind::V];

/// The rows of all layers, of one kind.
pub(super) struct Cache {
    /// The input or the state.
    pub(super) all: Val,
    /// What the state holds now. It must be read anew after each write: the next layer's rows are put into it.
    pub(super) held: Option<Val>,
}

impl Step<'_> {
    /// `cached $c, %rows`.
    pub(super) fn cached(&mut self, cache: CacheId, rows: &Val, name: &str, shape: &[u64]) -> Result<Val, EmitError> {
        let missing = || EmitError::Illegal { place: format!("${cache}"), what: "is no cache of the step".into() };
        let kind = KINDS.iter().position(|kind| *kind == cache.kind).ok_or_else(missing)?;
        let all = self.caches.get(kind).map(|cache| cache.all.clone()).ok_or_else(missing)?;
        self.new_rows.insert(cache, rows.clone());
        if self.options.interface == Interface::State {
            let whole = self.write(kind, &all, cache.layer, rows, name)?;
            return Ok(self.layer(&whole, cache.layer, name));
        }
        let old = self.layer(&all, cache.layer, &format!("{name}_old"));
        Ok(self.concat(&[&old, rows], 2, name, (DataType::Float16, shape)))
    }

    /// `[L, 1, KV, C, D]` → `[1, KV, C, D]`.
    fn layer(&mut self, all: &Val, layer: u32, name: &str) -> Val {
        let mut end: Vec<i32> = all.shape.iter().map(|&n| n as i32).collect();
        let mut begin = vec![0; end.len()];
        let mut squeeze = vec![false; end.len()];
        (begin[0], end[0], squeeze[0]) = (layer as i32, layer as i32 + 1, true);
        self.slice_by_index(all, &begin, &end, &squeeze, name, (DataType::Float16, &all.shape[1..]))
    }

    /// Writes the rows of a step into a state at `write_pos`; gives what the state holds then.
    fn write(&mut self, kind: usize, state: &Val, layer: u32, rows: &Val, name: &str) -> Result<Val, EmitError> {
        let illegal = || EmitError::Illegal { place: state.name.clone(), what: "has no place to write to".into() };
        let start = self.write_pos.clone().ok_or_else(illegal)?;
        let of = (DataType::Float16, state.shape.as_slice());
        let held = match self.caches[kind].held.take() {
            Some(held) => held,
            None => self.block.add("read_state", &format!("{}_before", state.name), &[("input", &[state])], of),
        };
        let sizes: Vec<i32> = state.shape.iter().map(|&n| n as i32).collect();
        let [_, one, heads, _, width] = sizes[..] else { return Err(illegal()) };
        let until = match self.write_end.clone() {
            Some(until) => until,
            None => {
                let tokens = self.block.ints(&[self.module.bounds.t as i32]);
                let inputs: [(&str, &[&Val]); 2] = [("x", &[&start]), ("y", &[&tokens])];
                self.block.add("add", "write_end", &inputs, (DataType::Int32, &[1]))
            }
        };
        self.write_end = Some(until.clone());
        let layer = layer as i32;
        let begin = self.corner(&[layer, 0, 0], &start, 0, &format!("{name}_begin"));
        let end = self.corner(&[layer + 1, one, heads], &until, width, &format!("{name}_end"));
        let axes = self.block.ints(&[0]);
        let mut shape = rows.shape.clone();
        shape.insert(0, 1);
        let inputs: [(&str, &[&Val]); 2] = [("x", &[rows]), ("axes", &[&axes])];
        let update = self.block.add("expand_dims", &format!("{name}_rows"), &inputs, (DataType::Float16, &shape));
        let stride = self.block.ints(&[1; 5]);
        let whole = self.block.truths(&[false; 5]);
        let inputs: [(&str, &[&Val]); 8] = [
            ("x", &[&held]),
            ("update", &[&update]),
            ("begin", &[&begin]),
            ("end", &[&end]),
            ("stride", &[&stride]),
            ("begin_mask", &[&whole]),
            ("end_mask", &[&whole]),
            ("squeeze_mask", &[&whole]),
        ];
        let updated = self.block.add("slice_update", &format!("{name}_updated"), &inputs, of);
        self.block.write_state(state, &updated);
        let now = self.block.add("read_state", &format!("{name}_all"), &[("input", &[state])], of);
        self.caches[kind].held = Some(now.clone());
        Ok(now)
    }

    /// Where a slice of a state begins or ends: known along all axes but the fourth.
    fn corner(&mut self, first: &[i32; 3], fourth: &Val, last: i32, name: &str) -> Val {
        let first = self.block.ints(first);
        let last = self.block.ints(&[last]);
        self.concat(&[&first, fourth, &last], 0, name, (DataType::Int32, &[5]))
    }
}
