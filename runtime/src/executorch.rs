//! The ExecuTorch engine: an XNNPACK `.pte` on the runtime that phones have.
//!
//! `tests/engines/setup.sh executorch` fetches that runtime and compiles `runtime/shim/executorch_shim.cpp` over it; this
//! file loads the resulting library when somebody asks for the engine. Nothing else depends on it. All `unsafe` of the
//! adapter is here: `Api` says what the shim promises, the rest holds its side of the bargain.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::Library;

use crate::engine::{Engine, EngineError, EngineShape, StepInput, StepOutput};

const NAME: &str = "executorch";

/// Where the library of the engine lies within the folder that `tests/engines/setup.sh` fills.
#[must_use]
pub fn library_path(engines_dir: &Path) -> PathBuf {
    engines_dir.join("libdiffulex_executorch.so")
}

/// A `.pte` opened by the ExecuTorch runtime.
#[derive(Debug)]
pub struct ExecuTorch {
    api: Api,
    model: NonNull<c_void>,
    shape: EngineShape,
    tokens: Vec<i64>,
    positions: Vec<i64>,
    /// Where the keys and values of each layer lie, in turn; refilled by every step.
    cache: Vec<*const f32>,
    /// Where the new keys and values of each layer go, in turn; refilled by every step.
    new: Vec<*mut f32>,
}

impl ExecuTorch {
    /// Opens the step graph in `pte` with the runtime behind `library` (see [`library_path`]).
    ///
    /// The runtime verifies the whole file and maps it: do not change the file while it is open.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when there is no such library, [`EngineError::Failed`] when the library is not ours or the
    /// runtime refuses the file.
    pub fn open(pte: &Path, library: &Path) -> Result<Self, EngineError> {
        let api = Api::load(library)?;
        let path = CString::new(pte.as_os_str().as_encoded_bytes())
            .map_err(|_| failed(format!("{}: a path cannot hold a zero byte", pte.display())))?;
        let mut raw = RawShape::default();
        // SAFETY: `path` is a C string and `raw` a struct of the layout the shim writes; both outlive the call.
        let model = unsafe { (api.open)(path.as_ptr(), &mut raw) };
        let model = NonNull::new(model).ok_or_else(|| failed(format!("{}: {}", pte.display(), api.error_text())))?;
        let shape = raw.into();
        let (tokens, positions, cache, new) = Default::default();
        Ok(Self { api, model, shape, tokens, positions, cache, new })
    }

    /// What the constant method `name` of the file returns, one text a value; nothing when it has no such method.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the method exists but is not a constant.
    pub fn constant(&mut self, name: &str) -> Result<Option<Vec<String>>, EngineError> {
        let Ok(c_name) = CString::new(name) else { return Ok(None) };
        let mut text = std::ptr::null();
        // SAFETY: `model` is open, `c_name` is a C string, and `text` takes one pointer.
        match unsafe { (self.api.constant)(self.model.as_ptr(), c_name.as_ptr(), &mut text) } {
            // SAFETY: the call succeeded, so `text` is a C string until this thread's next `constant`.
            OK => Ok(Some(unsafe { to_text(text) }.lines().map(str::to_owned).collect())),
            ABSENT => Ok(None),
            _ => Err(failed(self.api.error_text())),
        }
    }

    /// Sets the threads of the one pool that all models share. Models keep hold of the pool, so this works only while
    /// none is open. Without it the runtime takes one thread a fast core.
    ///
    /// # Errors
    /// Those of [`ExecuTorch::open`], and [`EngineError::Failed`] when a model is open.
    pub fn set_threads(library: &Path, threads: u32) -> Result<(), EngineError> {
        let api = Api::load(library)?;
        // SAFETY: takes a plain number; the shim refuses while a model is open.
        if unsafe { (api.set_threads)(threads.max(1)) } == OK { Ok(()) } else { Err(failed(api.error_text())) }
    }

    /// Threads the runtime computes with.
    #[must_use]
    pub fn threads(&self) -> u32 {
        // SAFETY: takes and touches nothing of ours.
        unsafe { (self.api.threads)() }
    }
}

impl Engine for ExecuTorch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn shape(&self) -> &EngineShape {
        &self.shape
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        let EngineShape { layers, kv_heads, head_dim, vocab, .. } = self.shape;

        self.tokens.clear();
        self.tokens.extend(input.tokens.iter().copied().map(i64::from));
        self.positions.clear();
        self.positions.extend(input.positions.iter().copied().map(i64::from));
        self.cache.clear();
        self.cache.extend(input.cache.iter().flat_map(|layer| [layer.k.as_ptr(), layer.v.as_ptr()]));

        let rows = kv_heads * input.tokens.len() * head_dim;
        out.logits.resize(input.rows.len() * vocab, 0.0);
        out.new.resize_with(layers, Default::default);
        self.new.clear();
        for layer in &mut out.new {
            layer.k.resize(rows, 0.0);
            layer.v.resize(rows, 0.0);
            self.new.extend([layer.k.as_mut_ptr(), layer.v.as_mut_ptr()]);
        }

