"""What goes in and out of a file: numbers as a host has them, on the grids and in the types that the file wants."""

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from sessions import Refused, require

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
}
HIDDEN = -1e30


def read(path):
    """The graph of a file, without its weights."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise Refused(f"not a model: {error}") from error


def grids(path):
    """The scale and zero point of each integer input and output: those of the conversion that stands there."""
    model = read(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs, outputs = ({value.name for value in values} for values in (model.graph.input, model.graph.output))
    found = {}
    for node in model.graph.node:
        reads = node.op_type == "DequantizeLinear" and node.input[0] in inputs
        writes = node.op_type == "QuantizeLinear" and node.output[0] in outputs
        if reads or writes:
            parts = [numpy_helper.to_array(constants[name]) for name in node.input[1:3] if name in constants]
            require(len(parts) == 2 and all(part.size == 1 for part in parts), f"{node.name}: not a constant grid")
            found[node.input[0] if reads else node.output[0]] = (float(parts[0].item()), int(parts[1].item()))
    return found


def fitted(session, given, found):
    """Inputs in the types that the session wants: float numbers may be given for halves and for integers on a grid."""
    wanted = {value.name: value for value in session.get_inputs()}
    require(set(given) == set(wanted), f"inputs {sorted(wanted)}, given {sorted(given)}")
    fit = {}
    for name, array in given.items():
        kind = TYPES[wanted[name].type]
        require(array.dtype.kind == "f" or array.dtype == kind, f"{name} is {wanted[name].type}, given {array.dtype}")
        if array.dtype != kind and np.dtype(kind).kind in "iu":
            require(name in found, f"{name} is {wanted[name].type} of an unknown grid, given {array.dtype}")
            scale, zero = found[name]
            limits = np.iinfo(kind)
            array = np.clip(np.rint(array.astype(np.float32) / np.float32(scale)) + zero, limits.min, limits.max)
        elif array.dtype != kind:
            limits = np.finfo(kind)
            array = np.clip(array, limits.min, limits.max)
        fit[name] = array.astype(kind)
    return fit


def numbers(name, array, found):
    """An output as float64; integers through their grid, where it is known."""
    scale, zero = found.get(name, (1.0, 0)) if array.dtype.kind in "iu" else (1.0, 0)
    return (array.astype(np.float64) - zero) * scale


def invented(session, path, found, seed=0, sizes=None):
    """Inputs as a host gives them for a step: random tokens and caches; hidden keys, and rows of padding."""
    random = np.random.default_rng(seed)
    sizes = {"T": 4, "C": 8, "C+T": 12} | (sizes or {})
    shapes = {
        value.name: [size if isinstance(size, int) else sizes.get(size, 1) for size in value.shape]
        for value in session.get_inputs()
    }
    made = {}
    for value in session.get_inputs():
        name, shape, kind = value.name, shapes[value.name], np.dtype(TYPES[value.type])
        if name in ("cos", "sin"):
            angles = np.outer(np.arange(shape[2]), 1e4 ** -(np.arange(shape[3] // 2) / (shape[3] // 2)))
            made[name] = getattr(np, name)(np.hstack([angles, angles])).reshape(shape).astype(np.float32)
        elif name == "attn_mask":
            made[name] = mask(shape)
        elif kind in (np.int32, np.int64):
            made[name] = random.integers(0, vocabulary(path), shape).astype(kind)
        elif kind.kind in "iu":
            limits = np.iinfo(kind)
            middle = found[name][1] if name in found else (limits.max + limits.min) // 2
            around = random.normal(middle, (limits.max - limits.min) / 8, shape)
            made[name] = np.clip(np.rint(around), limits.min, limits.max).astype(kind)
        else:
            made[name] = random.standard_normal(shape).astype(np.float32)
    return fitted(session, made, found)


def mask(shape):
    """Of shape [1, 1, S, P+S]: the later half of the past is hidden; of the step the last quarter sees only itself."""
    tokens, past = shape[2], shape[3] - shape[2]
    real = max(tokens - tokens // 4, 1)
    made = np.full(shape, HIDDEN, np.float32)
    made[:, :, :real, : past // 2] = 0
    made[:, :, :real, past : past + real] = 0
    for row in range(real, tokens):
        made[:, :, row, past + row] = 0
    return made


def vocabulary(path):
    """The rows of the table that tokens are looked up in."""
    model = read(path)
    made = {name: node for node in model.graph.node for name in node.output}
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            # The table, or what it is converted from.
            table = node.input[0]
            return rows.get(made[table].input[0] if table in made else table, 1)
    return 1


def cosine(a, b):
    """Of two arrays; 1 of equal ones, also where both are 0."""
    if np.array_equal(a, b):
        return 1.0
    product = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a * b).sum()) / product if product else 0.0
