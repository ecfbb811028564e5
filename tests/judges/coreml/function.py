"""A function of a program: checked operation by operation, then run on numpy."""

import itertools
from typing import NamedTuple

import numpy as np

import operations
import signatures
from dtypes import Refused, Type, context, require, round_to, widen
from features import IDENTIFIER, program_shape
from values import Constant, read_type

OPSETS = {6: "CoreML5", 7: "CoreML6", 8: "CoreML7", 9: "CoreML8", 10: "CoreML9"}


class Operation(NamedTuple):
    kind: str
    name: str
    operands: dict  # parameter -> [value name or Constant]
    many: set  # parameters that take a list
    results: list  # [(value name, Type)]


class Function:
    """A checked function: straight-line operations over named values."""

    def __init__(self, package, message, description):
        self.version = package.version
        self.package = package
        self.description = description
        require(message.opset == OPSETS[self.version], f"opset {message.opset} in specification version {self.version}")
        require(not message.attributes, "the function has attributes")
        require(list(message.block_specializations) == [message.opset], "block_specializations is not just the opset")
        block = message.block_specializations[message.opset]
        require(not block.inputs and not block.attributes, "the block has inputs or attributes")
        self.types = {}  # value name -> Type
        self.constants = {}  # value name -> Constant or constexpr Operation
        self.states = {}  # state name -> Type
        self.operations = []
        self.operation_names = set()
        self.read_inputs(message.inputs)
        for operation in block.operations:
            names = ", ".join(result.name for result in operation.outputs) or "without result"
            with context(f"{operation.type} ({names})"):
                self.read_operation(operation)
        self.outputs = list(block.outputs)
        self.check_outputs()
        self.last_use = {}
        for index, operation in enumerate(self.operations):
            for operand in itertools.chain(*operation.operands.values()):
                if isinstance(operand, str):
                    self.last_use[operand] = index

    def define(self, name, type):
        require(IDENTIFIER.fullmatch(name), f"value name {name!r}")
        require(name not in self.types and name not in self.states, f"value {name} is defined twice")
        self.types[name] = type

    def read_inputs(self, messages):
        for message in messages:
            with context(f"input {message.name}"):
                if message.type.WhichOneof("type") == "stateType":
                    type = read_type(message.type.stateType.wrappedType)
                    self.define(message.name, type)
                    self.states[message.name] = self.types.pop(message.name)
                    described = self.description.states.get(message.name)
                    require(described, "state is not described")
                    expected = Type(described.dtype, described.shape)
                else:
                    self.define(message.name, type := read_type(message.type))
                    described = self.description.inputs.get(message.name)
                    require(described, "input is not described")
                    expected = Type(described.dtype, program_shape(described))
                require(type == expected, f"program says {type}, description {expected}")
                require(type.shape, "rank 0")
        self.inputs = list(self.types)
        described = set(self.description.inputs) | set(self.description.states)
        missing = described - set(self.inputs) - set(self.states)
        require(not missing, f"described but not in the program: {sorted(missing)}")

    def read_operation(self, message):
        require(not message.blocks, "control flow is not covered")
        attributes = {}
        for key, value in message.attributes.items():
            with context(f"attribute {key}"):
                attributes[key] = Constant(self.package, value)
        name = attributes.pop("name", None)
        require(name is not None and name.type == Type("string", ()), "attribute name is missing or not a string")
        require(name.load() and name.load() not in self.operation_names, f"operation name {name.load()!r} occurs twice")
        self.operation_names.add(name.load())
        results = []
        for result in message.outputs:
            with context(f"result {result.name}"):
                results.append((result.name, read_type(result.type)))
        if message.type == "const":
            self.read_const(message, attributes, results)
        elif message.type in ("read_state", "write_state"):
            require(not attributes, f"attributes {sorted(attributes)}")
            self.read_state_access(message, name.load(), results)
        else:
            self.read_computation(message, name.load(), attributes, results)

    def read_const(self, message, attributes, results):
        require(not message.inputs, "a const has inputs")
        require(set(attributes) == {"val"}, f"attributes {sorted(attributes)}, expected val")
        require(len(results) == 1, f"{len(results)} results")
        name, type = results[0]
        require(attributes["val"].type == type, f"val is {attributes['val'].type}, result {type}")
        self.define(name, type)
        self.constants[name] = attributes["val"]

    def read_state_access(self, message, name, results):
        require(self.version >= 9, f"needs specification version 9, the model says {self.version}")
        operands = {key: [b.name for b in argument.arguments] for key, argument in message.inputs.items()}
        expected = {"input"} if message.type == "read_state" else {"input", "data"}
        require(set(operands) == expected, f"parameters {sorted(operands)}, expected {sorted(expected)}")
        require(all(len(names) == 1 for names in operands.values()), "a parameter does not have one binding")
        (state,) = operands["input"]
        require(state in self.states, f"{state!r} is not a state")
        if message.type == "read_state":
            require(len(results) == 1, f"{len(results)} results")
            require(results[0][1] == self.states[state], f"result {results[0][1]}, state {self.states[state]}")
            self.define(*results[0])
        else:
            require(not results, f"{len(results)} results")
            (data,) = operands["data"]
            require(data in self.types, f"data {data!r} is not defined before")
            require(self.types[data] == self.states[state], f"data {self.types[data]}, state {self.states[state]}")
        self.operations.append(Operation(message.type, name, operands, set(), results))

    def read_computation(self, message, name, attributes, results):
        form = signatures.signature(message.type, self.version)
        constexpr = message.type.startswith("constexpr_")
        if constexpr and form.since < 9:
            # The forms from before specification version 9 keep their parameters in attributes in every opset.
            require(not message.inputs, f"parameters {sorted(message.inputs)} as inputs, expected attributes")
            operands = {key: [value] for key, value in attributes.items()}
        else:
            require(not attributes, f"attributes {sorted(attributes)}")
            operands = {key: self.read_bindings(key, arg, constexpr) for key, arg in message.inputs.items()}
        for key in operands:
            require(key in form.parameters, f"unknown parameter {key}")
        many = {key for key, parameter in form.parameters.items() if parameter.many}
        for key, parameter in form.parameters.items():
            require(key in operands or parameter.optional, f"parameter {key} is missing")
            if key not in operands:
                continue
            require(parameter.many or len(operands[key]) == 1, f"parameter {key} has {len(operands[key])} bindings")
            constant = all(not isinstance(o, str) or o in self.constants for o in operands[key])
            require(constant or not parameter.constant, f"parameter {key} is not a compile-time constant")
        self.check_results(message.type, form, operands, results)
        operation = Operation(message.type, name, operands, many, results)
        for result, type in results:
            self.define(result, type)
        if constexpr:
            with np.errstate(all="ignore"):
                self.evaluate(operation, {}, half=False)  # shapes and values are known: check them now
            self.constants[results[0][0]] = operation
        else:
            self.operations.append(operation)

    def read_bindings(self, key, argument, constexpr):
        operands = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                require(constexpr, f"parameter {key} is bound to an immediate")
                with context(f"parameter {key}"):
                    operands.append(Constant(self.package, binding.value))
                continue
            require(binding.name not in self.states, f"parameter {key} names the state {binding.name}")
            require(binding.name in self.types, f"parameter {key}: {binding.name!r} is not defined before")
            by_constexpr = isinstance(self.constants.get(binding.name), Operation)
            require(by_constexpr or not constexpr, f"parameter {key} is bound to {binding.name}, expected a value")
            operands.append(binding.name)
        require(operands, f"parameter {key} has no binding")
        return operands

    def check_results(self, kind, form, operands, results):
        given, texts = {}, {}
        for key, bound in operands.items():
            given[key] = [o.type if isinstance(o, Constant) else self.types[o] for o in bound]
            if given[key][0].dtype == "string":
                texts[key] = (bound[0] if isinstance(bound[0], Constant) else self.constants[bound[0]]).load()
        constant = {key for key, bound in operands.items() if isinstance(bound[0], str) and bound[0] in self.constants}
        dtypes = signatures.result_dtypes(kind, form, given, texts, constant, len(results))
        require(len(dtypes) == len(results), f"{len(results)} results, expected {len(dtypes)}")
        from_values = {"shape", "begin", "end", "size", "reps"} & set(
            given
        ) - constant  # results shaped by what is computed
        unknown = from_values or any(None in type.shape for types in given.values() for type in types)
        for dtype, (name, type) in zip(dtypes, results):
            require(type.dtype == dtype, f"{name} is declared {type.dtype}, computed {dtype}")
            require(unknown or None not in type.shape, f"{name} has an unknown dimension, its operands have none")

    def check_outputs(self):
        described = [feature.name for feature in self.description.outputs]
        require(self.outputs == described, f"block outputs {self.outputs}, described {described}")
        for feature in self.description.outputs:
            name = feature.name
            require(name in self.types, f"output {name} is not defined")
            require(name not in self.inputs and name not in self.constants, f"output {name} is an input or a constant")
            dtype, shape = self.types[name]
            require(feature.dtype == dtype, f"output {name} is {dtype}, described {feature.dtype}")
            expected = () if None in shape else shape
            require(feature.shape == expected, f"output {name} has shape {shape}, described {feature.shape}")

    # ---- execution ----

    def run(self, inputs, states, half, report=None):
        """Runs the function once; `states` is changed in place; `report` collects what overflows fp16."""
        self.check_inputs(inputs)
        values = {name: widen(np.asarray(array)) for name, array in inputs.items()}
        with np.errstate(all="ignore"):
            for index, operation in enumerate(self.operations):
                with context(f"{operation.kind} ({operation.name})"):
                    self.step(operation, values, states, half, report)
                for name in set(itertools.chain(*operation.operands.values())) & set(values):
                    if self.last_use[name] == index and name not in self.outputs:
                        del values[name]
        return {name: values[name] for name in self.outputs}

    def step(self, operation, values, states, half, report):
        if operation.kind == "write_state":
            states[operation.operands["input"][0]] = self.operand(operation.operands["data"][0], values, half)
        elif operation.kind == "read_state":
            values[operation.results[0][0]] = states[operation.operands["input"][0]]
        else:
            values.update(self.evaluate(operation, values, half, report))

    def operand(self, name, values, half):
        """The value of an operand; constants are decoded anew at each use, so that memory holds one at a time."""
        if isinstance(name, Constant):
            return name.load()
        if name not in self.constants:
            return values[name]
        constant = self.constants[name]
        return constant.load() if isinstance(constant, Constant) else self.evaluate(constant, values, half)[name]

    def evaluate(self, operation, values, half, report=None):
        operands = {}
        for key, bound in operation.operands.items():
            loaded = [self.operand(operand, values, half) for operand in bound]
            operands[key] = loaded if key in operation.many else loaded[0]
        try:
            results = operations.EVALUATE[operation.kind](**operands)
        except (ValueError, TypeError, IndexError) as error:
            raise Refused(str(error)) from None
        results = results if isinstance(results, list) else [results]
        require(len(results) == len(operation.results), f"computed {len(results)} results")
        named = {}
        for (name, type), result in zip(operation.results, results):
            result = np.asarray(result)
            fits = len(type.shape) == result.ndim
            fits = fits and all(want in (None, got) for want, got in zip(type.shape, result.shape))
            require(fits, f"{name} is declared {type.shape}, computed {result.shape}")
            if report is not None and type.dtype == "fp16" and np.abs(result).max(initial=0) > 65504:
                report.setdefault("overflows", {}).setdefault(name, float(np.abs(result).max()))
            named[name] = round_to(type.dtype, result, half)
        return named

    def check_inputs(self, inputs):
        require(set(inputs) == set(self.inputs), f"inputs {sorted(inputs)}, expected {sorted(self.inputs)}")
        choices = []
        for name, feature in self.description.inputs.items():
            array = np.asarray(inputs[name])
            expected = {"fp16": "float16", "fp32": "float32"}.get(feature.dtype, feature.dtype)
            require(array.dtype.name == expected, f"input {name} is {array.dtype}, expected {expected}")
            if feature.enumerated:
                choices.append({i for i, shape in enumerate(feature.enumerated) if shape == array.shape})
                require(choices[-1], f"input {name} has shape {array.shape}, allowed {feature.enumerated}")
                continue
            ranges = feature.ranges or tuple((size, size) for size in feature.shape)
            fits = len(ranges) == array.ndim and all(a <= s <= b for (a, b), s in zip(ranges, array.shape))
            require(fits, f"input {name} has shape {array.shape}, allowed {ranges}")
        require(not choices or set.intersection(*choices), "the enumerated inputs have shapes of different index")

    def new_states(self):
        return {name: np.zeros(type.shape) for name, type in self.states.items()}

    def sample_shapes(self):
        """The default shapes and all enumerated ones; then both ends of the ranges."""
        inputs = self.description.inputs.values()
        count = max((len(f.enumerated) for f in inputs if f.enumerated), default=0)
        sure = [{f.name: f.shape for f in inputs}]
        sure += [{f.name: f.enumerated[i] if f.enumerated else f.shape for f in inputs} for i in range(count)]
        ends = [{f.name: tuple(r[end] for r in f.ranges) if f.ranges else f.shape for f in inputs} for end in (0, 1)]
        return sure, [shapes for shapes in ends if shapes not in sure]

    def try_on_zeros(self):
        """Runs on zeros of sample shapes; returns what was refused at the ends of the ranges.

        A declared shape that is not the computed one is refused; the ends are only a hint, for ranges of several
        inputs may depend on each other.
        """
        dtypes = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "int8": np.int8}
        dtypes = {name: dtypes[feature.dtype] for name, feature in self.description.inputs.items()}
        sure, ends = self.sample_shapes()
        notes = []
        for shapes in sure + ends:
            try:
                with context(f"on zeros of {shapes}"):
                    self.run({n: np.zeros(s, dtypes[n]) for n, s in shapes.items()}, self.new_states(), half=False)
            except Refused as error:
                if shapes in sure:
                    raise
                notes.append(str(error))
        return notes
