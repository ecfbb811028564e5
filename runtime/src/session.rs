//! A session: one engine, its caches, and the attention pattern of its model.
//!
//! A *pass* feeds any number of tokens and gives logits for the rows asked for; the session splits it into *steps*
//! that fit the engine, builds positions and the additive mask, and commits keys and values when told to. A cached
//! pass gives the rows of an uncached one. Which tokens are fed and what they become is decided in `crate::generate`.

use diffulex_compiler::generation::{self, Generation};

use crate::cache::{Cache, CacheError};
use crate::engine::{Engine, EngineError, EngineShape, HIDDEN, LayerRows, StepInput, StepOutput};

/// Which keys a token sees, by absolute positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Its own block and all earlier ones (SDAR, Fast-dLLM v2): key `j` when `j / block <= i / block`.
    BlockCausal(usize),
    /// Everything (Dream, LLaDA).
    Full,
}

impl Attention {
    /// How many positions, from the first on, the token at `position` sees.
    pub fn seen(self, position: usize) -> usize {
        match self {
            Attention::BlockCausal(block) => (position / block + 1) * block,
            Attention::Full => usize::MAX,
        }
    }
}

impl std::fmt::Display for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Attention::BlockCausal(block) => write!(f, "blocks of {block}"),
            Attention::Full => f.write_str("full attention"),
        }
    }
}

impl From<&Generation> for Attention {
    fn from(generation: &Generation) -> Attention {
        match generation.attention {
            generation::Attention::BlockCausal => Attention::BlockCausal(generation.block as usize),
            generation::Attention::Full => Attention::Full,
        }
    }
}

/// What becomes of the keys and values of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// They are committed: appended, or written over the cached rows of the same positions.
    Keep,
    /// The first so many are committed, but not for good: what they depend on is still changing.
    Draft(usize),
    /// They are forgotten.
    Discard,
}

/// Why a pass could not run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The caches cannot hold it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Blocks must have a length that fits one step.
    #[error("blocks of {block} tokens do not fit an engine that takes 1 to {max} at a time")]
    Block {
        /// Block length.
        block: usize,
        /// Most tokens in one step.
        max: usize,
    },
    /// The pass cannot be split without changing its result.
    #[error("a pass of {tokens} tokens does not fit the {max} this build takes at a time, and cannot be split")]
    Unsplittable {
        /// Tokens of the pass.
        tokens: usize,
        /// Most tokens in one step.
        max: usize,
    },
    /// The rows asked for are not ascending rows of the pass.
    #[error("rows must ascend and lie below the {tokens} tokens of the pass")]
    Rows {
        /// Tokens of the pass.
        tokens: usize,
    },
}

/// An engine with the caches of one conversation.
pub struct Session {
    engine: Box<dyn Engine>,
    attention: Attention,
    cache: Cache,
    cached_tokens: Vec<u32>,
    /// Committed positions that are no drafts.
    settled: usize,
    positions: Vec<u32>,
    mask: Vec<f32>,
    out: StepOutput,
    logits: Vec<f32>,
}

impl Session {
    /// A session with an empty cache.
    ///
    /// # Errors
    /// [`SessionError::Block`] when a block does not fit one step of the engine.
    pub fn new(engine: Box<dyn Engine>, attention: Attention) -> Result<Self, SessionError> {
        let cache = Cache::new(engine.shape());
        let mut session = Self {
            engine,
            attention,
            cache,
            cached_tokens: vec![],
            settled: 0,
            positions: vec![],
            mask: vec![],
            out: StepOutput::default(),
            logits: vec![],
        };
        session.attend(attention)?;
        Ok(session)
    }

    /// Forgets everything and goes on with another attention pattern.
    ///
    /// # Errors
    /// [`SessionError::Block`] when a block does not fit one step of the engine.
    pub fn attend(&mut self, attention: Attention) -> Result<(), SessionError> {
        let max = self.shape().max_tokens;
        if let Attention::BlockCausal(block) = attention
            && (block == 0 || block > max)
        {
            return Err(SessionError::Block { block, max });
        }
        self.clear();
        self.attention = attention;
        Ok(())
    }

