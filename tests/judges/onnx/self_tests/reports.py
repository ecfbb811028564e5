"""What the judge says of files that are well, and of files that are not."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

import check
import trap_weights
from graphs import Graph, grid


def saved(folder, name, graph, opset=21, version=10):
    path = folder / f"{name}.onnx"
    onnx.save(graph.model(opset, version), path)
    return str(path)


def sample():
    return trap_weights.linear(trap_weights.stored("i8", axis=1))


def cache():
    """A cache of uint8, as steps have it: `past_k_0` goes in, joined with `new_k_0`, which goes out."""
    graph = Graph()
    scale, zero, _ = parts = grid(-2.0, 2.0, "u8")
    graph.input("past_k_0", [1, 2, 8, 4], TensorProto.UINT8)
    past = graph.op("DequantizeLinear", ["past_k_0", *graph.grid("past", scale, zero, "u8")], "past")
    given = graph.rounded_input("x", [1, 2, 8, 4], -2.0, 2.0, "u16")
    graph.op("QuantizeLinear", [given, *graph.grid("new", scale, zero, "u8")], "new_k_0")
    graph.output("new_k_0", [1, 2, 8, 4], TensorProto.UINT8)
    new = graph.op("DequantizeLinear", ["new_k_0", "new.scale", "new.zero"], "new")
    graph.rounded_output(graph.op("Concat", [past, new], "all", axis=3), [1, 2, 8, 8], *parts)
    return graph


def test_cpu_and_htp(folder):
    path = saved(folder, "sample", sample())
    cpu = check.judge({"file": path})
    assert cpu["verdict"] == "ok" and set(cpu["nodes"]) == {"CPUExecutionProvider"}, cpu
    htp = check.judge({"file": path, "provider": "qnn", "compare_cpu": 0.99999, "checker": True})
    assert htp["verdict"] == "ok" and set(htp["nodes"]) == {"QNNExecutionProvider"}, htp
    assert htp["nodes"]["QNNExecutionProvider"]["partitions"] == 1, htp
    assert check.judge({"file": str(folder / "missing.onnx")})["verdict"] == "refused"
    (folder / "damaged.onnx").write_bytes((folder / "sample.onnx").read_bytes()[:-100])
    assert check.judge({"file": str(folder / "damaged.onnx")})["verdict"] == "refused"


def test_partial_graphs_are_refused(folder):
    graph = trap_weights.linear(trap_weights.stored("i8", axis=1), out=["u8"])
    report = check.judge({"file": saved(folder, "partial", graph), "provider": "qnn"})
    assert report["verdict"] == "refused" and "DequantizeLinear w" in report["error"], report
    report = check.judge({"file": saved(folder, "sample", sample()), "provider": "qnn", "soc": 999})
    assert report["verdict"] == "refused", report


def test_silent_traps_show(folder):
    graph = trap_weights.linear(trap_weights.stored("i4", axis=1, with_zero=False))
    report = check.judge({"file": saved(folder, "trap", graph), "provider": "qnn", "compare_cpu": 0.99})
    assert report["verdict"] == "different" and "below 0.99" in report["broken"][0], report


def test_expected_outputs(folder):
    path = saved(folder, "sample", sample())
    random = np.random.default_rng(1)
    inputs = {f"call{i}.x": random.standard_normal([1, 8, 128]).astype(np.float32) for i in range(2)}
    save_file(inputs, folder / "inputs")
    case = {"file": path, "inputs": str(folder / "inputs"), "max_error": 0.0, "min_cosine": 1.0}
    assert check.judge(case | {"save": str(folder / "outputs")})["verdict"] == "ok"
    case["outputs"] = str(folder / "outputs")
    assert check.judge(case)["verdict"] == "ok"
    assert check.judge(case | {"provider": "qnn"})["verdict"] == "different"
    assert check.judge(case | {"provider": "qnn", "max_error": 1e-3, "min_cosine": 0.9999})["verdict"] == "ok"
    outputs = load_file(folder / "outputs")
    outputs["call1.y.u16"][0, 3, 5] += 0.01
    save_file(outputs, folder / "changed")
    report = check.judge(case | {"outputs": str(folder / "changed"), "min_cosine": None, "max_error": 5e-3})
    assert report["verdict"] == "different" and "differs by 0.01" in report["broken"][0], report
    outputs["call1.y.u16"][0, 3, 5] = np.nan
    save_file(outputs, folder / "changed")
    assert check.judge(case | {"outputs": str(folder / "changed"), "max_error": 9.0})["verdict"] == "different"
    del outputs["call1.y.u16"]
    save_file(outputs, folder / "changed")
    assert check.judge(case | {"outputs": str(folder / "changed")})["verdict"] == "refused"
    save_file({"call0.other": inputs["call0.x"]}, folder / "changed")
    assert check.judge({"file": path, "inputs": str(folder / "changed")})["verdict"] == "refused"


def test_integers_and_halves(folder):
    """Floats may be given for integers on a grid; integers are compared as the numbers they stand for."""
    path = saved(folder, "cache", cache())
    x = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 2, 8, 4)
    save_file({"call0.x": x, "call0.past_k_0": x}, folder / "inputs")
    save_file({"call0.new_k_0": x, "call0.all.u8": np.concatenate([x, x], 3)}, folder / "outputs")
    case = {"file": path, "inputs": str(folder / "inputs"), "outputs": str(folder / "outputs")}
    half_step = 2 / 255 + 1e-4
    for provider in ("cpu", "qnn"):
        report = check.judge(case | {"provider": provider, "max_error": half_step})
        assert report["verdict"] == "ok", report
        assert check.judge(case | {"provider": provider, "max_error": half_step / 2})["verdict"] == "different"

    graph = Graph()
    x = graph.input("attn_mask", [1, 1, 4, 12], TensorProto.FLOAT16)
    graph.output(graph.op("Softmax", [x], "y", axis=-1), [1, 1, 4, 12], TensorProto.FLOAT16)
    # Hidden keys are at -1e30, which is no half.
    assert check.judge({"file": saved(folder, "half", graph)})["verdict"] == "ok"

    graph = Graph()
    x = graph.input("x", ["T", 4])
    graph.nodes.append(helper.make_node("Log", [x], ["y"], name="Log y"))
    graph.output("y", ["T", 4])
    report = check.judge({"file": saved(folder, "nan", graph), "sizes": {"T": 6}})
    assert report["verdict"] == "refused" and "no numbers" in report["error"], report


def test_contexts(folder):
    path, out = saved(folder, "model", sample()), folder / "SM8650" / "model_ctx.onnx"
    out.parent.mkdir(exist_ok=True)
    for old in out.parent.iterdir():
        old.unlink()
    report = check.judge({"file": path, "provider": "qnn", "context": str(out)})
    assert report["verdict"] == "ok" and report["context"]["y.u16"]["max_error"] == 0, report
    alone = check.judge({"file": str(out), "provider": "qnn"})
    assert alone["verdict"] == "ok" and alone["nodes"]["QNNExecutionProvider"]["nodes"] == 1, alone
    assert check.judge({"file": str(out)})["verdict"] == "refused"
    again = check.judge({"file": path, "provider": "qnn", "context": str(out)})
    assert again["verdict"] == "refused" and "exists already" in again["error"], again
