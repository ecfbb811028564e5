"""The weight file of a package: blob storage version 2."""

import mmap
import struct

from dtypes import BLOB_DTYPES, SUB_BYTE_BITS, Refused, bits_of, byte_size, require

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF


class WeightFile:
    """All records of a weight file, found by walking it from the header; each is checked on the way."""

    def __init__(self, path, version):
        require(path.stat().st_size >= ALIGNMENT, "weight file is shorter than its header")
        with path.open("rb") as file:
            self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.records = {}  # record offset -> (dtype, data offset, data size, unused bits)
        self.used = set()
        count, storage_version = struct.unpack_from("<II", self.bytes, 0)
        require(storage_version == 2, f"weight file has storage version {storage_version}, not 2")
        self.require_zero(8, ALIGNMENT, "header")
        offset = end = ALIGNMENT
        while offset < len(self.bytes):
            self.require_zero(end, offset, "gap")
            end = self.read_record(offset, version)
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        self.require_zero(end, len(self.bytes), "tail")
        require(len(self.records) == count, f"header counts {count} blobs, the file holds {len(self.records)}")

    def read_record(self, offset, version):
        """Checks the record at `offset` and returns where its data ends."""
        where = f"weight record at {offset}"
        require(offset + 64 <= len(self.bytes), f"{where}: cut off")
        sentinel, number, size, start, unused_bits = struct.unpack_from("<IIQQQ", self.bytes, offset)
        require(sentinel == SENTINEL, f"{where}: sentinel is {sentinel:#x}")
        require(number in BLOB_DTYPES, f"{where}: unknown element type {number}")
        dtype, since = BLOB_DTYPES[number]
        require(version >= since, f"{where}: {dtype} blobs need specification version {since}")
        require(start == offset + 64, f"{where}: data at {start}, expected {offset + 64}")
        require(start + size <= len(self.bytes), f"{where}: {size} bytes reach past the end of the file")
        require(dtype in SUB_BYTE_BITS or unused_bits == 0, f"{where}: {unused_bits} unused bits of {dtype}")
        require(unused_bits < 8, f"{where}: {unused_bits} unused bits")
        self.require_zero(offset + 32, offset + 64, where)
        self.records[offset] = (dtype, start, size, unused_bits)
        return start + size

    def find(self, offset, dtype, count):
        """The bytes of the record at `offset`, which must hold exactly `count` elements of `dtype`."""
        where = f"weight record at {offset}"
        require(offset % ALIGNMENT == 0, f"{where}: not a multiple of {ALIGNMENT}")
        require(offset in self.records, f"{where}: no record starts there")
        stored, start, size, unused_bits = self.records[offset]
        require(stored == dtype, f"{where}: holds {stored}, the program says {dtype}")
        require(size == byte_size(dtype, count), f"{where}: {size} bytes for {count} elements of {dtype}")
        expected = size * 8 - count * bits_of(dtype)
        require(unused_bits == expected, f"{where}: {unused_bits} unused bits, expected {expected}")
        self.used.add(offset)
        return self.bytes[start : start + size]

    def require_zero(self, start, end, where):
        if any(self.bytes[start:end]):
            raise Refused(f"weight file: bytes {start}..{end} ({where}) are not zero")
