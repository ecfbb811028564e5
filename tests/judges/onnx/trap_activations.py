"""Traps of everything that is not a MatMul with stored weights."""

import numpy as np
from onnx import TensorProto

from graphs import KINDS, Graph, grid

SHAPE = [1, 2, 8, 32]
RANGE = (-4.0, 4.0)


def unary(build, act="u16", low=RANGE[0], high=RANGE[1], out=None, shape=SHAPE):
    """One op on a rounded input; its output is rounded to the grid `out`, by default that of the input."""
    graph = Graph()
    y = build(graph, graph.rounded_input("x", SHAPE, low, high, act))
    graph.rounded_output(y, shape, *(out or grid(low, high, act)))
    return graph


def sigmoid():
    """x * sigmoid(x), which the HTP fuses; the integers of the Sigmoid are seen too, or not."""

    def build(scale, seen, kind="u16"):
        graph = Graph()
        x = graph.rounded_input("x", SHAPE, *RANGE, kind)
        share = graph.rounded(graph.op("Sigmoid", [x], "share"), scale, 0, kind)
        graph.rounded_output(graph.op("Mul", [x, share], "y"), SHAPE, *grid(-0.3, 4.0, kind))
        if seen:
            graph.output(f"{share}.q", SHAPE, KINDS[kind][1])
        return graph

    yield "uint16 on a grid of 0 to 2", "right", build(2 / 65535, seen=False)
    yield "uint16 on a grid of 0 to 2, seen", "wrong", build(2 / 65535, seen=True)
    yield "uint16 on 1/65536, seen", "right", build(1 / 65536, seen=True)
    yield "uint8 on a grid of 0 to 2, seen", "right", build(2 / 255, seen=True, kind="u8")


def softmax():
    def build(graph, x):
        return graph.op("Softmax", [x], "y", axis=-1)

    yield "uint8 on a grid of -1 to 1", "wrong", unary(build, "u8", out=grid(-1.0, 1.0, "u8"))
    yield "uint8 on a grid of 0 to 1", "right", unary(build, "u8", out=grid(0.0, 1.0, "u8"))
    yield "uint16 on a grid of 0 to 1", "right", unary(build, out=grid(0.0, 1.0, "u16"))


def moved_data():
    """Data movement whose output has another grid than its input."""

    def reshape(graph, x):
        return graph.op("Reshape", [x, graph.constant("shape", np.array([0, 4, -1, 32]))], "y")

    def transpose(graph, x):
        return graph.op("Transpose", [x], "y", perm=[0, 1, 3, 2])

    def cut(graph, x):
        numbers = (("from", 0), ("to", 16), ("axis", 3))
        return graph.op("Slice", [x, *(graph.constant(name, np.array([value])) for name, value in numbers)], "y")

    def join(other):
        def build(graph, x):
            return graph.op("Concat", [x, graph.rounded_input("other", SHAPE, *other, "u16")], "y", axis=3)

        return build

    double, shifted = grid(-8.0, 8.0, "u16"), grid(-1.0, 7.0, "u16")
    yield "Transpose, same grid", "right", unary(transpose, shape=[1, 2, 32, 8])
    yield "Transpose, other scale", "right", unary(transpose, shape=[1, 2, 32, 8], out=double)
    yield "Transpose, other zero point", "wrong", unary(transpose, shape=[1, 2, 32, 8], out=shifted)
    for name, build, shape in (("Reshape", reshape, [1, 4, 4, 32]), ("Slice", cut, [1, 2, 8, 16])):
        yield f"{name}, same grid", "right", unary(build, shape=shape)
        yield f"{name}, other grid", "right", unary(build, shape=shape, out=shifted)
    yield "Concat, same grids", "right", unary(join(RANGE), shape=[1, 2, 8, 64])
    yield "Concat, other scale of an operand", "right", unary(join((-8.0, 8.0)), shape=[1, 2, 8, 64])
    yield "Concat, other zero point of an operand", "wrong", unary(join((-1.0, 7.0)), shape=[1, 2, 8, 64])


def product(left, right, out):
    """A MatMul of two values."""
    graph = Graph()
    a = graph.rounded_input("a", [1, 2, 8, 32], *RANGE, left)
    b = graph.rounded_input("b", [1, 2, 32, 16], *RANGE, right)
    graph.rounded_output(graph.op("MatMul", [a, b], "y"), [1, 2, 8, 16], *grid(-40.0, 40.0, out))
    return graph


def products():
    for left, right in (("u16", "u8"), ("u16", "i8"), ("u16", "i16"), ("i16", "i16"), ("i16", "i8"), ("u8", "u8")):
        yield f"{left} by {right}", "right", product(left, right, left)
    # The second operand loses eight of its bits.
    yield "u16 by u16", "right", product("u16", "u16", "u16")
    for right in ("u16", "i16"):
        yield f"u8 by {right}, out in u16", "right", product("u8", right, "u16")
        yield f"u8 by {right}, out in u8", "refused", product("u8", right, "u8")
    yield "i16 by u8", "refused", product("i16", "u8", "i16")

    asymmetric = Graph()
    a = asymmetric.rounded_input("a", [1, 2, 8, 32], *RANGE, "u16")
    b = asymmetric.rounded(asymmetric.input("b", [1, 2, 32, 16]), np.float32(1e-4), 100, "i16")
    asymmetric.rounded_output(asymmetric.op("MatMul", [a, b], "y"), [1, 2, 8, 16], *grid(-40.0, 40.0, "u16"))
    yield "u16 by i16 with a zero point", "refused", asymmetric


