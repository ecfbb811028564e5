"""The command line: one package, and a file of cases."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from checks import distance
from mutations import MUTATIONS, Broken
from programs import BLOCK, CAPACITY, DIM, KV, LAYERS, Weights, block_inputs, decoder
from safetensors.numpy import load_file, save_file


def test_commands(folder):
    weights = Weights("fp16")
    path = folder / "state-fp16.mlpackage"
    inputs, kept, expected = {}, np.zeros((2, LAYERS, KV, CAPACITY, DIM)), {}
    for call, start in enumerate((0, BLOCK)):
        given = block_inputs(start, CAPACITY, seed=start) | {"at": np.array([start], np.int32)}
        inputs |= {f"call{call}.{name}": tensor for name, tensor in given.items()}

        def with_cache(i, k, v):
            kept[0, i, :, start : start + BLOCK], kept[1, i, :, start : start + BLOCK] = k, v
            return kept[0, i], kept[1, i]

        logits = decoder(weights.dense, given["tokens"], given["positions"], given["mask"], with_cache)
        expected[f"call{call}.logits"] = logits.astype(np.float32)
    save_file(inputs, folder / "inputs.safetensors")
    save_file(expected, folder / "outputs.safetensors")

    given = ["--inputs", str(folder / "inputs.safetensors")]
    expect = [*given, "--outputs", str(folder / "outputs.safetensors"), "--max-error", "1e-5"]
    assert check(path, *expect) == (0, "ok")
    assert check(path, *expect, "--mode", "half") == (1, "different")
    assert check(path, *given, "--save", str(folder / "saved.safetensors")) == (0, "ok")
    saved = load_file(folder / "saved.safetensors")
    assert all(distance(saved[name], expected[name]) < 1e-5 for name in expected)
    assert check(path, *given, "--function", "other") == (2, "refused")
    broken = Broken(path, folder / "broken.mlpackage")
    MUTATIONS["stale_name"][2](broken)
    cases = [{"package": str(path)}, {"package": str(broken.save())}, {"package": str(path), "inputs": given[1]}]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    assert check("--cases", folder / "cases.jsonl") == (2, "ok", "refused", "ok")
    print("ok commands")


def check(*options):
    """The exit status and all verdicts."""
    command = [sys.executable, "-B", Path(__file__).parent.parent / "check.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, *(json.loads(line)["verdict"] for line in done.stdout.splitlines())
