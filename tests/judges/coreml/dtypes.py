"""Element types of ML Programs, their three numberings and their raw bytes; how a rule that is broken is told."""

import contextlib
from typing import NamedTuple

import numpy as np


class Type(NamedTuple):
    """A tensor type; an axis of unknown size is None."""

    dtype: str
    shape: tuple


class Refused(Exception):
    """The package breaks a rule of the format, or leaves what this judge can vouch for."""


def require(condition, message):
    if not condition:
        raise Refused(message)


@contextlib.contextmanager
def context(where):
    """Names the place in every refusal raised inside."""
    try:
        yield
    except Refused as error:
        raise Refused(f"{where}: {error}") from None


# DataType numbers of the program's tensor types.
PROGRAM_DTYPES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16",
    21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4",
    31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64",
    35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip

# ArrayDataType numbers of the described features, with the first specification version that has them.
FEATURE_DTYPES = {65552: ("fp16", 7), 65568: ("fp32", 6), 131080: ("int8", 10), 131104: ("int32", 6)}

# Numbers in a record of the weight file, with the first specification version that has them.
BLOB_DTYPES = {
    1: ("fp16", 6), 2: ("fp32", 6), 3: ("uint8", 6), 4: ("int8", 6), 6: ("int16", 9), 7: ("uint16", 9),
    8: ("int4", 9), 9: ("uint1", 9), 10: ("uint2", 9), 11: ("uint4", 9), 12: ("uint3", 9), 13: ("uint6", 9),
    14: ("int32", 9), 15: ("uint32", 9),
}  # fmt: skip

# The field of TensorValue that holds an immediate of each type.
IMMEDIATE_FIELDS = {
    "bool": "bools", "string": "strings", "fp32": "floats", "fp64": "doubles",
    "int32": "ints", "int16": "ints", "uint16": "ints", "int64": "longInts", "uint64": "longInts",
}  # fmt: skip
IMMEDIATE_BYTES = {"fp16", "int8", "uint8", "uint32", "int4", "uint4", "uint1", "uint2", "uint3", "uint6"}

WHOLE_BYTE = {
    "fp16": "<f2", "fp32": "<f4", "int8": "<i1", "uint8": "<u1", "int16": "<i2", "uint16": "<u2",
    "int32": "<i4", "uint32": "<u4",
}  # fmt: skip
SUB_BYTE_BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}


def bits_of(dtype):
    return SUB_BYTE_BITS.get(dtype) or 8 * np.dtype(WHOLE_BYTE[dtype]).itemsize


def byte_size(dtype, count):
    """Bytes of `count` elements; elements narrower than a byte are packed without gaps."""
    return (count * bits_of(dtype) + 7) // 8


def integer_range(dtype):
    bits = int(dtype.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def decode(raw, dtype, shape):
    """Raw little-endian bytes as an array of float64 or int64; sub-byte elements fill each byte from its low bits."""
    count = int(np.prod(shape))
    require(len(raw) == byte_size(dtype, count), f"{len(raw)} bytes do not hold {count} elements of {dtype}")
    if dtype in WHOLE_BYTE:
        return widen(np.frombuffer(raw, WHOLE_BYTE[dtype]).reshape(shape))
    raw, width = np.frombuffer(raw, np.uint8), SUB_BYTE_BITS[dtype]
    if width == 4:
        elements = np.stack([raw & 15, raw >> 4], axis=1).ravel()
    else:
        stream = np.unpackbits(raw, bitorder="little")
        stream = np.append(stream, np.zeros(-len(stream) % width, np.uint8))
        elements = (stream.reshape(-1, width).astype(np.int64) << np.arange(width)).sum(axis=1)
    require(not elements[count:].any(), f"padding bits after {count} elements of {dtype} are not zero")
    values = elements[:count].astype(np.int64)
    if dtype == "int4":
        values = np.where(values >= 8, values - 16, values)
    return values.reshape(shape)


def widen(array):
    """Every float becomes float64 and every integer int64, both without loss."""
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    return array if array.dtype.kind == "b" else array.astype(np.int64)


def round_to(dtype, array, half):
    """An exact result as its declared type holds it: integers must fit; floats are rounded only in `half`."""
    if dtype in ("bool", "string"):
        return array
    if dtype in ("fp16", "fp32"):
        if not half:
            return np.asarray(array, np.float64)
        with np.errstate(over="ignore"):
            return np.asarray(array).astype(WHOLE_BYTE[dtype]).astype(np.float64)
    low, high = integer_range(dtype)
    array = np.asarray(array)
    require(array.size == 0 or (array.min() >= low and array.max() <= high), f"result does not fit {dtype}")
    return array.astype(np.int64)
