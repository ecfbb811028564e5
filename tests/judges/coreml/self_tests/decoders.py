"""Small decoders that coremltools writes, against the same decoder in numpy."""

import numpy as np
from checks import distance
from programs import (
    BLOCK,
    CAPACITY,
    DIM,
    IOS16,
    IOS17,
    IOS18,
    KV,
    LAYERS,
    SPEC,
    Weights,
    block_inputs,
    convert,
    decoder,
    explicit_program,
    state_program,
)

from load import load
from package import Package


def check_explicit(path, weights, **options):
    """Two blocks: the second attends to what the first computed. Both modes against numpy."""
    function = Package(path).functions["main"]
    function.try_on_zeros()
    load(str(path))
    for half, limit in ((False, 1e-9), (True, 0.05)):
        caches = {name: np.zeros((LAYERS, 1, KV, CAPACITY, DIM), np.float16) for name in ("k_cache", "v_cache")}
        for start in (0, BLOCK):
            inputs = block_inputs(start, CAPACITY + BLOCK, seed=start) | caches
            fresh = {}

            def with_cache(i, k, v):
                fresh[i] = k, v
                old = [caches[n][i, 0].astype(np.float64) for n in ("k_cache", "v_cache")]
                return np.concatenate([old[0], k], 1), np.concatenate([old[1], v], 1)

            expected = decoder(
                weights.dense, inputs["tokens"], inputs["positions"], inputs["mask"], with_cache, **options
            )
            got = function.run(inputs, {}, half)
            error = distance(got["logits"], expected)
            assert error < limit, f"{path.name}: logits differ by {error} (half {half})"
            for j, name in enumerate(("k_new", "v_new")):
                assert distance(got[name], np.stack([fresh[i][j] for i in range(LAYERS)])[:, None]) < limit
                caches[name.replace("new", "cache")][..., start : start + BLOCK, :] = got[name]


def check_state(path, weights):
    function = Package(path).functions["main"]
    function.try_on_zeros()
    load(str(path))
    states = function.new_states()
    kept = np.zeros((2, LAYERS, KV, CAPACITY, DIM))
    for start in (0, BLOCK, BLOCK, 2 * BLOCK):  # one block is denoised twice
        inputs = block_inputs(start, CAPACITY, seed=start) | {"at": np.array([start], np.int32)}

        def with_cache(i, k, v):
            kept[0, i, :, start : start + BLOCK], kept[1, i, :, start : start + BLOCK] = k, v
            return kept[0, i], kept[1, i]

        expected = decoder(weights.dense, inputs["tokens"], inputs["positions"], inputs["mask"], with_cache)
        error = distance(function.run(inputs, states, half=False)["logits"], expected)
        assert error < 1e-9, f"{path.name}: logits differ by {error} at {start}"
        assert distance(states["k_state"][:, 0], kept[0]) < 1e-9 and distance(states["v_state"][:, 0], kept[1]) < 1e-9


def test_decoders(folder):
    for target in (IOS16, IOS17, IOS18):
        for encoding in ("fp16", "int8") + (("int4", "uint4") if target == IOS18 else ()):
            weights = Weights(encoding)
            for keep_all in (True, False):
                path = folder / f"explicit-{encoding}-{SPEC[target]}-{'all' if keep_all else 'passes'}.mlpackage"
                convert(explicit_program(target, weights), target, path, keep_all=keep_all)
                check_explicit(path, weights)
                print("ok", path.name)
    weights = Weights("fp16")
    variants = {
        "safe-norm": ({"norm": "fp16"}, {}),
        "safe-norm-fp16-epsilon": ({"norm": "fp16", "epsilon": np.float16(1e-3)}, {"eps": float(np.float16(1e-3))}),
        "fused": ({"fused": True}, {"scale": DIM**-0.5}),
        "as-conv": ({"as_conv": True}, {}),
    }
    for name, (options, numbers) in variants.items():
        path = convert(explicit_program(IOS18, weights, **options), IOS18, folder / f"explicit-{name}.mlpackage")
        check_explicit(path, weights, **numbers)
        print("ok", path.name)
    for encoding in ("fp16", "int4"):
        weights = Weights(encoding)
        path = convert(state_program(weights), IOS18, folder / f"state-{encoding}.mlpackage")
        check_state(path, weights)
        print("ok", path.name)
