"""What each operation computes: arrays of float64, int64 or bool in, the same out; a list where there are several."""

import math

import numpy as np

from dtypes import integer_range, require

EVALUATE = {}


def evaluates(function):
    EVALUATE[function.__name__.rstrip("_")] = function
    return function


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


EVALUATE.update(
    add=lambda x, y: x + y,
    sub=lambda x, y: x - y,
    mul=lambda x, y: x * y,
    maximum=lambda x, y: np.maximum(x, y),
    minimum=lambda x, y: np.minimum(x, y),
    real_div=lambda x, y: x / y,
    pow=lambda x, y: x**y,
    equal=lambda x, y: x == y,
    not_equal=lambda x, y: x != y,
    less=lambda x, y: x < y,
    less_equal=lambda x, y: x <= y,
    greater=lambda x, y: x > y,
    greater_equal=lambda x, y: x >= y,
    logical_and=lambda x, y: x & y,
    logical_or=lambda x, y: x | y,
    logical_not=lambda x: ~x,
    sqrt=lambda x: np.sqrt(x),
    exp=lambda x: np.exp(x),
    tanh=lambda x: np.tanh(x),
    sin=lambda x: np.sin(x),
    cos=lambda x: np.cos(x),
    sigmoid=sigmoid,
    silu=lambda x: x * sigmoid(x),
    relu=lambda x: np.maximum(x, 0),
    erf=erf,
    square=lambda x: x * x,
    abs=lambda x: np.abs(x),
    rsqrt=lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    clip=lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    identity=lambda x: x,
    shape=lambda x: np.array(x.shape, np.int64),
    reduce_mean=lambda x, axes, keep_dims: reduce(np.mean, x, axes, keep_dims),
    reduce_sum=lambda x, axes, keep_dims: reduce(np.sum, x, axes, keep_dims),
    reduce_max=lambda x, axes, keep_dims: reduce(np.max, x, axes, keep_dims),
    reduce_min=lambda x, axes, keep_dims: reduce(np.min, x, axes, keep_dims),
)


def axis_of(axis, rank):
    axis = int(axis)
    require(-rank <= axis < rank, f"axis {axis} outside a tensor of rank {rank}")
    return axis % rank


def axes_of(axes, rank):
    result = [axis_of(axis, rank) for axis in axes]
    require(len(set(result)) == len(result), f"axes {list(map(int, axes))} name one axis twice")
    return result


def reduce(function, x, axes, keep_dims):
    require(not (function is np.mean and x.dtype.kind == "i"), "the documents do not define the mean of int32")
    return np.asarray(function(x, axis=tuple(axes_of(axes, x.ndim)), keepdims=bool(keep_dims)))


@evaluates
def gelu(x, mode):
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    require(mode == "SIGMOID_APPROXIMATION", f"mode is {mode!r}")
    return x * sigmoid(1.702 * x)


@evaluates
def cast(x, dtype):
    if dtype == "bool":
        return x != 0
    if dtype in ("fp16", "fp32"):
        return x.astype(np.float64)
    return np.trunc(x).astype(np.int64) if x.dtype.kind == "f" else x.astype(np.int64)


@evaluates
def softmax(x, axis):
    axis = axis_of(axis, x.ndim)
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


@evaluates
def reduce_argmax(x, axis, keep_dims, output_dtype=None):
    return np.argmax(x, axis=axis_of(axis, x.ndim), keepdims=bool(keep_dims))


@evaluates
def topk(x, k, axis, ascending, sort=True, return_indices=True, output_indices_dtype=None):
    axis = axis_of(axis, x.ndim)
    require(sort and return_indices, "only the sorted form with indices is covered")
    require(1 <= k <= x.shape[axis], f"k is {int(k)}, the axis has {x.shape[axis]}")
    order = np.argsort(x if ascending else -x, axis=axis, kind="stable")
    chosen = np.take(order, np.arange(int(k)), axis=axis)
    return [np.take_along_axis(x, chosen, axis), chosen]


@evaluates
def layer_norm(x, axes, epsilon, gamma=None, beta=None):
    axes = axes_of(axes, x.ndim)
    mean = x.mean(axis=tuple(axes), keepdims=True)
    variance = np.square(x - mean).mean(axis=tuple(axes), keepdims=True)
    result = (x - mean) / np.sqrt(variance + epsilon)
    normalized = tuple(x.shape[axis] for axis in axes)
    spread = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    require(gamma is None or gamma.shape == normalized, f"gamma does not have shape {normalized}")
    require(beta is None or beta.shape == normalized, f"beta does not have shape {normalized}")
    require(axes == sorted(axes), "axes are not ascending")
    result = result if gamma is None else result * gamma.reshape(spread)
    return result if beta is None else result + beta.reshape(spread)


