"""The command line: one file, a file of cases, and what is printed."""

import json
import subprocess
import sys
from pathlib import Path

from reports import sample, saved


def run(*options):
    """The exit status, and what is printed."""
    command = [sys.executable, "-B", Path(__file__).parent.parent / "check.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_command(folder):
    path = saved(folder, "sample", sample())
    status, lines = run(path, "--provider", "qnn", "--compare-cpu", "0.9999")
    assert status == 0 and lines[0] == f"ok: {path}" and "on QNNExecutionProvider" in lines[1], lines
    status, lines = run(path, "--provider", "qnn", "--compare-cpu", "1.1", "--json")
    # Nothing but the report: the vendor's library prints to standard output.
    assert status == 1 and len(lines) == 1 and json.loads(lines[0])["verdict"] == "different", lines
    cases = [{"file": path, "provider": "qnn"}, {"file": "nowhere.onnx"}]
    (folder / "cases").write_text("".join(json.dumps(case) + "\n" for case in cases))
    status, lines = run("--cases", str(folder / "cases"))
    assert (status, [json.loads(line)["verdict"] for line in lines]) == (2, ["ok", "refused"]), lines
