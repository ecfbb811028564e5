//! tract as a reader of ONNX files: a float `.onnx` file with the interface of a step, on tract's own operators alone.
//!
//! It shares no code with the file's writer and reader but the filling of inputs, so it can judge both. It is no fast
//! engine: [`tract`](crate::tract) with our kernels is.
//!
//! tract knows no integers of four or of sixteen bits in values, no bfloat16 and no scales of blocks; such files are
//! refused. It copies the weights out of the file, once as they are and once more while it packs a matrix. A file that
//! did not pass our own reader is not for it: it believes that every name in a graph is defined, and panics otherwise.

use std::path::Path;

use ::tract_onnx::prelude::Framework;
use ::tract_onnx::tract_hir::internal::InferenceModelExt;
use half::f16;
use tract_core::internal::{
    Datum, DatumType, OutletId, RunOptions, TValue, TVec, Tensor as TractTensor, TractResult, TypedModel,
    TypedSimplePlan, TypedSimpleState,
};
use tract_linalg::multithread::Executor;

use crate::engine::{Engine, EngineError, EngineShape, LayerRows, StepInput, StepOutput};
use crate::step_file::{CacheGrid, Element, Feed, Inputs, Interface, Port, Room, Rows, Stored, Tensor};

/// The name of the engine.
const NAME: &str = "tract-onnx";
/// Under this name tract keeps the base of the rotation that the file states.
const THETA: &str = "onnx.metadata_props.diffulex.rope_theta";

/// One file, opened by tract.
pub struct TractOnnx {
    shape: EngineShape,
    theta: f64,
    /// Names of what the graph is fed, in its order.
    given: Vec<String>,
    /// Names of what it makes, in its order.
    made: Vec<String>,
    inputs: Inputs,
    grids: Vec<[CacheGrid; 2]>,
    state: TypedSimpleState,
}

impl TractOnnx {
    /// Opens the file of a model of the given shape. The file states the base of its rotation.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when tract refuses the file, or when its interface is not that of a step graph in floats.
    pub fn open(path: &Path, shape: EngineShape) -> Result<Self, EngineError> {
        Self::opened(path, shape).map_err(|what| failed(format!("{}: {what}", path.display())))
    }

    fn opened(path: &Path, shape: EngineShape) -> Result<Self, String> {
        let Loaded { model, theta, given, made } = Loaded::read(path)?;
        let tokens = given.iter().find(|port| port.name == "input_ids").and_then(|port| port.dims.get(1));
        let tokens = tokens.and_then(|&n| usize::try_from(n).ok());
        if let Some(tokens) = tokens.filter(|&tokens| tokens != shape.max_tokens) {
            return Err(format!("it takes {tokens} tokens, the model {}", shape.max_tokens));
        }
        let interface = Interface::check(&given, &made, &shape, tokens)?;
        let floats = vec![[None; 2]; shape.layers];
        let inputs = Inputs::new(interface, tokens, &shape, &floats, false)?;
        let names = |ports: Vec<Port>| ports.into_iter().map(|port| port.name).collect();
        let options = RunOptions { executor: Some(Executor::RayonGlobal), ..RunOptions::default() };
        let state = || -> TractResult<TypedSimpleState> {
            TypedSimplePlan::new_with_options(model.into_optimized()?, &options)?.spawn()
        };
        let state = state().map_err(|e| format!("{e:#}"))?;
        let grids = vec![[CacheGrid::NONE; 2]; shape.layers];
        Ok(Self { shape, theta, given: names(given), made: names(made), inputs, grids, state })
    }

    fn run(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), String> {
        self.inputs.fill(input, self.theta, &self.shape, &self.grids);
        let room = self.inputs.room(input);
        let mut fed = self.inputs.feed::<Copied>(room, &self.shape)?;
        let mut value = |name: &String| {
            let at = fed.iter().position(|(fed, _)| fed == name).ok_or_else(|| format!("nobody feeds `{name}`"))?;
            Ok(fed.swap_remove(at).1)
        };
        let values = self.given.iter().map(&mut value).collect::<Result<TVec<TValue>, String>>()?;
        let ran = self.state.run(values).inspect_err(|_| drop(self.state.reset_turn()));
        let values = ran.map_err(|e| format!("{e:#}"))?;

        let outputs = Outputs { names: &self.made, values, room };
        let &EngineShape { vocab, kv_heads, head_dim: width, .. } = &self.shape;
        let s = room.file_tokens;
        outputs.read("logits", Rows::Logits(input.rows, vocab), s * vocab, &mut out.logits)?;
        out.new.resize_with(self.shape.layers, LayerRows::default);
        for (i, new) in out.new.iter_mut().enumerate() {
            outputs.read(&format!("new_k_{i}"), Rows::Keys(width), kv_heads * s * width, &mut new.k)?;
            outputs.read(&format!("new_v_{i}"), Rows::Values(width), kv_heads * s * width, &mut new.v)?;
        }
        Ok(())
    }
}