@evaluates
def linear(x, weight, bias):
    require(1 <= x.ndim <= 3, f"x has rank {x.ndim}, allowed: 1 to 3")
    require(weight.ndim == 2 and weight.shape[1] == x.shape[-1], f"weight {weight.shape} does not fit x {x.shape}")
    require(bias.shape == weight.shape[:1], f"bias {bias.shape} does not fit weight {weight.shape}")
    return x @ weight.T + bias


@evaluates
def matmul(x, y, transpose_x, transpose_y):
    require(x.ndim >= 2 and y.ndim >= 2, "operands of rank 1 are not covered")
    x = np.swapaxes(x, -1, -2) if transpose_x else x
    y = np.swapaxes(y, -1, -2) if transpose_y else y
    require(x.shape[-1] == y.shape[-2], f"{x.shape} does not multiply {y.shape}")
    np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return x @ y


@evaluates
def scaled_dot_product_attention(query, key, value, attn_mask=None):
    require(query.ndim == key.ndim == value.ndim >= 3, "query, key and value need one rank of at least 3")
    require(query.shape[:-2] == key.shape[:-2] == value.shape[:-2], "query, key and value differ in batch or heads")
    require(query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2], "query, key and value do not fit")
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        require(attn_mask.shape[-1] == scores.shape[-1], "the last axis of attn_mask is not the key length")
        require(np.broadcast_shapes(scores.shape, attn_mask.shape) == scores.shape, "attn_mask widens the scores")
        mask = np.where(attn_mask, 0, -np.inf) if attn_mask.dtype.kind == "b" else attn_mask
        scores = scores + mask
    return softmax(scores, -1) @ value


