//! Sessions: a file opened by ONNX Runtime on one provider, or compiled by it for a device.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use ort::AsPointer;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::environment::{self, QNN};
use super::libraries::Libraries;
use super::{HTP_NAME, Provider};
use crate::engine::EngineError;
use crate::step_file::{Element, Port};

/// Opens `model`. With [`Provider::Htp`] every node runs there, or it is an error.
pub(super) fn open(libraries: &Libraries, model: &Path, provider: Provider) -> Result<Session, EngineError> {
    environment::with(libraries, provider.is_htp(), |environment| {
        create(environment, libraries, model, provider, &[]).map_err(|e| format!("{}: {e}", model.display()))
    })
}

/// Compiles `model` for a SoC into `<out>/<model>_ctx.onnx` and `<out>/<model>_ctx_qnn.bin` beside it, which the first
/// names. What was there is replaced, the `.onnx` last: where it lies, it is whole.
///
/// # Errors
/// [`EngineError::Missing`] without Qualcomm's libraries, [`EngineError::Failed`] when they refuse a node of the file or
/// when the result cannot be written, [`EngineError::Input`] for a provider that compiles nothing.
pub fn compile(libraries: &Libraries, model: &Path, provider: Provider, out: &Path) -> Result<(), EngineError> {
    if !provider.is_htp() {
        return Err(EngineError::Input("the CPU runs a file as it is; only for the HTP it is compiled".to_string()));
    }
    let failed = |path: &Path, e: std::io::Error| EngineError::Failed {
        engine: HTP_NAME,
        message: format!("{}: {e}", path.display()),
    };
    std::fs::create_dir_all(out).map_err(|e| failed(out, e))?;
    let scratch = tempfile::Builder::new().prefix(".model_ctx-").tempdir_in(out).map_err(|e| failed(out, e))?;
    let context = context_of(model.file_name().map_or(model, Path::new));
    // ONNX Runtime derives this name from the other.
    let binary = context.with_file_name(format!("{}_qnn.bin", context.file_stem().unwrap_or_default().display()));
    let made = scratch.path().join(&context);
    environment::with(libraries, true, |environment| {
        // Only the folder of the result matters to its contents, so a scratch folder may stand in for it.
        let path = made.to_str().ok_or_else(|| format!("{}: not a text", made.display()))?;
        let entries = [("ep.context_enable", "1"), ("ep.context_embed_mode", "0"), ("ep.context_file_path", path)];
        create(environment, libraries, model, provider, &entries).map_err(|e| format!("{}: {e}", model.display()))
    })?;
    let final_onnx = out.join(&context);
    match std::fs::remove_file(&final_onnx) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&final_onnx, e)),
        _ => {}
    }
    for name in [binary, context] {
        let made = scratch.path().join(&name);
        let synced = std::fs::File::open(&made).and_then(|file| file.sync_all());
        synced.and_then(|()| std::fs::rename(&made, out.join(name))).map_err(|e| failed(&made, e))?;
    }
    Ok(())
}

/// The name of the file that [`compile`] makes of another: `model_ctx.onnx` of `model.onnx`.
#[must_use]
pub fn context_of(model: &Path) -> PathBuf {
    model.with_file_name(format!("{}_ctx.onnx", model.file_stem().unwrap_or_default().display()))
}

fn create(
    environment: &Environment,
    libraries: &Libraries,
    model: &Path,
    provider: Provider,
    entries: &[(&str, &str)],
) -> Result<Session, String> {
    let mut builder = builder(environment, libraries, provider).map_err(|e| e.to_string())?;
    for (key, value) in entries {
        builder = builder.with_config_entry(*key, *value).map_err(|e| e.to_string())?;
    }
    let session = builder.commit_from_file(model).map_err(|e| e.to_string())?;
    if provider.is_htp() {
        all_on_qnn(&session)?;
    }
    Ok(session)
}

