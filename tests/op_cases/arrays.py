"""Makers of cases for the ops on arrays: conversions, reductions, distances, gates, arithmetic."""

from collections.abc import Callable

import numpy as np

from op_cases.parts import Array, Case, Maker, Out, floats, pick
from op_cases.sound import codes, size

Rng = np.random.Generator

# ---- conversions ----


def to_integers(dtype: type) -> Maker:
    """Ties, the ends of the type and what lies beyond them, NaN."""
    info = np.iinfo(dtype)

    def make(rng: Rng, kind: str) -> Case:
        n, scale = size(kind), {"large": 0.75, "odd": float(info.max // 2 + 1)}.get(kind, 1.0)
        x = floats(rng, kind, n)
        if kind == "large":
            x *= info.max
        if kind == "extreme":
            edges = [info.min, info.max, info.min - 1.0, info.max + 1.0, 4e9, -4e9, 3e38, -3e38]
            ties = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 254.5, 32766.5, 8388607.5, 16777217.0]
            x = np.resize(np.float32([*edges, *ties]), n)
        y = codes(x, scale, info.min, info.max).astype(dtype)
        return Case([x, n, scale, Out(n, dtype)], [y], exact=True)

    return make


def from_integers(dtype: type) -> Maker:
    info = np.iinfo(dtype)

    def make(rng: Rng, kind: str) -> Case:
        n, scale = size(kind), 1.0 if kind == "odd" else 1 / (info.max // 2 + 1)
        x = rng.integers(info.min, info.max, n, dtype, endpoint=True)
        x[:2] = np.resize([info.min, info.max], 2)[: x[:2].size]
        y = x.astype(np.float32) * np.float32(scale)
        return Case([x, n, scale, Out(n)], [y], exact=True)

    return make


def near_halves(rng: Rng, kind: str, n: int, bits: int) -> Array:
    """Floats at and beside the middle between two shorter floats, from denormal to too large."""
    if kind == "weird":
        return floats(rng, kind, n)
    if kind == "extreme":
        x = rng.integers(0, 2**32, n, np.uint32)
        x &= np.uint32(0xFFFFFFFF) << np.uint32(bits - 1)
        x += rng.integers(-1, 2, n).astype(np.uint32)
        x = np.where((x & 0x7F800000) == 0x7F800000, np.uint32(0x3F800000), x)
        return x.view(np.float32)
    return floats(rng, kind, n)


def f32_f16(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = near_halves(rng, kind, n, 13)
    return Case([x, n, Out(n, np.uint16)], [x.astype(np.float16).view(np.uint16)], exact=True)


def f32_bf16(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = near_halves(rng, kind, n, 16)
    low, high = (x.view(np.uint32) >> 16 << 16), (x.view(np.uint32) >> 16) + 1
    below, above = low.view(np.float32).astype(np.float64), (high << 16).view(np.float32)
    middle = (below + np.where(np.isfinite(above), above, np.sign(below) * 2.0**128)) / 2
    up = np.abs(x) > np.abs(middle)
    up |= (np.abs(x) == np.abs(middle)) & (high & 1 == 0)
    return Case([x, n, Out(n, np.uint16)], [np.where(up, high, low >> 16)], exact=True)


def f16_f32(rng: Rng, kind: str) -> Case:
    n = pick(kind, 1, 77, 1000)
    x = rng.integers(0, 2**16, n).astype(np.uint16)
    if kind != "weird":
        x[(x & 0x7C00) == 0x7C00] = 0x7C00
    return Case([x, n, Out(n)], [x.view(np.float16).astype(np.float32)], exact=True)


def bf16_f32(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = rng.integers(0, 2**16, n).astype(np.uint16)
    y = (x.astype(np.uint32) << 16).view(np.float32)
    return Case([x, n, Out(n)], [y], exact=True)


def f64_f32(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = rng.standard_normal(n) * 10.0 ** rng.uniform(-50, 50, n)
    if kind == "weird":
        x[::3] = np.nan
    return Case([x, n, Out(n)], [x.astype(np.float32)], exact=True)


def f32_f64(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = floats(rng, kind, n)
    return Case([x, n, Out(n, np.float64)], [x.astype(np.float64)], exact=True)


# ---- reductions ----


def reduction(of: Callable[[Array], object], squares: bool = False, exact: bool = False) -> Maker:
    def make(rng: Rng, kind: str) -> Case:
        n = size(kind, 4999)
        x = floats(rng, kind, n)
        if exact and kind == "odd":
            x[::5] = np.nan
        y = np.atleast_1d(np.array(of(x if exact else x.astype(np.float64))))
        parts = np.abs(x.astype(np.float64)) ** (2 if squares else 1)
        return Case([x, n, Out(y.size)], [y], float(np.nansum(parts)), exact=exact)

    return make


def mean_variance(rng: Rng, kind: str) -> Case:
    n = size(kind, 4999)
    x = floats(rng, kind, n)
    if kind == "large":
        x += 300
    v = x.astype(np.float64)
    # Relative to the variance: a mean of 300 may not cost the digits that cancel in one pass.
    scale = 2 * np.abs(v).max() if kind == "large" else None
    return Case([x, n, Out(2)], [np.array([v.mean(), v.var()])], scale)


def level(rng: Rng, kind: str) -> Case:
    n = size(kind, 4999)
    x = floats(rng, kind, n)
    v = x.astype(np.float64)
    return Case([x, n, Out(2)], [np.array([np.abs(v).max(), np.sqrt(np.mean(v * v))])])


def cumsum(rng: Rng, kind: str) -> Case:
    n, start = size(kind), np.float32(0.5)
    x, y, total = floats(rng, kind, n), np.empty(n, np.float32), start
    for i in range(n):
        total = total + x[i]
        y[i] = total
    return Case([x, n, float(start), Out(n)], [y], exact=True)


def count_nonfinite(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = floats(rng, "weird" if kind in ("odd", "extreme") else kind, n)
    count = np.array([(~np.isfinite(x)).sum()], np.int32)
    return Case([x, n, Out(1, np.int32)], [count], exact=True)


# ---- distances ----


def embeddings(rng: Rng, kind: str) -> tuple[Array, Array, int, int, int]:
    """A query, rows with a gap between them, and (n, width, stride)."""
    n, width, gap = pick(kind, 1, 3, 9), pick(kind, 1, 77, 1155), pick(kind, 0, 3, 0)
    rows = floats(rng, kind, n, width + gap)
    return floats(rng, kind, width), rows, n, width, width + gap


def pairwise(dtype: str, of: Callable[[Array, Array], Array]) -> Maker:
    """Rows of floats of any width; relative to the sums of magnitudes."""

    def make(rng: Rng, kind: str) -> Case:
        query, rows, n, width, stride = embeddings(rng, kind)
        stored, dense = rows, rows
        if dtype == "f16":
            stored = np.clip(rows, -6e4, 6e4).astype(np.float16)
            stored, dense = stored.view(np.uint16), stored
        if dtype == "bf16":
            stored = (rows.view(np.uint32) >> 16).astype(np.uint16)
            dense = (stored.astype(np.uint32) << 16).view(np.float32)
        a, b = query.astype(np.float64), dense[:, :width].astype(np.float64)
        # The last row ends with its last number: what follows may not be read.
        flat = stored.reshape(-1)[: stride * (n - 1) + width]
        scale = 1.0 if of is cosine else float(of(np.abs(a), -np.abs(b)).__abs__().max())
        return Case([query, flat, n, width, stride, Out(n)], [of(a, b)], scale)

    return make


def dots(a: Array, b: Array) -> Array:
    return b @ a


def squares(a: Array, b: Array) -> Array:
    return ((b - a) ** 2).sum(1)


def cosine(a: Array, b: Array) -> Array:
    norms = np.sqrt((a @ a) * (b * b).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms == 0, 0, b @ a / norms)


def cosine_rows(rng: Rng, kind: str) -> Case:
    case = pairwise("f32", cosine)(rng, kind)
    if kind == "odd":
        case.args[1][:77], case.expected[0][0] = 0, 0
    return case


def bytes_pairwise(of: Callable[[Array, Array], Array], lowest: int) -> Maker:
    def make(rng: Rng, kind: str) -> Case:
        n, width, gap = pick(kind, 1, 3, 5), pick(kind, 1, 107, 1155), pick(kind, 0, 3, 0)
        query = rng.integers(lowest, 128, width).astype(np.int8)
        rows = rng.integers(lowest, 128, (n, width + gap)).astype(np.int8)
        if kind == "extreme":
            query[:], rows[:], rows[1] = lowest, 127, lowest
        y = of(query.astype(np.int64), rows[:, :width].astype(np.int64))
        flat = rows.reshape(-1)[: (width + gap) * (n - 1) + width]
        args = [query, flat, n, width, width + gap, Out(n, np.int32)]
        return Case(args, [y], exact=True)

    return make


def hamming(rng: Rng, kind: str) -> Case:
    n, words = pick(kind, 1, 3, 9), pick(kind, 1, 7, 17)
    query = rng.integers(0, 2**64, words, np.uint64)
    rows = rng.integers(0, 2**64, (n, words), np.uint64)
    rows[0] = ~query
    y = np.unpackbits((rows ^ query).view(np.uint8), axis=1).sum(1)
    return Case([query, rows, n, words, Out(n, np.int32)], [y], exact=True)


# ---- gates ----


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def before_gates(rng: Rng, kind: str, count: int) -> tuple[int, list[Array]]:
    """Pre-activations, from gentle to saturated, and a state in -1..1 at the end."""
    n = size(kind)
    spread = {"large": 8, "extreme": 1}.get(kind, 2)
    inputs = [floats(rng, kind, n) * np.float32(spread) for _ in range(count)]
    return n, [*inputs, np.tanh(floats(rng, "small", n))]


def lstm_gates(rng: Rng, kind: str) -> Case:
    n, given = before_gates(rng, kind, 4)
    i, f, g, o, c = (v.astype(np.float64) for v in given)
    after = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(after)
    return Case([*given, n, Out(n), Out(n)], [after, hidden], scale=1.0)


def gru_gates(rng: Rng, kind: str) -> Case:
    n, given = before_gates(rng, kind, 4)
    given[3] = floats(rng, "small", n)
    z, r, x, h, before = (v.astype(np.float64) for v in given)
    y = (1 - sigmoid(z)) * np.tanh(x + sigmoid(r) * h) + sigmoid(z) * before
    return Case([*given, n, Out(n)], [y], scale=1.0)


def gru_reset(rng: Rng, kind: str) -> Case:
    n, given = before_gates(rng, kind, 1)
    r, before = (v.astype(np.float64) for v in given)
    return Case([*given, n, Out(n)], [sigmoid(r) * before], scale=1.0)


def gru_update(rng: Rng, kind: str) -> Case:
    n, given = before_gates(rng, kind, 2)
    z, x, before = (v.astype(np.float64) for v in given)
    y = (1 - sigmoid(z)) * np.tanh(x) + sigmoid(z) * before
    return Case([*given, n, Out(n)], [y], scale=1.0)


# ---- arithmetic and rows ----


def elementwise(of: Callable[[Array, Array], Array]) -> Maker:
    def make(rng: Rng, kind: str) -> Case:
        n = size(kind)
        a, b = floats(rng, kind, n), floats(rng, kind, n)
        if kind == "large":
            b[::7] = 0
        return Case([a, b, n, Out(n)], [of(a, b)], exact=True)

    return make


def mul_add(rng: Rng, kind: str) -> Case:
    n = size(kind)
    a, b, c = (floats(rng, kind, n) for _ in range(3))
    return Case([a, b, c, n, Out(n)], [a * b + c], exact=True)


def axpy(rng: Rng, kind: str) -> Case:
    n, a = size(kind), np.float32(-1.7)
    x, b = floats(rng, kind, n), floats(rng, kind, n)
    return Case([x, float(a), b, n, Out(n)], [a * x + b], exact=True)


def affine(rng: Rng, kind: str) -> Case:
    n, a, b = size(kind), np.float32(-1.7), np.float32(0.3)
    x = floats(rng, kind, n)
    return Case([x, float(a), float(b), n, Out(n)], [a * x + b], exact=True)


def select(rng: Rng, kind: str) -> Case:
    n = size(kind)
    mask = rng.integers(0, 3, n).astype(np.uint8) * 100
    a, b = floats(rng, kind, n), floats(rng, kind, n)
    return Case([mask, a, b, n, Out(n)], [np.where(mask, a, b)], exact=True)


def indices(rng: Rng, kind: str, rows: int) -> Array:
    index = rng.integers(0, rows, pick(kind, 1, 7, 20)).astype(np.int32)
    if kind in ("odd", "extreme", "weird"):
        index[:4] = [-1, rows, -(2**31), 2**31 - 1]
    return index


def gather_rows(rng: Rng, kind: str) -> Case:
    rows, width = pick(kind, 1, 5, 30), pick(kind, 1, 77, 256)
    table, index = rng.integers(0, 256, (rows, width)).astype(np.uint8), indices(rng, kind, rows)
    known = (index >= 0) & (index < rows)
    y = np.where(known[:, None], table[np.where(known, index, 0)], 0)
    args = [table, rows, width, index, len(index), Out(y.shape, np.uint8)]
    return Case(args, [y], exact=True)


def gather_rows_f16(rng: Rng, kind: str) -> Case:
    rows, width = pick(kind, 1, 5, 30), pick(kind, 1, 77, 256)
    table, index = floats(rng, kind, rows, width).astype(np.float16), indices(rng, kind, rows)
    known = (index >= 0) & (index < rows)
    y = np.where(known[:, None], table[np.where(known, index, 0)], 0).astype(np.float32)
    args = [table.view(np.uint16), rows, width, index, len(index), Out(y.shape)]
    return Case(args, [y], exact=True)


def scatter_add(rng: Rng, kind: str) -> Case:
    rows, width = pick(kind, 1, 5, 8), pick(kind, 1, 77, 256)
    index = indices(rng, kind, rows)
    x, y = floats(rng, kind, len(index), width), np.zeros((rows, width), np.float32)
    for row, at in zip(x, index, strict=True):
        if 0 <= at < rows:
            y[at] += row
    return Case([x, width, index, len(index), rows, Out(y.shape)], [y], exact=True)


MAKERS: dict[str, Maker] = {
    "convert_f32_s16": to_integers(np.int16),
    "convert_f32_s32": to_integers(np.int32),
    "convert_s16_f32": from_integers(np.int16),
    "convert_s32_f32": from_integers(np.int32),
    "convert_f32_f16": f32_f16,
    "convert_f16_f32": f16_f32,
    "convert_f32_bf16": f32_bf16,
    "convert_bf16_f32": bf16_f32,
    "convert_f64_f32": f64_f32,
    "convert_f32_f64": f32_f64,
    "sum_f32": reduction(np.sum),
    "sum_squares_f32": reduction(lambda x: np.sum(x * x), squares=True),
    "mean_variance_f32": mean_variance,
    "max_of_f32": reduction(np.nanmax, exact=True),
    "min_of_f32": reduction(np.nanmin, exact=True),
    "absmax_f32": reduction(lambda x: np.nanmax(np.abs(x)), exact=True),
    "level_f32": level,
    "cumsum_f32": cumsum,
    "count_nonfinite_f32": count_nonfinite,
    "dot_rows_f32": pairwise("f32", dots),
    "dot_rows_f16": pairwise("f16", dots),
    "dot_rows_bf16": pairwise("bf16", dots),
    "dot_rows_s8": bytes_pairwise(dots, -127),
    "l2_rows_f32": pairwise("f32", squares),
    "l2_rows_s8": bytes_pairwise(squares, -128),
    "cosine_rows_f32": cosine_rows,
    "hamming_rows": hamming,
    "lstm_gates_f32": lstm_gates,
    "gru_gates_f32": gru_gates,
    "gru_reset_f32": gru_reset,
    "gru_update_f32": gru_update,
    "mul_f32": elementwise(lambda a, b: a * b),
    "sub_f32": elementwise(lambda a, b: a - b),
    "div_f32": elementwise(lambda a, b: a / b),
    "max_f32": elementwise(lambda a, b: np.where(a > b, a, b)),
    "min_f32": elementwise(lambda a, b: np.where(a < b, a, b)),
    "mul_add_f32": mul_add,
    "axpy_f32": axpy,
    "affine_f32": affine,
    "select_f32": select,
    "gather_rows": gather_rows,
    "gather_rows_f16": gather_rows_f16,
    "scatter_add_f32": scatter_add,
}
