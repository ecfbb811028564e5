"""Ways to break a package; each says what the refusal must name.

    python mutations.py NAME PACKAGE COPY ...      copies each package and breaks the copy
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
from coremltools.proto import Model_pb2


class Broken:
    """A copy of a package to break."""

    def __init__(self, source, path):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
        self.path = path
        self.model_path = path / "Data/com.apple.CoreML/model.mlmodel"
        self.weights_path = path / "Data/com.apple.CoreML/weights/weight.bin"
        self.model = Model_pb2.Model.FromString(self.model_path.read_bytes())
        self.weights = bytearray(self.weights_path.read_bytes())
        self.manifest = json.loads((path / "Manifest.json").read_text())
        (self.function,) = self.model.mlProgram.functions.values()
        (self.block,) = self.function.block_specializations.values()

    def operation(self, kind, index=0):
        return [o for o in self.block.operations if o.type == kind][index]

    def const(self, name):
        return [o for o in self.block.operations if o.outputs and o.outputs[0].name == name][0]

    def bound(self, kind, parameter, index=0):
        """The operation that defines a parameter of an operation."""
        return self.const(self.operation(kind, index).inputs[parameter].arguments[0].name)

    def blob(self):
        return [
            o for o in self.block.operations if o.type == "const" and o.attributes["val"].HasField("blobFileValue")
        ][0]

    def save(self):
        self.model_path.write_bytes(self.model.SerializeToString())
        self.weights_path.write_bytes(self.weights)
        (self.path / "Manifest.json").write_text(json.dumps(self.manifest))
        return self.path


MUTATIONS = {}


def mutation(source, message):
    """A way to break the package `source`, with a part of the refusal that names it."""

    def register(function):
        MUTATIONS[function.__name__] = source, message, function
        return function

    return register


EXPLICIT = "explicit-fp16-8-all"
INT4 = "explicit-uint4-9-all"
INT8 = "explicit-int8-7-all"
FUSED = "explicit-fused"
STATE = "state-fp16"


@mutation(EXPLICIT, "keys")
def manifest_without_author(b):
    del next(iter(b.manifest["itemInfoEntries"].values()))["author"]


@mutation(EXPLICIT, "names no item")
def manifest_wrong_root(b):
    b.manifest["rootModelIdentifier"] = "00000000-0000-0000-0000-000000000000"


@mutation(EXPLICIT, "opset CoreML7 in specification version 7")
def version_too_low(b):
    b.model.specificationVersion = 7


@mutation(EXPLICIT, "mul ")
def wrong_operand_dtype(b):
    cast = b.operation("cast", 1)  # the cast back to fp16: feed the multiplication the fp32 value before it
    b.operation("mul", 2).inputs["x"].arguments[0].name = cast.inputs["x"].arguments[0].name


@mutation(EXPLICIT, "is declared fp32")
def wrong_result_dtype(b):
    b.operation("linear").outputs[0].type.tensorType.dataType = 11


@mutation(EXPLICIT, "computed")
def wrong_result_shape(b):
    b.operation("matmul").outputs[0].type.tensorType.dimensions[-1].constant.size += 1


@mutation(EXPLICIT, "has an unknown dimension")
def unknown_dimension(b):
    b.operation("linear").outputs[0].type.tensorType.dimensions[1].unknown.SetInParent()


@mutation(EXPLICIT, "rank 4 with 3 dimensions")
def wrong_rank(b):
    b.operation("linear").outputs[0].type.tensorType.rank = 4


@mutation(EXPLICIT, "is not defined before")
def stale_name(b):
    b.operation("softmax").inputs["x"].arguments[0].name = "gone"


@mutation(EXPLICIT, "is not defined before")
def used_before_defined(b):
    operations = list(b.block.operations)
    del b.block.operations[:]
    b.block.operations.extend(operations[-1:] + operations[:-1])


@mutation(EXPLICIT, "is defined twice")
def name_twice(b):
    b.operation("softmax").outputs[0].name = b.operation("matmul").outputs[0].name


@mutation(EXPLICIT, "unknown operation")
def unknown_operation(b):
    b.operation("silu").type = "swish"


@mutation(EXPLICIT, "unknown parameter beta")
def unknown_parameter(b):
    b.operation("silu").inputs["beta"].CopyFrom(b.operation("silu").inputs["x"])


@mutation(EXPLICIT, "parameter axis is missing")
def missing_parameter(b):
    del b.operation("softmax").inputs["axis"]


@mutation(EXPLICIT, "attribute name is missing")
def missing_name(b):
    del b.operation("softmax").attributes["name"]


@mutation(EXPLICIT, "attributes ['axis']")
def parameter_as_attribute(b):
    softmax = b.operation("softmax")
    softmax.attributes["axis"].CopyFrom(b.bound("softmax", "axis").attributes["val"])
    del softmax.inputs["axis"]


@mutation(EXPLICIT, "not a compile-time constant")
def weight_not_constant(b):
    b.operation("linear", 1).inputs["weight"].arguments[0].name = b.operation("linear").outputs[0].name


@mutation(EXPLICIT, "axis 9 outside")
def wrong_axis(b):
    b.bound("softmax", "axis").attributes["val"].immediateValue.tensor.ints.values[0] = 9


@mutation(EXPLICIT, "expected bytes")
def half_immediate_in_floats(b):
    scale = [o for o in b.block.operations if o.type == "const" and o.outputs[0].type.tensorType.dataType == 10]
    value = [o for o in scale if o.attributes["val"].HasField("immediateValue")][0].attributes["val"]
    value.immediateValue.tensor.floats.values.append(1)


@mutation(EXPLICIT, "not a multiple of 64")
def blob_offset_unaligned(b):
    b.blob().attributes["val"].blobFileValue.offset += 8


@mutation(EXPLICIT, "no record starts there")
def blob_offset_at_the_data(b):
    b.blob().attributes["val"].blobFileValue.offset += 64


@mutation(EXPLICIT, "the program says")
def blob_of_another_type(b):
    struct.pack_into("<I", b.weights, b.blob().attributes["val"].blobFileValue.offset + 4, 4)


@mutation(EXPLICIT, "sentinel")
def blob_without_sentinel(b):
    b.weights[b.blob().attributes["val"].blobFileValue.offset] ^= 1


@mutation(EXPLICIT, "data at")
def blob_over_its_neighbour(b):
    offset = b.blob().attributes["val"].blobFileValue.offset
    struct.pack_into("<Q", b.weights, offset + 16, offset + 128)


@mutation(EXPLICIT, "past the end")
def weights_cut_off(b):
    del b.weights[-2:]


@mutation(EXPLICIT, "header counts")
def blob_count(b):
    b.weights[0] += 1


@mutation(EXPLICIT, "input tokens: program says")
def described_shape(b):
    b.model.description.input[0].type.multiArrayType.shape[1] += 1


@mutation(EXPLICIT, "input tokens: program says")
def described_dtype(b):
    b.model.description.input[0].type.multiArrayType.dataType = 65552


@mutation(EXPLICIT, "outside")
def described_range(b):
    array = b.model.description.input[0].type.multiArrayType
    for size in array.shape:
        array.shapeRange.sizeRanges.add(lowerBound=1, upperBound=2)


@mutation(EXPLICIT, "block outputs")
def outputs_in_another_order(b):
    b.block.outputs[1], b.block.outputs[2] = b.block.outputs[2], b.block.outputs[1]


@mutation(EXPLICIT, "is an input or a constant")
def output_is_a_constant(b):
    b.block.outputs[1] = b.model.description.output[1].name = b.blob().outputs[0].name


@mutation(EXPLICIT, "result Type")
def constant_of_another_type(b):
    b.blob().outputs[0].type.tensorType.dataType = 11


@mutation(EXPLICIT, "fields that the schema does not know")
def unknown_field(b):
    b.model = Model_pb2.Model.FromString(b.model.SerializeToString() + b"\xf8\x7f\x01")


@mutation(FUSED, "needs specification version 9")
def operation_newer_than_the_version(b):
    b.model.specificationVersion = 8
    b.function.opset = "CoreML7"
    b.function.block_specializations["CoreML7"].CopyFrom(b.block)
    del b.function.block_specializations["CoreML8"]


@mutation(INT4, "uint4 blobs need specification version 9")
def blob_newer_than_the_version(b):
    operation_newer_than_the_version(b)


@mutation(INT4, "does not divide")
def scale_that_does_not_divide(b):
    quantized = b.operation("constexpr_blockwise_shift_scale")
    for key in ("scale", "offset"):
        dimensions = quantized.inputs[key].arguments[0].value.type.tensorType.dimensions
        dimensions[0].constant.size, dimensions[1].constant.size = (
            1,
            dimensions[0].constant.size * dimensions[1].constant.size,
        )


@mutation(INT4, "but offset is")
def offset_of_another_type(b):
    quantized = b.operation("constexpr_blockwise_shift_scale")
    value = quantized.inputs["offset"].arguments[0].value
    count = int(np.prod([d.constant.size for d in value.type.tensorType.dimensions]))
    value.type.tensorType.dataType = 21
    value.immediateValue.tensor.bytes.values = bytes(count)


@mutation(INT4, "attributes ['data', 'offset', 'scale']")
def blockwise_in_attributes(b):
    quantized = b.operation("constexpr_blockwise_shift_scale")
    for key in list(quantized.inputs):
        quantized.attributes[key].CopyFrom(quantized.inputs[key].arguments[0].value)
        del quantized.inputs[key]


@mutation(INT8, "does not fit axis")
def affine_axis(b):
    quantized = [o for o in b.block.operations if o.type == "constexpr_affine_dequantize"][1]  # not square
    quantized.attributes["axis"].immediateValue.tensor.ints.values[0] = 1


@mutation(INT8, "but zero_point is uint8")
def affine_zero_point(b):
    b.operation("constexpr_affine_dequantize").attributes["zero_point"].type.tensorType.dataType = 31


@mutation(STATE, "state is not described")
def state_under_another_name(b):
    b.model.description.state[0].name = "other"


@mutation(STATE, "is not a state")
def stale_state(b):
    b.operation("read_state").inputs["input"].arguments[0].name = "at"


@mutation(STATE, "names the state")
def state_as_operand(b):
    b.operation("slice_update").inputs["x"].arguments[0].name = "k_state"


@mutation(STATE, "data")
def state_written_with_another_shape(b):
    b.operation("write_state").inputs["data"].arguments[0].name = b.operation("expand_dims", 0).outputs[0].name


@mutation(STATE, "fp16")
def state_of_fp32(b):
    b.model.description.state[0].type.stateType.arrayType.dataType = 65568


# Broken packages that are well formed: name -> (source, encoding of its weights, how).
SILENT = {}


def silent(source, encoding):
    def register(function):
        SILENT[function.__name__] = source, encoding, function
        return function

    return register


@silent("state-int4", "int4")
def swapped_nibbles(b):
    quantized = b.operation("constexpr_blockwise_shift_scale")
    offset = quantized.inputs["data"].arguments[0].value.blobFileValue.offset
    size, start = struct.unpack_from("<QQ", b.weights, offset + 8)
    for place in range(start, start + size):
        byte = b.weights[place]
        b.weights[place] = byte >> 4 | (byte & 15) << 4


@silent("explicit-int4-9-all", "int4")
def scales_along_the_other_axis(b):
    """The scale of each group of a row where that of another row and group belongs."""
    quantized = b.operation("constexpr_blockwise_shift_scale")
    value = quantized.inputs["scale"].arguments[0].value
    shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
    start = value.blobFileValue.offset + 64
    scales = np.frombuffer(bytes(b.weights), "<f2", shape[0] * shape[1], start).reshape(shape[1], shape[0])
    b.weights[start : start + scales.nbytes] = scales.T.tobytes()


@silent(STATE, "fp16")
def stale_read_of_a_state(b):
    """The second layer adds its rows to what the state held before the first layer wrote."""
    b.operation("slice_update", 2).inputs["x"].CopyFrom(b.operation("slice_update", 0).inputs["x"])


@silent(EXPLICIT, "fp16")
def keys_and_values_exchanged(b):
    keys, values = (b.bound("linear", "weight", i).attributes["val"].blobFileValue for i in (1, 2))
    keys.offset, values.offset = values.offset, keys.offset


@silent(EXPLICIT, "fp16")
def weight_without_its_last_bit(b):
    offset = b.bound("linear", "weight").attributes["val"].blobFileValue.offset
    b.weights[offset + 64] ^= 1


def main(arguments):
    ways = MUTATIONS | SILENT
    for name, package, copy in zip(*[iter(arguments)] * 3, strict=True):
        broken = Broken(Path(package), Path(copy))
        ways[name][2](broken)
        broken.save()


if __name__ == "__main__":
    main(sys.argv[1:])