fn builder(environment: &Environment, libraries: &Libraries, provider: Provider) -> ort::Result<SessionBuilder> {
    // Left to itself ONNX Runtime would try every provider that this process has registered.
    let devices = |name: &'static str| environment.devices().filter(move |d| d.ep().is_ok_and(|found| found == name));
    let builder = Session::builder(environment)?;
    let Provider::Htp { soc, arch, fp16 } = provider else {
        // Neighboring Q and DQ are neither merged with the op between them nor taken out, so that each means what
        // ONNX defines; the other rewrites, folding of weights above all, stay. That is bit-equal to no rewrites at all,
        // where the defaults move the logits of small models by up to a tenth.
        let plain = builder
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_config_entry("session.disable_quant_qdq", "1")?
            .with_config_entry("session.disable_double_qdq_remover", "1")?;
        return Ok(plain.with_devices(devices("CPUExecutionProvider"), None)?);
    };
    let backend = libraries.htp().map_err(|e| ort::Error::new(e.to_string()))?.backend.to_string_lossy().into_owned();
    let mut options = vec![
        ("backend_path", backend),
        ("soc_model", soc.to_string()),
        ("htp_arch", arch.to_string()),
        ("offload_graph_io_quantization", "0".to_string()),
    ];
    if fp16 {
        options.push(("enable_htp_fp16_precision", "1".to_string()));
    }
    let options: Vec<_> = options.into_iter().map(|(key, value)| (format!("{QNN}.{key}"), value)).collect();
    Ok(builder
        .with_config_entry("session.disable_cpu_ep_fallback", "1")?
        .with_config_entry("session.record_ep_graph_assignment_info", "1")?
        .with_devices(devices(QNN), Some(&options))?)
}

/// Fails unless Qualcomm's provider has taken every node. Refusing to fall back does not suffice: a file that falls back
/// in part has been seen to open.
fn all_on_qnn(session: &Session) -> Result<(), String> {
    let assigned = assignment(session).map_err(|e| format!("where its nodes run is not known: {e}"))?;
    let elsewhere: Vec<_> = assigned.iter().filter(|(provider, _)| provider != QNN).collect();
    if let [(provider, node), ..] = elsewhere.as_slice() {
        return Err(format!(
            "{} of {} nodes run on {provider}, the first is `{node}`",
            elsewhere.len(),
            assigned.len()
        ));
    }
    if assigned.is_empty() { Err("none of its nodes runs anywhere".to_string()) } else { Ok(()) }
}

/// Provider and name of every node.
fn assignment(session: &Session) -> ort::Result<Vec<(String, String)>> {
    let api = ort::api();
    let mut nodes = Vec::new();
    let (mut parts, mut count) = (ptr::null(), 0);
    // SAFETY: the session is open; the two places take a pointer to an array of that many parts, which the session owns
    // and we read while it is borrowed. The same goes for the nodes of a part and for their names, which are C strings.
    unsafe {
        checked((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut count))?;
        for part in slice(parts, count) {
            let (mut provider, mut members, mut count) = (ptr::null(), ptr::null(), 0);
            checked((api.EpAssignedSubgraph_GetEpName)(*part, &mut provider))?;
            checked((api.EpAssignedSubgraph_GetNodes)(*part, &mut members, &mut count))?;
            for member in slice(members, count) {
                let mut name = ptr::null();
                checked((api.EpAssignedNode_GetName)(*member, &mut name))?;
                nodes.push((text(provider), text(name)));
            }
        }
    }
    Ok(nodes)
}

/// # Safety
/// `status` comes from a function of the interface, unseen by others.
unsafe fn checked(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { ort::Error::result_from_status(status) }
}

/// # Safety
/// `items` points to `count` items that live as long as the result, or is null.
unsafe fn slice<'a, T>(items: *const T, count: usize) -> &'a [T] {
    // SAFETY: passed on to the caller.
    if items.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(items, count) } }
}

/// # Safety
/// `text` is a C string or null.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: passed on to the caller.
    if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}

/// Inputs or outputs of a session, as the interface knows them.
pub(super) fn ports(outlets: &[Outlet]) -> Vec<Port> {
    let port = |outlet: &Outlet| {
        let (element, dims) = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => (element(*ty), shape.to_vec()),
            _ => (None, Vec::new()),
        };
        Port { name: outlet.name().to_string(), element, dims }
    };
    outlets.iter().map(port).collect()
}

fn element(ty: TensorElementType) -> Option<Element> {
    Some(match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Int8 => Element::I8,
        TensorElementType::Uint16 => Element::U16,
        TensorElementType::Int16 => Element::I16,
        _ => return None,
    })
}
