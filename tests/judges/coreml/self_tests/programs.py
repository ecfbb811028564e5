"""Small programs for the tests: written with coremltools' builder, and the same computation in numpy."""

import logging
import shutil

import numpy as np

logging.disable(logging.CRITICAL)

import coremltools as ct  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.program import get_new_symbol  # noqa: E402, F401

IOS16, IOS17, IOS18 = ct.target.iOS16, ct.target.iOS17, ct.target.iOS18
SPEC = {IOS16: 7, IOS17: 8, IOS18: 9}
VOCABULARY, HIDDEN, HEADS, KV, DIM, INNER, LAYERS = 37, 32, 4, 2, 8, 48, 2
BLOCK, CAPACITY, POSITIONS = 4, 12, 32
EPS = 1e-6
SCALE = float(np.float16(DIM**-0.5))  # what an fp16 program multiplies by


def convert(program, target, path, inputs=None, keep_all=True):
    """keep_all: without optimisation passes, so that every written operation stays in the package."""
    shutil.rmtree(path, ignore_errors=True)
    model = ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        inputs=inputs,
        pass_pipeline=ct.PassPipeline.EMPTY if keep_all else ct.PassPipeline.DEFAULT,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


# ---- a small decoder, once as an ML Program and once in numpy ----


class Weights:
    """Random weights; `dense` is what the stored form decodes to, by this file's own arithmetic."""

    def __init__(self, encoding, seed=1):
        self.random = np.random.default_rng(seed)
        self.encoding = encoding
        self.stored, self.dense = {}, {}
        for layer in range(LAYERS):
            self.matrix(f"q{layer}", HEADS * DIM, HIDDEN)
            self.matrix(f"k{layer}", KV * DIM, HIDDEN)
            self.matrix(f"v{layer}", KV * DIM, HIDDEN)
            self.matrix(f"o{layer}", HIDDEN, HEADS * DIM)
            self.matrix(f"gate{layer}", INNER, HIDDEN)
            self.matrix(f"up{layer}", INNER, HIDDEN)
            self.matrix(f"down{layer}", HIDDEN, INNER)
            for name in ("norm_in", "norm_out"):
                self.vector(f"{name}{layer}", HIDDEN)
            for name in ("norm_q", "norm_k"):
                self.vector(f"{name}{layer}", DIM)
        self.vector("norm", HIDDEN)
        self.stored["embedding"] = self.random.normal(0, 1, (VOCABULARY, HIDDEN)).astype(np.float16)
        self.matrix("head", VOCABULARY, HIDDEN)
        angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(0, DIM, 2) / DIM)
        for name, function in (("cos", np.cos), ("sin", np.sin)):
            self.stored[name] = np.tile(function(angles), 2).astype(np.float16)
        for name, value in self.stored.items():
            self.dense.setdefault(name, np.asarray(value, np.float64) if isinstance(value, np.ndarray) else None)

    def vector(self, name, size):
        self.stored[name] = self.random.uniform(0.5, 1.5, size).astype(np.float16)

    def matrix(self, name, rows, columns):
        random, encoding = self.random, self.encoding
        if encoding == "fp16":
            self.stored[name] = random.normal(0, columns**-0.5, (rows, columns)).astype(np.float16)
            return
        if encoding == "int8":
            data = random.integers(-127, 128, (rows, columns)).astype(np.int8)
            scale = random.uniform(0.5, 1.5, rows).astype(np.float16) * np.float16(columns**-0.5 / 64)
            zero = np.int8(0)
            self.dense[name] = data.astype(np.float64) * scale.astype(np.float64)[:, None]
            self.stored[name] = (data, scale.astype(np.float16), zero)
            return
        block = 16
        scale = (random.uniform(0.5, 1.5, (rows, columns // block)) * columns**-0.5 / 4).astype(np.float16)
        low, high = (-8, 8) if encoding == "int4" else (0, 16)
        data = random.integers(low, high, (rows, columns))
        offset = random.integers(0, 16, scale.shape) if encoding == "uint4" else np.zeros(scale.shape)
        self.dense[name] = np.empty((rows, columns))
        for row in range(rows):
            for column in range(columns):
                place = row, column // block
                self.dense[name][row, column] = float(scale[place]) * (data[row, column] - offset[place])
        self.stored[name] = (data, scale, offset)

    def emit(self, name):
        value = self.stored[name]
        if isinstance(value, np.ndarray):
            return value
        data, scale, offset = value
        if self.encoding == "int8":
            return mb.constexpr_affine_dequantize(quantized_data=data, zero_point=offset, scale=scale, axis=0)
        kind = types.nptype_from_builtin(types.string_to_builtin(self.encoding))
        data = data.astype(kind)
        if self.encoding == "int4":
            return mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset.astype(kind))


def emit_norm(x, gamma, form, epsilon):
    """`fp32`: as written in the definition. Otherwise without a square that could leave the range of fp16."""
    if form == "fp32":
        wide = mb.cast(x=x, dtype="fp32")
        mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[-1], keep_dims=True)
        normed = mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=epsilon))
        return mb.mul(x=mb.cast(x=normed, dtype="fp16"), y=gamma)
    twice = mb.concat(values=[x, mb.mul(x=x, y=np.float16(-1))], axis=-1)
    normed = mb.layer_norm(x=twice, axes=[-1], epsilon=epsilon)
    return mb.mul(x=mb.split(x=normed, num_splits=2, axis=-1)[0], y=gamma)


