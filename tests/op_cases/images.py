"""Makers of cases for the ops of images: convolutions, pools, codes, resizing, pixels, layout.

References are float64, or whole numbers where an op promises exact results (``csrc/images.h``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from op_cases.parts import Array, Case, Maker, Out, floats, largest, pick

INF = float("inf")

# ---- tables of neighbours and packed kernels, as csrc/images.h states them ----


@dataclass
class Table:
    """Which input pixels lie below the taps of each output pixel."""

    pixels: Array  # (output pixels, taps): index of an input pixel, -1: padding
    step: int
    entries: Array  # as the op reads them, in pixels
    width: int
    """Output pixels of a row."""

    def offsets(self, stride: int) -> Array:
        """The table in elements, for input pixels ``stride`` elements apart."""
        return np.where(self.entries < 0, -1, self.entries * stride).astype(np.int32)


def table(h: int, w: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Table:
    """Rows of taps, every pixel with entries of its own."""
    reach = dilation * (kernel - 1) + 1
    oh, ow = ((n + 2 * pad - reach) // stride + 1 for n in (h, w))
    at = np.arange(kernel) * dilation - pad
    rows = (np.arange(oh) * stride)[:, None, None, None] + at[None, None, :, None]
    cols = (np.arange(ow) * stride)[None, :, None, None] + at[None, None, None, :]
    inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    pixels = np.where(inside, rows * w + cols, -1).reshape(oh * ow, kernel * kernel)
    return Table(pixels, kernel * kernel, pixels, ow)


def shared_row(h: int, w: int, kernel: int, stride: int, pad: int) -> Table:
    """The first row of outputs, taps in column order: neighbours share entries of the table."""
    full = table(h, w, kernel, stride, pad)
    ow = full.width
    columns = np.arange((ow - 1) * stride + kernel)[:, None] - pad
    rows = np.arange(kernel)[None] - pad
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    entries = np.where(inside, rows * w + columns, -1).reshape(-1)
    pixels = full.pixels[:ow].reshape(ow, kernel, kernel).transpose(0, 2, 1).reshape(ow, -1)
    return Table(pixels, stride * kernel, entries, ow)


def below(x: Array, zero: Array, t: Table) -> Array:
    """(output pixels, taps, channels): what a kernel sees."""
    patches: Array = np.concatenate([x, zero[None]])[t.pixels]
    return patches


def pack_f32(w: Array, bias: Array) -> Array:
    """(outputs, taps * inputs) weights and (outputs,) biases to records of 8 outputs."""
    lanes = w.reshape(len(w) // 8, 8, -1).transpose(0, 2, 1)
    return np.concatenate([bias.reshape(-1, 1, 8), lanes], 1).astype(np.float32).reshape(-1)


def raw(*parts: Array) -> Array:
    """Records from their parts, each (blocks, ...)."""
    rows = [np.ascontiguousarray(p).view(np.uint8).reshape(len(p), -1) for p in parts]
    return np.concatenate(rows, 1).reshape(-1)


def pack_u8(w: Array, bias: Array, scale: Array, xzero: int) -> Array:
    """(outputs, taps, inputs) int8 weights to records of 8 outputs."""
    n, taps, k = w.shape
    sums = w.astype(np.int64).sum((1, 2))
    codes = w.reshape(n // 8, 8, taps, k // 4, 4).transpose(0, 2, 3, 1, 4).astype(np.int8)
    heads = ((bias - xzero * sums).astype(np.int32), sums.astype(np.int32), scale)
    return raw(*(v.reshape(-1, 8) for v in heads), codes)


def pack_depthwise_u8(w: Array, bias: Array, scale: Array, xzero: int) -> Array:
    """(channels, taps) int8 weights to records of 8 channels, taps in pairs."""
    c, taps = w.shape
    pairs = np.zeros((c, taps + taps % 2), np.int16)
    pairs[:, :taps] = w
    codes = pairs.reshape(c // 8, 8, -1, 2).transpose(0, 2, 1, 3)
    heads = ((bias - xzero * w.astype(np.int64).sum(1)).astype(np.int32), scale)
    return raw(*(v.reshape(-1, 8) for v in heads), codes)


def to_codes(v: Array, zero: int, low: int = 0, high: int = 255) -> Array:
    """f32 in units of the output's scale to codes: clamp, nearest even."""
    v = np.where(v > low - zero, v, np.float32(low - zero))
    rounded = np.rint(np.minimum(v, np.float32(high - zero)))
    return (rounded + np.float32(zero)).astype(np.uint8)


# ---- convolutions ----


