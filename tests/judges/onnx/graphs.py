"""Small quantized graphs, made in Python: what the traps and the tests of the judge run."""

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    "u16": (np.uint16, TensorProto.UINT16, 0, 65535),
    "i16": (np.int16, TensorProto.INT16, -32768, 32767),
    "u8": (np.uint8, TensorProto.UINT8, 0, 255),
    "i8": (np.int8, TensorProto.INT8, -128, 127),
    "u4": (ml_dtypes.uint4, TensorProto.UINT4, 0, 15),
    "i4": (ml_dtypes.int4, TensorProto.INT4, -8, 7),
}


def grid(low, high, kind):
    """Scale, zero point and type of a range; signed types are symmetric."""
    _, _, least, most = KINDS[kind]
    if least < 0:
        return np.float32(max(-low, high) / most), 0, kind
    scale = np.float32((high - low) / most)
    return scale, int(np.clip(np.rint(-low / scale), least, most)), kind


def rounded(array, scale, zero, kind):
    kept, _, least, most = KINDS[kind]
    return np.clip(np.rint(array / scale) + zero, least, most).astype(kept)


class Graph:
    """A graph under construction; names of values are those of what makes them."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants, self.inputs, self.outputs = [], {}, [], []

    def op(self, kind, operands, name, **attributes):
        self.nodes.append(helper.make_node(kind, operands, [name], name=f"{kind} {name}", **attributes))
        return name

    def constant(self, name, array):
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def input(self, name, shape, kind=TensorProto.FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name, shape, kind=TensorProto.FLOAT):
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def grid(self, name, scale, zero, kind):
        """The two operands of a conversion; `zero` may be left out as None."""
        operands = [self.constant(f"{name}.scale", np.float32(scale))]
        if zero is not None:
            operands.append(self.constant(f"{name}.zero", np.asarray(zero, KINDS[kind][0])))
        return operands

    def rounded(self, value, scale, zero, kind):
        """The value, rounded to a grid."""
        parts = self.grid(f"{value}.{kind}", scale, zero, kind)
        whole = self.op("QuantizeLinear", [value, *parts], f"{value}.{kind}.q")
        return self.op("DequantizeLinear", [whole, *parts], f"{value}.{kind}")

    def rounded_input(self, name, shape, low, high, kind):
        return self.rounded(self.input(name, shape), *grid(low, high, kind))

    def rounded_output(self, value, shape, scale, zero, kind):
        self.output(self.rounded(value, scale, zero, kind), shape)

    def stored(self, name, array, low, high, kind):
        """A constant on a grid."""
        scale, zero, _ = grid(low, high, kind)
        whole = self.constant(f"{name}.whole", rounded(array, scale, zero, kind))
        return self.op("DequantizeLinear", [whole, *self.grid(name, scale, zero, kind)], name)

    def normal(self, *shape, scale=1.0):
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def model(self, opset=21, version=10, domains=()):
        graph = helper.make_graph(self.nodes, "step", self.inputs, self.outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="traps")

    def feed(self):
        """Random inputs."""
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in self.inputs}
        kinds = {value.name: value.type.tensor_type.elem_type for value in self.inputs}
        made = {}
        for name, shape in shapes.items():
            kept = helper.tensor_dtype_to_np_dtype(kinds[name])
            integers = self.random.integers(0, 16, shape) if np.dtype(kept).kind in "iu" else None
            made[name] = (self.normal(*shape) if integers is None else integers).astype(kept)
        return made