def emit_rope(x, cos, sin):
    first, second = mb.split(x=x, num_splits=2, axis=-1)
    turned = mb.concat(values=[mb.mul(x=second, y=np.float16(-1)), first], axis=-1)
    return mb.add(x=mb.mul(x=x, y=cos), y=mb.mul(x=turned, y=sin))


def emit_heads(x, count, *norm):
    x = mb.reshape(x=x, shape=[1, -1, count, DIM])
    x = emit_norm(x, *norm) if norm else x
    return mb.transpose(x=x, perm=[0, 2, 1, 3])


def emit_groups(x):
    """[1, KV, S, D] to [1, HEADS, S, D]: every key/value head serves several query heads."""
    x = mb.tile(x=mb.expand_dims(x=x, axes=[2]), reps=[1, 1, HEADS // KV, 1, 1])
    return mb.reshape(x=x, shape=[1, HEADS, -1, DIM])


def emit_attention(q, k, v, mask, fused):
    k, v = emit_groups(k), emit_groups(v)
    if fused:
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask)
    scores = mb.matmul(x=mb.mul(x=q, y=np.float16(SCALE)), y=k, transpose_y=True)
    return mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=mask), axis=-1), y=v)


def emit_decoder(
    weights, tokens, positions, mask, caches, norm="fp32", epsilon=np.float32(EPS), fused=False, as_conv=False
):
    """`caches(layer, k, v)` returns the keys and values to attend to."""
    w = weights.emit

    def linear(x, name):
        if not as_conv:
            return mb.linear(x=x, weight=w(name))
        x = mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[2])
        stored = weights.stored[name]
        y = mb.conv(x=x, weight=stored.reshape(stored.shape + (1, 1)), pad_type="valid")
        return mb.transpose(x=mb.squeeze(x=y, axes=[2]), perm=[0, 2, 1])

    x = mb.gather(x=w("embedding"), indices=tokens, axis=0)
    cos, sin = (mb.expand_dims(x=mb.gather(x=w(n), indices=positions, axis=0), axes=[1]) for n in ("cos", "sin"))
    for i in range(LAYERS):
        h = emit_norm(x, w(f"norm_in{i}"), norm, epsilon)
        q = emit_rope(emit_heads(linear(h, f"q{i}"), HEADS, w(f"norm_q{i}"), norm, epsilon), cos, sin)
        k = emit_rope(emit_heads(linear(h, f"k{i}"), KV, w(f"norm_k{i}"), norm, epsilon), cos, sin)
        v = emit_heads(linear(h, f"v{i}"), KV)
        keys, values = caches(i, k, v)
        a = mb.transpose(x=emit_attention(q, keys, values, mask, fused), perm=[0, 2, 1, 3])
        x = mb.add(x=x, y=linear(mb.reshape(x=a, shape=[1, -1, HEADS * DIM]), f"o{i}"))
        h = emit_norm(x, w(f"norm_out{i}"), norm, epsilon)
        inner = mb.mul(x=mb.silu(x=linear(h, f"gate{i}")), y=linear(h, f"up{i}"))
        x = mb.add(x=x, y=linear(inner, f"down{i}"))
    return mb.linear(x=emit_norm(x, w("norm"), norm, epsilon), weight=w("head"), name="logits")


def specs(block=BLOCK, capacity=CAPACITY, mask_width=None):
    mask_width = mask_width or capacity + block
    return {
        "tokens": mb.TensorSpec((1, block), dtype=types.int32),
        "positions": mb.TensorSpec((1, block), dtype=types.int32),
        "mask": mb.TensorSpec((1, 1, block, mask_width), dtype=types.fp16),
    }


