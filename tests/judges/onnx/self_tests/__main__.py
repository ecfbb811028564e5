"""Tests of the judge: builds files with onnx, judges them, and breaks them.

    python tests/judges/onnx/self_tests [FOLDER]      the folder keeps the files
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import command  # noqa: E402
import reports  # noqa: E402

TESTS = [
    reports.test_cpu_and_htp,
    reports.test_partial_graphs_are_refused,
    reports.test_silent_traps_show,
    reports.test_expected_outputs,
    reports.test_integers_and_halves,
    reports.test_contexts,
    command.test_command,
]


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for test in TESTS:
        test(folder)
        print(f"ok {test.__name__.removeprefix('test_').replace('_', ' ')}")
    print("all ok")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