    /// The committed keys and values, one entry a layer.
    #[must_use]
    pub fn layers(&self) -> &[LayerRows] {
        self.cache.layers()
    }

    /// Values that the engine was asked to keep of the last step: see [`Engine::taps`].
    #[must_use]
    pub fn taps(&self) -> &[(String, Vec<f32>)] {
        self.engine.taps()
    }

    /// The name of the engine.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// The sizes of the engine.
    #[must_use]
    pub fn shape(&self) -> &EngineShape {
        self.engine.shape()
    }

    /// The attention pattern.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
    }

    /// Committed positions.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.cached_tokens.truncate(len);
        self.settled = self.settled.min(len);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Keeps what the cache shares with a new sequence: the longest common prefix in whole blocks. Returns its length;
    /// with full attention that is 0, as every key depends on every token. Drafts are dropped.
    pub fn reuse(&mut self, tokens: &[u32]) -> usize {
        let shared = self.cached_tokens[..self.settled].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(match self.attention {
            Attention::BlockCausal(block) => shared / block * block,
            Attention::Full => 0,
        });
        self.cached()
    }

    /// Feeds `tokens` at positions `start..`; they see each other and the cached positions outside their own range, as
    /// far as the pattern allows. Returns the logits of `rows` (ascending, counted from the first fed token), `[R, V]`.
    ///
    /// More tokens than one step takes are fed in several, cut at block boundaries.
    ///
    /// # Errors
    /// Nothing is committed when the pass does not fit; after a failing engine, what is committed is consistent.
    pub fn pass(&mut self, tokens: &[u32], start: usize, rows: &[u32], store: Store) -> Result<&[f32], SessionError> {
        let end = start.saturating_add(tokens.len());
        let max = self.shape().max_tokens;
        if start > self.cached() {
            return Err(CacheError::Gap { start, len: self.cached() }.into());
        }
        let kept = match store {
            Store::Keep => tokens.len(),
            Store::Draft(rows) => rows.min(tokens.len()),
            Store::Discard => 0,
        };
        if kept > 0 || tokens.len() > max {
            self.cache.check(if tokens.len() > max { end } else { start + kept })?;
        }
        if !rows.is_sorted_by(|a, b| a < b) || rows.last().is_some_and(|&r| r as usize >= tokens.len()) {
            return Err(SessionError::Rows { tokens: tokens.len() });
        }
        if tokens.len() <= max {
            self.step(tokens, start, rows)?;
            std::mem::swap(&mut self.logits, &mut self.out.logits);
            if kept > 0 {
                self.commit(&tokens[..kept], start)?;
            }
            self.settle(start, end, store);
            return Ok(&self.logits);
        }
        let Attention::BlockCausal(block) = self.attention else {
            return Err(SessionError::Unsplittable { tokens: tokens.len(), max });
        };
        if kept < tokens.len() && start < self.cached() {
            return Err(SessionError::Unsplittable { tokens: tokens.len(), max });
        }
        let done = self.steps(tokens, start, rows, block);
        if kept < tokens.len() {
            self.truncate(start + kept);
        }
        done?;
        self.settle(start, end, store);
        Ok(&self.logits)
    }

    /// Notes which rows are for good after a pass over `start..end`.
    fn settle(&mut self, start: usize, end: usize, store: Store) {
        match store {
            Store::Keep if start <= self.settled => self.settled = self.settled.max(end),
            Store::Draft(_) => self.settled = self.settled.min(start),
            _ => {}
        }
    }

    /// A long pass, step by step; each is committed so that the next sees it.
    fn steps(&mut self, tokens: &[u32], start: usize, rows: &[u32], block: usize) -> Result<(), SessionError> {
        let max = self.shape().max_tokens;
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        let (mut from, mut first_row) = (0, 0);
        while from < tokens.len() {
            let to = tokens.len().min((start + from + max) / block * block - start);
            let next_row = first_row + rows[first_row..].partition_point(|&row| (row as usize) < to);
            let part: Vec<u32> = rows[first_row..next_row].iter().map(|&row| row - from as u32).collect();
            self.step(&tokens[from..to], start + from, &part)?;
            logits.extend_from_slice(&self.out.logits);
            self.commit(&tokens[from..to], start + from)?;
            (from, first_row) = (to, next_row);
        }
        self.logits = logits;
        Ok(())
    }

    /// One step of the engine.
    fn step(&mut self, tokens: &[u32], start: usize, rows: &[u32]) -> Result<(), SessionError> {
        self.positions.clear();
        self.positions.extend((start..start + tokens.len()).map(|p| p as u32));
        build_mask(&mut self.mask, self.attention, start, tokens.len(), &self.cache);
        let input = StepInput {
            tokens,
            positions: &self.positions,
            mask: &self.mask,
            rows,
            cached: self.cache.columns(),
            cache: self.cache.layers(),
        };
        self.engine.step(&input, &mut self.out)?;
        let want = rows.len() * self.engine.shape().vocab;
        if self.out.logits.len() != want {
            let message = format!("gave {} logits where {want} were asked for", self.out.logits.len());
            return Err(EngineError::Failed { engine: self.engine.name(), message }.into());
        }
        Ok(())
    }

    /// Commits the keys and values of the last step.
    fn commit(&mut self, tokens: &[u32], start: usize) -> Result<(), SessionError> {
        self.cache.commit(start, &self.out, tokens.len())?;
        let replaced = tokens.len().min(self.cached_tokens.len() - start);
        self.cached_tokens[start..start + replaced].copy_from_slice(&tokens[..replaced]);
        self.cached_tokens.extend_from_slice(&tokens[replaced..]);
        Ok(())
    }
}

