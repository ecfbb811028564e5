"""Tests of the judge: builds packages with coremltools, runs them through the interpreter, and breaks them.

    python tests/judges/coreml/self_tests [FOLDER]      the folder keeps the packages
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import broken  # noqa: E402
import command  # noqa: E402
import decoders  # noqa: E402
import operations_alone  # noqa: E402
import weight_file  # noqa: E402

# Later ones break packages that earlier ones leave.
TESTS = [
    weight_file.test_blobs,
    operations_alone.test_operations,
    operations_alone.test_compressed,
    operations_alone.test_flexible_and_several,
    decoders.test_decoders,
    broken.test_mutations,
    broken.test_silent_mutations,
    command.test_commands,
]


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for test in TESTS:
        test(folder)
    print("all ok")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
