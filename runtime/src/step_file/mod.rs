//! What engines share that run a file of the step graph with inputs and outputs of a fixed interface.
//!
//! `interface` checks what a file offers; `tensor` holds numbers as it stores them; `fill` takes them from the host's
//! buffers and back; `Inputs` are those of one file, written anew each step.

mod fill;
mod interface;
mod tensor;

use diffulex_compiler::math;
use rayon::prelude::*;

pub(crate) use self::fill::Room;
pub(crate) use self::interface::{Interface, Port};
pub use self::tensor::CacheGrid;
use self::tensor::with_numbers;
pub(crate) use self::tensor::{Element, Stored, Tensor};
use crate::engine::{EngineShape, StepInput};

/// Lowest number in the mask of a graph of halves. [`HIDDEN`](crate::engine::HIDDEN) would be infinite there, and a row
/// that is hidden as a whole NaN; `exp` of this is exactly zero too beside any visible key.
const LOWEST_HALF: f32 = -3e4;

/// The numbers of a file's inputs, which every step overwrites.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Tokens the file has room for; nothing if it takes any number.
    pub(crate) tokens: Option<usize>,
    pub(crate) interface: Interface,
    /// No number in the mask is lower.
    lowest: f32,
    ids: Vec<i32>,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    /// Keys and values of each layer.
    past: Vec<[Tensor; 2]>,
}

/// Takes the numbers of one input, which is a tensor of the given shape.
pub(crate) trait Feed<'a> {
    /// What an engine is fed with.
    type Value;
    /// # Errors
    /// Says why the engine does not want it.
    fn ids(dims: &[usize], data: &'a [i32]) -> Result<Self::Value, String>;
    /// # Errors
    /// As [`Feed::ids`].
    fn numbers(dims: &[usize], data: &'a Tensor) -> Result<Self::Value, String>;
}

impl Inputs {
    /// Buffers for a file for `tokens` tokens (any number if nothing); `halves` when floats are halves within the graph.
    ///
    /// # Errors
    /// When a cache and its grid do not fit each other, or memory is short.
    pub(crate) fn new(
        interface: Interface,
        tokens: Option<usize>,
        shape: &EngineShape,
        caches: &[[Option<CacheGrid>; 2]],
        halves: bool,
    ) -> Result<Self, String> {
        // Where a size is dynamic, each step makes the room it needs.
        let (s, p) = (tokens.unwrap_or(0), interface.cached.unwrap_or(0));
        let volume = |factors: &[usize]| factors.iter().fold(1usize, |product, &n| product.saturating_mul(n));
        let past = volume(&[shape.kv_heads, p, shape.head_dim]);
        let layers = interface.caches.iter().zip(caches).enumerate();
        let layer = |(i, (elements, grids)): (usize, (&[Element; 2], &[Option<CacheGrid>; 2]))| {
            for (name, element, grid) in [("past_k", elements[0], grids[0]), ("past_v", elements[1], grids[1])] {
                check_grid(element, grid).map_err(|what| format!("`{name}_{i}` {what}"))?;
            }
            Ok([Tensor::with_room(elements[0], past)?, Tensor::with_room(elements[1], past)?])
        };
        let past = layers.map(layer).collect::<Result<_, String>>()?;
        Ok(Self {
            tokens,
            lowest: if halves || interface.float == Element::F16 { LOWEST_HALF } else { f32::NEG_INFINITY },
            ids: Vec::new(),
            cos: Tensor::with_room(interface.float, volume(&[s, shape.head_dim]))?,
            sin: Tensor::with_room(interface.float, volume(&[s, shape.head_dim]))?,
            mask: Tensor::with_room(interface.float, volume(&[s, p.saturating_add(s)]))?,
            past,
            interface,
        })
    }

    /// Sizes of a step and of the file.
    pub(crate) fn room(&self, input: &StepInput<'_>) -> Room {
        let (tokens, cached) = (input.tokens.len(), input.cached);
        let file_tokens = self.tokens.unwrap_or(tokens);
        Room { tokens, file_tokens, cached, file_cached: self.interface.cached.unwrap_or(cached) }
    }

    /// Writes all inputs. The caches are written anew each time: a host may change any row between two steps, and to find
    /// out takes as long as to write them.
    pub(crate) fn fill(&mut self, input: &StepInput<'_>, theta: f64, shape: &EngineShape, caches: &[[CacheGrid; 2]]) {
        let room = self.room(input);
        self.ids.clear();
        // Ids are below the vocabulary, which a file bounds by 2^31.
        self.ids.extend(input.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(0)));
        self.ids.resize(room.file_tokens, 0);
        let width = shape.head_dim;
        with_numbers!(&mut self.cos, data => rotations(data, input.positions, room, theta, width, math::cos));
        with_numbers!(&mut self.sin, data => rotations(data, input.positions, room, theta, width, math::sin));
        with_numbers!(&mut self.mask, data => fill::mask(data, input.mask, room, self.lowest));
        self.past.par_iter_mut().zip(input.cache).zip(caches).for_each(|(([k, v], rows), grids)| {
            with_numbers!(k, data => fill::keys(data, &rows.k, room, width, grids[0]));
            with_numbers!(v, data => fill::values(data, &rows.v, room, width, grids[1]));
        });
    }

    /// Name and value of each input, as [`Inputs::fill`] wrote them for the same step.
    ///
    /// # Errors
    /// Those of `F`.
    pub(crate) fn feed<'a, F: Feed<'a>>(
        &'a self,
        room: Room,
        shape: &EngineShape,
    ) -> Result<Vec<(String, F::Value)>, String> {
        let Room { file_tokens: s, file_cached: p, .. } = room;
        let (heads, width) = (shape.kv_heads, shape.head_dim);
        let mut inputs = vec![
            ("input_ids".to_string(), F::ids(&[1, s], &self.ids)?),
            ("cos".to_string(), F::numbers(&[1, 1, s, width], &self.cos)?),
            ("sin".to_string(), F::numbers(&[1, 1, s, width], &self.sin)?),
            ("attn_mask".to_string(), F::numbers(&[1, 1, s, p + s], &self.mask)?),
        ];
        for (i, [k, v]) in self.past.iter().enumerate() {
            inputs.push((format!("past_k_{i}"), F::numbers(&[1, heads, width, p], k)?));
            inputs.push((format!("past_v_{i}"), F::numbers(&[1, heads, p, width], v)?));
        }
        Ok(inputs)
    }
}

