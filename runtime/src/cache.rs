//! The caches the host keeps: keys and values of every layer, `[KV, len, D]` for exactly the committed length.
//!
//! An engine sees them as they are, so a layer is repacked when its length changes. An empty cache holds one row of
//! zeros, which the session's mask hides. Nothing here knows what the rows mean or which of them are final.

use crate::engine::{EngineShape, LayerRows, StepOutput};

/// Why rows could not be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The conversation outgrew the cache.
    #[error("the cache is full: {need} positions are needed, this build holds {room}")]
    Full {
        /// Positions the commit would have made.
        need: usize,
        /// Positions the engine was built for.
        room: usize,
    },
    /// Rows would have left a hole behind the committed ones.
    #[error("rows from position {start} on do not join a cache of {len}")]
    Gap {
        /// First position of the rows.
        start: usize,
        /// Committed positions.
        len: usize,
    },
    /// The engine's new keys and values have another shape than it announced.
    #[error("the engine gave keys and values of another shape than {rows} rows of {layers} layers")]
    Shape {
        /// Rows of the step.
        rows: usize,
        /// Layers of the engine.
        layers: usize,
    },
}

/// Keys and values of all layers for positions `0..len`.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<LayerRows>,
    heads: usize,
    width: usize,
    len: usize,
    room: usize,
}

impl Cache {
    /// An empty cache for an engine of this shape.
    #[must_use]
    pub fn new(shape: &EngineShape) -> Self {
        let row = vec![0.0; shape.kv_heads * shape.head_dim];
        let layers = vec![LayerRows { k: row.clone(), v: row }; shape.layers];
        Self { layers, heads: shape.kv_heads, width: shape.head_dim, len: 0, room: shape.max_cache }
    }

    /// Committed positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows the engine sees: the committed ones, or the one row of zeros of an empty cache.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.len.max(1)
    }

    /// One entry a layer, each `[KV, columns, D]`.
    #[must_use]
    pub fn layers(&self) -> &[LayerRows] {
        &self.layers
    }

    /// Whether `len` positions would fit.
    ///
    /// # Errors
    /// [`CacheError::Full`] when not.
    pub fn check(&self, len: usize) -> Result<(), CacheError> {
        if len > self.room { Err(CacheError::Full { need: len, room: self.room }) } else { Ok(()) }
    }

    /// Writes the first `rows` of a step's keys and values to positions `start..start + rows`: rows there are
    /// replaced, rows behind the committed ones are appended.
    ///
    /// # Errors
    /// The cache is unchanged when the rows do not fit, leave a gap or have the wrong shape.
    pub fn commit(&mut self, start: usize, step: &StepOutput, rows: usize) -> Result<(), CacheError> {
        if start > self.len {
            return Err(CacheError::Gap { start, len: self.len });
        }
        let end = start.saturating_add(rows);
        self.check(end)?;
        let row = self.heads * self.width;
        let fed = step.new.first().map_or(0, |l| l.k.len() / row.max(1));
        let fits = |l: &LayerRows| l.k.len() == fed * row && l.v.len() == fed * row;
        if step.new.len() != self.layers.len() || rows > fed || !step.new.iter().all(fits) {
            return Err(CacheError::Shape { rows, layers: self.layers.len() });
        }
        self.resize(self.len.max(end));
        let (columns, width) = (self.columns(), self.width);
        for (layer, new) in self.layers.iter_mut().zip(&step.new) {
            for (to, from) in [(&mut layer.k, &new.k), (&mut layer.v, &new.v)] {
                for head in 0..self.heads {
                    let (to_at, from_at) = ((head * columns + start) * width, head * fed * width);
                    to[to_at..to_at + rows * width].copy_from_slice(&from[from_at..from_at + rows * width]);
                }
            }
        }
        Ok(())
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.resize(len);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Repacks every layer to `len` positions.
    fn resize(&mut self, len: usize) {
        let (from, to) = (self.columns(), len.max(1));
        for layer in &mut self.layers {
            for rows in [&mut layer.k, &mut layer.v] {
                repack(rows, self.heads, from * self.width, to * self.width);
                if len == 0 {
                    rows.fill(0.0);
                }
            }
        }
        self.len = len;
    }
}

/// Changes the length of each of `heads` runs in place, from `from` to `to` entries.
fn repack(rows: &mut Vec<f32>, heads: usize, from: usize, to: usize) {
    if to > from {
        rows.resize(heads * to, 0.0);
        for head in (1..heads).rev() {
            rows.copy_within(head * from..(head + 1) * from, head * to);
        }
    } else {
        for head in 1..heads {
            rows.copy_within(head * from..head * from + to, head * to);
        }
        rows.truncate(heads * to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers, three heads of width two; every number tells layer, side, head, position and lane.
    fn step(positions: std::ops::Range<usize>) -> StepOutput {
        let side = |tag: usize| {
            let at = |h: usize, p: usize, d: usize| (tag * 10_000 + h * 1000 + p * 10 + d) as f32;
            (0..3).flat_map(|h| positions.clone().flat_map(move |p| (0..2).map(move |d| at(h, p, d)))).collect()
        };
        StepOutput { logits: vec![], new: (0..2).map(|l| LayerRows { k: side(2 * l), v: side(2 * l + 1) }).collect() }
    }

    fn shape(max_cache: usize) -> EngineShape {
        EngineShape { max_tokens: 8, max_cache, layers: 2, kv_heads: 3, head_dim: 2, vocab: 5 }
    }

    #[test]
    fn pieces_make_the_same_cache_as_one_commit() {
        let mut cache = Cache::new(&shape(16));
        cache.commit(0, &step(0..4), 4).unwrap();
        cache.commit(4, &step(4..9), 3).unwrap(); // only the first three rows of the step
        assert_eq!((cache.len(), cache.layers()), (7, &step(0..7).new[..]));
        cache.commit(2, &step(2..4), 2).unwrap(); // replaced in place by the same rows
        cache.truncate(5);
        assert_eq!((cache.len(), cache.layers()), (5, &step(0..5).new[..]));
        cache.commit(3, &step(3..6), 3).unwrap(); // half replaced, half appended
        assert_eq!(cache.layers(), &step(0..6).new[..]);
        cache.clear();
        assert_eq!((cache.columns(), cache.layers()), (1, Cache::new(&shape(16)).layers()));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut cache = Cache::new(&shape(5));
        cache.commit(0, &step(0..4), 4).unwrap();
        assert_eq!(cache.commit(4, &step(4..6), 2), Err(CacheError::Full { need: 6, room: 5 }));
        assert_eq!(cache.commit(5, &step(5..6), 1), Err(CacheError::Gap { start: 5, len: 4 }));
        assert_eq!(cache.commit(4, &StepOutput::default(), 1), Err(CacheError::Shape { rows: 1, layers: 2 }));
        assert_eq!(cache.layers(), &step(0..4).new[..]);
    }
}
