//! ONNX Runtime as an engine: `.onnx` files on its CPU provider, or on Qualcomm's HTP (a device, or its emulator).
//!
//! Nothing of it is linked: [`Libraries::find`] looks for an installation, the first [`OnnxRuntime::open`] or [`compile`]
//! of the process loads it. A file has room for a fixed number of tokens and cached positions; [`OnnxRuntime`] takes the
//! smallest one that holds a step and pads.

mod environment;
mod libraries;
mod session;
mod step;

use std::path::PathBuf;

pub use self::libraries::Libraries;
pub use self::session::{compile, context_of};
use self::step::Step;
use crate::engine::{Engine, EngineError, EngineShape, StepInput, StepOutput};
pub use crate::step_file::CacheGrid;

/// Name of the engine on the CPU.
const CPU_NAME: &str = "onnxruntime";
/// Name of the engine on the HTP.
const HTP_NAME: &str = "qnn";

/// Where a file runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime's own kernels.
    Cpu,
    /// Qualcomm's HTP; every node must run there.
    Htp {
        /// The number Qualcomm gives the SoC: 57 for SM8650.
        soc: u32,
        /// Architecture of its HTP: 75 for v75. It belongs to the SoC; the libraries do not check that.
        arch: u32,
        /// Floats are halves there.
        fp16: bool,
    },
}

impl Provider {
    fn is_htp(self) -> bool {
        matches!(self, Provider::Htp { .. })
    }

    fn name(self) -> &'static str {
        if self.is_htp() { HTP_NAME } else { CPU_NAME }
    }
}

/// One file for one static number of tokens, or one with dynamic shapes.
#[derive(Clone, Debug)]
pub struct StepFile {
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Tokens it has room for; nothing if it takes any number.
    pub tokens: Option<usize>,
}

/// The step graph of one model, opened by ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime {
    provider: Provider,
    shape: EngineShape,
    theta: f64,
    caches: Vec<[CacheGrid; 2]>,
    /// The smallest first, one that takes any number of tokens last.
    steps: Vec<Step>,
}

impl OnnxRuntime {
    /// Opens the files of a model of the given shape, whose heads are rotated by `theta`. `caches` has an entry a layer,
    /// for keys and for values: the grid where the file has integers, nothing where it has floats.
    ///
    /// # Errors
    /// [`EngineError::Missing`] without the libraries, [`EngineError::Failed`] when ONNX Runtime refuses a file or when
    /// its interface is not that of a step graph, [`EngineError::Input`] when files, shape and caches do not fit each other.
    pub fn open(
        libraries: &Libraries,
        files: &[StepFile],
        shape: EngineShape,
        theta: f64,
        caches: &[[Option<CacheGrid>; 2]],
        provider: Provider,
    ) -> Result<Self, EngineError> {
        if shape.kv_heads == 0 || shape.head_dim == 0 {
            return Err(EngineError::Input("a model has at least one head of at least one dimension".to_string()));
        }
        let most = files.iter().map(|file| file.tokens.unwrap_or(shape.max_tokens)).max().unwrap_or(0);
        if most != shape.max_tokens {
            let bounds = format!("the files take up to {most} tokens, the model {}", shape.max_tokens);
            return Err(EngineError::Input(bounds));
        }
        if caches.len() != shape.layers {
            let layers = format!("grids for {} layers, but the model has {}", caches.len(), shape.layers);
            return Err(EngineError::Input(layers));
        }
        let steps = files.iter().map(|file| Step::open(libraries, file, &shape, caches, provider));
        let mut steps = steps.collect::<Result<Vec<_>, _>>()?;
        steps.sort_by_key(|step| step.tokens().unwrap_or(usize::MAX));
        let caches = caches.iter().map(|layer| layer.map(|grid| grid.unwrap_or(CacheGrid::NONE))).collect();
        Ok(Self { provider, shape, theta, caches, steps })
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        self.provider.name()
    }

    fn shape(&self) -> &EngineShape {
        &self.shape
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        let failed = |message| EngineError::Failed { engine: self.provider.name(), message };
        let fits = |step: &&mut Step| step.tokens().is_none_or(|tokens| tokens >= input.tokens.len());
        let step = self.steps.iter_mut().find(fits);
        let step = step.ok_or_else(|| failed(format!("no file takes {} tokens", input.tokens.len())))?;
        step.run(input, self.theta, &self.shape, &self.caches, out).map_err(failed)
    }
}
