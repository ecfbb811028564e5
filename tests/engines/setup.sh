#!/usr/bin/env bash
# Fetches the outside engines and builds what our adapters load, into target/engines/ (or $CARGO_TARGET_DIR/engines/).
#
#   tests/engines/setup.sh [executorch] [coremltools] [qnn]
#
# Needs g++, python3 with pip and venv, and about 900 MB of disk. Run it again at any time: it does only what is missing.
set -euo pipefail

readonly root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/engines"
readonly engines=$(cd "$target/engines" && pwd)

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

# The runtime's C++ headers and libraries out of its Python package; PyTorch and the local Python version play no part.
executorch() {
    local version=1.5.1 machine digest
    machine=$(uname -m)
    case "$(uname -s)-$machine" in
        Linux-x86_64) digest=274c28c2fe2b76acb03f9fa381537425c40e0098dcf886baf6d97a1a55ffe300 ;;
        Linux-aarch64) digest=8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a ;;
        *) fail "executorch $version has no libraries for $(uname -s) on $machine" ;;
    esac
    command -v g++ >/dev/null || fail "executorch needs g++ (Debian: apt install g++)"

    local home=$engines/executorch shim=$engines/libdiffulex_executorch.so
    if [[ $(cat "$home/wheel.sha256" 2>/dev/null) != "$digest" ]]; then
        python3 -m pip --version >/dev/null 2>&1 || fail "executorch needs pip (Debian: apt install python3-pip)"
        scratch=$(mktemp -d "$engines/.executorch.XXXXXX")
        trap 'rm -rf "$scratch"' EXIT
        python3 -m pip download --quiet --disable-pip-version-check --dest "$scratch" --no-deps --only-binary=:all: \
            --python-version 3.11 --platform "manylinux_2_28_$machine" "executorch==$version"
        local wheel
        wheel=$(echo "$scratch"/executorch-*.whl)
        sha256sum --check --quiet <<<"$digest  $wheel" || fail "the downloaded executorch package is not the pinned one"
        python3 -m zipfile -e "$wheel" "$scratch"
        mkdir "$scratch/home"
        mv "$scratch/executorch/include" "$scratch/executorch/lib" "$scratch"/executorch-*.dist-info "$scratch/home/"
        echo "$digest" >"$scratch/home/wheel.sha256"
        rm -rf "$home" "$shim"
        mv "$scratch/home" "$home"
    fi

    local source=$root/runtime/shim/executorch_shim.cpp
    if [[ ! -e $shim || $source -nt $shim || ${BASH_SOURCE[0]} -nt $shim ]]; then
        g++ -std=c++17 -O2 -fPIC -shared -Wall -Wextra "$source" -o "$shim.new" \
            -DC10_USING_CUSTOM_GENERATED_MACROS \
            -isystem "$home/include" -isystem "$home/include/executorch/runtime/core/portable_type/c10" \
            -L"$home/lib" -Wl,-rpath,'$ORIGIN/executorch/lib' -Wl,-z,defs -Wl,--no-as-needed \
            -lexecutorch -lexecutorch_threadpool -lexecutorch_backend_xnnpack \
            -lexecutorch_kernels_optimized -lexecutorch_kernels_quantized
        mv "$shim.new" "$shim"
    fi
    echo "executorch $version is ready: $shim"
}

# A Python with what a list of packages in this folder names; `$2` must be importable from it.
environment() {
    local name=$1 module=$2 home=$engines/$1 wanted=$root/tests/engines/$1.txt
    [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] || fail "$name has no libraries for $(uname -s) on $(uname -m)"
    # Last of all the list of packages is copied: where it is the same, all of them are there.
    if ! cmp --quiet "$wanted" "$home/installed.txt" || ! "$home/bin/python" -c "import $module" 2>/dev/null; then
        python3 -c "import ensurepip, venv" 2>/dev/null || fail "$name needs venv (Debian: apt install python3-venv)"
        rm -rf "$home"
        python3 -m venv "$home"
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
            --require-hashes --requirement "$wanted" || fail "$name needs Python 3.11 to 3.13, and PyPI"
        cp "$wanted" "$home/installed.txt"
    fi
}

# For the judge of packages in tests/judges/coreml.
coremltools() {
    environment coremltools coremltools
    echo "coremltools is ready: $engines/coremltools/bin/python"
}

# ONNX Runtime, for our adapter and the judge in tests/judges/onnx; with it Qualcomm's compiler and the emulator of its HTP.
qnn() {
    local libc
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || fail "qnn needs glibc 2.35 or newer"
    libc=${libc#glibc }
    [[ $(printf '%s\n' 2.35 "$libc" | sort -V | head -1) == 2.35 ]] || fail "qnn needs glibc 2.35 or newer, here is $libc"
    # libQnnSystem.so needs it, which reads contexts.
    python3 -c "import ctypes; ctypes.CDLL('libatomic.so.1')" 2>/dev/null ||
        fail "qnn needs libatomic.so.1 (Debian: apt install libatomic1)"
    environment qnn "onnx, onnxruntime_qnn, onnxruntime"
    echo "qnn is ready: $engines/qnn/bin/python"
}

[[ $# -gt 0 ]] || set -- executorch coremltools qnn
for engine in "$@"; do
    case $engine in
        executorch | coremltools | qnn) "$engine" ;;
        *) fail "unknown engine \`$engine\`; there are: executorch, coremltools, qnn" ;;
    esac
done
