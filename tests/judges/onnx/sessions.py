"""Sessions of ONNX Runtime, on its CPU provider or on QNN's HTP; where every node runs is counted, never believed."""

import onnx
import onnxruntime as ort
import onnxruntime_qnn

QNN = "QNNExecutionProvider"
CPU = "CPUExecutionProvider"
# Above `basic` ONNX Runtime's CPU provider rounds activations to int8 where weights are int8 or int4: it no longer
# computes what the file says. `basic` has the same bits as `none`.
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Refused(Exception):
    """The file, or what is asked of it, is not acceptable."""


def require(condition, message):
    if not condition:
        raise Refused(message)


def cpu(model, level="basic"):
    """A session of a path, or of a model in memory, on the CPU provider."""
    options = new_options(level)
    return opened(lambda: ort.InferenceSession(loadable(model), options, providers=[CPU], enable_fallback=0))


def htp(model, soc=57, arch=75, strict=True, options=(), entries=()):
    """A session on the HTP of a SoC, with all nodes in one partition there; without `strict` the CPU may have some."""
    session_options = htp_options(soc, arch, strict, options, entries)
    # Without `enable_fallback=0` a failure is a line on stdout and a session on the CPU.
    session = opened(lambda: ort.InferenceSession(loadable(model), session_options, enable_fallback=0))
    require(not strict or is_whole(session), f"not on {QNN}: {elsewhere(session)}")
    return session


def htp_options(soc=57, arch=75, strict=True, options=(), entries=()):
    session_options = new_options("all")
    if strict:
        session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in dict(entries).items():
        session_options.add_session_config_entry(key, value)
    provider_options = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(soc),
        "htp_arch": str(arch),
        "enable_htp_fp16_precision": "1",
        "offload_graph_io_quantization": "0",
    }
    session_options.add_provider_for_devices(devices(), provider_options | dict(options))
    return session_options


def devices():
    """The device of the plug-in, which is loaded once."""
    found = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    if not found:
        ort.register_execution_provider_library(QNN, onnxruntime_qnn.get_library_path())
        found = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    require(found, f"no device of {QNN}")
    return found


def compile_context(model, out, soc=57, arch=75):
    """Writes a context binary, and the model that names it, to `out`."""
    entries = {"ep.context_enable": "1", "ep.context_file_path": str(out), "ep.context_embed_mode": "0"}
    htp(model, soc, arch, entries=entries)


def new_options(level):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def loadable(model):
    return model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)


def opened(open_session):
    try:
        return open_session()
    # What ONNX Runtime raises has no common base but this one.
    except Exception as error:
        raise Refused(f"ONNX Runtime: {str(error).splitlines()[0]}") from error


def nodes(session):
    """How many partitions and nodes each provider has."""
    counts = {}
    for part in session.get_provider_graph_assignment_info():
        entry = counts.setdefault(part.ep_name, {"partitions": 0, "nodes": 0})
        entry["partitions"] += 1
        entry["nodes"] += len(part.get_nodes())
    return counts


def is_whole(session):
    counts = nodes(session)
    return set(counts) == {QNN} and counts[QNN]["partitions"] == 1


def elsewhere(session, limit=8):
    """The nodes that are not on QNN, in words: conversions only where they are all."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != QNN]
    found = [node for part in parts for node in part.get_nodes()]
    found = [node for node in found if node.op_type not in ("QuantizeLinear", "DequantizeLinear")] or found
    names = [node.name if node.op_type in node.name else f"{node.op_type} {node.name}" for node in found]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else f"nothing, but {nodes(session)}"


def run(session, inputs):
    """Outputs by name: their order is not that of the file everywhere."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, opened(lambda: session.run(names, inputs))))
