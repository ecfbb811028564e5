"""Every element type of the weight file, packed here by hand."""

import struct

import numpy as np
from checks import refusal

from blobs import WeightFile
from dtypes import decode


def test_blobs(folder):
    """Every element type of the weight file, packed here by hand."""
    cases = [
        (1, "fp16", "<f2", [1.5, -2.0, 65504.0]),
        (2, "fp32", "<f4", [1.5, -2.0, 1e-30]),
        (3, "uint8", "<u1", [0, 255]),
        (4, "int8", "<i1", [-128, 127]),
        (6, "int16", "<i2", [-32768, 5]),
        (7, "uint16", "<u2", [65535, 5]),
        (14, "int32", "<i4", [-(2**31), 7]),
        (15, "uint32", "<u4", [2**32 - 1, 7]),
        (8, "int4", bytes([0xF8, 0x07]), [-8, -1, 7]),
        (11, "uint4", bytes([0x0F, 0x02]), [15, 0, 2]),
        (9, "uint1", bytes([0b00000101]), [1, 0, 1]),
        (10, "uint2", bytes([0b00111001]), [1, 2, 3]),
        (12, "uint3", bytes([0b11_010_001, 0b0000000_1]), [1, 2, 7]),
        (13, "uint6", bytes([0b01_000001, 0b0000_1111, 0b00000000]), [1, 0b111101, 0]),
    ]
    file = bytearray(struct.pack("<II56x", len(cases), 2))
    offsets = []
    for number, dtype, form, values in cases:
        file += bytes(-len(file) % 64)
        raw = form if isinstance(form, bytes) else np.array(values, form).tobytes()
        bits = {"int4": 4, "uint4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint6": 6}.get(dtype)
        unused = len(raw) * 8 - bits * len(values) if bits else 0
        offsets.append(len(file))
        file += struct.pack("<IIQQQ32x", 0xDEADBEEF, number, len(raw), len(file) + 64, unused) + raw
    path = folder / "weight.bin"
    path.write_bytes(file)
    weights = WeightFile(path, 9)
    for offset, (_, dtype, _, values) in zip(offsets, cases):
        decoded = decode(weights.find(offset, dtype, len(values)), dtype, (len(values),))
        assert np.array_equal(
            decoded, np.array(values, decoded.dtype).astype(np.float32 if dtype == "fp32" else decoded.dtype)
        ), dtype
    assert refusal(lambda: WeightFile(path, 8)), "sub-byte blobs below version 9"
    print("ok", len(cases), "blob types")
