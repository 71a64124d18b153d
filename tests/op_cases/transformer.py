"""Makers of cases for the ops of language models: products with packed weights, attention, rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from op_cases.parts import Array, Case, Out, floats, largest, pick

# ---- packed weights, built here independently of the library's own packer ----


@dataclass
class Packed:
    data: Array
    codes: Array  # (rows, k)
    d: Array  # (rows, groups)
    m: Array

    def dense(self) -> Array:
        return np.repeat(self.d, 32, 1) * self.codes + np.repeat(self.m, 32, 1)


def interleave(values: Array, blocks: int) -> Array:
    """(rows, groups, n) -> (blocks, groups, n / 4, 8, 4): lanes are rows, 4 elements a lane."""
    _, groups, n = values.shape
    quads = values.reshape(blocks, 8, groups, n // 4, 4)
    return quads.transpose(0, 2, 3, 1, 4).reshape(blocks, groups, n * 8)


def packed_int(rng: np.random.Generator, kind: str, fmt: str, blocks: int, k: int) -> Packed:
    rows, groups, four = 8 * blocks, k // 32, fmt[1] == "4"
    low, high = (0, 15) if four else (-128, 127)
    codes = rng.integers(low, high + 1, (rows, k))
    d = rng.uniform(0.001, 0.02, (rows, groups)).astype(np.float16)
    m = rng.uniform(-0.2, 0.2, (rows, groups)).astype(np.float16)
    if kind == "extreme":
        codes[:] = high
        codes[::2] = low if not four else high
        d[:], m[:] = 1.0, 0.0
    if kind == "weird":
        d[0, 0], m[0, -1] = np.nan, np.inf
        d[1::3] = np.float16(6e-8)
    raw = codes.astype(np.int8).view(np.uint8).reshape(rows, groups, 32)
    body = interleave(raw[:, :, :16] | raw[:, :, 16:] << 4 if four else raw, blocks)
    parts = [body, by_lane(d, blocks)] + ([by_lane(m, blocks)] if fmt[2] == "a" else [])
    minimum = m.astype(np.float64)
    if fmt == "q4s":
        minimum = -8.0 * d.astype(np.float64)
    elif fmt == "q8s":
        minimum = np.zeros_like(minimum)
    data = np.concatenate(parts, 2).reshape(-1)
    return Packed(data, codes, d.astype(np.float64), minimum)


def by_lane(scales: Array, blocks: int) -> Array:
    """(rows, groups) f16 -> (blocks, groups, 16) bytes."""
    lanes = np.ascontiguousarray(scales.reshape(blocks, 8, -1).transpose(0, 2, 1))
    return lanes.view(np.uint8).reshape(blocks, -1, 16)


def packed_float(
    rng: np.random.Generator, kind: str, fmt: str, blocks: int, k: int
) -> tuple[Array, Array]:
    w = floats(rng, "small" if kind == "extreme" else kind, 8 * blocks, k)
    if fmt == "f16":
        with np.errstate(over="ignore"):
            stored: Array = w.astype(np.float16)
        dense = stored.astype(np.float64)
    elif fmt == "bf16":
        stored = (w.view(np.uint32) >> 16).astype(np.uint16)
        dense = (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        stored, dense = w, w.astype(np.float64)
    lanes = np.ascontiguousarray(stored.reshape(blocks, 8, k).transpose(0, 2, 1))
    return lanes.view(np.uint8).reshape(-1), dense


def activations(
    rng: np.random.Generator, kind: str, tokens: int, k: int
) -> tuple[Array, Array, Array]:
    q = rng.integers(-127, 128, (tokens, k)).astype(np.int8)
    d = rng.uniform(0.001, 0.1, (tokens, k // 32)).astype(np.float32)
    if kind == "extreme":
        q[:] = 127
        q[::2] = -127
        d[:] = 1.0
    if kind == "weird":
        d[0, 0] = np.nan
    s = d * q.reshape(tokens, -1, 32).astype(np.float32).sum(2)
    return q, d, s


def product(p: Packed, q: Array, d: Array, s: Array) -> tuple[Array, float]:
    """(tokens, rows) and the largest sum of magnitudes of a result."""
    a = q.astype(np.float64) * np.repeat(d.astype(np.float64), 32, 1)
    scaled = np.repeat(p.d, 32, 1) * p.codes
    y = a @ scaled.T + s.astype(np.float64) @ p.m.T
    total = np.abs(a) @ np.abs(scaled).T + np.abs(s.astype(np.float64)) @ np.abs(p.m).T
    return y, largest(total)


# ---- makers ----


def quantize_q8(rng: np.random.Generator, kind: str) -> Case:
    n = 32 * pick(kind, 1, 3, 48)
    x = floats(rng, kind, n)
    if kind == "extreme":
        x[:32] = 0
        x[32:64] = np.resize([3e38, -3e38, 1e-30], 32)
        x[64:96] = 1e-38
    args = [x, n, Out(n, np.int8), Out(n // 32), Out(n // 32)]
    if kind == "weird":
        return Case(args)
    groups = x.reshape(-1, 32)
    top = np.abs(groups).max(1, keepdims=True)
    live = top >= np.float32(1e-30)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(live, np.float32(127) / top, np.float32(0)).astype(np.float32)
    q = np.rint(np.clip(groups * inverse, -127, 127)).astype(np.float32)
    d = np.where(live, top * (np.float32(1) / np.float32(127)), 0).astype(np.float32)
    s = d[:, 0] * q.sum(1)
    return Case(args, [q.astype(np.int8).reshape(-1), d[:, 0], s], exact=True)


def rmsnorm(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 77, 1536)
    x, gain = floats(rng, kind, n), floats(rng, "small", n)
    y = x.astype(np.float64) / np.sqrt(np.mean(x.astype(np.float64) ** 2) + 1e-5) * gain
    return Case([x, gain, n, 1e-5, Out(n)], [y])


def add(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 13, 1000)
    a, b = floats(rng, kind, n), floats(rng, kind, n)
    return Case([a, b, n, Out(n)], [a + b], exact=True)


def silu_mul(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 8, 13, 1000)
    gate, up = floats(rng, kind, n), floats(rng, "small", n)
    if kind == "large":
        gate *= 30
    g = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        y = g / (1 + np.exp(-g)) * up
    return Case([gate, up, n, Out(n)], [y])


def gelu_mul_tile(rng: np.random.Generator, kind: str) -> Case:
    n, stride = pick(kind, 1, 3, 9), pick(kind, 8, 24, 32)
    tile = floats(rng, kind, n, 2, 8)
    y = np.zeros((n, stride))
    g = tile[:, 0].astype(np.float64)
    y[:, :8] = g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * tile[:, 1]
    return Case([tile, n, Out((n, stride)), stride], [y])


def silu_mul_tile(rng: np.random.Generator, kind: str) -> Case:
    n, stride = pick(kind, 1, 3, 9), pick(kind, 8, 24, 32)
    tile = floats(rng, kind, n, 2, 8)
    y = np.zeros((n, stride))
    g = tile[:, 0].astype(np.float64)
    y[:, :8] = g / (1 + np.exp(-g)) * tile[:, 1]
    return Case([tile, n, Out((n, stride)), stride], [y])


def rope(style: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        dim, rot = {"small": (8, 8), "odd": (24, 14)}.get(kind, (128, 96))
        x = floats(rng, kind, dim)
        angle = rng.uniform(-10, 10, rot // 2)
        c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        y = x.astype(np.float64)
        if style == "split":
            table = np.concatenate([c, s])
            a, b = y[: rot // 2].copy(), y[rot // 2 : rot].copy()
            y[: rot // 2], y[rot // 2 : rot] = a * c - b * s, a * s + b * c
        else:
            table = np.concatenate([np.repeat(c, 2), np.stack([-s, s], 1).reshape(-1)])
            a, b = y[:rot:2].copy(), y[1:rot:2].copy()
            y[:rot:2], y[1:rot:2] = a * c - b * s, a * s + b * c
        return Case([x, table, dim, rot, Out(dim)], [y])

    return make


def row(fmt: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        k, lane = 32 * pick(kind, 1, 3, 18), pick(kind, 0, 5, 7)
        if fmt.startswith("q"):
            p = packed_int(rng, kind, fmt, 1, k)
            d, m = p.d[lane].astype(np.float32), p.m[lane].astype(np.float32)
            y = np.repeat(d, 32) * p.codes[lane].astype(np.float32) + np.repeat(m, 32)
            return Case([p.data, k, lane, Out(k)], [y], exact=True)
        data, dense = packed_float(rng, kind, fmt, 1, k)
        return Case([data, k, lane, Out(k)], [dense[lane].astype(np.float32)], exact=True)

    return make


def gemv_int(fmt: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        blocks, k = pick(kind, 1, 3, 5), 32 * pick(kind, 1, 3, 18)
        if kind == "large":
            k = 32 * 97  # where rows of a middle length may be read otherwise (claw_streams)
        p, (q, d, s) = packed_int(rng, kind, fmt, blocks, k), activations(rng, kind, 1, k)
        y, scale = product(p, q, d, s)
        exact = kind == "extreme" and fmt != "q4s"
        args = [p.data, blocks, k, q[0], d[0], s[0], Out(8 * blocks)]
        return Case(args, [y[0]], scale, exact=exact)

    return make


def gemm_int(fmt: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        # Up to 32 tokens go another way (few.c).
        blocks, k, n = pick(kind, 1, 3, 5), 32 * pick(kind, 1, 3, 18), pick(kind, 1, 13, 37)
        p, (q, d, s) = packed_int(rng, kind, fmt, blocks, k), activations(rng, kind, n, k)
        y, scale = product(p, q, d, s)
        scratch = Out(k * 16 + k // 32 * 128, np.uint8, scratch=True)
        args = [p.data, blocks, k, q, d, s, n, scratch, Out((n, 8 * blocks)), 8 * blocks]
        return Case(args, [y], scale, exact=kind == "extreme" and fmt != "q4s")

    return make


def gemv_float(fmt: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        blocks, k = pick(kind, 1, 5, 9), pick(kind, 1, 37, 576)
        data, dense = packed_float(rng, kind, fmt, blocks, k)
        x = floats(rng, kind, k)
        scale = largest(np.abs(dense) @ np.abs(x.astype(np.float64)))
        return Case([data, blocks, k, x, Out(8 * blocks)], [dense @ x.astype(np.float64)], scale)

    return make


def gemm_float(fmt: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, kind: str) -> Case:
        blocks, k, n = pick(kind, 1, 2, 2), pick(kind, 1, 37, 576), pick(kind, 1, 7, 20)
        data, dense = packed_float(rng, kind, fmt, blocks, k)
        x = floats(rng, kind, n, k)
        scale = largest(np.abs(x.astype(np.float64)) @ np.abs(dense).T)
        args = [data, blocks, k, x, k, n, Out((n, 8 * blocks)), 8 * blocks]
        return Case(args, [x.astype(np.float64) @ dense.T], scale)

    return make


def kv_append(rng: np.random.Generator, kind: str) -> Case:
    dim, position = pick(kind, 8, 24, 64), pick(kind, 0, 77, 127)
    key, value = floats(rng, kind, dim), floats(rng, kind, dim)
    keys, values = np.zeros((2, 8, dim, 8), np.float16), np.zeros((2, 64, dim), np.float16)
    block, at = divmod(position, 64)
    low, high = np.float32(-65504), np.float32(65504)
    for x, out in ((key, keys[block, at // 8, :, at % 8]), (value, values[block, at])):
        out[:] = np.where(x > low, np.where(x < high, x, high), low).astype(np.float16)
    fresh = [Out(keys.shape, np.float16), Out(values.shape, np.float16)]
    return Case([key, value, dim, position, 64 * dim, *fresh], [keys, values], exact=True)


def attention_f16(rng: np.random.Generator, kind: str) -> Case:
    rows, dim, length = pick(kind, 1, 7, 48), pick(kind, 8, 24, 64), pick(kind, 1, 77, 200)
    if kind == "large":
        rows = 3
    query = floats(rng, "small", rows, dim)
    limit = rng.integers(1, length + 1, rows).astype(np.int32)
    limit[0] = length
    blocks = -(-length // 64)
    k = rng.standard_normal((blocks * 64, dim)).astype(np.float16)
    v = rng.standard_normal((blocks * 64, dim)).astype(np.float16)
    if kind == "extreme":
        query *= 50
    if kind == "weird":
        query[0, 0] = np.nan
        v[length:] = 65504
    scores = query.astype(np.float64) @ k.astype(np.float64).T * 0.125
    scores[np.arange(len(k)) >= limit[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    y = weights / weights.sum(1, keepdims=True) @ v.astype(np.float64)
    lanes = np.ascontiguousarray(k.reshape(-1, 8, dim).transpose(0, 2, 1))
    cache = [lanes.view(np.uint16), v.view(np.uint16)]
    scratch = Out(64 * dim * 2 + rows * 64, scratch=True)
    args = [query, rows, dim, 0.125, limit, 64 * dim, *cache, scratch, Out((rows, dim))]
    return Case(args, [y], scale=float(np.abs(v[:length].astype(np.float64)).max()))


MAKERS: dict[str, Callable[[np.random.Generator, str], Case]] = {
    "quantize_q8": quantize_q8,
    "rmsnorm": rmsnorm,
    "add": add,
    "silu_mul": silu_mul,
    "silu_mul_tile": silu_mul_tile,
    "gelu_mul_tile": gelu_mul_tile,
    "rope_split": rope("split"),
    "rope_interleaved": rope("interleaved"),
    "kv_append": kv_append,
    "attention_f16": attention_f16,
}
for _fmt in ("q4a", "q4s", "q8a", "q8s"):
    MAKERS |= {
        f"row_{_fmt}": row(_fmt),
        f"gemv_{_fmt}": gemv_int(_fmt),
        f"gemm_{_fmt}": gemm_int(_fmt),
    }
for _fmt in ("f16", "bf16", "f32"):
    MAKERS |= {
        f"row_{_fmt}": row(_fmt),
        f"gemv_{_fmt}": gemv_float(_fmt),
        f"gemm_{_fmt}": gemm_float(_fmt),
    }
