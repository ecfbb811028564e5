//! One open file: its inputs are filled, it runs, its outputs are read.

use half::f16;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorRef};

use super::libraries::Libraries;
use super::{Provider, StepFile, session};
use crate::engine::{EngineError, EngineShape, StepInput, StepOutput};
use crate::step_file::{CacheGrid, Element, Feed, Inputs, Interface, Room, Rows, Stored, Tensor};

/// An open file and the numbers of its inputs.
#[derive(Debug)]
pub(super) struct Step {
    session: Session,
    inputs: Inputs,
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
        let halves = matches!(provider, Provider::Htp { fp16: true, .. });
        Interface::check(&inputs, &outputs, shape, file.tokens)
            .and_then(|interface| Inputs::new(interface, file.tokens, shape, caches, halves))
            .map(|inputs| Step { session, inputs })
            .map_err(|what| EngineError::Failed {
                engine: provider.name(),
                message: format!("{}: {what}", file.path.display()),
            })
    }

    /// Tokens it has room for; nothing if it takes any number.
    pub(super) fn tokens(&self) -> Option<usize> {
        self.inputs.tokens
    }

    /// Runs the file on a step.
    pub(super) fn run(
        &mut self,
        input: &StepInput<'_>,
        theta: f64,
        shape: &EngineShape,
        caches: &[[CacheGrid; 2]],
        out: &mut StepOutput,
    ) -> Result<(), String> {
        self.inputs.fill(input, theta, shape, caches);
        let room = self.inputs.room(input);
        let (s, heads, width) = (room.file_tokens, shape.kv_heads, shape.head_dim);
        let outputs = self.session.run(self.inputs.feed::<View>(room, shape)?).map_err(|e| e.to_string())?;

        let interface = &self.inputs.interface;
        let logits = Output { name: "logits".to_string(), element: interface.float, len: s * shape.vocab };
        logits.read(&outputs, Rows::Logits(input.rows, shape.vocab), room, CacheGrid::NONE, &mut out.logits)?;
        out.new.resize_with(shape.layers, Default::default);
        for (i, (new, (elements, grids))) in out.new.iter_mut().zip(interface.caches.iter().zip(caches)).enumerate() {
            let len = heads * s * width;
            let k = Output { name: format!("new_k_{i}"), element: elements[0], len };
            k.read(&outputs, Rows::Keys(width), room, grids[0], &mut new.k)?;
            let v = Output { name: format!("new_v_{i}"), element: elements[1], len };
            v.read(&outputs, Rows::Values(width), room, grids[1], &mut new.v)?;
        }
        Ok(())
    }
}

/// ONNX Runtime looks at the numbers where they are.
struct View;

impl<'a> Feed<'a> for View {
    type Value = SessionInputValue<'a>;

    fn ids(dims: &[usize], data: &'a [i32]) -> Result<Self::Value, String> {
        view(dims, data)
    }

    fn numbers(dims: &[usize], data: &'a Tensor) -> Result<Self::Value, String> {
        match data {
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
        rows.read(data, room, grid, out);
        Ok(())
    }
}