@evaluates
def conv(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    axes = x.ndim - 2
    groups = int(groups)
    require(1 <= axes <= 3 and weight.ndim == x.ndim, f"weight {weight.shape} does not fit x {x.shape}")
    require(len(strides) == len(dilations) == axes and len(pad) == 2 * axes, "strides, pad or dilations do not fit x")
    require(x.shape[1] == groups * weight.shape[1] and weight.shape[0] % groups == 0, "channels do not fit groups")
    reach = [(size - 1) * int(step) + 1 for size, step in zip(weight.shape[2:], dilations)]
    if pad_type in ("same", "same_lower"):
        padding = []
        for size, kernel, stride in zip(x.shape[2:], reach, strides):
            total = max(0, (-(-size // int(stride)) - 1) * int(stride) + kernel - size)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if pad_type == "same" else (large, small))
    elif pad_type == "custom":
        padding = [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(axes)]
    else:
        require(pad_type == "valid", f"pad_type is {pad_type!r}")
        require(not pad.any(), "pad_type valid with a pad that is not zero")
        padding = [(0, 0)] * axes
    x = np.pad(x, [(0, 0), (0, 0)] + padding)
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, int(s)) for s in strides) + tuple(slice(None, None, int(d)) for d in dilations)
    windows = windows[(slice(None), slice(None)) + steps]
    parts = []
    for inputs, filters in zip(np.split(windows, groups, axis=1), np.split(weight, groups, axis=0)):
        contracted = [1] + list(range(2 + axes, 2 + 2 * axes))
        parts.append(np.moveaxis(np.tensordot(inputs, filters, (contracted, list(range(1, 2 + axes)))), -1, 1))
    result = np.concatenate(parts, axis=1)
    return result if bias is None else result + bias.reshape([1, -1] + [1] * axes)


@evaluates
def select(cond, a, b):
    shape = np.broadcast_shapes(a.shape, b.shape)
    require(np.broadcast_shapes(shape, cond.shape) == shape, "cond is wider than a and b")
    return np.where(cond, a, b)


def check_indices(indices, size, negative_allowed):
    low = -size if negative_allowed else 0
    inside = indices.size == 0 or (indices.min() >= low and indices.max() < size)
    require(inside, f"an index is outside {low}..{size - 1}")
    return indices % size


@evaluates
def gather(x, indices, axis, batch_dims=0, validate_indices=None):
    axis, batch = axis_of(axis, x.ndim), int(batch_dims)
    require(indices.ndim >= 1, "indices of rank 0 are not covered")
    require(0 <= batch <= axis and x.shape[:batch] == indices.shape[:batch], f"batch_dims {batch} does not fit")
    indices = check_indices(indices, x.shape[axis], negative_allowed=validate_indices is None)
    if batch == 0:
        return np.take(x, indices, axis)
    result = np.empty(x.shape[:axis] + indices.shape[batch:] + x.shape[axis + 1 :], x.dtype)
    for place in np.ndindex(*x.shape[:batch]):
        result[place] = np.take(x[place], indices[place], axis - batch)
    return result


@evaluates
def scatter(data, indices, updates, axis, mode, validate_indices=None):
    axis = axis_of(axis, data.ndim)
    indices = check_indices(indices, data.shape[axis], negative_allowed=validate_indices is None)
    expected = data.shape[:axis] + indices.shape + data.shape[axis + 1 :]
    require(updates.shape == expected, f"updates {updates.shape}, expected {expected}")
    combine = {
        "update": lambda old, new: new,
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
    }
    require(mode in combine, f"mode is {mode!r}")
    require(mode != "update" or len(set(indices)) == len(indices), "an index occurs twice in an update")
    result = np.moveaxis(data, axis, 0).copy()
    for index, update in zip(indices, np.moveaxis(updates, axis, 0)):
        result[index] = combine[mode](result[index], update)
    return np.moveaxis(result, 0, axis)


@evaluates
def reshape(x, shape):
    target = [int(size) for size in shape]
    require(all(size >= -1 for size in target) and target.count(-1) <= 1, f"shape {target}")
    for i, size in enumerate(target):
        if size == 0:
            require(len(target) == x.ndim, "a 0 in shape is covered only where the rank stays")
            target[i] = x.shape[i]
    known = math.prod(size for size in target if size != -1)
    fits = x.size % known == 0 if -1 in target else x.size == known
    require(fits, f"{x.shape} does not reshape to {target}")
    return x.reshape(target)


@evaluates
def transpose(x, perm):
    require(len(perm) == x.ndim, f"perm of length {len(perm)} for rank {x.ndim}")
    return x.transpose(axes_of(perm, x.ndim))


@evaluates
def expand_dims(x, axes):
    return np.expand_dims(x, tuple(axes_of(axes, x.ndim + len(axes))))


@evaluates
def squeeze(x, axes):
    axes = axes_of(axes, x.ndim)
    require(all(x.shape[axis] == 1 for axis in axes), f"an axis of {x.shape} in {axes} is not 1")
    return x.squeeze(tuple(axes))


@evaluates
def tile(x, reps):
    require(len(reps) == x.ndim and (reps > 0).all(), f"reps {list(map(int, reps))} for rank {x.ndim}")
    return np.tile(x, [int(r) for r in reps])


@evaluates
def concat(values, axis, interleave):
    axis = axis_of(axis, values[0].ndim)
    shapes = {value.shape[:axis] + value.shape[axis + 1 :] for value in values}
    require(len(shapes) == 1, f"values differ outside axis {axis}: {[value.shape for value in values]}")
    if not interleave:
        return np.concatenate(values, axis)
    require(len({value.shape for value in values}) == 1, "interleaved values differ in shape")
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return np.stack(values, axis + 1).reshape(shape)


@evaluates
def stack(values, axis):
    require(len({value.shape for value in values}) == 1, "values differ in shape")
    return np.stack(values, axis_of(axis, values[0].ndim + 1))


@evaluates
def split(x, axis, num_splits=None, split_sizes=None):
    axis = axis_of(axis, x.ndim)
    require(num_splits is not None or split_sizes is not None, "neither num_splits nor split_sizes is given")
    if split_sizes is None:
        require(x.shape[axis] % num_splits == 0, f"{x.shape[axis]} is not divisible by {int(num_splits)}")
        split_sizes = [x.shape[axis] // int(num_splits)] * int(num_splits)
    require(num_splits is None or len(split_sizes) == num_splits, "num_splits and split_sizes disagree")
    require(sum(split_sizes) == x.shape[axis], f"split_sizes do not add up to {x.shape[axis]}")
    return np.split(x, np.cumsum(split_sizes)[:-1], axis)


@evaluates
def slice_by_size(x, begin, size):
    require(len(begin) == len(size) == x.ndim, f"begin or size does not have length {x.ndim}")
    places = []
    for start, count, whole in zip(map(int, begin), map(int, size), x.shape):
        count = whole - start if count == -1 else count
        require(0 <= start and 0 < count and start + count <= whole, f"{start} + {count} outside {whole}")
        places.append(slice(start, start + count))
    return x[tuple(places)]


def slice_places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask):
    """The index of a slice; begin and end outside the axis are refused, not clamped."""
    rank = x.ndim
    stride = np.ones(rank, np.int64) if stride is None else stride
    masks = [np.zeros(rank, bool) if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask)]
    require(all(len(part) == rank for part in (begin, end, stride, *masks)), f"a part does not have length {rank}")
    places = []
    for axis, size in enumerate(x.shape):
        start, stop, step = int(begin[axis]), int(end[axis]), int(stride[axis])
        whole_start, whole_end, squeezed = (bool(mask[axis]) for mask in masks)
        require(step > 0, f"stride {step} is not covered")
        start = 0 if whole_start else start + size if start < 0 else start
        stop = size if whole_end else stop + size if stop < 0 else stop
        require(0 <= start < size, f"begin {start} outside axis {axis} of {size}")
        if squeezed:
            places.append(start)
            continue
        require(start < stop <= size, f"end {stop} with begin {start} outside axis {axis} of {size}")
        places.append(slice(start, stop, step))
    return tuple(places)


@evaluates
def slice_by_index(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    return x[slice_places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


@evaluates
def slice_update(x, update, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    places = slice_places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    require(update.ndim > 0, "an update of rank 0 is not supported")
    require(x[places].shape == update.shape, f"update {update.shape}, the slice is {x[places].shape}")
    result = x.copy()
    result[places] = update
    return result


def along_axis(parameter, x, axis):
    """A scalar, or a vector along `axis`, shaped to broadcast against `x`."""
    if parameter is None or parameter.ndim == 0:
        return 0 if parameter is None else parameter
    axis = axis_of(axis, x.ndim)
    require(parameter.shape == (x.shape[axis],), f"{parameter.shape} does not fit axis {axis} of {x.shape}")
    return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


@evaluates
def quantize(input, scale, output_dtype, zero_point=None, axis=None):
    require((axis is None) == (scale.ndim == 0), "axis belongs to a vector scale, and only to that")
    low, high = integer_range(output_dtype)
    scaled = np.rint(input / along_axis(scale, input, axis)) + along_axis(zero_point, input, axis)
    return np.clip(scaled, low, high).astype(np.int64)


@evaluates
def dequantize(input, scale, zero_point=None, axis=None):
    require((axis is None) == (scale.ndim == 0), "axis belongs to a vector scale, and only to that")
    return along_axis(scale, input, axis) * (input - along_axis(zero_point, input, axis))


@evaluates
def constexpr_affine_dequantize(quantized_data, zero_point, scale, axis):
    shift, factor = (along_axis(part, quantized_data, axis) for part in (zero_point, scale))
    return factor * (quantized_data - shift)


@evaluates
def constexpr_cast(source_val, output_dtype):
    return source_val


@evaluates
def constexpr_blockwise_shift_scale(data, scale, offset=None):
    require(data.ndim == scale.ndim >= 1, f"data {data.shape} and scale {scale.shape} differ in rank")
    require(
        all(d % s == 0 for d, s in zip(data.shape, scale.shape)), f"scale {scale.shape} does not divide {data.shape}"
    )
    require(offset is None or offset.shape == scale.shape, "offset and scale differ in shape")

    def spread(part):
        for axis, size in enumerate(data.shape):
            part = np.repeat(part, size // part.shape[axis], axis)
        return part

    return spread(scale) * (data if offset is None else data - spread(offset))


@evaluates
def constexpr_lut_to_dense(indices, lut, shape=None, vector_axis=None):
    if shape is not None:
        bits = {2: 1, 4: 2, 16: 4, 64: 6, 256: 8}.get(len(lut))
        count = math.prod(map(int, shape))
        require(bits, f"a table of {len(lut)} entries")
        require(len(indices) == (count * bits + 7) // 8, f"{len(indices)} bytes for {count} indices of {bits} bits")
        stream = np.unpackbits(indices.astype(np.uint8), bitorder="little")[: count * bits]
        packed = stream.reshape(count, bits).astype(np.int64) << np.arange(bits)
        return lut[packed.sum(axis=1)].reshape([int(size) for size in shape])
    rank = indices.ndim
    require(lut.ndim == rank + 2, f"lut of rank {lut.ndim} for indices of rank {rank}")
    require(indices.size == 0 or indices.max() < lut.shape[-2], "an index is outside the table")
    vector = lut.shape[-1]
    require(vector == 1 or vector_axis is not None, "a vector table without vector_axis")
    axis = 0 if vector_axis is None else axis_of(vector_axis, rank)
    shape = [size * vector if i == axis else size for i, size in enumerate(indices.shape)]
    # The groups divide the result; where the vector axis has several groups, whole vectors belong to one group.
    require(
        all(size % groups == 0 for size, groups in zip(indices.shape, lut.shape)), "groups do not divide the indices"
    )
    group = np.indices(indices.shape)
    for i in range(rank):
        group[i] //= indices.shape[i] // lut.shape[i]
    vectors = lut[(*group, indices)]  # indices.shape + (vector,)
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)
