//! One open file: its inputs are filled, it runs, its outputs are read.

use diffulex_compiler::math;
use half::f16;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorRef};
use rayon::prelude::*;

use super::fill::{self, Room};
use super::interface::Interface;
use super::libraries::Libraries;
use super::tensor::{CacheGrid, Element, Stored, Tensor, with_numbers};
use super::{Provider, StepFile, session};
use crate::engine::{EngineError, EngineShape, StepInput, StepOutput};

/// Lowest number in the mask of a graph of halves. [`HIDDEN`](crate::engine::HIDDEN) would be infinite there, and a row
/// that is hidden as a whole NaN; `exp` of this is exactly zero too beside any visible key.
const LOWEST_HALF: f32 = -3e4;

/// An open file and the numbers of its inputs, which every step overwrites.
#[derive(Debug)]
pub(super) struct Step {
    session: Session,
    /// Tokens it has room for; nothing if it takes any number.
    pub(super) tokens: Option<usize>,
    /// No number in the mask is lower.
    lowest: f32,
    interface: Interface,
    ids: Vec<i32>,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    /// Keys and values of each layer.
    past: Vec<[Tensor; 2]>,
}

impl Step {
    /// Opens a file; see [`OnnxRuntime::open`](super::OnnxRuntime::open).
    pub(super) fn open(
        libraries: &Libraries,
        file: &StepFile,
        shape: &EngineShape,
        caches: &[[Option<CacheGrid>; 2]],
        provider: Provider,
    ) -> Result<Self, EngineError> {
        let session = session::open(libraries, &file.path, provider)?;
        let (inputs, outputs) = (session::ports(session.inputs()), session::ports(session.outputs()));
        Interface::check(&inputs, &outputs, shape, file.tokens)
            .and_then(|interface| Step::new(session, file.tokens, interface, shape, caches, provider))
            .map_err(|what| EngineError::Failed {
                engine: provider.name(),
                message: format!("{}: {what}", file.path.display()),
            })
    }

    fn new(
        session: Session,
        tokens: Option<usize>,
        interface: Interface,
        shape: &EngineShape,
        caches: &[[Option<CacheGrid>; 2]],
        provider: Provider,
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
        let halves = interface.float == Element::F16 || matches!(provider, Provider::Htp { fp16: true, .. });
        Ok(Self {
            tokens,
            lowest: if halves { LOWEST_HALF } else { f32::NEG_INFINITY },
            ids: Vec::new(),
            cos: Tensor::with_room(interface.float, volume(&[s, shape.head_dim]))?,
            sin: Tensor::with_room(interface.float, volume(&[s, shape.head_dim]))?,
            mask: Tensor::with_room(interface.float, volume(&[s, p.saturating_add(s)]))?,
            past,
            interface,
            session,
        })
    }

    fn room(&self, input: &StepInput<'_>) -> Room {
        let (tokens, cached) = (input.tokens.len(), input.cached);
        let file_tokens = self.tokens.unwrap_or(tokens);
        Room { tokens, file_tokens, cached, file_cached: self.interface.cached.unwrap_or(cached) }
    }

