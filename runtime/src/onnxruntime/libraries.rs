//! Where the libraries lie: ONNX Runtime itself and Qualcomm's execution provider.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::{Path, PathBuf};

use super::{CPU_NAME, HTP_NAME};
use crate::engine::EngineError;

/// The libraries of an installation. That of ONNX Runtime is there; Qualcomm's may be missing, and then only the CPU can
/// be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    /// `libonnxruntime.so.<version>`
    pub(super) runtime: PathBuf,
    htp: Result<Htp, String>,
}

/// What the HTP needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Htp {
    /// `libonnxruntime_providers_qnn.so`
    pub(super) provider: PathBuf,
    /// `libQnnHtp.so`; on a desktop it is an emulator of the device.
    pub(super) backend: PathBuf,
}

impl Libraries {
    /// Looks for the libraries in `folder`: a Python environment, its `site-packages`, or a folder that holds them all.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when ONNX Runtime is not there.
    pub fn find(folder: &Path) -> Result<Self, EngineError> {
        // The loader looks up relative names elsewhere, and the provider looks for its own libraries beside itself.
        let folder = folder.canonicalize().map_err(|e| missing(format!("{}: {e}; {INSTALL}", folder.display())))?;
        let packages = site_packages(&folder);
        let file = |inside: &str, fits: &dyn Fn(&str) -> bool| {
            let places = packages.iter().map(|packages| packages.join(inside)).chain([folder.clone()]);
            places.filter_map(|place| entries(&place).into_iter().rfind(|path| named(path, fits))).next()
        };
        let absent = |name: &str, what: &str| format!("there is no {name} in {}; {what}", folder.display());

        // `libonnxruntime.so.1.32.0`, and not `libonnxruntime_providers_shared.so`
        let stem = format!("{DLL_PREFIX}onnxruntime.");
        let runtime = file("onnxruntime/capi", &|name| name.starts_with(&stem) && name.contains(DLL_SUFFIX))
            .ok_or_else(|| missing(absent(&format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}"), INSTALL)))?;
        let htp_file = |stem: &str| {
            let wanted = format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}");
            file("onnxruntime_qnn", &|name| name == wanted).ok_or_else(|| absent(&wanted, INSTALL_HTP))
        };
        let htp = htp_file("onnxruntime_providers_qnn")
            .and_then(|provider| Ok(Htp { provider, backend: htp_file("QnnHtp")? }));
        Ok(Self { runtime, htp })
    }

    /// Whether the HTP can be asked for.
    #[must_use]
    pub fn has_htp(&self) -> bool {
        self.htp.is_ok()
    }

    pub(super) fn htp(&self) -> Result<&Htp, EngineError> {
        self.htp.as_ref().map_err(|help| EngineError::Missing { engine: HTP_NAME, help: help.clone() })
    }
}

const INSTALL: &str = "install the Python package `onnxruntime` (1.24.2 or later) and name its environment";
const INSTALL_HTP: &str = "install the Python package `onnxruntime-qnn` beside `onnxruntime`";

fn missing(help: String) -> EngineError {
    EngineError::Missing { engine: CPU_NAME, help }
}

/// The folder itself and, if it is a Python environment, where its packages lie, the newest Python first.
fn site_packages(folder: &Path) -> Vec<PathBuf> {
    let pythons = entries(&folder.join("lib")).into_iter().rev();
    let inside = pythons.filter(|path| named(path, &|name| name.starts_with("python")));
    let windows = folder.join("Lib/site-packages");
    [folder.to_path_buf()]
        .into_iter()
        .chain(inside.map(|python| python.join("site-packages")))
        .chain([windows])
        .collect()
}

/// What is in a folder, sorted; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn named(path: &Path, fits: &dyn Fn(&str) -> bool) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(fits)
}
