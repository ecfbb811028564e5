"""Judges packages: checks them against the format, loads them with coremltools, executes them on numpy.

    python check.py PACKAGE [--inputs I --outputs O] [--max-error X] [--mode half] [--function F] [--save S]
    python check.py --cases FILE

Inputs and expected outputs are safetensors, named `call0.input_ids`, `call1.input_ids`, ...: calls run in order, states
live on from call to call. Without them every function runs once on zeros. A file of cases holds one JSON object a line,
with the same words as keys (`max_error`), so that many packages need one start of Python.

One JSON object a case, in their order: `verdict` is `ok`, `different` (an output departs from the expected one by more
than the largest error allowed, or is no number) or `refused` (`error` says why). Exit status 0, 1 or 2, as the worst
case has it. In mode `exact`, the default, values are float64 between operations; in mode `half` each is rounded to its type.
"""

import argparse
import json
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import load
from dtypes import Refused, context, require
from package import Package

STATUS = {"ok": 0, "different": 1, "refused": 2}


def judge(case):
    """The report on one case."""
    report = {"package": case["package"]}
    try:
        package = Package(case["package"])
        said = load.opinion(case["package"])
        require(said == "accepted", f"coremltools: {said}")
        if not case.get("inputs"):
            return report | on_zeros(package)
        name = case.get("function") or package.default
        require(name in package.functions, f"function {name!r} is not one of {sorted(package.functions)}")
        half = case.get("mode") == "half"
        results = run(package.functions[name], calls_of(load_file(case["inputs"])), half, report)
        if case.get("save"):
            save(results, case["save"])
        largest = compare(results, calls_of(load_file(case["outputs"]))) if case.get("outputs") else 0.0
    except Refused as error:
        return report | {"verdict": "refused", "error": str(error)}
    limit = case.get("max_error")
    same = np.isfinite(largest) and (limit is None or largest <= limit)
    # JSON has no NaN and no infinity: they become text.
    report["max_error"] = largest if np.isfinite(largest) else str(largest)
    return report | {"verdict": "ok" if same else "different"}


def on_zeros(package):
    notes = []
    for name, function in package.functions.items():
        with context(f"function {name}"):
            notes += function.try_on_zeros()
    unused = {name: offsets for name, offsets in package.unused_blobs().items() if offsets}
    return {"verdict": "ok", "version": package.version, "unused_blobs": unused, "notes": notes}


def calls_of(tensors):
    """{"call0.tokens": t, ...} as [{"tokens": t}, ...], for calls 0, 1, ... without a gap."""
    calls = {}
    for key, tensor in tensors.items():
        call, _, name = key.partition(".")
        require(call.startswith("call") and call[4:].isdigit() and name, f"tensor name {key!r} is not callN.name")
        calls.setdefault(int(call[4:]), {})[name] = tensor
    require(sorted(calls) == list(range(len(calls))), f"calls {sorted(calls)} do not count from 0")
    return [calls[i] for i in range(len(calls))]


def run(function, calls, half, report):
    states, results = function.new_states(), []
    for index, inputs in enumerate(calls):
        with context(f"call {index}"):
            results.append(function.run(inputs, states, half, report))
    return results


def compare(results, expected):
    """The largest difference of all outputs; not a number where one is."""
    require(len(expected) == len(results), f"{len(results)} calls of inputs, {len(expected)} of outputs")
    errors = [0.0]
    for index, (computed, given) in enumerate(zip(results, expected)):
        require(set(given) == set(computed), f"call {index}: outputs {sorted(computed)}, given {sorted(given)}")
        for name, array in given.items():
            shape = computed[name].shape
            require(array.shape == shape, f"call {index}: {name} is {shape}, given {array.shape}")
            errors.append(np.abs(computed[name].astype(np.float64) - array.astype(np.float64)).max(initial=0))
    return float(np.max(errors))


def save(results, path):
    """Writes the computed outputs, as float32 or int32."""
    tensors = {}
    for index, outputs in enumerate(results):
        for name, array in outputs.items():
            kept = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
            tensors[f"call{index}.{name}"] = np.ascontiguousarray(kept)
    save_file(tensors, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?")
    parser.add_argument("--cases", help="a file of cases, one JSON object a line")
    parser.add_argument("--function", help="the function to run; the default one where it is not said")
    parser.add_argument("--inputs")
    parser.add_argument("--outputs", help="the expected outputs")
    parser.add_argument("--save", help="where to write the computed outputs")
    parser.add_argument("--mode", choices=["exact", "half"], default="exact")
    parser.add_argument("--max-error", type=float, help="the largest absolute error that is still ok")
    given = vars(parser.parse_args())
    if (given["package"] is None) == (given["cases"] is None):
        parser.error("give a package or a file of cases")
    path = given.pop("cases")
    cases = [given]
    if path:
        with open(path) as file:
            cases = [json.loads(line) for line in file]
    worst = 0
    for case in cases:
        report = judge(case)
        print(json.dumps(report), flush=True)
        worst = max(worst, STATUS[report["verdict"]])
    return worst


if __name__ == "__main__":
    sys.exit(main())
