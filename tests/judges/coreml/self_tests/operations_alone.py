"""Single operations, compressed weights and flexible shapes, each against its definition written out."""

import shutil
from math import erf, sqrt

import numpy as np
import programs
from checks import distance, refusal
from programs import IOS16, IOS17, IOS18, SPEC, convert, ct, mb, types

from load import load
from package import Package


def run_main(path, inputs):
    function = Package(path).functions["main"]
    load(str(path))
    return function.run(inputs, function.new_states(), half=False)


def test_operations(folder):
    random = np.random.default_rng(3)
    x = random.normal(0, 2, (2, 3, 6)).astype(np.float16)
    y = random.normal(0, 2, (3, 6)).astype(np.float16)
    ids = np.array([[2, 0], [1, 1]], np.int32)
    X, Y = x.astype(np.float64), y.astype(np.float64)
    half = np.float16(0.5)
    emit = {
        "sub": lambda x, y, ids: mb.sub(x=x, y=y),
        "real_div": lambda x, y, ids: mb.real_div(x=x, y=y),
        "maximum": lambda x, y, ids: mb.maximum(x=x, y=y),
        "minimum": lambda x, y, ids: mb.minimum(x=x, y=y),
        "square": lambda x, y, ids: mb.square(x=x),
        "power": lambda x, y, ids: mb.pow(x=mb.abs(x=x), y=half),
        "root": lambda x, y, ids: mb.sqrt(x=mb.exp(x=x)),
        "trig": lambda x, y, ids: mb.add(x=mb.sin(x=x), y=mb.mul(x=mb.cos(x=x), y=mb.tanh(x=x))),
        "sigmoid": lambda x, y, ids: mb.sigmoid(x=x),
        "gelu": lambda x, y, ids: mb.gelu(x=x, mode="EXACT"),
        "gelu_tanh": lambda x, y, ids: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        "clip": lambda x, y, ids: mb.clip(x=x, alpha=-half, beta=half),
        "cast": lambda x, y, ids: mb.cast(x=x, dtype="int32"),
        "sum": lambda x, y, ids: mb.reduce_sum(x=x, axes=[0, -1], keep_dims=False),
        "largest": lambda x, y, ids: mb.reduce_max(x=x, axes=[1], keep_dims=True),
        "argmax": lambda x, y, ids: mb.reduce_argmax(x=x, axis=1, keep_dims=False),
        "top": lambda x, y, ids: mb.topk(x=x, k=2, axis=-1)[0],
        "top_at": lambda x, y, ids: mb.topk(x=x, k=2, axis=-1, ascending=True)[1],
        "softmax": lambda x, y, ids: mb.softmax(x=x, axis=1),
        "norm": lambda x, y, ids: mb.layer_norm(x=x, axes=[1, 2], gamma=y_const, beta=y_const, epsilon=half),
        "chosen": lambda x, y, ids: mb.select(cond=mb.greater_equal(x=x, y=y), a=x, b=y),
        "logic": lambda x, y, ids: mb.cast(
            x=mb.logical_and(x=mb.less(x=x, y=y), y=mb.logical_not(x=mb.equal(x=x, y=y))), dtype="fp16"
        ),
        "gather0": lambda x, y, ids: mb.gather(x=y, indices=ids, axis=0),
        "gather1": lambda x, y, ids: mb.gather(x=x, indices=ids, axis=2),
        "gather_batch": lambda x, y, ids: mb.gather(x=x, indices=ids, axis=1, batch_dims=1),
        "scatter": lambda x, y, ids: mb.scatter(
            data=y, indices=np.array([2, 0], np.int32), updates=y_const[:2], axis=0, mode="add"
        ),
        "parts": lambda x, y, ids: mb.split(x=x, split_sizes=[1, 2], axis=1)[1],
        "sized": lambda x, y, ids: mb.slice_by_size(x=x, begin=[0, 1, 2], size=[1, -1, 3]),
        "stepped": lambda x, y, ids: mb.slice_by_index(
            x=x, begin=[1, 0, 1], end=[2, 3, -1], stride=[1, 2, 2], begin_mask=[False, True, False],
            squeeze_mask=[True, False, False],
        ),
        "laced": lambda x, y, ids: mb.concat(values=[x, x], axis=1, interleave=True),
        "stacked": lambda x, y, ids: mb.stack(values=[y, y, y], axis=-1),
        "tiled": lambda x, y, ids: mb.tile(x=y, reps=[2, 3]),
        "turned": lambda x, y, ids: mb.transpose(x=x, perm=[-1, 0, 1]),
        "product": lambda x, y, ids: mb.matmul(x=x, y=x, transpose_x=True),
        "conv": lambda x, y, ids: mb.conv(
            x=mb.reshape(x=x, shape=[1, 4, 9]), weight=kernel, bias=kernel[:, 0, 0], strides=[2], pad_type="custom",
            pad=[2, 1], dilations=[2], groups=2,
        ),
    }  # fmt: skip
    y_const = y
    kernel = random.normal(0, 1, (6, 2, 3)).astype(np.float16)
    exact_gelu = np.array([0.5 * v * (1 + erf(v / sqrt(2))) for v in X.ravel()]).reshape(X.shape)
    spread = X - X.mean((1, 2), keepdims=True)
    expected = {
        "sub": X - Y,
        "real_div": X / Y,
        "maximum": np.where(X > Y, X, Y + 0 * X),
        "minimum": np.where(X > Y, Y + 0 * X, X),
        "square": X**2,
        "power": np.abs(X) ** 0.5,
        "root": np.exp(X / 2),
        "trig": np.sin(X) + np.cos(X) * np.tanh(X),
        "sigmoid": 1 / (1 + np.exp(-X)),
        "gelu": exact_gelu,
        "gelu_tanh": 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3))),
        "clip": np.clip(X, -0.5, 0.5),
        "cast": np.trunc(X),
        "sum": X.sum(2).sum(0),
        "largest": X.max(1)[:, None],
        "argmax": X.argmax(1),
        "top": -np.sort(-X, -1)[..., :2],
        "top_at": np.argsort(X, -1)[..., :2],
        "softmax": np.exp(X) / np.exp(X).sum(1)[:, None],
        "norm": spread / np.sqrt((spread**2).mean((1, 2), keepdims=True) + 0.5) * Y + Y,
        "chosen": np.where(X >= Y, X, Y),
        "logic": (X < Y).astype(float),
        "gather0": Y[ids],
        "gather1": X[:, :, ids],
        "gather_batch": np.stack([X[0][ids[0]], X[1][ids[1]]]),
        "scatter": Y + np.stack([Y[1], 0 * Y[0], Y[0]]),
        "parts": X[:, 1:],
        "sized": X[:1, 1:, 2:5],
        "stepped": X[1, ::2, 1:-1:2],
        "laced": np.repeat(X, 2, 1),
        "stacked": np.stack([Y, Y, Y], -1),
        "tiled": np.concatenate([np.concatenate([Y] * 3, 1)] * 2, 0),
        "turned": np.moveaxis(X, -1, 0),
        "product": np.einsum("bki,bkj->bij", X, X),
        "conv": plain_conv(X.reshape(4, 9), kernel.astype(np.float64)),
    }
    assert set(emit) == set(expected)
    inputs = [
        mb.TensorSpec((2, 3, 6), dtype=types.fp16),
        mb.TensorSpec((3, 6), dtype=types.fp16),
        mb.TensorSpec((2, 2), dtype=types.int32),
    ]
    for target in (IOS16, IOS17, IOS18):

        @mb.program(input_specs=inputs, opset_version=target)
        def program(x, y, ids):
            return tuple(mb.identity(x=function(x, y, ids), name=f"out_{name}") for name, function in emit.items())

        path = convert(program, target, folder / f"operations-{SPEC[target]}.mlpackage")
        got = run_main(path, {"x": x, "y": y, "ids": ids})
        for name, want in expected.items():
            error = distance(got[f"out_{name}"], np.asarray(want, np.float64))
            assert error < 1e-9, f"{name} differs by {error}"
        function, report = Package(path).functions["main"], {}
        got = function.run({"x": x, "y": y * np.float16(1e4), "ids": ids}, {}, True, report)
        assert np.array_equal(got["out_sub"], x - y * np.float16(1e4)), "one rounding after each operation"
        got = function.run({"x": x * np.float16(300), "y": y, "ids": ids}, {}, True, report)
        assert "square_0" in report["overflows"] and np.isinf(got["out_square"]).any()
        print("ok", path.name, len(expected), "operations")


