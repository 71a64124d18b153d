"""Tables that the ops of sound take: an op has no state, so whoever calls it makes these once.

Everything is computed in float64 and given as float32. Lengths of transforms have the prime factors
2, 3 and 5 only (Whisper's 400, Kaldi's 512, 480 and their like).
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "dct_table",
    "fft_scratch",
    "fft_table",
    "mel_filters",
    "resample_table",
    "rfft_scratch",
    "rfft_table",
    "sparse_rows",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Scale = Literal["slaney", "htk", "kaldi"]


def _smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n > 1 and n % prime == 0:
            n //= prime
    return n == 1


def _radix(n: int) -> int:
    """The order of stages, as ``fft_radix`` in ``csrc/ops/fft.c``."""
    return next(r for r in (4, 2, 3, 5) if n % r == 0)


def _unit(fractions: Any) -> Floats:
    """(cos, sin) of -2 pi times the fractions, along a new last axis."""
    angle = -2 * np.pi * np.asarray(fractions, np.float64)
    return np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)


def fft_table(n: int) -> Floats:
    """The factors of ``fft_f32`` for ``n`` complex numbers.

    Raises:
        ValueError: ``n`` is not positive or has a prime factor above 5.
    """
    if n < 1 or not _smooth(n):
        raise ValueError(
            f"a transform of length {n}; allowed: products of 2, 3 and 5; "
            "fill up with zeros to such a length"
        )
    lanes = n % 8 == 0
    m = n // 8 if lanes else n
    parts = []
    left = m
    while left > 1:
        r = _radix(left)
        parts.append(_unit(np.outer(np.arange(left // r), np.arange(1, r)) / left).reshape(-1))
        left //= r
    if lanes:
        joined = _unit(np.outer(np.arange(m), np.arange(8)) / n)
        parts += [joined[..., 0].reshape(-1), joined[..., 1].reshape(-1)]
    return np.concatenate([*parts, np.empty(0, np.float32)])


def rfft_table(n: int) -> Floats:
    """The factors of ``rfft_f32``, ``irfft_f32`` and ``stft_power_f32`` for ``n`` real numbers.

    Raises:
        ValueError: ``n`` is odd, not positive, or has a prime factor above 5.
    """
    if n % 2:
        raise ValueError(f"a real transform of length {n}; allowed: even lengths; add a zero")
    pairs = _unit(np.arange(n // 2) / n) if n > 0 else np.empty((0, 2), np.float32)
    return np.concatenate([pairs[:, 1], pairs[:, 0], fft_table(n // 2)])


def fft_scratch(n: int) -> int:
    """Floats of scratch of ``fft_f32``: CLAW_FFT_SCRATCH in ``csrc/bounds.h``."""
    return n * (48 if n % 8 else 4)


def rfft_scratch(n: int) -> int:
    """Floats of scratch of the real transforms: CLAW_RFFT_SCRATCH in ``csrc/bounds.h``."""
    return 2 * n + fft_scratch(n // 2)


def _to_mel(hertz: Any, scale: Scale) -> Doubles:
    """Slaney (Auditory Toolbox, 1998): linear to 1 kHz, then 27 steps a factor of 6.4."""
    f = np.asarray(hertz, np.float64)
    if scale != "slaney":
        return np.asarray(2595 * np.log10(1 + f / 700))
    high = 15 + 27 * np.log(np.maximum(f, 1e-9) / 1000) / np.log(6.4)
    return np.where(f < 1000, f * 3 / 200, high)


def _from_mel(mel: Doubles, scale: Scale) -> Doubles:
    if scale != "slaney":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def mel_filters(
    rate: int,
    n: int,
    filters: int,
    low: float = 0,
    high: float | None = None,
    scale: Scale = "slaney",
) -> Doubles:
    """Triangles on the bins of a transform of ``n`` samples, (filters, n / 2 + 1).

    Args:
        rate: samples a second.
        low, high: Hz; ``high`` is rate / 2 by default.
        scale: "slaney" (librosa's default and Whisper's: triangles in Hz, each of area 1), "htk"
            (triangles in Hz of height 1), "kaldi" (HTK's scale, triangles straight in mel).
    """
    hertz = np.arange(n // 2 + 1) * rate / n
    ends = _to_mel([low, rate / 2 if high is None else high], scale)
    points = np.linspace(ends[0], ends[1], filters + 2)
    at = _to_mel(hertz, scale) if scale == "kaldi" else hertz
    edges = points if scale == "kaldi" else _from_mel(points, scale)
    left, middle, right = (edges[i : i + filters, None] for i in range(3))
    up, down = (at - left) / (middle - left), (right - at) / (right - middle)
    rows: Doubles = np.maximum(0, np.minimum(up, down))
    return rows * 2 / (right - left) if scale == "slaney" else rows


def sparse_rows(dense: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], Floats]:
    """(rows, weights) of ``mel_f32``: the run of each row that is not zero.

    Runs are lengthened to a multiple of 8 where the bins allow it: whole vectors have no rest.
    """
    matrix = np.asarray(dense, np.float64)
    bins, rows, weights = matrix.shape[1], [], []
    for row in matrix:
        used = np.flatnonzero(row)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        length = min(-(-(last - first) // 8) * 8, bins)
        first = min(first, bins - length)
        rows.append((first, length))
        weights.append(row[first : first + length])
    flat = np.concatenate([*weights, np.empty(0)])
    return np.array(rows, np.int32).reshape(-1, 2), flat.astype(np.float32)


def dct_table(n: int, outputs: int, lifter: float = 0) -> Floats:
    """The orthonormal DCT-II of ``dct_f32``, (outputs, n); ``lifter`` as HTK's and Kaldi's (22)."""
    k = np.arange(outputs, dtype=np.float64)[:, None]
    table = np.cos(np.pi * k * (np.arange(n) + 0.5) / n) * np.sqrt(2 / n)
    table[0] *= np.sqrt(0.5)
    if lifter:
        table *= 1 + lifter / 2 * np.sin(np.pi * k / lifter)
    result: Floats = table.astype(np.float32)
    return result


def resample_table(up: int, down: int, zeros: int = 16, beta: float = 8.6) -> Floats:
    """The filters of ``resample_f32`` for the ratio up / down, (up, taps).

    A sinc in a Kaiser window, cut off below the lower of the two Nyquist frequencies. Output i
    lies at sample i * down / up if x points ``taps // 2 - 1`` samples ahead of the first.

    Args:
        zeros: zero crossings on each side: more is steeper.
        beta: of the window: 8.6 keeps aliases below -80 dB.
    """
    cut = min(1.0, up / down)
    # Half of the width of the fall, in the units of cut, lies below the Nyquist frequency.
    cut *= 1 - beta / (np.pi * zeros) / 2
    # Rounded up to whole vectors of 8.
    half = -(-int(np.ceil(zeros * max(1.0, down / up))) // 4) * 4
    taps = 2 * half
    offset = np.arange(taps) - (half - 1)
    t = offset - np.arange(up)[:, None] / up
    window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (t / half) ** 2))) / np.i0(beta)
    rows = cut * np.sinc(cut * t) * window
    table: Floats = (rows / rows.sum(1, keepdims=True)).astype(np.float32)
    return table