impl Engine for TractOnnx {
    fn name(&self) -> &'static str {
        NAME
    }

    fn shape(&self) -> &EngineShape {
        &self.shape
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        self.run(input, out).map_err(failed)
    }
}

fn failed(message: String) -> EngineError {
    EngineError::Failed { engine: NAME, message }
}

/// A file as tract understands it.
struct Loaded {
    model: TypedModel,
    theta: f64,
    given: Vec<Port>,
    made: Vec<Port>,
}

impl Loaded {
    fn read(path: &Path) -> Result<Self, String> {
        // Dimensions stay the symbols that the file declares: with sizes in their place tract does not unify them.
        let model = ::tract_onnx::onnx().model_for_path(path).map_err(|e| format!("{e:#}"))?;
        let theta = model
            .properties
            .get(THETA)
            .and_then(|text| text.try_as_plain_ram().ok()?.as_slice::<String>().ok()?.first()?.parse().ok());
        let theta = theta.filter(|theta: &f64| theta.is_finite()).ok_or("it does not state `diffulex.rope_theta`")?;
        let name = |label: Option<&str>, node: usize| label.unwrap_or(&model.nodes[node].name).to_string();
        let names = |outlets: &[OutletId]| -> Vec<String> {
            outlets.iter().map(|&outlet| name(model.outlet_label(outlet), outlet.node)).collect()
        };
        let (given, made) = (names(&model.inputs), names(&model.outputs));
        let model = model.into_typed().map_err(|e| format!("{e:#}"))?;
        let ports = |outlets: &[OutletId], names: Vec<String>| {
            let ports = outlets.iter().zip(names).map(|(&outlet, name)| {
                let fact = model.outlet_fact(outlet).map_err(|e| format!("`{name}`: {e:#}"))?;
                let dims = fact.shape.iter().map(|dim| dim.to_i64().unwrap_or(-1)).collect();
                Ok(Port { name, element: element(fact.datum_type), dims })
            });
            ports.collect::<Result<Vec<_>, String>>()
        };
        let (given, made) = (ports(&model.inputs, given)?, ports(&model.outputs, made)?);
        Ok(Self { model, theta, given, made })
    }
}

fn element(ty: DatumType) -> Option<Element> {
    Some(match ty {
        DatumType::F32 => Element::F32,
        DatumType::F16 => Element::F16,
        DatumType::I32 => Element::I32,
        DatumType::U8 => Element::U8,
        DatumType::I8 => Element::I8,
        DatumType::U16 => Element::U16,
        DatumType::I16 => Element::I16,
        _ => return None,
    })
}

/// tract owns its inputs.
struct Copied;

impl Feed<'_> for Copied {
    type Value = TValue;

    fn ids(dims: &[usize], data: &[i32]) -> Result<TValue, String> {
        copied(dims, data)
    }

    fn numbers(dims: &[usize], data: &Tensor) -> Result<TValue, String> {
        match data {
            Tensor::F32(data) => copied(dims, data),
            Tensor::F16(data) => copied(dims, data),
            Tensor::I32(data) => copied(dims, data),
            Tensor::U8(_) | Tensor::I8(_) | Tensor::U16(_) | Tensor::I16(_) => Err("a cache is no floats".to_string()),
        }
    }
}

fn copied<T: Datum + Copy>(dims: &[usize], data: &[T]) -> Result<TValue, String> {
    TractTensor::from_shape(dims, data).map(Into::into).map_err(|e| format!("{e:#}"))
}

/// What a step made.
struct Outputs<'a> {
    names: &'a [String],
    values: TVec<TValue>,
    room: Room,
}

impl Outputs<'_> {
    /// Overwrites `out` with the host's view of an output of `len` numbers.
    fn read(&self, name: &str, rows: Rows<'_>, len: usize, out: &mut Vec<f32>) -> Result<(), String> {
        let at = self.names.iter().position(|made| made == name);
        let value = at.and_then(|at| self.values.get(at)).ok_or_else(|| format!("it made no `{name}`"))?;
        match value.datum_type() {
            DatumType::F16 => self.read_as::<f16>(value, rows, len, out),
            _ => self.read_as::<f32>(value, rows, len, out),
        }
        .ok_or_else(|| format!("it made {value:?} of `{name}`, not {len} numbers"))
    }

    fn read_as<E: Stored + Datum>(&self, value: &TValue, rows: Rows<'_>, len: usize, out: &mut Vec<f32>) -> Option<()> {
        let data = value.as_plain_ram()?.as_slice::<E>().ok()?;
        if data.len() != len {
            return None;
        }
        rows.read(data, self.room, CacheGrid::NONE, out);
        Some(())
    }
}