    /// Writes all inputs. The caches are written anew each time: a host may change any row between two steps, and to find
    /// out takes as long as to write them.
    pub(super) fn fill(&mut self, input: &StepInput<'_>, theta: f64, shape: &EngineShape, caches: &[[CacheGrid; 2]]) {
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

    /// Runs the file on what [`Step::fill`] wrote.
    pub(super) fn run(
        &mut self,
        input: &StepInput<'_>,
        shape: &EngineShape,
        caches: &[[CacheGrid; 2]],
        out: &mut StepOutput,
    ) -> Result<(), String> {
        let room = self.room(input);
        let Room { file_tokens: s, file_cached: p, .. } = room;
        let (heads, width) = (shape.kv_heads, shape.head_dim);
        let mut inputs = vec![
            ("input_ids".to_string(), view(&[1, s], &self.ids)?),
            ("cos".to_string(), self.cos.view(&[1, 1, s, width])?),
            ("sin".to_string(), self.sin.view(&[1, 1, s, width])?),
            ("attn_mask".to_string(), self.mask.view(&[1, 1, s, p + s])?),
        ];
        for (i, [k, v]) in self.past.iter().enumerate() {
            inputs.push((format!("past_k_{i}"), k.view(&[1, heads, width, p])?));
            inputs.push((format!("past_v_{i}"), v.view(&[1, heads, p, width])?));
        }
        let outputs = self.session.run(inputs).map_err(|e| e.to_string())?;

        let logits = Output { name: "logits".to_string(), element: self.interface.float, len: s * shape.vocab };
        logits.read(&outputs, Rows::Logits(input.rows, shape.vocab), room, CacheGrid::NONE, &mut out.logits)?;
        out.new.resize_with(shape.layers, Default::default);
        for (i, (new, (elements, grids))) in
            out.new.iter_mut().zip(self.interface.caches.iter().zip(caches)).enumerate()
        {
            let len = heads * s * width;
            let k = Output { name: format!("new_k_{i}"), element: elements[0], len };
            k.read(&outputs, Rows::Keys(width), room, grids[0], &mut new.k)?;
            let v = Output { name: format!("new_v_{i}"), element: elements[1], len };
            v.read(&outputs, Rows::Values(width), room, grids[1], &mut new.v)?;
        }
        Ok(())
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

impl Tensor {
    fn view(&self, dims: &[usize]) -> Result<SessionInputValue<'_>, String> {
        match self {
            Tensor::F32(data) => view(dims, data),
            Tensor::F16(data) => view(dims, data),
            Tensor::I32(data) => view(dims, data),
            Tensor::U8(data) => view(dims, data),
            Tensor::I8(data) => view(dims, data),
            Tensor::U16(data) => view(dims, data),
            Tensor::I16(data) => view(dims, data),
        }
    }
}

fn view<'a, T>(dims: &[usize], data: &'a [T]) -> Result<SessionInputValue<'a>, String>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    TensorRef::from_array_view((dims.to_vec(), data)).map(Into::into).map_err(|e| e.to_string())
}

/// An output that the interface promises.
struct Output {
    name: String,
    element: Element,
    len: usize,
}

/// How the host wants the numbers of an output.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// These rows, each as wide as the vocabulary.
    Logits(&'a [u32], usize),
    /// `[KV, D, S]`, turned.
    Keys(usize),
    /// `[KV, S, D]`.
    Values(usize),
}

impl Output {
    fn read(
        &self,
        outputs: &SessionOutputs<'_>,
        rows: Rows<'_>,
        room: Room,
        grid: CacheGrid,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        match self.element {
            Element::F32 => self.read_as::<f32>(outputs, rows, room, grid, out),
            Element::F16 => self.read_as::<f16>(outputs, rows, room, grid, out),
            Element::U8 => self.read_as::<u8>(outputs, rows, room, grid, out),
            Element::I8 => self.read_as::<i8>(outputs, rows, room, grid, out),
            Element::U16 => self.read_as::<u16>(outputs, rows, room, grid, out),
            Element::I16 => self.read_as::<i16>(outputs, rows, room, grid, out),
            Element::I32 => Err(format!("`{}` is no row of numbers", self.name)),
        }
    }

    fn read_as<E: Stored + PrimitiveTensorElementType>(
        &self,
        outputs: &SessionOutputs<'_>,
        rows: Rows<'_>,
        room: Room,
        grid: CacheGrid,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        let value = outputs.get(&self.name).ok_or_else(|| format!("it made no `{}`", self.name))?;
        let (_, data) = value.try_extract_tensor::<E>().map_err(|e| format!("`{}`: {e}", self.name))?;
        if data.len() != self.len {
            return Err(format!("it made {} numbers of `{}`, not {}", data.len(), self.name, self.len));
        }
        match rows {
            Rows::Logits(rows, vocab) => fill::logits(out, data, rows, vocab),
            Rows::Keys(width) => fill::new_keys(out, data, room, width, grid),
            Rows::Values(width) => fill::new_values(out, data, room, width, grid),
        }
        Ok(())
    }
}
