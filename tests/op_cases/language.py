"""Makers of cases for norms, activations, softmax, sampling, byte codes and repacking."""

import math
from collections.abc import Callable

import numpy as np

from op_cases.parts import Array, Case, Maker, Out, floats, pick

# ---- activations ----


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def hardswish(x: Array) -> Array:
    c = np.maximum(x, np.float32(-3))
    return c * (np.minimum(np.float32(6), c + np.float32(3)) * (np.float32(1) / np.float32(6)))


SMOOTH: dict[str, Callable[[Array], Array]] = {
    "sigmoid_f32": sigmoid,
    "tanh_f32": np.tanh,
    "silu_f32": lambda x: x * sigmoid(x),
    "quick_gelu_f32": lambda x: x * sigmoid(1.702 * x),
    "gelu_f32": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh_f32": gelu_tanh,
    "softplus_f32": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "exp_f32": np.exp,
}


def spread(rng: np.random.Generator, kind: str) -> Array:
    """Small values alone, ordinary ones, and ones that saturate everything."""
    x = floats(rng, kind, pick(kind, 8, 29, 1000))
    if kind == "small":
        x *= 1e-3
    if kind == "large":
        x *= 6
    return x


def smooth(name: str) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        x = spread(rng, kind)
        if name == "exp_f32" and kind == "extreme":
            x = rng.uniform(-120, 88, x.size).astype(np.float32)
        args = [x, x.size, Out(x.size)]
        return Case(args, [SMOOTH[name](x.astype(np.float64))])

    return make


def relu_f32(rng: np.random.Generator, kind: str) -> Case:
    x = spread(rng, kind)
    return Case([x, x.size, Out(x.size)], [np.maximum(x, 0)], exact=True)


def leaky_relu_f32(rng: np.random.Generator, kind: str) -> Case:
    x, slope = spread(rng, kind), 0.125
    return Case([x, x.size, slope, Out(x.size)], [np.where(x > 0, x, slope * x)], exact=True)


def clamp_f32(rng: np.random.Generator, kind: str) -> Case:
    x = spread(rng, kind)
    return Case([x, x.size, -0.25, 6.0, Out(x.size)], [np.clip(x, -0.25, 6)], exact=True)


def hardswish_f32(rng: np.random.Generator, kind: str) -> Case:
    x = spread(rng, kind)
    return Case([x, x.size, Out(x.size)], [hardswish(x)], exact=True)


def softcap_f32(rng: np.random.Generator, kind: str) -> Case:
    x, cap = spread(rng, kind), 30.0
    return Case([x, x.size, cap, Out(x.size)], [cap * np.tanh(x.astype(np.float64) / cap)])


def gate(function: Callable[[Array], Array]) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        x = spread(rng, kind)
        up = floats(rng, "small", x.size)
        return Case([x, up, x.size, Out(x.size)], [function(x.astype(np.float64)) * up])

    return make


# ---- quantizing ----


def q8_of(x: Array, top: float = 127) -> list[Array]:
    """Codes, scales and scaled sums of groups of 32, rounded as the ops round."""
    groups, one = x.astype(np.float32).reshape(-1, 32), np.float32(1)
    amax = np.abs(groups).max(1, keepdims=True)
    live = amax >= np.float32(1e-30)
    inverse = np.where(live, np.float32(top) / amax, np.float32(0)).astype(np.float32)
    q = np.rint(np.clip(groups * inverse, -top, top)).astype(np.float32)
    d = np.where(live, amax * (one / np.float32(top)), np.float32(0)).astype(np.float32)[:, 0]
    return [q.astype(np.int8).reshape(-1), d, d * q.sum(1)]


