"""A package: manifest, model file, weight files, functions."""

import json
import re
from pathlib import Path

from coremltools.proto import Model_pb2

from blobs import WeightFile
from dtypes import Refused, context, require
from features import described_functions
from function import OPSETS, Function

UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Package:
    """A checked package: its functions can be run."""

    def __init__(self, path):
        self.root = Path(path)
        self.model_path, self.listed = read_manifest(self.root)
        model = read_model(self.model_path)
        self.version = model.specificationVersion
        require(self.version in OPSETS, f"specification version {self.version}")
        self.weight_files = {}
        self.metadata = dict(model.description.metadata.userDefined)
        check_program(model.mlProgram)
        described, self.default = described_functions(model.description, self.version)
        program = model.mlProgram.functions
        require(set(program) == set(described), f"described functions {sorted(described)}, program {sorted(program)}")
        self.functions = {}
        for name in sorted(program):
            with context(f"function {name}"):
                self.functions[name] = Function(self, program[name], described[name])

    def weights(self, file_name):
        """The weight file that a blob value names, walked and checked when first used."""
        if file_name not in self.weight_files:
            prefix = "@model_path/"
            require(file_name.startswith(prefix), f"blob file {file_name!r} is not under {prefix}")
            path = (self.model_path.parent / file_name[len(prefix) :]).resolve()
            inside = any(path.is_relative_to(item.resolve()) for item in self.listed)
            require(inside, f"blob file {file_name!r} is under no item of the manifest")
            require(path.is_file(), f"blob file {file_name!r} is missing")
            self.weight_files[file_name] = WeightFile(path, self.version)
        return self.weight_files[file_name]

    def unused_blobs(self):
        return {name: sorted(set(f.records) - f.used) for name, f in self.weight_files.items()}


def read_manifest(root):
    """Returns the path of the model file and the paths of all items."""
    with context("Manifest.json"):
        require((root / "Manifest.json").is_file(), "missing")
        try:
            manifest = json.loads((root / "Manifest.json").read_text("utf-8"))
        except ValueError as error:
            raise Refused(f"not JSON: {error}") from None
        expected = {"fileFormatVersion", "rootModelIdentifier", "itemInfoEntries"}
        require(set(manifest) == expected, f"keys {sorted(manifest)}, expected {sorted(expected)}")
        require(manifest["fileFormatVersion"] == "1.0.0", f"fileFormatVersion {manifest['fileFormatVersion']!r}")
        paths = {}
        for identifier, item in manifest["itemInfoEntries"].items():
            require(UUID.fullmatch(identifier), f"{identifier!r} is not a UUID")
            require(
                set(item) == {"author", "description", "name", "path"}, f"item {identifier} has keys {sorted(item)}"
            )
            require(item["path"] == f"{item['author']}/{item['name']}", f"path {item['path']!r} is not author/name")
            paths[identifier] = root / "Data" / item["path"]
            require(".." not in Path(item["path"]).parts and paths[identifier].exists(), f"{item['path']!r} is missing")
        require(len(set(paths.values())) == len(paths), "two items have one path")
        require(manifest["rootModelIdentifier"] in paths, "rootModelIdentifier names no item")
        model_path = paths[manifest["rootModelIdentifier"]]
        require(model_path.is_file(), "the root item is not a file")
        return model_path, list(paths.values())


def read_model(path):
    model = Model_pb2.Model()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:
        raise Refused(f"{path.name} is not a Model message: {error}") from None
    known = Model_pb2.Model.FromString(path.read_bytes())
    known.DiscardUnknownFields()
    require(known.ByteSize() == model.ByteSize(), f"{path.name} has fields that the schema does not know")
    require(model.WhichOneof("Type") == "mlProgram", f"model type is {model.WhichOneof('Type')}, not mlProgram")
    require(not model.isUpdatable, "updatable models are not covered")
    return model


def check_program(program):
    require(program.version == 1, f"program version {program.version}")
    require(not program.docString, "the program has a docString")
    require(set(program.attributes) <= {"buildInfo"}, f"program attributes {sorted(program.attributes)}")