def explicit_program(target, weights, **options):
    caches = [mb.TensorSpec((LAYERS, 1, KV, CAPACITY, DIM), dtype=types.fp16) for _ in range(2)]

    @mb.program(input_specs=[*specs().values(), *caches], opset_version=target)
    def program(tokens, positions, mask, k_cache, v_cache):
        new = []

        def caches(layer, k, v):
            new.append((k, v))
            begin, end = [layer, 0, 0, 0, 0], [layer + 1, 1, KV, CAPACITY, DIM]
            squeeze = [True, False, False, False, False]
            old = [mb.slice_by_index(x=c, begin=begin, end=end, squeeze_mask=squeeze) for c in (k_cache, v_cache)]
            return mb.concat(values=[old[0], k], axis=2), mb.concat(values=[old[1], v], axis=2)

        logits = emit_decoder(weights, tokens, positions, mask, caches, **options)
        stacked = [mb.stack(values=[pair[i] for pair in new], axis=0, name=n) for i, n in enumerate(("k_new", "v_new"))]
        return logits, *stacked

    return program


def state_program(weights, **options):
    states = [mb.StateTensorSpec((LAYERS, 1, KV, CAPACITY, DIM), dtype=types.fp16) for _ in range(2)]
    inputs = specs(mask_width=CAPACITY) | {"at": mb.TensorSpec((1,), dtype=types.int32)}

    @mb.program(input_specs=[*inputs.values(), *states], opset_version=IOS18)
    def program(tokens, positions, mask, at, k_state, v_state):
        until = mb.add(x=at, y=np.array([BLOCK], np.int32))
        held = {}

        def update(state, layer, new):
            base = held[state] if state in held else mb.read_state(input=state)
            begin = mb.concat(values=[np.array([layer, 0, 0], np.int32), at, np.array([0], np.int32)], axis=0)
            end = mb.concat(values=[np.array([layer + 1, 1, KV], np.int32), until, np.array([DIM], np.int32)], axis=0)
            whole = mb.slice_update(x=base, update=mb.expand_dims(x=new, axes=[0]), begin=begin, end=end)
            held[state] = mb.coreml_update_state(state=state, value=whole)
            rows = mb.slice_by_size(x=held[state], begin=[layer, 0, 0, 0, 0], size=[1, 1, KV, CAPACITY, DIM])
            return mb.squeeze(x=rows, axes=[0])

        return emit_decoder(
            weights, tokens, positions, mask, lambda i, k, v: (update(k_state, i, k), update(v_state, i, v)), **options
        )

    return program


def decoder(dense, tokens, positions, mask, caches, eps=EPS, scale=SCALE):
    """The same decoder in numpy, row by row and head by head."""

    def norm(x, gamma):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gamma

    def rope(rows, cos, sin):
        half = DIM // 2
        return np.concatenate(
            [
                rows[:, :half] * cos[:, :half] - rows[:, half:] * sin[:, :half],
                rows[:, half:] * cos[:, half:] + rows[:, :half] * sin[:, half:],
            ],
            1,
        )

    x = dense["embedding"][tokens[0]]
    cos, sin = dense["cos"][positions[0]], dense["sin"][positions[0]]
    for i in range(LAYERS):
        h = norm(x, dense[f"norm_in{i}"])
        q, k, v = (h @ dense[f"{n}{i}"].T for n in "qkv")
        heads = lambda m, n: [m[:, j * DIM : (j + 1) * DIM] for j in range(n)]  # noqa: E731
        q = [rope(norm(m, dense[f"norm_q{i}"]), cos, sin) for m in heads(q, HEADS)]
        k = np.stack([rope(norm(m, dense[f"norm_k{i}"]), cos, sin) for m in heads(k, KV)])
        keys, values = caches(i, k, np.stack(heads(v, KV)))
        attended = []
        for j in range(HEADS):
            scores = q[j] @ keys[j * KV // HEADS].T * scale + mask[0, 0]
            weights = np.exp(scores - scores.max(1, keepdims=True))
            attended.append(weights / weights.sum(1, keepdims=True) @ values[j * KV // HEADS])
        x = x + np.concatenate(attended, 1) @ dense[f"o{i}"].T
        h = norm(x, dense[f"norm_out{i}"])
        gate = h @ dense[f"gate{i}"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ dense[f"up{i}"].T)) @ dense[f"down{i}"].T
    return (norm(x, dense["norm"]) @ dense["head"].T)[None]


def block_inputs(start, width, seed):
    """Tokens of one block from position `start`; the mask lets it see the cache before it, and itself."""
    random = np.random.default_rng(seed)
    mask = np.full((1, 1, BLOCK, width), -1e4, np.float16)
    mask[..., :start] = 0
    own = start if width == CAPACITY else CAPACITY
    mask[..., own : own + BLOCK] = 0
    return {
        "tokens": random.integers(0, VOCABULARY, (1, BLOCK)).astype(np.int32),
        "positions": np.arange(start, start + BLOCK, dtype=np.int32)[None],
        "mask": mask,
    }