def gains():
    def build(gain, op="SimplifiedLayerNormalization"):
        def norm(graph, x):
            gamma = graph.stored("gamma", 1 + graph.normal(32, scale=0.2), 0.0, 2.0, gain)
            return graph.op(op, [x, gamma], "y", axis=-1, epsilon=1e-6)

        return norm

    accepted = {"u16": ("u8", "u16", "i16"), "i16": ("u8", "i16"), "u8": ("u8",)}
    for act, fits in accepted.items():
        for gain in ("u8", "i8", "u16", "i16"):
            yield f"{act} by a gain of {gain}", "right" if gain in fits else "refused", unary(build(gain), act)
    for gain, expected in (("u8", "right"), ("i16", "right"), ("u16", "refused"), ("i8", "refused")):
        yield f"LayerNormalization, gain of {gain}", expected, unary(build(gain, "LayerNormalization"))


def int16():
    """Ops that the HTP lacks for int16 activations."""

    def tile(graph, x):
        return graph.op("Tile", [x, graph.constant("times", np.array([1, 2, 1, 1]))], "y")

    def expand(graph, x):
        return graph.op("Expand", [x, graph.constant("shape", np.array([2, 2, 8, 32]))], "y")

    def clip(graph, x):
        return graph.op("Clip", [x, *(graph.constant(n, np.float32(v)) for n, v in (("low", -1), ("high", 1)))], "y")

    def neg(graph, x):
        return graph.op("Neg", [x], "y")

    ops = {"Neg": (neg, SHAPE), "Clip": (clip, SHAPE), "Tile": (tile, [1, 4, 8, 32]), "Expand": (expand, [2, 2, 8, 32])}
    for name, (build, shape) in ops.items():
        yield f"{name} of int16", "refused", unary(build, "i16", shape=shape)
        yield f"{name} of uint16", "right", unary(build, "u16", shape=shape)


def tables():
    def build(kind, by_rows, out):
        graph = Graph()
        table = graph.normal(24, 32)
        if by_rows:
            scale = (np.abs(table).max(1) / 127).astype(np.float32)
            whole = graph.constant("whole", np.rint(table / scale[:, None]).astype(np.int8))
            operands = [whole, graph.constant("scale", scale), graph.constant("zero", np.zeros(24, np.int8))]
            x = graph.op("DequantizeLinear", operands, "table", axis=0)
        else:
            x = graph.stored("table", table, *RANGE, kind)
        tokens = graph.input("tokens", [1, 8], TensorProto.INT32)
        graph.rounded_output(graph.op("Gather", [x, tokens], "y"), [1, 8, 32], *grid(*RANGE, out))
        return graph

    yield "one grid", "right", build("u16", False, "u16")
    yield "uint8 table, uint16 rows", "right", build("u8", False, "u16")
    yield "uint16 table, uint8 rows", "right", build("u16", False, "u8")
    yield "int8 by rows", "refused", build("i8", True, "u16")


def bare_values():
    """Values between two ops that are not rounded: the HTP has them in half precision, unasked."""

    def build(first, second):
        graph = Graph()
        x = graph.rounded_input("x", SHAPE, *RANGE, "u16")
        y = graph.op("Mul", [x, x], "y")
        y = graph.rounded(y, *grid(-16.0, 16.0, "u16")) if first else y
        z = graph.op("Softmax", [y], "z", axis=-1)
        if second:
            graph.rounded_output(z, SHAPE, *grid(0.0, 1.0, "u16"))
        else:
            graph.output(z, SHAPE)
        return graph

    yield "all rounded", "right", build(True, True)
    yield "one not rounded", "right", build(False, True)
    yield "the last not rounded", "right", build(True, False)


def contributed():
    """Ops of ONNX Runtime's own domain, and of newer opsets."""
    newer = {"opset": 23, "version": 11}

    def rotary(domain):
        graph = Graph()
        x = graph.input("x", [1, 2, 8, 32])
        if domain:
            positions = graph.constant("positions", np.arange(8)[None])
            tables = [graph.constant(name, graph.normal(8, 16)) for name in ("cos", "sin")]
            graph.op("RotaryEmbedding", [x, positions, *tables], "y", domain=domain)
        else:
            tables = [graph.constant(name, graph.normal(1, 8, 16)) for name in ("cos", "sin")]
            graph.op("RotaryEmbedding", [x, *tables], "y")
        graph.output("y", [1, 2, 8, 32])
        return graph

    def attend(kind):
        graph = Graph()
        parts = [graph.input(name, [1, heads, 8, 32]) for name, heads in (("q", 4), ("k", 2), ("v", 2))]
        visible = np.tril(np.ones((8, 8), bool))
        mask = visible if kind == "bool" else np.where(visible, 0, -50).astype(np.float32)
        graph.op("Attention", [*parts, graph.constant("mask", mask)], "y")
        graph.output("y", [1, 4, 8, 32])
        return graph

    yield "RotaryEmbedding of com.microsoft", "refused", rotary("com.microsoft"), {"domains": ["com.microsoft"]}
    yield "RotaryEmbedding of opset 23, float", "right", rotary(None), newer
    yield "Attention of opset 23, float mask", "right", attend("float"), newer
    yield "Attention of opset 23, boolean mask", "refused", attend("bool"), newer


TRAPS = {
    "sigmoid-grid": sigmoid,
    "softmax-grid": softmax,
    "moved-data": moved_data,
    "products": products,
    "gains": gains,
    "int16-ops": int16,
    "tables": tables,
    "bare-values": bare_values,
    "contributed-ops": contributed,
}