def plain_conv(x, kernel):
    """Stride 2, padding 2 and 1, dilation 2, two groups, and a bias."""
    x = np.concatenate([np.zeros((4, 2)), x, np.zeros((4, 1))], 1)
    result = np.zeros((1, 6, 4))
    for channel in range(6):
        for place in range(4):
            result[0, channel, place] = kernel[channel, 0, 0]
            for i in range(2):
                for tap in range(3):
                    result[0, channel, place] += kernel[channel, i, tap] * x[channel // 3 * 2 + i, 2 * place + 2 * tap]
    return result


def test_compressed(folder):
    """Palettes in both forms, an int8 matrix in blocks, and an fp32 zero point."""
    random = np.random.default_rng(4)
    lut = random.normal(0, 1, 16).astype(np.float16)
    picks = random.integers(0, 16, (6, 4))
    packed = np.array([low | high << 4 for low, high in picks.reshape(-1, 2)], np.uint8)
    x = random.normal(0, 1, (1, 4)).astype(np.float16)

    @mb.program(input_specs=[mb.TensorSpec((1, 4), dtype=types.fp16)], opset_version=IOS16)
    def old(x):
        weight = mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array([6, 4], np.uint32))
        return mb.linear(x=x, weight=weight, name="out")

    got = run_main(convert(old, IOS16, folder / "lut-7.mlpackage"), {"x": x})["out"]
    assert distance(got, x.astype(np.float64) @ lut.astype(np.float64)[picks].T) < 1e-9

    tables = random.normal(0, 1, (2, 1, 8, 1)).astype(np.float16)
    picks = random.integers(0, 8, (6, 4))
    data = random.integers(-128, 128, (6, 4)).astype(np.int8)
    scale = random.uniform(0.1, 1, (2, 4)).astype(np.float16)
    shift = random.integers(-128, 128, (2, 4)).astype(np.int8)

    @mb.program(input_specs=[mb.TensorSpec((1, 4), dtype=types.fp16)], opset_version=IOS18)
    def new(x):
        kind = types.nptype_from_builtin(types.uint3)
        first = mb.constexpr_lut_to_dense(indices=picks.astype(kind), lut=tables)
        second = mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=shift)
        return mb.linear(x=x, weight=first, name="first"), mb.linear(x=x, weight=second, name="second")

    got = run_main(convert(new, IOS18, folder / "lut-9.mlpackage"), {"x": x})
    dense = np.array([[tables[i // 3, 0, picks[i, j], 0] for j in range(4)] for i in range(6)], np.float64)
    assert distance(got["first"], x.astype(np.float64) @ dense.T) < 1e-9
    blocks = np.array(
        [[float(scale[i // 3, j]) * (int(data[i, j]) - int(shift[i // 3, j])) for j in range(4)] for i in range(6)]
    )
    assert distance(got["second"], x.astype(np.float64) @ blocks.T) < 1e-9
    print("ok compressed weights")


def test_flexible_and_several(folder):
    weight = np.random.default_rng(5).normal(0, 1, (6, 4)).astype(np.float16)

    def program_of(rows):
        @mb.program(input_specs=[mb.TensorSpec((1, rows, 4), dtype=types.fp16)], opset_version=IOS18)
        def program(x):
            return mb.reshape(x=mb.linear(x=x, weight=weight), shape=[1, -1, 2, 3], name="out")

        return program

    def rows(n):
        return np.random.default_rng(n).normal(0, 1, (1, n, 4)).astype(np.float16)

    def check(function, n):
        expected = (rows(n)[0].astype(np.float64) @ weight.astype(np.float64).T).reshape(1, n, 2, 3)
        assert distance(function.run({"x": rows(n)}, {}, half=False)["out"], expected) < 1e-9

    ranged = ct.TensorType("x", ct.Shape((1, ct.RangeDim(2, 7, 3), 4)))
    listed = ct.TensorType("x", ct.EnumeratedShapes([(1, 2, 4), (1, 5, 4)], default=(1, 5, 4)))
    for name, kind, good, bad in (("range", ranged, (2, 3, 7), (1, 8)), ("enumerated", listed, (2, 5), (3,))):
        path = convert(program_of(programs.get_new_symbol()), IOS18, folder / f"{name}.mlpackage", inputs=[kind])
        function = Package(path).functions["main"]
        function.try_on_zeros()
        load(str(path))
        for n in good:
            check(function, n)
        for n in bad:
            assert refusal(lambda: function.run({"x": rows(n)}, {}, half=False)), n
    descriptor = ct.utils.MultiFunctionDescriptor()
    for n in (2, 6):
        path = convert(program_of(n), IOS18, folder / f"rows{n}.mlpackage")
        descriptor.add_function(str(path), "main", f"rows{n}")
    descriptor.default_function_name = "rows6"
    path = folder / "functions.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    ct.utils.save_multifunction(descriptor, str(path))
    package = Package(path)
    load(str(path))
    assert package.default == "rows6" and set(package.functions) == {"rows2", "rows6"}
    assert len(package.weights("@model_path/weights/weight.bin").records) == 1, "the functions share the weight"
    for n in (2, 6):
        check(package.functions[f"rows{n}"], n)
    print("ok flexible shapes and several functions")
