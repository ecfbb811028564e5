//! ONNX Runtime, on its CPU or on Qualcomm's HTP, where its libraries are installed and this program knows of it.

use std::path::Path;

use diffulex_runtime::engine::Engine;
use diffulex_targets::qnn::Soc;

use crate::Error;
use crate::subject::Opened;

#[cfg(feature = "qnn")]
pub use with::OnnxRuntime;
#[cfg(not(feature = "qnn"))]
pub use without::OnnxRuntime;

#[cfg(feature = "qnn")]
mod with {
    use std::path::PathBuf;

    use diffulex_compiler::ir::{CacheKind, Module, NodeId, Op, Operand};
    use diffulex_compiler::quant::Grid;
    use diffulex_runtime::onnxruntime::{self, CacheGrid, Libraries, Provider, StepFile};
    use diffulex_targets::{OpenError, onnx};

    use super::{Engine, Error, Opened, Path, Soc};

    /// An installation, and what of it is to be used.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OnnxRuntime {
        libraries: Libraries,
        /// The chip whose HTP is asked for; the CPU without one.
        soc: Option<&'static Soc>,
    }

    impl OnnxRuntime {
        /// The installation in `folder`, to run on the HTP of `soc`, or on the CPU.
        ///
        /// # Errors
        /// When something is missing there; says what, and what to do.
        pub fn find(folder: &Path, soc: Option<&'static Soc>) -> Result<OnnxRuntime, Error> {
            Ok(OnnxRuntime { libraries: Libraries::find(folder)?, soc })
        }

        /// Whether graphs can be compiled for the HTP.
        pub fn compiles(&self) -> bool {
            self.libraries.has_htp()
        }

        /// An engine for an ONNX file that was opened; a context for the chip beside it is taken in its place.
        ///
        /// # Errors
        /// When it is no such file, or the libraries refuse it.
        pub fn engine(&self, opened: &Opened) -> Result<Box<dyn Engine>, Error> {
            let name = &opened.name;
            let is_onnx = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == onnx::EXTENSION);
            let file = opened.artifact.as_ref().filter(is_onnx).ok_or_else(|| {
                Error::Usage(format!("{name} is no ONNX file; ONNX Runtime runs what targets `onnx` and `qnn` make"))
            })?;
            let unreadable =
                |error: onnx::ReadError| Error::Read { file: file.clone(), error: Box::new(OpenError::from(error)) };
            let files = onnx::steps(file).map_err(unreadable)?;
            let files: Vec<StepFile> = files.into_iter().map(|(path, tokens)| StepFile { path, tokens }).collect();
            let contexts: Vec<StepFile> = files.iter().map(|file| self.context(file)).collect();
            let files = if contexts.iter().all(|context| context.path.is_file()) { contexts } else { files };
            let module = &opened.module;
            let theta =
                module.nodes.iter().find_map(|n| if let Op::RopeCos { theta, .. } = n.op { Some(theta) } else { None });
            let theta = theta.ok_or_else(|| Error::Usage(format!("{name} does not have the inputs of a step")))?;
            let shape = opened.shape()?;
            let provider = provider(self.soc, module);
            let engine =
                onnxruntime::OnnxRuntime::open(&self.libraries, &files, shape, theta, &caches(module), provider)?;
            Ok(Box::new(engine))
        }

        /// The file that [`OnnxRuntime::compile`] makes of another for the chip.
        fn context(&self, file: &StepFile) -> StepFile {
            let folder = file.path.parent().unwrap_or(Path::new("")).join(self.soc.map_or("", |soc| soc.name));
            let name = file.path.file_name().unwrap_or_default();
            StepFile { path: folder.join(onnxruntime::context_of(Path::new(name))), tokens: file.tokens }
        }

        /// Compiles the graph at `model` for a chip into `out`.
        ///
        /// # Errors
        /// When the libraries refuse it, or writing fails.
        pub fn compile(&self, model: &Path, soc: &Soc, half: bool, out: &Path) -> Result<(), Error> {
            let provider = Provider::Htp { soc: soc.id, arch: soc.arch, fp16: half };
            Ok(onnxruntime::compile(&self.libraries, model, provider, out)?)
        }
    }

    fn provider(soc: Option<&Soc>, module: &Module) -> Provider {
        let rounded = module.nodes.iter().any(|node| matches!(node.op, Op::FakeQuantize(_)));
        soc.map_or(Provider::Cpu, |soc| Provider::Htp { soc: soc.id, arch: soc.arch, fp16: !rounded })
    }

    /// The grids of all caches, those of new rows.
    fn caches(module: &Module) -> Vec<[Option<CacheGrid>; 2]> {
        let mut caches = vec![[None; 2]; module.cache.layers as usize];
        for (cache, rows) in module.new_rows() {
            let grid = grid(module, rows).map(|grid| CacheGrid { scale: grid.scale, zero: grid.zero });
            caches[cache.layer as usize][usize::from(cache.kind == CacheKind::V)] = grid;
        }
        caches
    }

    /// The grid of a value that is rounded, or only moved since.
    fn grid(module: &Module, id: NodeId) -> Option<Grid> {
        let node = module.node(id);
        match (&node.op, node.args.first()) {
            (Op::FakeQuantize(grid), _) => Some(*grid),
            (
                Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Heads { .. },
                Some(Operand::Node(moved)),
            ) => grid(module, *moved),
            _ => None,
        }
    }
}

#[cfg(not(feature = "qnn"))]
mod without {
    use super::{Engine, Error, Opened, Path, Soc};

    /// There is none: this program was built without the feature `qnn`.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum OnnxRuntime {}

    #[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the other one")]
    impl OnnxRuntime {
        pub fn find(_folder: &Path, _soc: Option<&'static Soc>) -> Result<OnnxRuntime, Error> {
            Err(Error::Usage("this program was built without the feature `qnn`, which knows ONNX Runtime".into()))
        }

        pub fn compiles(&self) -> bool {
            match *self {}
        }

        pub fn engine(&self, _opened: &Opened) -> Result<Box<dyn Engine>, Error> {
            match *self {}
        }

        pub fn compile(&self, _model: &Path, _soc: &Soc, _half: bool, _out: &Path) -> Result<(), Error> {
            match *self {}
        }
    }
}
