//! What an engine is: something that runs the *step graph* of one model.
//!
//! ```text
//! step(tokens [1,T], positions [1,T], mask [1,1,T,C+T], k.i, v.i [1,KV,C,D] per layer)
//!   -> logits [1,R,V], new_k.i, new_v.i [1,KV,T,D]
//! ```
//!
//! An engine keeps nothing between steps: the host owns the caches (`crate::cache`), builds the mask and decides what
//! is committed. So a denoising pass can be repeated freely, and every engine can stand in for every other.

/// Sizes an engine was built for; all a session needs to know of a model to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineShape {
    /// Most tokens in one step (T).
    pub max_tokens: usize,
    /// Most cached positions (C).
    pub max_cache: usize,
    /// Decoder layers; each has one key and one value cache.
    pub layers: usize,
    /// Key/value heads of a layer (KV).
    pub kv_heads: usize,
    /// Width of one head (D).
    pub head_dim: usize,
    /// Rows of the head, thus logits a row (V).
    pub vocab: usize,
}

/// Keys and values of one layer, both `[KV, C, D]`, heads outermost, without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerRows {
    /// Rotated keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
}

/// The inputs of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// Token ids, `[T]`.
    pub tokens: &'a [u32],
    /// Absolute positions, `[T]`.
    pub positions: &'a [u32],
    /// Additive mask, `[T, C+T]`: 0 where a token sees a key, [`HIDDEN`] where not. The first C columns are the cache.
    pub mask: &'a [f32],
    /// Which of the T rows need logits, ascending. An engine that always makes all rows copies these out.
    pub rows: &'a [u32],
    /// Cached positions (C), at least 1: an empty cache is one row of zeros hidden by the mask.
    pub cached: usize,
    /// One entry a layer, each `[KV, C, D]`.
    pub cache: &'a [LayerRows],
}

/// Mask entry of a key that a token must not see. Finite, so that a row hidden as a whole gives no NaN;
/// far enough down that `exp` of it is exactly zero beside any visible key.
pub const HIDDEN: f32 = -1e30;

/// The outputs of one step; buffers are reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// Logits of the asked rows, `[R, V]`.
    pub logits: Vec<f32>,
    /// This step's keys and values, one entry a layer, each `[KV, T, D]`.
    pub new: Vec<LayerRows>,
}

/// Why a step could not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The step does not fit the bounds or the shapes of the engine.
    #[error("{0}")]
    Input(String),
    /// The engine itself failed.
    #[error("{engine}: {message}")]
    Failed {
        /// Name of the engine.
        engine: &'static str,
        /// What it said.
        message: String,
    },
    /// An optional engine is not installed.
    #[error("{engine} is not installed: {help}")]
    Missing {
        /// Name of the engine.
        engine: &'static str,
        /// What to do about it.
        help: String,
    },
}

/// Runs the step graph of one model.
pub trait Engine {
    /// The name people know it by: `tract`, `executorch`.
    fn name(&self) -> &'static str;
    /// The sizes it was built for.
    fn shape(&self) -> &EngineShape;
    /// One step. `out` is overwritten.
    ///
    /// # Errors
    /// [`EngineError::Input`] when `input` does not fit [`Engine::shape`]; see [`StepInput::check`].
    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError>;
    /// Values inside the model that the engine was asked to keep of the last step, by name; most engines show none.
    fn taps(&self) -> &[(String, Vec<f32>)] {
        &[]
    }
}

impl StepInput<'_> {
    /// Checks every length against `shape`, so that an engine may index without thinking.
    ///
    /// # Errors
    /// Names the first input that does not fit.
    pub fn check(&self, shape: &EngineShape) -> Result<(), EngineError> {
        let (t, c) = (self.tokens.len(), self.cached);
        let rows = shape.kv_heads * c * shape.head_dim;
        let wrong = |what: String| Err(EngineError::Input(what));
        if t == 0 || t > shape.max_tokens {
            return wrong(format!("a step takes 1 to {} tokens, not {t}", shape.max_tokens));
        }
        if c == 0 || c > shape.max_cache {
            return wrong(format!("a step takes 1 to {} cached positions, not {c}", shape.max_cache));
        }
        if self.positions.len() != t {
            return wrong(format!("{t} tokens but {} positions", self.positions.len()));
        }
        if self.mask.len() != t * (c + t) {
            return wrong(format!("the mask has {} entries, not {t} x {}", self.mask.len(), c + t));
        }
        if let Some(id) = self.tokens.iter().find(|&&id| id as usize >= shape.vocab) {
            return wrong(format!("token id {id} is not below the vocabulary's {}", shape.vocab));
        }
        if let Some(p) = self.positions.iter().find(|&&p| p as usize >= shape.max_cache + shape.max_tokens) {
            return wrong(format!(
                "position {p} is beyond the {} the model was built for",
                shape.max_cache + shape.max_tokens
            ));
        }
        if let Some(row) = self.rows.iter().find(|&&row| row as usize >= t) {
            return wrong(format!("row {row} of a step of {t} tokens"));
        }
        if self.cache.len() != shape.layers || self.cache.iter().any(|l| l.k.len() != rows || l.v.len() != rows) {
            return wrong(format!("the cache is not {} layers of {rows} keys and values", shape.layers));
        }
        Ok(())
    }
}
