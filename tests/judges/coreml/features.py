"""What a package says of its functions: inputs, outputs, states, and the shapes they may have."""

import re
from typing import NamedTuple

from dtypes import FEATURE_DTYPES, context, require

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
MAX_ENUMERATED = 128


class Feature(NamedTuple):
    name: str
    dtype: str
    shape: tuple  # the default shape; empty for an output with unknown axes
    ranges: tuple | None  # (low, high) of every axis
    enumerated: tuple | None  # the allowed shapes


class Description(NamedTuple):
    inputs: dict
    outputs: list
    states: dict


def described_functions(description, version):
    """Returns function name -> Description, and the name of the default function."""
    for field in ("predictedFeatureName", "predictedProbabilitiesName", "trainingInput"):
        require(not getattr(description, field), f"description has {field}")
    if not description.functions:
        require(not description.defaultFunctionName, "defaultFunctionName without described functions")
        return {"main": describe(description, version)}, "main"
    require(version >= 9, "several functions need specification version 9")
    for field in ("input", "output", "state"):
        require(not getattr(description, field), f"description has both functions and {field}")
    functions = {}
    for function in description.functions:
        require(IDENTIFIER.fullmatch(function.name), f"function name {function.name!r}")
        require(function.name not in functions, f"function {function.name} is described twice")
        with context(f"function {function.name}"):
            functions[function.name] = describe(function, version)
    require(description.defaultFunctionName in functions, f"default function {description.defaultFunctionName!r}")
    return functions, description.defaultFunctionName


def describe(description, version):
    inputs = [read_feature(feature, version, "multiArrayType") for feature in description.input]
    outputs = [read_feature(feature, version, "multiArrayType") for feature in description.output]
    states = [read_feature(feature, version, "stateType") for feature in description.state]
    names = [feature.name for feature in inputs + outputs + states]
    require(len(set(names)) == len(names), f"a feature is described twice: {sorted(names)}")
    require(not states or version >= 9, "states need specification version 9")
    require(outputs, "no outputs")
    for state in states:
        require(state.dtype == "fp16", f"state {state.name} is {state.dtype}, not fp16")
        require(state.ranges is None and state.enumerated is None, f"state {state.name} has a flexible shape")
    for output in outputs:
        require(output.ranges is None and output.enumerated is None, f"output {output.name} has shape constraints")
    enumerated = [feature for feature in inputs if feature.enumerated]
    require(len(enumerated) <= 1 or version >= 9, "several enumerated inputs need specification version 9")
    require(len({len(feature.enumerated) for feature in enumerated}) <= 1, "enumerated inputs differ in count")
    return Description({f.name: f for f in inputs}, outputs, {f.name: f for f in states})


def read_feature(feature, version, kind):
    with context(f"feature {feature.name}"):
        require(IDENTIFIER.fullmatch(feature.name), "not an identifier")
        require(not feature.type.isOptional, "optional features are not covered")
        require(feature.type.WhichOneof("Type") == kind, f"is {feature.type.WhichOneof('Type')}, expected {kind}")
        array = feature.type.multiArrayType if kind == "multiArrayType" else feature.type.stateType.arrayType
        require(array.WhichOneof("defaultOptionalValue") is None, "has a default value")
        dtype, since = FEATURE_DTYPES.get(array.dataType, (None, None))
        require(dtype, f"element type {array.dataType}")
        require(version >= since, f"{dtype} features need specification version {since}")
        shape = tuple(array.shape)
        require(all(size > 0 for size in shape), f"shape {shape}")
        ranges = enumerated = None
        if array.HasField("shapeRange"):
            ranges = tuple((int(r.lowerBound), int(r.upperBound)) for r in array.shapeRange.sizeRanges)
            require(len(ranges) == len(shape), f"{len(ranges)} ranges for rank {len(shape)}")
            inside = all(1 <= low <= size <= high for size, (low, high) in zip(shape, ranges))
            require(inside, f"default shape {shape} outside {ranges}")
        if array.HasField("enumeratedShapes"):
            enumerated = tuple(tuple(each.shape) for each in array.enumeratedShapes.shapes)
            require(2 <= len(enumerated) <= MAX_ENUMERATED, f"{len(enumerated)} enumerated shapes")
            require(shape in enumerated, f"default shape {shape} is not enumerated")
            require(len({len(each) for each in enumerated}) == 1, "enumerated shapes differ in rank")
        return Feature(feature.name, dtype, shape, ranges, enumerated)


def program_shape(feature):
    """The shape that the program must declare for a described input: flexible axes are unknown."""
    if feature.ranges:
        return tuple(low if low == high else None for low, high in feature.ranges)
    if feature.enumerated:
        return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*feature.enumerated))
    return feature.shape
