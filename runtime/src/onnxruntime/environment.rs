//! The one environment of the process: ONNX Runtime is loaded once and never unloaded.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::libraries::{Htp, Libraries};
use super::{CPU_NAME, HTP_NAME};
use crate::engine::EngineError;

/// Name of Qualcomm's provider, in option names too.
pub(super) const QNN: &str = "QNNExecutionProvider";

struct Loaded {
    environment: Environment,
    runtime: PathBuf,
    htp: Option<Htp>,
}

/// Filled by the first call of [`with`].
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Runs `work` with the environment, and with Qualcomm's provider in it if `htp` says so. What the libraries log meanwhile
/// as an error is added to the error of `work`: often only that says what is wrong with a file.
///
/// One call at a time, so that the log belongs to it and so that standard output can be turned away meanwhile.
pub(super) fn with<T>(
    libraries: &Libraries,
    htp: bool,
    work: impl FnOnce(&Environment) -> Result<T, String>,
) -> Result<T, EngineError> {
    let engine = if htp { HTP_NAME } else { CPU_NAME };
    let htp = if htp { Some(libraries.htp()?) } else { None };
    let mut loaded = lock(&LOADED);
    lock(&LOG).clear();
    let _quiet = htp.map(|_| Quiet::begin());
    let result = load(&mut loaded, libraries, htp).and_then(|environment| work(&environment));
    result.map_err(|mut message| {
        for line in lock(&LOG).drain(..).filter(|line| !message.contains(line)).collect::<Vec<_>>() {
            message += "\n";
            message += &line;
        }
        EngineError::Failed { engine, message }
    })
}

fn load(loaded: &mut Option<Loaded>, libraries: &Libraries, htp: Option<&Htp>) -> Result<Environment, String> {
    let loaded = match loaded {
        Some(loaded) if loaded.runtime == libraries.runtime => loaded,
        Some(loaded) => return Err(another(&loaded.runtime)),
        None => {
            let path = libraries.runtime.display();
            let builder = ort::init_from(&libraries.runtime).map_err(|e| format!("{path}: {e}"))?;
            let builder = builder.with_name("diffulex").with_telemetry(false).with_logger(Arc::new(record));
            let environment = builder.build().map_err(|e| format!("{path}: {e}"))?;
            environment.set_log_level(LogLevel::Error);
            loaded.insert(Loaded { environment, runtime: libraries.runtime.clone(), htp: None })
        }
    };
    match (htp, &loaded.htp) {
        (Some(wanted), Some(found)) if wanted != found => return Err(another(&found.provider)),
        (Some(wanted), None) => {
            let path = &wanted.provider;
            let registered = loaded.environment.register_ep_library(QNN, path);
            registered.map_err(|e| format!("{}: {e}", path.display()))?;
            loaded.htp = Some(wanted.clone());
        }
        _ => {}
    }
    Ok(loaded.environment.clone())
}

fn another(path: &std::path::Path) -> String {
    format!("this process has already loaded {}, and it can load one only", path.display())
}

/// Error lines of the libraries since the current call of [`with`] began.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How many lines, and how many bytes of a line, are kept.
const LOG_LINES: usize = 8;
const LOG_BYTES: usize = 1000;

fn record(level: LogLevel, _: &str, _: &str, _: &str, message: &str) {
    let mut log = lock(&LOG);
    if matches!(level, LogLevel::Error | LogLevel::Fatal) && log.len() < LOG_LINES {
        log.push(message[..message.floor_char_boundary(LOG_BYTES)].trim().to_string());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, what is written to standard output goes to the error stream: Qualcomm's library greets there, and our
/// readers expect JSON. Whatever another thread prints meanwhile goes there too.
struct Quiet {
    #[cfg(unix)]
    output: Option<std::os::fd::OwnedFd>,
}

impl Quiet {
    fn begin() -> Self {
        // Ours must not end up in the wrong stream; if it cannot be written now, its writer will hear of it.
        drop(std::io::stdout().flush());
        #[cfg(unix)]
        {
            use std::os::fd::AsFd;
            let output = rustix::io::dup(std::io::stdout().as_fd()).ok();
            let turned = rustix::stdio::dup2_stdout(std::io::stderr().as_fd());
            Self { output: output.filter(|_| turned.is_ok()) }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

#[cfg(unix)]
impl Drop for Quiet {
    fn drop(&mut self) {
        unsafe extern "C" {
            /// Writes what the C library holds back of a stream, or of all where there is none.
            fn fflush(stream: *mut std::ffi::c_void) -> std::ffi::c_int;
        }
        // SAFETY: without a stream it touches only what belongs to the C library, under its own locks.
        unsafe { fflush(std::ptr::null_mut()) };
        if let Some(output) = &self.output {
            // Fails only where standard output was closed before, and then there is none to restore.
            let _ = rustix::stdio::dup2_stdout(output);
        }
    }
}