        let step = RawStep {
            tokens_len: input.tokens.len() as u64,
            cached: input.cached as u64,
            tokens: self.tokens.as_ptr(),
            positions: self.positions.as_ptr(),
            mask: input.mask.as_ptr(),
            cache: self.cache.as_ptr(),
            rows: input.rows.as_ptr(),
            rows_len: input.rows.len() as u64,
            logits: out.logits.as_mut_ptr(),
            new: self.new.as_ptr(),
        };
        // SAFETY: `check` has compared every length of `input` with the shape the shim gave for this model, and the output
        // buffers were sized above by the same shape; nothing moves them before the call returns, and the shim keeps no
        // pointer that it would use later.
        match unsafe { (self.api.step)(self.model.as_ptr(), &step) } {
            OK => Ok(()),
            _ => Err(failed(self.api.error_text())),
        }
    }
}

impl Drop for ExecuTorch {
    fn drop(&mut self) {
        // SAFETY: `model` came from `open` and is closed only here.
        unsafe { (self.api.close)(self.model.as_ptr()) }
    }
}

/// Version of the interface below; the shim has the same number.
const ABI: u32 = 1;
/// Status of a call that worked; any other but `ABSENT` is a failure.
const OK: i32 = 0;
/// Status of a question about something that is not there.
const ABSENT: i32 = 2;

/// `DiffulexShape` of the shim.
#[repr(C)]
#[derive(Default)]
struct RawShape {
    max_tokens: u64,
    max_cache: u64,
    layers: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
}

impl From<RawShape> for EngineShape {
    fn from(raw: RawShape) -> Self {
        Self {
            max_tokens: raw.max_tokens as usize,
            max_cache: raw.max_cache as usize,
            layers: raw.layers as usize,
            kv_heads: raw.kv_heads as usize,
            head_dim: raw.head_dim as usize,
            vocab: raw.vocab as usize,
        }
    }
}

/// `DiffulexStep` of the shim.
#[repr(C)]
struct RawStep {
    tokens_len: u64,
    cached: u64,
    tokens: *const i64,
    positions: *const i64,
    mask: *const f32,
    cache: *const *const f32,
    rows: *const u32,
    rows_len: u64,
    logits: *mut f32,
    new: *const *mut f32,
}

/// The functions of the shim.
#[derive(Clone, Copy, Debug)]
struct Api {
    error: unsafe extern "C" fn() -> *const c_char,
    open: unsafe extern "C" fn(*const c_char, *mut RawShape) -> *mut c_void,
    close: unsafe extern "C" fn(*mut c_void),
    step: unsafe extern "C" fn(*mut c_void, *const RawStep) -> i32,
    constant: unsafe extern "C" fn(*mut c_void, *const c_char, *mut *const c_char) -> i32,
    set_threads: unsafe extern "C" fn(u32) -> i32,
    threads: unsafe extern "C" fn() -> u32,
}

impl Api {
    fn load(path: &Path) -> Result<Self, EngineError> {
        let Ok(path) = path.canonicalize() else {
            let help = format!("there is no {}; `tests/engines/setup.sh executorch` builds it", path.display());
            return Err(EngineError::Missing { engine: NAME, help });
        };
        let broken = |why: String| failed(format!("{why}; build it again with `tests/engines/setup.sh executorch`"));
        // SAFETY: the initialisers of the library are those of ExecuTorch, which register kernels and back ends.
        let library = unsafe { Library::new(&path) }.map_err(|e| broken(reason(&e)))?;
        // The runtime keeps threads and registries, so it is never unloaded, and its functions live as long as we do.
        let library: &'static Library = Box::leak(Box::new(library));
        /// The function called `name` with the type of the place it is assigned to.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: every field of `Api` and `abi` below repeat the signature in the shim; the version guards that.
                *unsafe { library.get(concat!("diffulex_executorch_", $name)) }.map_err(|e| broken(reason(&e)))?
            };
        }
        let abi: unsafe extern "C" fn() -> u32 = function!("abi");
        // SAFETY: takes and touches nothing.
        let found = unsafe { abi() };
        if found != ABI {
            return Err(broken(format!("it speaks version {found} of the interface, not {ABI}")));
        }
        Ok(Self {
            error: function!("error"),
            open: function!("open"),
            close: function!("close"),
            step: function!("step"),
            constant: function!("constant"),
            set_threads: function!("set_threads"),
            threads: function!("threads"),
        })
    }

    /// What the call that has just failed on this thread says about it.
    fn error_text(&self) -> String {
        // SAFETY: the shim returns a C string that lives until this thread's next failing call.
        unsafe { to_text((self.error)()) }
    }
}

fn failed(message: String) -> EngineError {
    EngineError::Failed { engine: NAME, message }
}

/// What the loader said; libloading keeps it in the source of its error.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Copies a text of the shim.
///
/// # Safety
/// `text` is a C string.
unsafe fn to_text(text: *const c_char) -> String {
    // SAFETY: passed on to the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
