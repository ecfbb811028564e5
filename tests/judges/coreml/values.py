"""Types and constants of a program."""

import math

import numpy as np

from dtypes import (
    IMMEDIATE_BYTES,
    IMMEDIATE_FIELDS,
    PROGRAM_DTYPES,
    Type,
    decode,
    require,
    round_to,
    widen,
)

MAX_RANK = 5


def read_type(message):
    require(message.WhichOneof("type") == "tensorType", f"type is {message.WhichOneof('type')}, not a tensor")
    tensor = message.tensorType
    require(tensor.dataType in PROGRAM_DTYPES, f"data type {tensor.dataType}")
    require(tensor.rank == len(tensor.dimensions), f"rank {tensor.rank} with {len(tensor.dimensions)} dimensions")
    require(tensor.rank <= MAX_RANK, f"rank {tensor.rank} is above {MAX_RANK}")
    require(not tensor.attributes, "the tensor type has attributes")
    shape = []
    for dimension in tensor.dimensions:
        kind = dimension.WhichOneof("dimension")
        require(kind is not None, "a dimension is neither constant nor unknown")
        require(kind == "constant" or not dimension.unknown.variadic, "a dimension is variadic")
        require(kind == "unknown" or dimension.constant.size > 0, "a dimension is 0")
        shape.append(int(dimension.constant.size) if kind == "constant" else None)
    return Type(PROGRAM_DTYPES[tensor.dataType], tuple(shape))


class Constant:
    """A value of the program: an immediate, or a blob that is read when asked for."""

    def __init__(self, package, value):
        require(not value.docString, "the value has a docString")
        self.type = read_type(value.type)
        require(None not in self.type.shape, "a constant has an unknown dimension")
        self.count = math.prod(self.type.shape)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            require(self.type.dtype not in ("bool", "string"), f"{self.type.dtype} in a weight file")
            self.raw = package.weights(blob.fileName).find(blob.offset, self.type.dtype, self.count)
            return
        require(value.WhichOneof("value") == "immediateValue", "the value is empty")
        immediate = value.immediateValue
        require(immediate.WhichOneof("value") == "tensor", f"immediate is {immediate.WhichOneof('value')}")
        field = immediate.tensor.WhichOneof("value")
        expected = "bytes" if self.type.dtype in IMMEDIATE_BYTES else IMMEDIATE_FIELDS.get(self.type.dtype)
        require(field == expected, f"immediate {self.type.dtype} in {field}, expected {expected}")
        values = getattr(immediate.tensor, field).values
        self.raw = values if field == "bytes" else list(values)
        if field != "bytes":
            require(len(self.raw) == self.count, f"{len(self.raw)} immediates for {self.count} elements")
        require(self.type.dtype != "string" or self.type.shape == (), "a string that is not a scalar")
        self.load()

    def load(self):
        dtype, shape = self.type
        if isinstance(self.raw, (bytes, memoryview)):
            return decode(self.raw, dtype, shape)
        if dtype == "string":
            return self.raw[0]
        array = np.array(self.raw, bool if dtype == "bool" else None).reshape(shape)
        return round_to(dtype, widen(array) if dtype != "fp32" else array.astype(np.float64), half=False)
