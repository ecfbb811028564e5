"""Judges ONNX files: runs them by ONNX Runtime, on its CPU or on the emulator of Qualcomm's HTP.

    python check.py FILE [--provider cpu|qnn] [--inputs I] [--outputs O] [--save S] [--compare-cpu C] [--context OUT]
    python check.py --cases CASES

FILE is a model, or a context (`model_ctx.onnx`) beside its model or in a folder beneath it. Inputs and expected outputs
are safetensors, named `call0.input_ids`, `call1.input_ids`, ...; without inputs one step on invented ones is run.
Floats are rounded to the grids and types that the file wants; integer outputs are compared as the numbers they stand
for.
On `qnn` every node must be on the HTP, in one partition, else the file is refused.

A file of cases holds one JSON object a line, with the options' names as keys (`max_error`). A case's verdict is `ok`,
`different` (a limit is broken) or `refused` (`error` says why); exit status 0, 1 or 2, as the worst case has it.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

import boundary
import sessions
from sessions import Refused, require

STATUS = {"ok": 0, "different": 1, "refused": 2}
DEFAULTS = {"provider": "cpu", "soc": 57, "arch": 75, "optimization": "basic", "seed": 0, "sizes": {}}


def judge(case):
    """The report on one case."""
    report = {"file": str(case["file"])}
    try:
        broken = broken_limits(DEFAULTS | {key: value for key, value in case.items() if value is not None}, report)
    except Refused as error:
        return report | {"verdict": "refused", "error": str(error)}
    return report | {"verdict": "different" if broken else "ok"} | ({"broken": broken} if broken else {})


def broken_limits(case, report):
    path, qnn = Path(case["file"]), case["provider"] == "qnn"
    require(path.is_file(), "no such file")
    if case.get("checker"):
        sessions.opened(lambda: onnx.checker.check_model(str(path), full_check=True))
    source = source_of(path)
    found = boundary.grids(source)
    context = None
    if case.get("context"):
        require(qnn, "a context is for `qnn`")
        # Before any other session: the bytes depend on what the process compiled earlier.
        sessions.compile_context(path, case["context"], case["soc"], case["arch"])
        context = sessions.htp(case["context"], case["soc"], case["arch"])
    session = open_session(path, case)
    report["nodes"] = sessions.nodes(session)
    if case.get("inputs"):
        given = [boundary.fitted(session, call, found) for call in calls_of(load_file(case["inputs"]))]
    else:
        given = [boundary.invented(session, source, found, case["seed"], case["sizes"])]
    results = [sessions.run(session, call) for call in given]
    named = {f"call{index}.{name}": array for index, call in enumerate(results) for name, array in call.items()}
    for name, array in named.items():
        require(np.isfinite(array).all(), f"{name} has values that are no numbers")
    if case.get("save"):
        save_file(named, case["save"])
    broken = []
    if case.get("outputs"):
        expected = calls_of(load_file(case["outputs"]))
        report["expected"] = compare(results, expected, found)
        broken += limits("expected", report["expected"], case.get("min_cosine"), case.get("max_error"))
    if case.get("compare_cpu") is not None:
        require(qnn and source == path, "only a model on `qnn` can be compared with the CPU")
        cpu = sessions.cpu(path, case["optimization"])
        report["cpu"] = compare(results, [sessions.run(cpu, call) for call in given], found)
        broken += limits("cpu", report["cpu"], case["compare_cpu"], None)
    if context:
        report["context"] = compare([sessions.run(context, call) for call in given], results, found)
        broken += limits("context", report["context"], 1.0, 0.0)
    return broken


def source_of(path):
    """The model of a context, which tells its grids; of a model, itself."""
    if not path.name.endswith("_ctx.onnx"):
        return path
    places = [folder / path.name.replace("_ctx.onnx", ".onnx") for folder in (path.parent, path.parent.parent)]
    return next((place for place in places if place.is_file()), path)


def open_session(path, case):
    if case["provider"] == "cpu":
        return sessions.cpu(path, case["optimization"])
    require(case["provider"] == "qnn", f"provider {case['provider']!r} is not `cpu` or `qnn`")
    try:
        return sessions.htp(path, case["soc"], case["arch"])
    except Refused as error:
        # A session that may use the CPU tells which nodes the HTP has not.
        loose = sessions.htp(path, case["soc"], case["arch"], strict=False)
        raise Refused(f"not on {sessions.QNN}: {sessions.elsewhere(loose)} ({error})") from error


def calls_of(tensors):
    """{"call0.cos": t, ...} as [{"cos": t}, ...], for calls 0, 1, ... without a gap."""
    calls = {}
    for key, tensor in tensors.items():
        call, _, name = key.partition(".")
        require(call.startswith("call") and call[4:].isdigit() and name, f"tensor name {key!r} is not callN.name")
        calls.setdefault(int(call[4:]), {})[name] = tensor
    require(sorted(calls) == list(range(len(calls))), f"calls {sorted(calls)} do not count from 0")
    return [calls[i] for i in range(len(calls))]


def compare(results, expected, found):
    """The smallest cosine and the largest error of each output, over all calls."""
    require(len(expected) == len(results), f"{len(results)} calls of inputs, {len(expected)} of outputs")
    report = {}
    for index, (computed, given) in enumerate(zip(results, expected)):
        require(set(given) == set(computed), f"call {index}: outputs {sorted(computed)}, given {sorted(given)}")
        for name, array in given.items():
            a, b = boundary.numbers(name, computed[name], found), boundary.numbers(name, array, found)
            require(a.shape == b.shape, f"call {index}: {name} is {a.shape}, given {b.shape}")
            entry = report.setdefault(name, {"cosine": 1.0, "max_error": 0.0})
            # Unlike Python's, these keep what is not a number.
            entry["cosine"] = float(np.minimum(entry["cosine"], boundary.cosine(a, b)))
            entry["max_error"] = float(np.maximum(entry["max_error"], np.abs(a - b).max(initial=0)))
    return report


def limits(what, report, min_cosine, max_error):
    broken = []
    for name, entry in report.items():
        # Not a number is on neither side of a limit.
        if min_cosine is not None and not entry["cosine"] >= min_cosine:
            broken.append(f"{what}: {name} has cosine {entry['cosine']:.6f}, below {min_cosine}")
        if max_error is not None and not entry["max_error"] <= max_error:
            broken.append(f"{what}: {name} differs by {entry['max_error']:.3g}, more than {max_error}")
    return broken


def plain(report):
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(report, dict):
        return {key: plain(value) for key, value in report.items()}
    return str(report) if isinstance(report, float) and not np.isfinite(report) else report


def lines(report):
    """A report for people."""
    yield f"{report['verdict']}: {report['file']}"
    for provider, counts in report.get("nodes", {}).items():
        yield f"  {counts['nodes']} nodes in {counts['partitions']} partitions on {provider}"
    for what in ("expected", "cpu", "context"):
        for name, entry in report.get(what, {}).items():
            yield f"  {what}: {name} cosine {entry['cosine']:.6f}, largest error {entry['max_error']:.3g}"
    yield from (f"  {line}" for line in report.get("broken", []))
    if "error" in report:
        yield f"  {report['error']}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--cases", help="a file of cases, one JSON object a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    parser.add_argument("--provider", choices=["cpu", "qnn"])
    parser.add_argument("--soc", type=int, help="the number of the SoC, 57 where it is not said")
    parser.add_argument("--arch", type=int, help="its HTP architecture, 75 where it is not said")
    parser.add_argument("--optimization", choices=sessions.LEVELS, help="of the CPU; `all` departs from the file")
    parser.add_argument("--inputs")
    parser.add_argument("--outputs", help="the expected outputs")
    parser.add_argument("--save", help="where to write the computed outputs")
    parser.add_argument("--seed", type=int, help="of invented inputs")
    parser.add_argument("--sizes", type=json.loads, help='of named dimensions: {"T": 4, "C": 8, "C+T": 12}')
    parser.add_argument("--max-error", type=float, help="the largest error to what is expected that is still ok")
    parser.add_argument("--min-cosine", type=float, help="the smallest cosine to what is expected that is still ok")
    parser.add_argument("--compare-cpu", type=float, metavar="COSINE", help="the smallest cosine to the CPU that is ok")
    parser.add_argument("--context", metavar="OUT", help="compile to OUT, which must give the same numbers")
    parser.add_argument("--checker", action="store_true", default=None, help="onnx.checker must accept the file")
    given = vars(parser.parse_args())
    if (given["file"] is None) == (given["cases"] is None):
        parser.error("give a file or a file of cases")
    return given


def main():
    given = arguments()
    path, as_json = given.pop("cases"), given.pop("json")
    cases = [given]
    if path:
        with open(path) as file:
            cases = [json.loads(line) for line in file]
    worst = 0
    with own_stdout() as out:
        for case in cases:
            report = judge(case)
            text = [json.dumps(plain(report))] if as_json or path else lines(report)
            print(*text, sep="\n", file=out, flush=True)
            worst = max(worst, STATUS[report["verdict"]])
    return worst


def own_stdout():
    """Standard output for us alone: the vendor's libraries print there too, and are sent to the error stream."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


if __name__ == "__main__":
    sys.exit(main())