def q8_outs(n: int) -> list[Out]:
    return [Out(n, np.int8), Out(n // 32), Out(n // 32)]


def gate_q8(function: Callable[[Array], Array]) -> Maker:
    """The reference may round to a neighbouring code: test_language_ops.py wants equal bits."""

    def make(rng: np.random.Generator, kind: str) -> Case:
        n = 32 * pick(kind, 1, 3, 12)
        x, up = floats(rng, "small" if kind == "extreme" else kind, n), floats(rng, "small", n)
        if kind == "extreme":
            x *= 20
        return Case([x, up, n, *q8_outs(n)], q8_of(function(x.astype(np.float64)) * up))

    return make


def quantize_a7(rng: np.random.Generator, kind: str) -> Case:
    n = 32 * pick(kind, 1, 3, 48)
    x = floats(rng, kind, n)
    if kind == "extreme":
        x[:32], x[32:64] = 0, np.resize([3e38, -3e38, 1e-30], 32)
    return Case([x, n, *q8_outs(n)], q8_of(x, 63), exact=True)


def dequantize_q8(rng: np.random.Generator, kind: str) -> Case:
    groups = pick(kind, 1, 3, 48)
    q, d = rng.integers(-128, 128, groups * 32).astype(np.int8), floats(rng, kind, groups)
    y = q.astype(np.float32) * np.repeat(d, 32)
    return Case([q, d, groups * 32, Out(groups * 32)], [y], exact=True)


def quantize_q8_row(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 1537)
    x = floats(rng, kind, n)
    if kind == "small":
        x[:] = 1e-38
    amax = np.abs(x).max()
    inverse = np.float32(127) / amax if amax >= np.float32(1e-30) else np.float32(0)
    q = np.rint(np.clip(x * inverse, -127, 127)).astype(np.float32)
    d = amax * (np.float32(1) / np.float32(127)) if amax >= np.float32(1e-30) else np.float32(0)
    with np.errstate(invalid="ignore"):
        codes = q.astype(np.int8)
    expected = [codes, np.array([d], np.float32), np.array([codes.sum(dtype=np.int64)], np.int32)]
    return Case([x, n, Out(n, np.int8), Out(1), Out(1, np.int32)], expected, exact=True)


def affine_codes(v: Array, zero: int, dtype: type) -> Array:
    info = np.iinfo(dtype)
    return np.clip(np.rint(v.astype(np.float64)) + zero, info.min, info.max).astype(dtype)


def quantize_affine(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        n, scale = pick(kind, 8, 77, 1000), np.float32(pick(kind, 1, 3, 2) / 64)
        zero = int(np.iinfo(dtype).min) + pick(kind, 0, 255, 131)
        x = floats(rng, kind, n)
        if kind == "large":  # exactly between two codes: to the even one
            x[:200] = (np.arange(-100, 100) + 0.5) * scale
        args = [x, n, float(scale), zero, Out(n, dtype)]
        return Case(args, [affine_codes(x / scale, zero, dtype)], exact=True)

    return make


def dequantize_affine(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        n, zero = pick(kind, 8, 77, 1000), int(np.iinfo(dtype).max) - pick(kind, 0, 255, 131)
        info = np.iinfo(dtype)
        q = rng.integers(info.min, info.max + 1, n).astype(dtype)
        q[:2] = info.min, info.max
        scale = {"extreme": 1e30, "weird": float("nan")}.get(kind, 0.037)
        y = (q.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
        return Case([q, n, scale, zero, Out(n)], [y], exact=True)

    return make


def requantize(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        n, zero = pick(kind, 8, 77, 1000), int(np.iinfo(dtype).min) + pick(kind, 128, 255, 3)
        acc = rng.integers(-(2**20), 2**20, n).astype(np.int32)
        bias = rng.integers(-1000, 1000, n).astype(np.int32)
        by = rng.uniform(1e-5, 3e-4, n).astype(np.float32)
        if kind == "extreme":
            acc[::2], acc[1::2], bias[::3] = 2**31 - 1, -(2**31), 5  # the sum wraps
        if kind == "weird":
            by = floats(rng, kind, n)
        if kind == "large":
            by[:500] = 0.5
            acc[:500] = np.arange(-250, 250)
            bias[:500] = 0
        with np.errstate(over="ignore"):
            scaled = (acc + bias).astype(np.float32) * by
        args = [acc, bias, by, n, zero, Out(n, dtype)]
        return Case(args, [affine_codes(scaled, zero, dtype)], exact=True)

    return make


# ---- norms ----


def rms_of(x: Array, gain: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    return x / np.sqrt(np.mean(x**2) + eps) * gain


def layer_of(x: Array, gain: Array, bias: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    return (x - x.mean()) / np.sqrt(x.var() + eps) * gain + bias


def add_rmsnorm(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 1536)
    a, b, gain = floats(rng, kind, n), floats(rng, kind, n), floats(rng, "small", n)
    total = a + b
    scale = float(np.abs(rms_of(total, gain, 1e-5)).max())
    return Case([a, b, gain, n, 1e-5, Out(n), Out(n)], [total, rms_of(total, gain, 1e-5)], scale)


def rmsnorm_q8(rng: np.random.Generator, kind: str) -> Case:
    n = 32 * pick(kind, 1, 3, 48)
    x, gain = floats(rng, kind, n), floats(rng, "small", n)
    return Case([x, gain, n, 1e-5, *q8_outs(n)], q8_of(rms_of(x, gain, 1e-5)))


def layernorm_f32(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 1536)
    x, gain, bias = floats(rng, kind, n), floats(rng, "small", n), floats(rng, "small", n)
    if kind == "large":
        x += 100  # a variance taken as a difference of squares would lose its digits
    tolerance_of = None if kind != "large" else 20.0
    args = [x, gain, bias, n, 1e-5, Out(n)]
    return Case(args, [layer_of(x, gain, bias, 1e-5)], tolerance_of)


def layernorm_q8(rng: np.random.Generator, kind: str) -> Case:
    n = 32 * pick(kind, 1, 3, 48)
    x, gain, bias = floats(rng, kind, n), floats(rng, "small", n), floats(rng, "small", n)
    return Case([x, gain, bias, n, 1e-5, *q8_outs(n)], q8_of(layer_of(x, gain, bias, 1e-5)))


def l2norm_f32(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 384)
    x, eps = floats(rng, kind, n), 1e-12
    if kind == "small":
        x[:] = 0
    wide = x.astype(np.float64)
    scale = 1.0 if kind == "small" else None
    return Case([x, n, eps, Out(n)], [wide / max(float(np.sqrt((wide**2).sum())), eps)], scale)


def groupnorm_f32(rng: np.random.Generator, kind: str) -> Case:
    channels, groups, n = {"small": (2, 1, 4), "odd": (6, 3, 7)}.get(kind, (32, 8, 49))
    x = floats(rng, kind, channels, n)
    gain, bias = floats(rng, "small", channels), floats(rng, "small", channels)
    wide = x.astype(np.float64).reshape(groups, -1)
    y = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    y = y.reshape(channels, n) * gain[:, None] + bias[:, None]
    return Case([x, gain, bias, channels, groups, n, 1e-5, Out((channels, n))], [y])


# ---- softmax, sampling ----


def softmax_f32(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 1000)
    length, scale = pick(kind, 8, 61, 997), pick(kind, 1, 2, 5) / 4
    x = floats(rng, kind, n)
    e = np.zeros(n)
    scaled = x[:length].astype(np.float64) * scale
    e[:length] = np.exp(scaled - scaled.max())
    return Case([x, n, length, scale, Out(n)], [e / e.sum()])


def log_sum(x: Array) -> Array:
    wide = x.astype(np.float64)
    return np.array([wide.max() + np.log(np.exp(wide - wide.max()).sum())])


def log_softmax_f32(rng: np.random.Generator, kind: str) -> Case:
    x = spread(rng, kind)
    return Case([x, x.size, Out(x.size)], [x.astype(np.float64) - log_sum(x)])


def logsumexp_f32(rng: np.random.Generator, kind: str) -> Case:
    x = spread(rng, kind)
    return Case([x, x.size, Out(1)], [log_sum(x)])


def ranked(x: Array) -> Array:
    """Indices of the numbers among x, the largest first, equal ones in order."""
    order = np.argsort(-x, kind="stable")
    return order[~np.isnan(x[order])]


def logits(rng: np.random.Generator, kind: str) -> Array:
    x = floats(rng, kind, pick(kind, 1, 77, 1999))
    if kind == "large":
        x = np.round(x, 1)  # many are equal
    if kind == "extreme":
        x[:] = -np.inf
        x[5] = np.nan
    return x


def argmax_f32(rng: np.random.Generator, kind: str) -> Case:
    x = logits(rng, kind)
    return Case([x, x.size, Out(1, np.int32)], [ranked(x)[:1]], exact=True)


def topk_f32(rng: np.random.Generator, kind: str) -> Case:
    x, k = logits(rng, kind), pick(kind, 3, 10, 40)
    best = ranked(x)[:k]
    values, indices = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int32)
    values[: best.size], indices[: best.size] = x[best], best
    return Case([x, x.size, k, Out(k), Out(k, np.int32)], [values, indices], exact=True)


# ---- plain int8 matrices ----


def packed_s8(w: Array) -> Array:
    """(rows, k) -> blocks of 8 rows: quads of k by row, then the sums of the rows."""
    rows, k = w.shape
    wide = np.zeros((-(-rows // 8) * 8, -(-k // 4) * 4), np.int8)
    wide[:rows, :k] = w
    blocks = wide.reshape(-1, 8, wide.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    sums = wide.sum(1, dtype=np.int32).reshape(-1, 8)
    flat = np.ascontiguousarray(blocks).view(np.uint8).reshape(len(sums), -1)
    return np.concatenate([flat, sums.view(np.uint8)], 1).reshape(-1)


def codes(rng: np.random.Generator, kind: str, dtype: type, *shape: int) -> Array:
    """Any codes; "extreme": only the lowest and the highest, all of one sign in a row."""
    info = np.iinfo(dtype)
    q = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    if kind == "extreme":
        q[:] = info.min
        q[1::2] = info.max
    return q


def pack_s8(rng: np.random.Generator, kind: str) -> Case:
    rows, k = pick(kind, 1, 5, 8), pick(kind, 1, 37, 600)
    w = codes(rng, kind, np.int8, rows, k)
    expected = packed_s8(w)
    return Case([w, k, rows, k, Out(expected.size, np.uint8)], [expected], exact=True)


def gemm8(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        blocks, k, n = pick(kind, 1, 7, 5), pick(kind, 3, 37, 4163), pick(kind, 1, 7, 37)
        w, a = codes(rng, kind, np.int8, 8 * blocks, k), codes(rng, kind, dtype, n, k)
        zero = [pick(kind, 0, 255, 131)] if dtype is np.uint8 else []
        y = (a.astype(np.int64) - sum(zero)) @ w.astype(np.int64).T
        scratch = Out(n * (4096 // 64 * 80 + 128) + (1 << 14), np.uint8, scratch=True)
        args = [packed_s8(w), blocks, k, a, k, *zero, n, scratch, Out((n, 8 * blocks), np.int32)]
        return Case([*args, 8 * blocks], [y], exact=True)

    return make


def gemv8(rng: np.random.Generator, kind: str) -> Case:
    blocks, k = pick(kind, 1, 7, 5), pick(kind, 3, 37, 1057)
    w, a = codes(rng, kind, np.int8, 8 * blocks, k), codes(rng, kind, np.int8, k)
    if kind == "extreme":
        a[:] = -128
    y = w.astype(np.int64) @ a.astype(np.int64)
    return Case([packed_s8(w), blocks, k, a, Out(8 * blocks, np.int32)], [y], exact=True)


# ---- rows of a file to packed blocks ----

QUADS = {"q4_0": (2, 16), "q4_1": (4, 16), "q8_0": (2, 32)}
"""Bytes of scales and of codes of a group of 32 elements."""


def repack(fmt: str) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        rows, groups = pick(kind, 1, 5, 8), pick(kind, 1, 3, 18)
        if fmt in QUADS:
            head, body = QUADS[fmt]
            k, src = 32 * groups, rng.integers(0, 256, (rows, groups, head + body), np.uint8)
            full = np.zeros((8, groups, head + body), np.uint8)
            full[:rows] = src
            quads = full[:, :, head:].reshape(8, groups, -1, 4).transpose(1, 2, 0, 3)
            halves = full[:, :, :head].reshape(8, groups, -1, 2).transpose(1, 2, 0, 3)
            out = np.concatenate([quads.reshape(groups, -1), halves.reshape(groups, -1)], 1)
        else:
            k, size = pick(kind, 1, 37, 200), int(fmt[1:]) // 8
            src = rng.integers(0, 256, (rows, k, size), np.uint8)
            full = np.zeros((8, k, size), np.uint8)
            full[:rows] = src
            out = full.transpose(1, 0, 2)
        stride = src.size // rows
        args = [src, stride, rows, k, Out(out.size, np.uint8)]
        return Case(args, [np.ascontiguousarray(out).reshape(-1)], exact=True)

    return make


# ---- caches ----


def cache_groups(x: Array) -> tuple[Array, Array]:
    """(..., head_dim) -> int8 codes and f16 scales of groups of 32, as kv_append_q8 rounds."""
    short = -x.shape[-1] % 32  # the last group: its scale does not see what is not there
    groups = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)]).reshape(*x.shape[:-1], -1, 32)
    top = np.abs(groups).max(-1, keepdims=True) * (np.float32(1) / np.float32(127))
    d = np.minimum(top, np.float32(65504)).astype(np.float16)
    wide = d.astype(np.float32)
    inverse = np.where(wide > 0, np.float32(1) / wide, np.float32(0)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        q = np.rint(np.clip(groups * inverse, -127, 127)).astype(np.int8)
    return q.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]], d[..., 0]


def cache8_bytes(dim: int) -> int:
    """Of the keys or values of 64 positions of a head."""
    return 64 * dim + -(-dim // 32) * 128


def cache_blocks(k: Array, v: Array) -> tuple[Array, Array]:
    """(positions, head_dim) twice -> bytes of the blocks of keys and of values."""
    blocks, dim = len(k) // 64, k.shape[1]
    kq, kd = cache_groups(k)
    vq, vd = cache_groups(v)
    lanes = kq.reshape(blocks, 8, 8, dim).transpose(0, 1, 3, 2)
    scales = [d.reshape(blocks, 64, -1).transpose(0, 2, 1).reshape(blocks, -1) for d in (kd, vd)]
    codes = [q.reshape(blocks, -1).view(np.uint8) for q in (lanes, vq)]
    keys, values = (
        np.concatenate([q, np.ascontiguousarray(d).view(np.uint8)], 1)
        for q, d in zip(codes, scales, strict=True)
    )
    return keys, values


def kv_append_q8(rng: np.random.Generator, kind: str) -> Case:
    dim, position = pick(kind, 8, 88, 128), pick(kind, 0, 77, 127)
    k, v = np.zeros((128, dim), np.float32), np.zeros((128, dim), np.float32)
    k[position], v[position] = floats(rng, kind, dim), floats(rng, kind, dim)
    if kind == "large":
        k[position, :32], v[position, :32] = 1e-9, 3e38  # a scale of 0, and the largest one
    keys, values = cache_blocks(k, v)
    fresh = [Out(keys.shape, np.uint8), Out(values.shape, np.uint8)]
    args = [k[position], v[position], dim, position, cache8_bytes(dim), *fresh]
    return Case(args, [keys, values], exact=True)


def windows(
    rng: np.random.Generator, kind: str, rows: int, length: int
) -> tuple[Array, Array, float]:
    """First visible and end of each row, one row that sees nothing, and the cap."""
    limit = rng.integers(1, length + 1, rows).astype(np.int32)
    limit[0] = length
    first = np.maximum(limit - rng.integers(1, 120, rows), 0).astype(np.int32)
    if kind == "odd":
        first[-1] = limit[-1]
    return first, limit, {"large": 20.0, "odd": 5.0}.get(kind, 0.0)


def attended(query: Array, k: Array, v: Array, first: Array, limit: Array, cap: float) -> Array:
    scores = query.astype(np.float64) @ k.T * 0.125
    if cap:
        scores = cap * np.tanh(scores / cap)
    at = np.arange(len(k))
    scores[(at < first[:, None]) | (at >= limit[:, None])] = -np.inf
    top = np.maximum(scores.max(1, keepdims=True), -1e300)
    weights = np.exp(scores - top)
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-300) @ v


def attention(fmt: str) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        rows, length = pick(kind, 1, 7, 48), pick(kind, 1, 77, 200)
        dim = {"f16": pick(kind, 8, 24, 64), "q8": pick(kind, 24, 104, 64)}[fmt]
        query = floats(rng, "small", rows, dim) * (50 if kind == "extreme" else 1)
        first, limit, cap = windows(rng, kind, rows, length)
        k, v = rng.standard_normal((2, -(-length // 64) * 64, dim)).astype(np.float32)
        if kind == "weird":
            query[0, 0], v[length:] = np.nan, 65504
        if fmt == "f16":
            k, v = k.astype(np.float16), v.astype(np.float16)
            lanes = np.ascontiguousarray(k.reshape(-1, 8, dim).transpose(0, 2, 1))
            cache = [64 * dim, lanes.view(np.uint16), v.view(np.uint16)]
        else:
            cache = [cache8_bytes(dim), *cache_blocks(k, v)]
            k, v = (
                q * np.repeat(d.astype(np.float64), 32, 1)[:, :dim]
                for q, d in map(cache_groups, (k, v))
            )
        y = attended(query, k.astype(np.float64), v.astype(np.float64), first, limit, cap)
        room = 64 * dim * 2 + rows * (64 if fmt == "f16" else 128)
        args = [query, rows, dim, 0.125, cap, first, limit, *cache, Out(room, scratch=True)]
        top = float(np.abs(v[:length].astype(np.float64)).max())
        return Case([*args, Out((rows, dim))], [y], scale=top)

    return make


# ---- transforms ----


def hadamard_f32(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 4, 512)
    x = floats(rng, kind, n)
    y, h = x.copy(), 1
    while h < n:
        pairs = y.reshape(-1, 2, h)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        h *= 2
    y = y * (np.float32(1) / np.sqrt(np.float32(n)))
    return Case([x, n, Out(n)], [y], exact=True)


MAKERS: dict[str, Maker] = {
    **{name: smooth(name) for name in SMOOTH},
    "relu_f32": relu_f32,
    "leaky_relu_f32": leaky_relu_f32,
    "clamp_f32": clamp_f32,
    "hardswish_f32": hardswish_f32,
    "softcap_f32": softcap_f32,
    "geglu_f32": gate(gelu_tanh),
    "glu_f32": gate(sigmoid),
    "silu_mul_q8": gate_q8(lambda x: x * sigmoid(x)),
    "geglu_q8": gate_q8(gelu_tanh),
    "add_rmsnorm": add_rmsnorm,
    "rmsnorm_q8": rmsnorm_q8,
    "layernorm_f32": layernorm_f32,
    "layernorm_q8": layernorm_q8,
    "l2norm_f32": l2norm_f32,
    "groupnorm_f32": groupnorm_f32,
    "softmax_f32": softmax_f32,
    "log_softmax_f32": log_softmax_f32,
    "logsumexp_f32": logsumexp_f32,
    "argmax_f32": argmax_f32,
    "topk_f32": topk_f32,
    "quantize_a7": quantize_a7,
    "dequantize_q8": dequantize_q8,
    "quantize_q8_row": quantize_q8_row,
    "quantize_u8": quantize_affine(np.uint8),
    "quantize_s8": quantize_affine(np.int8),
    "dequantize_u8": dequantize_affine(np.uint8),
    "dequantize_s8": dequantize_affine(np.int8),
    "requantize_s32_u8": requantize(np.uint8),
    "requantize_s32_s8": requantize(np.int8),
    "pack_s8": pack_s8,
    "gemm_s8s8_s32": gemm8(np.int8),
    "gemm_u8s8_s32": gemm8(np.uint8),
    "gemv_s8s8_s32": gemv8,
    **{f"repack_{fmt}": repack(fmt) for fmt in ("q4_0", "q4_1", "q8_0", "f16", "f32")},
    "kv_append_q8": kv_append_q8,
    "attention_q8": attention("q8"),
    "attention_window_f16": attention("f16"),
    "hadamard_f32": hadamard_f32,
}