/// How the host wants the numbers of an output.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// These rows, each as wide as the vocabulary.
    Logits(&'a [u32], usize),
    /// `[KV, D, S]`, turned.
    Keys(usize),
    /// `[KV, S, D]`.
    Values(usize),
}

impl Rows<'_> {
    /// Overwrites `out` with what the host wants of an output.
    pub(crate) fn read<E: Stored>(self, data: &[E], room: Room, grid: CacheGrid, out: &mut Vec<f32>) {
        match self {
            Rows::Logits(rows, vocab) => fill::logits(out, data, rows, vocab),
            Rows::Keys(width) => fill::new_keys(out, data, room, width, grid),
            Rows::Values(width) => fill::new_values(out, data, room, width, grid),
        }
    }
}

/// Integers need a grid, and floats have none.
fn check_grid(element: Element, grid: Option<CacheGrid>) -> Result<(), String> {
    match (element.integers(), grid) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(format!("is {element:?}, which has no scale and zero point")),
        (Some(_), None) => Err(format!("is {element:?}, but its scale and zero point are not known")),
        (Some((low, high)), Some(CacheGrid { scale, zero })) => {
            let fits = scale.is_normal() && scale > 0.0 && (low..=high).contains(&zero);
            if fits { Ok(()) } else { Err(format!("is {element:?}, which cannot have scale {scale} and zero {zero}")) }
        }
    }
}

/// Rows of the rotation, `[S, D]`, both halves alike; those behind the step turn nothing.
fn rotations<E: Stored>(out: &mut Vec<E>, positions: &[u32], room: Room, theta: f64, width: usize, f: fn(f64) -> f64) {
    out.clear();
    for &position in positions.iter().chain(std::iter::repeat_n(&0, room.file_tokens - room.tokens)) {
        let start = out.len();
        let angle = |j| math::rope_angle(f64::from(position), theta, j, width);
        out.extend((0..width / 2).map(|j| E::store(f(angle(j)) as f32, CacheGrid::NONE)));
        out.extend_from_within(start..);
    }
}