def conv_f32(rng: np.random.Generator, kind: str) -> Case:
    k, blocks = 8 * pick(kind, 1, 3, 4), pick(kind, 1, 3, 2)
    t = {"small": table(3, 3, 3, 1, 0), "odd": table(7, 5, 3, 2, 1, 2)}.get(
        kind, table(9, 9, 3, 1, 1)
    )
    low, high = (0.0, 6.0) if kind == "odd" else (-INF, INF)
    x, stride = floats(rng, kind, int(t.pixels.max()) + 1, k), 8 * blocks + 8
    w, bias = floats(rng, "small", 8 * blocks, 9 * k), floats(rng, "small", 8 * blocks)
    seen = below(x, np.zeros(k), t).reshape(-1, 9 * k).astype(np.float64)
    y = np.zeros((len(t.pixels), stride))
    y[:, : 8 * blocks] = np.clip(seen @ w.T.astype(np.float64) + bias, low, high)
    scale = largest(np.abs(seen) @ np.abs(w).T)
    zero = np.zeros(k, np.float32)
    args = [x, zero, t.offsets(k), t.step, 9, k, pack_f32(w, bias), blocks, len(y), low, high]
    return Case([*args, Out(y.shape), stride], [y], scale)


def pointwise_f32(rng: np.random.Generator, kind: str) -> Case:
    k, blocks, n = 8 * pick(kind, 1, 3, 12), pick(kind, 1, 3, 4), pick(kind, 1, 11, 49)
    low, high = (0.0, INF) if kind == "odd" else (-1e30, 1e30)
    x, w = floats(rng, kind, n, k + 8), floats(rng, "small", 8 * blocks, k)
    bias = floats(rng, "small", 8 * blocks)
    seen = x[:, :k].astype(np.float64)
    y = np.clip(seen @ w.T.astype(np.float64) + bias, low, high)
    scale = largest(np.abs(seen) @ np.abs(w).T)
    x = x.reshape(-1)[: (n - 1) * (k + 8) + k]  # the last pixel ends with its channels
    args = [x, k + 8, k, pack_f32(w, bias), blocks, n, low, high, Out(y.shape), 8 * blocks]
    return Case(args, [y], scale)


def deconv2x2_f32(rng: np.random.Generator, kind: str) -> Case:
    k, blocks, n = 8 * pick(kind, 1, 3, 8), pick(kind, 1, 3, 2), pick(kind, 1, 7, 20)
    x, w = floats(rng, kind, n, k), floats(rng, "small", 8 * blocks, 2, 2, k)
    bias, c = floats(rng, "small", 8 * blocks), 8 * blocks
    seen = x.astype(np.float64)
    y = np.einsum("pk,oijk->ipjo", seen, w.astype(np.float64)) + bias
    y = np.maximum(y, 0.0)
    scale = largest(np.abs(seen) @ np.abs(w.reshape(4 * c, k)).T)
    args = [
        x,
        k,
        k,
        pack_f32(w.reshape(c, -1), bias),
        blocks,
        n,
        0.0,
        INF,
        Out(y.shape),
        c,
        2 * n * c,
    ]
    return Case(args, [y], scale)


def conv_image_f32(rng: np.random.Generator, kind: str) -> Case:
    h, width, c = pick(kind, 3, 5, 6), pick(kind, 3, 9, 32), pick(kind, 1, 3, 3)
    kernel, stride, pad = pick(kind, 3, 5, 3), pick(kind, 1, 2, 2), pick(kind, 0, 2, 1)
    blocks, row = pick(kind, 1, 3, 4), pick(kind, 0, 2, 0)
    t = table(h, width, kernel, stride, pad)
    x, bias = floats(rng, kind, h * width, c), floats(rng, "small", 8 * blocks)
    w = floats(rng, "small", 8 * blocks, kernel * kernel * c)
    seen = below(x, np.zeros(c), t)[row * t.width :][: t.width].reshape(t.width, -1)
    seen = seen.astype(np.float64)
    y = np.clip(seen @ w.T.astype(np.float64) + bias, -3.0 if kind == "large" else -INF, INF)
    scale = largest(np.abs(seen) @ np.abs(w).T)
    shape = [h, width, c, width * c, kernel, kernel, stride, pad, pad]
    args = [x, *shape, pack_f32(w, bias), blocks, row, t.width]
    return Case(
        [*args, -3.0 if kind == "large" else -INF, INF, Out(y.shape), 8 * blocks], [y], scale
    )


