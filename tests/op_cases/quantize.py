"""Makers of cases for the quantizers of weights.

Their rules are written here in numpy's float32, operation by operation, so that records must agree
bit for bit; ``tests/plugins/accelerator/test_quantweights.py`` compares with the ``gguf`` package,
and says how good Q4_1 is.
"""

from typing import Any

import numpy as np

from op_cases.parts import Array, Case, Maker, Out, floats, pick

F32 = np.float32


def nibbles(codes: Array) -> Array:
    """(blocks, 32) codes to (blocks, 16) bytes."""
    return codes[:, :16] | codes[:, 16:] << 4


def half(column: Array) -> Array:
    """(blocks, 1) float32 to (blocks, 2) bytes."""
    return column.astype(np.float16).view(np.uint8)


def inverse(d: Array) -> Array:
    """1 / d as float32; 0 where d is 0."""
    return np.where(d == 0, F32(0), F32(1) / np.where(d == 0, F32(1), d))


def q8_0(blocks: Array) -> Array:
    d = np.abs(blocks).max(1, keepdims=True) / F32(127)
    scaled = blocks * inverse(d)
    size = np.abs(scaled)
    whole = np.floor(size)
    codes = np.sign(scaled) * (whole + np.floor(2 * (size - whole)))
    return np.concatenate([half(d), codes.astype(np.int8).view(np.uint8)], 1)


def q4_0(blocks: Array) -> Array:
    at = np.abs(blocks).argmax(1)[:, None]
    d = np.take_along_axis(blocks, at, 1) / F32(-8)
    codes = np.trunc(blocks * inverse(d) + F32(8.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([half(d), nibbles(codes)], 1)


def weights(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    """Blocks of 32 of several sizes, among them one of zeros and one of equal values."""
    x = floats(rng, kind, *shape)
    blocks = x.reshape(-1, 32)
    blocks[1::3] *= F32(0.01)
    if len(blocks) > 2 and kind != "weird":
        blocks[2] = 0
        blocks[-1] = F32(0.25)
    return x


def plain(rule: Any, nbytes: int) -> Maker:
    """A maker for one of the usual rules; ``nbytes``: of a record."""

    def make(rng: np.random.Generator, kind: str) -> Case:
        blocks = pick(kind, 1, 7, 300)
        x = weights(rng, kind, 32 * blocks)
        expected = [] if kind == "weird" else [rule(x.reshape(-1, 32)).reshape(-1)]
        return Case([x, 32 * blocks, Out(nbytes * blocks, np.uint8)], expected, exact=True)

    return make


def summed(terms: Array) -> Array:
    """(blocks, 4, 8) to (blocks, 1): the four vectors one after the other, then the lanes."""
    total = F32(0) + terms[:, 0]
    for i in range(1, 4):
        total = total + terms[:, i]
    four = total[:, :4] + total[:, 4:]
    return ((four[:, 0] + four[:, 2]) + (four[:, 1] + four[:, 3]))[:, None]


def q4_1(blocks: Array, importance: Array) -> Array:
    """The search, in float32 and in the order of the C code; ``importance`` has a row a block."""
    n = len(blocks)
    most = importance.max(1, keepdims=True)
    p = np.where(most > F32(1e-30), importance / np.where(most > 0, most, F32(1)), F32(1))
    p = p.reshape(n, 4, 8)
    low = blocks.min(1, keepdims=True)
    reach = blocks.max(1, keepdims=True) - low
    v = (blocks - low).reshape(n, 4, 8)
    best = np.full((n, 1), np.inf, F32)
    found = np.zeros((n, 20), np.uint8)

    def codes_of(m: Array, d: Array) -> Array:
        scaled = (v - m[:, :, None]) * inverse(d)[:, :, None]
        return np.clip(np.rint(scaled), F32(0), F32(15))

    def attempt(d: Array, m: Array, wanted: Array) -> None:
        dh, mh = d.astype(np.float16), (m + low).astype(np.float16)
        scale, least = dh.astype(F32), mh.astype(F32) - low
        codes = codes_of(least, scale)
        e = (scale[:, :, None] * codes + least[:, :, None]) - v
        error = summed(p * (e * e))
        better = (wanted & (error < best))[:, 0]
        packed = nibbles(codes.reshape(n, 32).astype(np.uint8))
        record = np.concatenate([dh.view(np.uint8), mh.view(np.uint8), packed], 1)
        found[better], best[better] = record[better], error[better]

    attempt(reach / F32(15), np.zeros_like(low), np.full((n, 1), True))
    total, weighted = summed(p), summed(p * v)
    for i in range(9):
        below, above = F32(0.04) * F32(i % 3), F32(0.04) * F32(i // 3)
        m, d = reach * below, reach * (F32(1) - below - above) / F32(15)
        codes = codes_of(m, d)
        pc = p * codes
        s, ss, sv = summed(pc), summed(pc * codes), summed(pc * v)
        spread = total * ss - s * s
        fit = spread > F32(1e-6) * total * ss
        scale = (total * sv - weighted * s) / np.where(fit, spread, F32(1))
        attempt(scale, (weighted - scale * s) / total, fit & (scale > 0))
    return found


def searched(rng: np.random.Generator, kind: str) -> Case:
    rows, k = pick(kind, 1, 3, 40), pick(kind, 32, 96, 576)
    x = weights(rng, kind, rows, k)
    importance = np.abs(floats(rng, kind, k))
    if kind == "small":
        importance[:] = 0
    expected = []
    if kind != "weird":
        repeated = np.tile(importance.reshape(-1, 32), (rows, 1))
        expected = [q4_1(x.reshape(-1, 32), repeated).reshape(-1)]
    out = Out(rows * k // 32 * 20, np.uint8)
    return Case([x, importance, rows, k, out], expected, exact=True)


MAKERS: dict[str, Maker] = {
    "weights_q8_0": plain(q8_0, 34),
    "weights_q4_0": plain(q4_0, 18),
    "weights_q4_1": searched,
}
