"""Traps of opening and running sessions. Each is a function that says what it saw, and whether that is what we know."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

import boundary
import sessions
import trap_activations
import trap_weights
from graphs import Graph, grid
from sessions import CPU, QNN, Refused

SHAPE = [1, 2, 8, 32]


def refused(action):
    """What an action is refused with, or None."""
    try:
        action()
    except Refused as error:
        return str(error)
    return None


def sample():
    """A graph that is right on the HTP."""
    return trap_weights.linear(trap_weights.stored("i8", axis=1))


def providers(session):
    return set(sessions.nodes(session))


def classic_provider(soc, arch):
    sessions.devices()
    options = sessions.new_options("basic")
    # Asked for by name like other providers, QNN is left out with a warning.
    session = ort.InferenceSession(sample().model().SerializeToString(), options, providers=[QNN, CPU])
    return "QNN by name alone leaves all to the CPU", providers(session) == {CPU}


def unknown_soc(soc, arch):
    loose = sessions.htp(sample().model(), 999, arch, strict=False)
    strict = refused(lambda: sessions.htp(sample().model(), 999, arch))
    return "an unknown SoC leaves all to the CPU, and is refused only if strict", providers(loose) == {CPU} and strict


def wrong_arch(soc, arch):
    session = sessions.htp(sample().model(), 57, 73)
    return "an architecture that is not the SoC's is accepted", providers(session) == {QNN}


def unknown_option(soc, arch):
    session = sessions.htp(sample().model(), soc, arch, options={"no_such_option": "1"})
    return "an unknown option is accepted", providers(session) == {QNN}


def graph_boundary(soc, arch):
    options = {"offload_graph_io_quantization": "1"}
    loose = sessions.htp(sample().model(), soc, arch, strict=False, options=options)
    kept = sessions.htp(sample().model(), soc, arch, strict=False)
    both = providers(loose) == {QNN, CPU} and providers(kept) == {QNN}
    return "conversions at the boundary stay on the CPU by default", both


def named_dimension(soc, arch):
    def model():
        graph = Graph()
        x = graph.rounded_input("x", ["T", 32], -4.0, 4.0, "u16")
        graph.rounded_output(graph.op("Mul", [x, x], "y"), ["T", 32], *grid(-16.0, 16.0, "u16"))
        return graph.model()

    loose = sessions.htp(model(), soc, arch, strict=False)
    strict = refused(lambda: sessions.htp(model(), soc, arch))
    return "a named dimension leaves its nodes to the CPU", CPU in providers(loose) and strict


def optimized_cpu(soc, arch):
    graph = sample()
    model, feed = graph.model(), graph.feed()
    outputs = [sessions.run(sessions.cpu(model, level), feed) for level in ("none", "basic", "all")]
    none, basic, everything = (next(iter(output.values())) for output in outputs)
    steps = np.abs(none - everything).max() / (8 / 65535)
    said = f"on the CPU `basic` has the bits of `none`, `all` is {steps:.0f} steps of 65536 off"
    return said, np.array_equal(none, basic) and steps > 16


def mask_grid(soc, arch):
    """Half of the keys is hidden. The scores lose what the grid of the sum spends on the mask."""

    def cosine(mask_from, sum_from):
        graph = Graph()
        scores = graph.rounded_input("scores", SHAPE, -4.0, 4.0, "u16")
        mask = graph.rounded_input("mask", SHAPE, mask_from, 0.0, "u16")
        total = graph.rounded(graph.op("Add", [scores, mask], "total"), *grid(sum_from, 4.0, "u16"))
        graph.rounded_output(graph.op("Softmax", [total], "y", axis=-1), SHAPE, *grid(0.0, 1.0, "u16"))
        feed = graph.feed()
        feed["mask"] = np.where(np.arange(32) % 2, boundary.HIDDEN, 0).astype(np.float32) * np.ones(SHAPE, np.float32)
        y = next(iter(sessions.run(sessions.htp(graph.model(), soc, arch), feed).values()))
        wanted = np.where(feed["mask"] < 0, 0, np.exp(np.clip(feed["scores"], -4, 4)))
        return boundary.cosine(y.astype(float), wanted / wanted.sum(-1, keepdims=True))

    tight, wide, all_of_it = cosine(-50.0, -24.0), cosine(-1e4, -1e4), cosine(-1e30, -1e30)
    said = f"a mask of -1e30 has cosine {tight:.6f} on a sum from -24, {wide:.6f} from -1e4, {all_of_it:.6f} from -1e30"
    return said, tight > 0.999999 and 0.99 < wide < 0.9999 and all_of_it < 0.95


def no_number(soc, arch):
    graph = Graph()
    graph.rounded_output(graph.input("x", SHAPE), SHAPE, *grid(-50.0, 0.0, "u16"))
    feed = {"x": np.full(SHAPE, np.nan, np.float32)}
    opened = sessions.htp(graph.model(), soc, arch), sessions.cpu(graph.model())
    htp, cpu = (next(iter(sessions.run(session, feed).values())).max() for session in opened)
    return f"NaN on a grid of -50 to 0 is {htp:g} on the HTP, {cpu:g} on the CPU", htp == 0 and cpu == -50


def older_htp(soc, arch):
    """The HTP of 8 Gen 1."""
    narrow, wide = (trap_activations.product("u16", kind, "u16").model() for kind in ("u8", "i16"))
    fits = providers(sessions.htp(narrow, 36, 69)) == {QNN}
    return "v69 has uint16 by uint8, and not uint16 by int16", fits and refused(lambda: sessions.htp(wide, 36, 69))


def existing_context(soc, arch):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model_ctx.onnx"
        sessions.compile_context(sample().model(), out, soc, arch)
        again = refused(lambda: sessions.compile_context(sample().model(), out, soc, arch))
    return "a context is not written over another", again and "exists already" in again


TRAPS = {
    "classic-provider": classic_provider,
    "unknown-soc": unknown_soc,
    "wrong-arch": wrong_arch,
    "unknown-option": unknown_option,
    "graph-boundary": graph_boundary,
    "named-dimension": named_dimension,
    "optimized-cpu": optimized_cpu,
    "mask-grid": mask_grid,
    "no-number": no_number,
    "older-htp": older_htp,
    "existing-context": existing_context,
}