def codes(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return np.where(rng.random(shape) < 0.9, 255, x).astype(np.uint8) if kind == "extreme" else x


def int8_weights(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    w = rng.integers(-127, 128, shape)
    if kind == "extreme":
        w[:] = 127
        w[::2] = -127
    return w


@dataclass
class Quantized:
    """The numbers of an integer convolution; extreme: the largest sums that are allowed."""

    bias: Array
    scale: Array
    xzero: int
    yzero: int
    low: int
    high: int

    def result(self, sums: Array) -> Array:
        v = (sums + self.bias).astype(np.float32) * self.scale
        return to_codes(v, self.yzero, self.low, self.high)


def quantized(rng: np.random.Generator, kind: str, n: int, spread: float) -> Quantized:
    """``spread``: about the largest sum."""
    bias = rng.integers(-5000, 5000, n)
    scale = rng.uniform(50, 300, n) / spread
    if kind == "extreme":
        bias = np.where(np.arange(n) % 2, 2**29, -(2**29))
        return Quantized(bias, np.float32(1e-7) * np.ones(n, np.float32), 0, 128, 0, 255)
    if kind == "weird":
        scale[0], scale[1] = np.nan, np.inf
    low, high = (17, 200) if kind == "odd" else (0, 255)
    return Quantized(bias, scale.astype(np.float32), 131, 17, low, high)


def conv_u8(rng: np.random.Generator, kind: str) -> Case:
    k, blocks = pick(kind, 4, 12, 32), pick(kind, 1, 3, 2)
    t = {"small": table(3, 3, 3, 1, 0), "odd": table(7, 5, 3, 2, 1, 2)}.get(
        kind, table(9, 9, 3, 1, 1)
    )
    if kind == "extreme":
        k, blocks, t = 24576, 1, table(5, 1, 1)
    taps, stride = t.pixels.shape[1], 8 * blocks + 8
    q = quantized(rng, kind, 8 * blocks, 2e4 * np.sqrt(taps * k))
    x, w = (
        codes(rng, kind, int(t.pixels.max()) + 1, k),
        int8_weights(rng, kind, 8 * blocks, taps, k),
    )
    zero = np.full(k, q.xzero, np.uint8)
    seen = below(x, zero, t).reshape(len(t.pixels), -1).astype(np.int64) - q.xzero
    y = np.zeros((len(t.pixels), stride))
    y[:, : 8 * blocks] = q.result(seen @ w.reshape(8 * blocks, -1).T)
    packed = pack_u8(w, q.bias, q.scale, q.xzero)
    args = [x, zero, t.offsets(k), t.step, taps, k, packed, blocks, len(y), q.yzero, q.low, q.high]
    return Case([*args, Out(y.shape, np.uint8), stride], [y], exact=True)


def pointwise_u8(rng: np.random.Generator, kind: str) -> Case:
    k, blocks, n = pick(kind, 4, 12, 96), pick(kind, 1, 3, 4), pick(kind, 1, 11, 49)
    q = quantized(rng, kind, 8 * blocks, 2e4 * np.sqrt(k))
    x, w = codes(rng, kind, n, k), int8_weights(rng, kind, 8 * blocks, 1, k)
    y = q.result((x.astype(np.int64) - q.xzero) @ w[:, 0].T)
    packed = pack_u8(w, q.bias, q.scale, q.xzero)
    args = [x, k, k, packed, blocks, n, q.yzero, q.low, q.high, Out(y.shape, np.uint8), 8 * blocks]
    return Case(args, [y], exact=True)


def depthwise_table(kind: str) -> Table:
    if kind == "small":
        return table(3, 3, 3)
    if kind == "odd":
        return table(7, 6, 5, 2, 2)
    return shared_row(4, 11, 3, 2, 1) if kind == "large" else table(6, 5, 3, 1, 1)


def depthwise_f32(rng: np.random.Generator, kind: str) -> Case:
    t, c = depthwise_table(kind), 8 * pick(kind, 1, 3, 9)
    taps, n = t.pixels.shape[1], len(t.pixels)
    low, high = (0.0, 6.0) if kind == "odd" else (-INF, INF)
    x, w = floats(rng, kind, int(t.pixels.max()) + 1, c), floats(rng, "small", c, taps)
    bias, zero = floats(rng, "small", c), np.zeros(c, np.float32)
    seen = below(x, zero, t).astype(np.float64)
    y = np.clip(np.einsum("ptc,ct->pc", seen, w.astype(np.float64)) + bias, low, high)
    scale = largest(np.einsum("ptc,ct->pc", np.abs(seen), np.abs(w.astype(np.float64))))
    args = [x, zero, t.offsets(c), t.step, taps, c, pack_f32(w, bias), n, low, high, Out((n, c)), c]
    return Case(args, [y], scale)


def depthwise_u8(rng: np.random.Generator, kind: str) -> Case:
    t, c = depthwise_table(kind), 8 * pick(kind, 1, 3, 5)
    taps, n = t.pixels.shape[1], len(t.pixels)
    q = quantized(rng, kind, c, 2e4 * np.sqrt(taps))
    x, w = codes(rng, kind, int(t.pixels.max()) + 1, c), int8_weights(rng, kind, c, taps)
    zero = np.full(c, q.xzero, np.uint8)
    seen = below(x, zero, t).astype(np.int64) - q.xzero
    y = q.result(np.einsum("ptc,ct->pc", seen, w))
    packed = pack_depthwise_u8(w, q.bias, q.scale, q.xzero)
    args = [x, zero, t.offsets(c), t.step, taps, c, packed, n, q.yzero, q.low, q.high]
    return Case([*args, Out((n, c), np.uint8), c], [y], exact=True)


# ---- pools ----


def pool_table(kind: str) -> Table:
    return {"small": table(2, 2, 2), "odd": table(5, 7, 3, 2, 1)}.get(kind, table(8, 8, 2, 2))


def maxpool(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        t, c = pool_table(kind), 8 * pick(kind, 1, 3, 6)
        n, size = len(t.pixels), int(t.pixels.max()) + 1
        least = 0 if dtype is np.uint8 else -np.inf
        x = codes(rng, kind, size, c) if dtype is np.uint8 else floats(rng, kind, size, c)
        y = below(x.astype(np.float64), np.full(c, least), t).max(1)
        args = [x, t.offsets(c), t.step, t.pixels.shape[1], c, n, Out((n, c), dtype), c]
        return Case(args, [y], exact=True)

    return make


def avgpool_f32(rng: np.random.Generator, kind: str) -> Case:
    t, c, padded = pool_table(kind), 8 * pick(kind, 1, 3, 6), int(kind == "large")
    if kind == "large":
        t = table(6, 6, 3, 2, 1)
    n, taps = t.pixels.shape
    x = floats(rng, kind, int(t.pixels.max()) + 1, c)
    count = np.full(n, taps) if padded else (t.pixels >= 0).sum(1)
    y = below(x.astype(np.float64), np.zeros(c), t).sum(1) / count[:, None]
    return Case(
        [x, t.offsets(c), t.step, taps, c, n, padded, Out((n, c)), c], [y], largest(np.abs(x))
    )


def mean_codes(sums: Array, n: Array, count: Array, xzero: int, scale: float, yzero: int) -> Array:
    v = (sums - n * xzero).astype(np.float32) * (np.float32(scale) / count.astype(np.float32))
    return to_codes(v, yzero)


def avgpool_u8(rng: np.random.Generator, kind: str) -> Case:
    t, c, padded = pool_table(kind), 8 * pick(kind, 1, 3, 6), int(kind == "large")
    if kind == "large":
        t = table(6, 6, 3, 2, 1)
    n, taps = t.pixels.shape
    x, scale = codes(rng, kind, int(t.pixels.max()) + 1, c), float(np.float32(0.87))
    inside = (t.pixels >= 0).sum(1)[:, None]
    count = np.full((n, 1), taps) if padded else inside
    sums = below(x.astype(np.int64), np.zeros(c, np.int64), t).sum(1)
    y = mean_codes(sums, inside, count, 13, scale, 21)
    args = [x, t.offsets(c), t.step, taps, c, n, padded, 13, scale, 21, Out((n, c), np.uint8), c]
    return Case(args, [y], exact=True)


def global_f32(how: str) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        n, c = pick(kind, 1, 7, 196), 8 * pick(kind, 1, 3, 6)
        x = floats(rng, kind, n, c)
        y = x.astype(np.float64).mean(0) if how == "mean" else x.max(0)
        return Case([x, c, n, c, Out(c)], [y], largest(np.abs(x)), exact=how == "max")

    return make


def global_avgpool_u8(rng: np.random.Generator, kind: str) -> Case:
    n, c, scale = pick(kind, 1, 7, 196), 8 * pick(kind, 1, 3, 6), float(np.float32(1.21))
    if kind == "extreme":
        n, c = 65536, 8
    x = codes(rng, kind, n, c)
    if kind == "extreme":
        x[:] = 255
    y = mean_codes(x.astype(np.int64).sum(0), np.array(n), np.array(n), 7, scale, 9)
    return Case([x, c, n, c, 7, scale, 9, Out(c, np.uint8)], [y], exact=True)


# ---- codes and features ----


def add_u8(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 13, 1000)
    a, b = codes(rng, kind, n), codes(rng, kind, n)
    sa, sb = np.float32(0.61), np.float32(np.nan if kind == "weird" else 1.37)
    v = (a.astype(np.float32) - 11) * sa + (b.astype(np.float32) - 200) * sb
    args = [a, 11, float(sa), b, 200, float(sb), n, 40, 40, 250, Out(n, np.uint8)]
    return Case(args, [to_codes(v, 40, 40, 250)], exact=True)


def mul_u8(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 13, 1000)
    a, b = codes(rng, kind, n), codes(rng, kind, n)
    s = np.float32(np.inf if kind == "weird" else 0.013)
    v = (a.astype(np.float32) - 11) * (b.astype(np.float32) - 128) * s
    args = [a, 11, b, 128, float(s), n, 90, Out(n, np.uint8)]
    return Case(args, [to_codes(v, 90)], exact=True)


def lut_u8(rng: np.random.Generator, kind: str) -> Case:
    n, lut = pick(kind, 1, 13, 1000), codes(rng, "small", 256)
    x = codes(rng, kind, n)
    return Case([x, lut, n, Out(n, np.uint8)], [lut[x]], exact=True)


def map_shape(kind: str) -> tuple[int, int, int]:
    """(pixels, channels, stride)."""
    c = 8 * pick(kind, 1, 3, 6)
    return pick(kind, 1, 5, 49), c, c + pick(kind, 0, 8, 0)


def strided(x: Array, channels: int) -> Array:
    """A map without what lies behind the channels of its last pixel."""
    flat: Array = x.reshape(-1)[: (len(x) - 1) * x.shape[1] + channels]
    return flat


def scale_channels_u8(rng: np.random.Generator, kind: str) -> Case:
    n, c, stride = map_shape(kind)
    x, by, s = codes(rng, kind, n, stride), codes(rng, kind, c), np.float32(0.011)
    v = (x[:, :c].astype(np.float32) - 128) * (by.astype(np.float32) - 3) * s
    args = [strided(x, c), stride, n, c, 128, by, 3, float(s), 60, Out((n, c), np.uint8), c]
    return Case(args, [to_codes(v, 60)], exact=True)


def channels_f32(
    of: Callable[[Array, Array, Array], Array], arrays: int, clamped: bool = False
) -> Maker:
    """An op on the channels of a map with one or two numbers a channel."""

    def make(rng: np.random.Generator, kind: str) -> Case:
        n, c, stride = map_shape(kind)
        x = floats(rng, kind, n, stride)
        by = [floats(rng, "small", c) for _ in range(2)]
        y = of(x[:, :c], by[0], by[1])
        bounds = [-0.5, 6.0] if clamped else []
        if clamped:
            y = np.clip(y, np.float32(-0.5), np.float32(6.0))
        args = [strided(x, c), stride, n, c, *by[:arrays], *bounds, Out((n, c)), c]
        return Case(args, [y], exact=True)

    return make


def add_clamp_f32(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 13, 1000)
    a, b = floats(rng, kind, n), floats(rng, kind, n)
    return Case([a, b, n, 0.0, 6.0, Out(n)], [np.clip(a + b, 0, np.float32(6))], exact=True)


# ---- resizing ----


@dataclass
class Resizing:
    """A part of the output of a picture whose rows are longer than its pixels."""

    h: int
    w: int
    c: int
    oh: int
    ow: int
    first: int
    rows: int

    def case(self, x: Array, y: Array, scratch: list[Out] | None = None, extra: int = 0) -> Case:
        xrow, yrow = x.shape[1], y.shape[1] * self.c + extra
        out = np.zeros((self.rows, yrow))
        out[:, : yrow - extra] = y.reshape(self.rows, -1)
        given = [self.h, self.w, self.c, xrow, self.oh, self.ow, self.first, self.rows]
        # The last row ends with its pixels, as that of a cut out part does.
        flat = x.reshape(-1)[: (self.h - 1) * xrow + self.w * self.c]
        return Case([flat, *given, *(scratch or []), Out(out.shape, x.dtype), yrow], [out])


def resizing(kind: str, shrink: bool = False) -> Resizing:
    c = pick(kind, 1, 3, 3)
    if shrink:
        return {
            "small": Resizing(2, 2, c, 1, 1, 0, 1),
            "odd": Resizing(7, 13, c, 3, 5, 1, 2),
            "weird": Resizing(5, 9, c, 5, 9, 0, 5),
        }.get(kind, Resizing(31, 40, c, 8, 10, 0, 8))
    return {
        "small": Resizing(1, 1, c, 2, 3, 0, 2),
        "odd": Resizing(7, 5, c, 4, 11, 1, 3),
        "weird": Resizing(5, 9, c, 1, 2, 0, 1),
    }.get(kind, Resizing(9, 12, c, 20, 33, 0, 20))


def picture(rng: np.random.Generator, kind: str, h: int, row: int) -> Array:
    return codes(rng, kind, h, row + (5 if kind == "odd" else 0))


def linear(size: int, out: int) -> tuple[Array, Array, Array]:
    """Left and right neighbour of each output, and the share of the right one."""
    at = np.maximum((np.arange(out) + 0.5) * (size / out) - 0.5, 0)
    left = np.minimum(at.astype(int), size - 1)
    part = np.where(at < size - 1, at - left, 0.0)
    return left, np.minimum(left + 1, size - 1), part


def fixed(part: Array) -> Array:
    return np.floor(part * 2048 + 0.5).astype(np.int64)


def resize_bilinear_u8(rng: np.random.Generator, kind: str) -> Case:
    r = resizing(kind)
    x = picture(rng, kind, r.h, r.w * r.c)
    image = x[:, : r.w * r.c].reshape(r.h, r.w, r.c).astype(np.int64)
    (top, low, fy), (left, right, fx) = linear(r.h, r.oh), linear(r.w, r.ow)
    u, v = fixed(fx)[None, :, None], fixed(fy)[:, None, None]
    rows = image[top] * (2048 - v) + image[low] * v
    y = (rows[:, left] * (2048 - u) + rows[:, right] * u + (1 << 21)) >> 22
    # The fixed point itself is within half a code (and what 11 bits lose) of the real result.
    real = image[top] * (1 - fy[:, None, None]) + image[low] * fy[:, None, None]
    real = real[:, left] * (1 - fx[None, :, None]) + real[:, right] * fx[None, :, None]
    assert np.abs(y - real).max() < 0.63
    scratch = [Out(r.w * r.c + 2 * r.ow, np.int32, scratch=True)]
    case = r.case(x, y[r.first : r.first + r.rows], scratch, extra=4)
    case.exact = True
    return case


def resize_bilinear_f32(rng: np.random.Generator, kind: str) -> Case:
    r = resizing(kind)
    r.c = pick(kind, 1, 11, 16)
    x = floats(rng, kind, r.h, r.w * r.c)
    image = x.reshape(r.h, r.w, r.c).astype(np.float64)
    (top, low, fy), (left, right, fx) = linear(r.h, r.oh), linear(r.w, r.ow)
    y = image[top] * (1 - fy[:, None, None]) + image[low] * fy[:, None, None]
    y = y[:, left] * (1 - fx[None, :, None]) + y[:, right] * fx[None, :, None]
    return r.case(x, y[r.first : r.first + r.rows])


def resize_nearest(rng: np.random.Generator, kind: str) -> Case:
    r = resizing(kind)
    r.c = {"small": 1, "odd": 3, "large": 32, "extreme": 4}.get(kind, 7)
    x = picture(rng, kind, r.h, r.w * r.c)
    image = x[:, : r.w * r.c].reshape(r.h, r.w, r.c)
    y = image[np.arange(r.oh) * r.h // r.oh][:, np.arange(r.ow) * r.w // r.ow]
    case = r.case(x, y[r.first : r.first + r.rows], extra=4)
    case.exact = True
    return case


def coverage(size: int, out: int) -> Array:
    """(out, size): how much of each source pixel an output covers, in 1 / out of a pixel."""
    i, j = np.arange(out)[:, None], np.arange(size)[None]
    ends = np.minimum((i + 1) * size, (j + 1) * out), np.maximum(i * size, j * out)
    shares: Array = np.maximum(ends[0] - ends[1], 0)
    return shares


def resize_area_u8(rng: np.random.Generator, kind: str) -> Case:
    r = resizing(kind, shrink=True)
    x = picture(rng, kind, r.h, r.w * r.c)
    if kind == "extreme":
        x[:] = 255
    image = x[:, : r.w * r.c].reshape(r.h, r.w, r.c).astype(np.int64)
    sums = np.einsum("oh,hwc,pw->opc", coverage(r.h, r.oh), image, coverage(r.w, r.ow))
    y = (2 * sums + r.h * r.w) // (2 * r.h * r.w)
    scratch = [Out(r.w * r.c, scratch=True)]
    case = r.case(x, y[r.first : r.first + r.rows], scratch, extra=4)
    case.exact = True
    return case


def warp_u8(rng: np.random.Generator, kind: str) -> Case:
    h, w, c = pick(kind, 1, 7, 20), pick(kind, 1, 9, 30), pick(kind, 1, 3, 3)
    ow, first, rows = pick(kind, 2, 11, 25), pick(kind, 0, 2, 0), pick(kind, 2, 3, 9)
    x = picture(rng, kind, h, w * c)
    m = np.array([0.9, -0.3, 1.5, 0.25, 1.1, -2.0, 0.003, -0.002, 1.0])
    if kind == "extreme":  # divides by zero on a line through the output, and leaves the image
        m[6:] = [1.0, 0.0, -3.0]
        m[:6] *= 1e300
    if kind == "weird":
        m[:] = np.resize([np.nan, np.inf, 1e-320], 9)
    j, i = np.meshgrid(np.arange(first, first + rows), np.arange(ow), indexing="ij")
    d = m[6] * i + m[7] * j + m[8]
    at = ((m[3] * i + m[4] * j + m[5]) / d, h), ((m[0] * i + m[1] * j + m[2]) / d, w)
    near = []
    for unbound, size in at:
        position = np.where(unbound > 0, unbound, 0.0)
        inside = position < size - 1
        left = np.where(inside, position, size - 1).astype(int)
        part = fixed(np.where(inside, position - left, 0.0))[:, :, None]
        near.append((left, np.minimum(left + 1, size - 1), part))
    (top, low, v), (left, right, u) = near
    image = x[:, : w * c].reshape(h, w, c).astype(np.int64)
    a = image[top, left] * (2048 - u) + image[top, right] * u
    b = image[low, left] * (2048 - u) + image[low, right] * u
    y = (a * (2048 - v) + b * v + (1 << 21)) >> 22
    flat = x.reshape(-1)[: (h - 1) * x.shape[1] + w * c]
    args = [flat, h, w, c, x.shape[1], m, ow, first, rows, Out((rows, ow * c), np.uint8), ow * c]
    return Case(args, [y.reshape(rows, -1)], exact=True)


# ---- pixels ----


def per_channel(rng: np.random.Generator, kind: str, c: int) -> tuple[Array, Array]:
    scale, shift = floats(rng, "small", c) / 50, floats(rng, "small", c)
    if kind == "weird":
        scale[0], shift[-1] = np.nan, np.inf
    return scale, shift


def image_shape(kind: str) -> tuple[int, int]:
    """(pixels, channels)."""
    return pick(kind, 1, 13, 200), {"small": 1, "odd": 3, "large": 3, "extreme": 4}.get(kind, 3)


def normalize_hwc(rng: np.random.Generator, kind: str) -> Case:
    n, c = image_shape(kind)
    x, (scale, shift) = codes(rng, kind, n, c), per_channel(rng, kind, c)
    y = x.astype(np.float32) * scale + shift
    return Case([x, n, c, scale, shift, Out((n, c))], [y], exact=True)


def normalize_chw(rng: np.random.Generator, kind: str) -> Case:
    n, c = image_shape(kind)
    x, (scale, shift) = codes(rng, kind, n, c), per_channel(rng, kind, c)
    y = np.zeros((c, n + 3), np.float32)
    y[:, :n] = (x.astype(np.float32) * scale + shift).T
    return Case([x, n, c, scale, shift, Out((c, n + 3)), n + 3], [y], exact=True)


def quantize_image(rng: np.random.Generator, kind: str) -> Case:
    n, c = image_shape(kind)
    wide = {"small": 1, "odd": 4, "large": 8, "extreme": 4}.get(kind, 3)
    x, (scale, shift) = codes(rng, kind, n, c), per_channel(rng, kind, c)
    scale, shift = scale * 80, shift * 60 + 100
    y = np.full((n, wide), 77)
    y[:, :c] = to_codes(x.astype(np.float32) * scale + shift, 0)
    args = [x, n, c, scale, shift, Out((n, wide), np.uint8), wide, 77]
    return Case(args, [y], exact=True)


def denormalize_u8(rng: np.random.Generator, kind: str) -> Case:
    n, c = image_shape(kind)
    stride = c + pick(kind, 0, 5, 0)
    x, (scale, shift) = floats(rng, kind, n, stride), per_channel(rng, "small", c)
    scale, shift = scale * 3000, shift * 60 + 100
    y = to_codes(x[:, :c] * scale + shift, 0)
    args = [strided(x, c), stride, n, c, scale, shift, Out((n, c), np.uint8)]
    return Case(args, [y], exact=True)


def swap_rb_u8(rng: np.random.Generator, kind: str) -> Case:
    n, c = pick(kind, 1, 13, 200), 4 if kind == "extreme" else 3
    x = codes(rng, "small", n, c)
    y = x.copy()
    y[:, 0], y[:, 2] = x[:, 2], x[:, 0]
    return Case([x, n, c, Out((n, c), np.uint8)], [y], exact=True)


def gray_u8(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 13, 200)
    x = codes(rng, kind, n, 3)
    if kind == "large":  # where the sum is a half of a code exactly
        r, g = (v.reshape(-1) for v in np.meshgrid(np.arange(256), np.arange(256)))
        b = (32768 - 19595 * r - 38470 * g) * pow(7471, -1, 65536) % 65536
        halves = np.stack([r, g, b], 1)[b < 256].astype(np.uint8)
        assert len(halves) > 8
        x[: len(halves)] = halves[:200]
        x = np.concatenate([halves, x])
        n = len(x)
    y = (x.astype(np.int64) @ [19595, 38470, 7471] + 32768) >> 16
    return Case([x, n, Out(n, np.uint8)], [y], exact=True)


def bt601(luma: Array, u: Array, v: Array) -> Array:
    c, d, e = 298 * (luma.astype(int) - 16), u.astype(int) - 128, v.astype(int) - 128
    rgb = np.stack([c + 409 * e, c - 100 * d - 208 * e, c + 516 * d], 1)
    out: Array = np.clip((rgb + 128) >> 8, 0, 255)
    return out


def camera(rng: np.random.Generator, kind: str) -> tuple[int, Array, Array, Array]:
    """(pixels, luma, u, v): chroma of two pixels each; every byte, and both ends of the range."""
    n = pick(kind, 1, 13, 1024)
    luma, u, v = (codes(rng, "small", m) for m in (n, (n + 1) // 2, (n + 1) // 2))
    if kind == "extreme":
        luma, u, v = ((a > 127).astype(np.uint8) * np.uint8(255) for a in (luma, u, v))
    return n, luma, u, v


def nv12_rgb(rng: np.random.Generator, kind: str) -> Case:
    n, luma, u, v = camera(rng, kind)
    order = int(kind == "odd")
    chroma = np.stack([v, u] if order else [u, v], 1)
    y = bt601(luma, np.repeat(u, 2)[:n], np.repeat(v, 2)[:n])
    return Case([luma, chroma, n, order, Out((n, 3), np.uint8)], [y], exact=True)


def yuv420_rgb(rng: np.random.Generator, kind: str) -> Case:
    n, luma, u, v = camera(rng, kind)
    y = bt601(luma, np.repeat(u, 2)[:n], np.repeat(v, 2)[:n])
    return Case([luma, u, v, n, Out((n, 3), np.uint8)], [y], exact=True)


def yuyv_rgb(rng: np.random.Generator, kind: str) -> Case:
    n, luma, u, v = camera(rng, kind)
    pairs = np.resize(luma, 2 * len(u)).reshape(-1, 2)
    x = np.stack([pairs[:, 0], u, pairs[:, 1], v], 1)
    y = bt601(pairs.reshape(-1)[:n], np.repeat(u, 2)[:n], np.repeat(v, 2)[:n])
    return Case([x, n, Out((n, 3), np.uint8)], [y], exact=True)


# ---- layout, detection ----


def pad(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        n, rows = pick(kind, 1, 13, 100), pick(kind, 1, 3, 9)
        left, right = pick(kind, 0, 5, 17), pick(kind, 1, 0, 9)
        fill, byte = 114 if dtype is np.uint8 else -2.5, dtype is np.uint8
        x = codes(rng, kind, rows, n + 2) if byte else floats(rng, kind, rows, n + 2)
        y = np.zeros((rows, left + n + right + 3), dtype)
        y[:, : left + n + right] = fill
        y[:, left : left + n] = x[:, :n]
        args = [strided(x, n), n + 2, n, rows, left, right, fill, Out(y.shape, dtype), y.shape[1]]
        return Case(args, [y], exact=True)

    return make


def copy_rows(rng: np.random.Generator, kind: str) -> Case:
    n, rows = pick(kind, 1, 13, 32), pick(kind, 1, 3, 50)
    x = codes(rng, "small", rows, n + 7)
    y = np.zeros((rows, n + 4), np.uint8)
    y[:, :n] = x[:, :n]
    return Case([strided(x, n), n + 7, n, rows, Out(y.shape, np.uint8), n + 4], [y], exact=True)


def transpose(dtype: type) -> Maker:
    def make(rng: np.random.Generator, kind: str) -> Case:
        rows, cols = pick(kind, 1, 13, 72), pick(kind, 3, 9, 130)
        xstride, ystride = cols + pick(kind, 0, 3, 0), rows + pick(kind, 0, 1, 2)
        x = floats(rng, kind, rows, xstride)
        if dtype is not np.float32:
            x = rng.integers(0, np.iinfo(dtype).max + 1, x.shape).astype(dtype)
        y = np.zeros((cols, ystride), dtype)
        y[:, :rows] = x[:, :cols].T
        args = [strided(x, cols), rows, cols, xstride, Out(y.shape, dtype), ystride]
        return Case(args, [y], exact=True)

    return make


def threshold_u8(rng: np.random.Generator, kind: str) -> Case:
    n = pick(kind, 1, 13, 1000)
    x = floats(rng, kind, n)
    limit = float(x[n // 2])  # equal is not above
    return Case([x, n, limit, Out(n, np.uint8)], [np.where(x > limit, 255, 0)], exact=True)


def iou_f32(rng: np.random.Generator, kind: str) -> Case:
    n, stride = pick(kind, 1, 13, 1000), pick(kind, 1, 16, 1003)
    boxes = np.abs(floats(rng, kind, 4, stride))
    boxes[2:] += boxes[:2]
    if kind == "odd":
        boxes[:, 3] = boxes[:, 0]
        boxes[2, 4] = boxes[0, 4]  # no width
        boxes[2, 5] = boxes[0, 5] - 1  # less than none
    box = boxes[:, 0].copy() if n > 1 else np.array([1, 1, 1, 1], np.float32)
    w = np.maximum(np.minimum(boxes[2], box[2]) - np.maximum(boxes[0], box[0]), 0)
    h = np.maximum(np.minimum(boxes[3], box[3]) - np.maximum(boxes[1], box[1]), 0)
    sides = np.maximum(boxes[2:] - boxes[:2], 0)
    own = np.maximum(box[2:] - box[:2], 0)
    union = own[0] * own[1] + sides[0] * sides[1] - w * h
    with np.errstate(all="ignore"):
        y = np.where(union > 0, w * h / union, np.float32(0))[:n]
    given = boxes.reshape(-1)[: 3 * stride + n]
    return Case([box, given, n, stride, Out(n)], [y], exact=True)


MAKERS: dict[str, Maker] = {
    "conv_f32": conv_f32,
    "pointwise_f32": pointwise_f32,
    "deconv2x2_f32": deconv2x2_f32,
    "conv_image_f32": conv_image_f32,
    "conv_u8": conv_u8,
    "pointwise_u8": pointwise_u8,
    "depthwise_f32": depthwise_f32,
    "depthwise_u8": depthwise_u8,
    "maxpool_f32": maxpool(np.float32),
    "maxpool_u8": maxpool(np.uint8),
    "avgpool_f32": avgpool_f32,
    "avgpool_u8": avgpool_u8,
    "global_avgpool_f32": global_f32("mean"),
    "global_avgpool_u8": global_avgpool_u8,
    "global_maxpool_f32": global_f32("max"),
    "add_u8": add_u8,
    "mul_u8": mul_u8,
    "lut_u8": lut_u8,
    "scale_channels_u8": scale_channels_u8,
    "scale_channels_f32": channels_f32(lambda x, a, _: x * a, 1),
    "affine_channels_f32": channels_f32(lambda x, a, b: x * a + b, 2, clamped=True),
    "prelu_f32": channels_f32(lambda x, a, _: np.where(x > 0, x, x * a), 1),
    "add_clamp_f32": add_clamp_f32,
    "resize_bilinear_u8": resize_bilinear_u8,
    "resize_bilinear_f32": resize_bilinear_f32,
    "resize_nearest": resize_nearest,
    "resize_area_u8": resize_area_u8,
    "warp_u8": warp_u8,
    "normalize_hwc": normalize_hwc,
    "normalize_chw": normalize_chw,
    "quantize_image": quantize_image,
    "denormalize_u8": denormalize_u8,
    "swap_rb_u8": swap_rb_u8,
    "gray_u8": gray_u8,
    "nv12_rgb": nv12_rgb,
    "yuv420_rgb": yuv420_rgb,
    "yuyv_rgb": yuyv_rgb,
    "pad_u8": pad(np.uint8),
    "pad_f32": pad(np.float32),
    "copy_rows": copy_rows,
    "transpose_f32": transpose(np.float32),
    "transpose_u16": transpose(np.uint16),
    "transpose_u8": transpose(np.uint8),
    "threshold_u8": threshold_u8,
    "iou_f32": iou_f32,
}
