"""Traps of MatMul with stored weights. A form: what it is, what the HTP makes of it, the graph."""

import numpy as np

from graphs import KINDS, Graph, grid, rounded

ROWS, INNER, COLUMNS = 8, 128, 64
RANGE = (-4.0, 4.0)


def linear(weight, act="u16", out=None):
    """x @ w, where `weight(graph)` names w; the output is `act`, or converted to `out`."""
    graph = Graph()
    x = graph.rounded_input("x", [1, ROWS, INNER], *RANGE, act)
    y = graph.op("MatMul", [x, weight(graph)], "y")
    for kind in [act] if out is None else out:
        y = graph.rounded(y, *grid(*RANGE, kind))
    graph.output(y, [1, ROWS, COLUMNS])
    return graph


def stored(kind, zero=0, axis=None, block=None, with_zero=True):
    """A weight with one scale, one for each column (axis 1), or one for each block of rows."""

    def build(graph):
        dense = graph.normal(INNER, COLUMNS, scale=INNER**-0.5)
        per = {None: (0, 1), 1: (0,)}[axis] if block is None else (1,)
        parts = dense.reshape(-1, block, COLUMNS) if block else dense
        most = KINDS[kind][3] - zero
        scale = np.float32(np.abs(parts).max(per, keepdims=True) / most)
        whole = graph.constant("w.whole", rounded(parts, scale, zero, kind).reshape(dense.shape))
        scale = scale.squeeze(per) if axis is not None or block else scale.reshape(())
        operands = [whole, graph.constant("w.scale", scale)]
        if with_zero:
            operands.append(graph.constant("w.zero", np.full(scale.shape, zero, KINDS[kind][0])))
        attributes = {"axis": 0, "block_size": block} if block else {"axis": 1} if axis else {}
        return graph.op("DequantizeLinear", operands, "w", **attributes)

    return build


def int4_zero_point():
    yield "int4, one scale, without zero point", "wrong", linear(stored("i4", with_zero=False))
    yield "int4, one scale, zero point 0", "right", linear(stored("i4"))
    yield "int4 by columns, without zero point", "wrong", linear(stored("i4", axis=1, with_zero=False))
    yield "int4 by columns, zero points 0", "right", linear(stored("i4", axis=1))
    yield "int4 by blocks needs none", "right", linear(stored("i4", block=32, with_zero=False))
    yield "int8 by columns needs none", "right", linear(stored("i8", axis=1, with_zero=False))


def uint4():
    yield "uint4 by blocks, zero points 8", "wrong", linear(stored("u4", zero=8, block=32))
    yield "uint4 by columns", "refused", linear(stored("u4", zero=8, axis=1))
    yield "int4 by blocks", "right", linear(stored("i4", block=32))


def two_level_scales():
    def build(most):
        def weight(graph):
            """Scales of blocks are integers up to `most`, times a float scale of the column."""
            steps = graph.random.integers(1, most + 1, (INNER // 32, COLUMNS)).astype(np.uint8)
            steps[0] = most
            column = np.full(COLUMNS, 0.02 / most, np.float32)
            operands = [graph.constant("steps", steps), graph.constant("column", column)]
            scale = graph.op("DequantizeLinear", operands, "w.scale", axis=1)
            values = graph.random.integers(-8, 8, (INNER, COLUMNS)).astype(KINDS["i4"][0])
            zero = graph.constant("w.zero", np.zeros(steps.shape, KINDS["i4"][0]))
            whole = graph.constant("w.whole", values)
            return graph.op("DequantizeLinear", [whole, scale, zero], "w", axis=0, block_size=32)

        return linear(weight)

    yield "scales of blocks up to 255", "wrong", build(255)
    yield "scales of blocks up to 15", "right", build(15)


def output_type():
    yield "uint16 in, uint8 out", "refused", linear(stored("i8", axis=1), out=["u8"])
    yield "uint16 in, int16 out", "refused", linear(stored("i8", axis=1), out=["i16"])
    yield "uint16 out, then uint8", "right", linear(stored("i8", axis=1), out=["u16", "u8"])
    yield "uint16 out, then int16", "right", linear(stored("i8", axis=1), out=["u16", "i16"])


def weight_types():
    """The table of activations by weights: what is left out is not accepted."""
    for act in ("u16", "i16", "u8", "i8"):
        for kind, axis, block in (
            ("i8", 1, None), ("u8", 1, None), ("i4", 1, None), ("i4", None, 32), ("i8", None, 32), ("i16", 1, None)
        ):  # fmt: skip
            accepted = {
                "u16": ("i8", "u8", "i4", "i16"), "i16": ("i8", "i4"), "u8": ("i8", "u8", "i4"), "i8": ("i8",)
            }[act]  # fmt: skip
            fits = kind in accepted and not (block and act in ("u8", "i8"))
            how = f"by blocks of {block}" if block else "by columns"
            zero = 128 if kind == "u8" else 0
            # At 8 bits the HTP rounds some outputs to the neighbour: see `RIGHT`.
            yield f"{act} by {kind} {how}", "right" if fits else "refused", linear(stored(kind, zero, axis, block), act)
    yield "uint8 by columns, zero point 120", "refused", linear(stored("u8", 120, 1))


def float_activations():
    def build(weight):
        graph = Graph()
        y = graph.op("MatMul", [graph.input("x", [1, ROWS, INNER]), weight(graph)], "y")
        graph.output(y, [1, ROWS, COLUMNS])
        return graph

    yield "float by int8, one scale", "right", build(stored("i8"))
    yield "float by int8 by columns", "refused", build(stored("i8", axis=1))
    yield "float by int4 by columns", "refused", build(stored("i4", axis=1))
    yield "float by int4 by blocks", "refused", build(stored("i4", block=32))


TRAPS = {
    "int4-zero-point": int4_zero_point,
    "uint4": uint4,
    "two-level-scales": two_level_scales,
    "matmul-output-type": output_type,
    "weight-types": weight_types,
    "float-activations": float_activations,
}