/// The additive mask `[T, C+T]` of a step that feeds positions `start..start + fed`.
fn build_mask(mask: &mut Vec<f32>, attention: Attention, start: usize, fed: usize, cache: &Cache) {
    let (len, columns) = (cache.len(), cache.columns());
    mask.clear();
    mask.resize(fed * (columns + fed), HIDDEN);
    for (i, row) in mask.chunks_exact_mut(columns + fed).enumerate() {
        let seen = attention.seen(start + i);
        let (cached, own) = row.split_at_mut(columns);
        cached[..len.min(seen)].fill(0.0);
        cached[start.min(len)..(start + fed).min(len)].fill(HIDDEN);
        own[..fed.min(seen - start)].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask as rows of `x` (seen) and `.`, a bar between cache and fed tokens.
    fn drawn(attention: Attention, start: usize, fed: usize, committed: usize) -> Vec<String> {
        let shape = EngineShape { max_tokens: 8, max_cache: 8, layers: 1, kv_heads: 1, head_dim: 1, vocab: 1 };
        let mut cache = Cache::new(&shape);
        let rows = LayerRows { k: vec![0.0; committed], v: vec![0.0; committed] };
        cache.commit(0, &StepOutput { logits: vec![], new: vec![rows] }, committed).unwrap();
        let mut mask = vec![];
        build_mask(&mut mask, attention, start, fed, &cache);
        let draw = |row: &[f32]| row.iter().map(|&m| if m == 0.0 { 'x' } else { '.' }).collect::<String>();
        let columns = cache.columns();
        mask.chunks(columns + fed).map(|row| format!("{}|{}", draw(&row[..columns]), draw(&row[columns..]))).collect()
    }

    #[test]
    fn masks() {
        let causal = Attention::BlockCausal(2);
        assert_eq!(drawn(causal, 0, 4, 0), [".|xx..", ".|xx..", ".|xxxx", ".|xxxx"]);
        assert_eq!(drawn(causal, 2, 2, 2), ["xx|xx", "xx|xx"]);
        assert_eq!(drawn(causal, 2, 3, 2), ["xx|xx.", "xx|xx.", "xx|xxx"]);
        assert_eq!(drawn(causal, 2, 1, 4), ["xx.x|x"], "a fed row hides the cached row of its position");
        assert_eq!(drawn(causal, 0, 2, 4), ["....|xx", "....|xx"]);
        assert_eq!(drawn(Attention::Full, 1, 2, 4), ["x..x|xx", "x..x|xx"]);
        assert_eq!(drawn(Attention::Full, 0, 2, 0), [".|xx", ".|xx"]);
    }
}
