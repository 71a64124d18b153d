"""Makers of cases for the ops of sound: transforms, spectra, filters, samples."""

import numpy as np

from clawai.plugins.accelerator import sound
from op_cases.parts import Array, Case, Maker, Out, floats, pick

Rng = np.random.Generator


def size(kind: str, large: int = 1000) -> int:
    return pick(kind, 1, 77, large)


def signal(rng: Rng, kind: str, n: int) -> Array:
    """Samples in about -1..1 (extreme: 1e4)."""
    return floats(rng, kind, n) * np.float32(0.3)


# ---- transforms ----


def length(kind: str, large: int = 480) -> int:
    """Both ways through fft.c: multiples of 8, whose runs of 8 overlap (240, 480), and others."""
    return {"small": 8, "odd": 45, "large": large, "extreme": 400, "weird": 72}[kind]


def fft(rng: Rng, kind: str) -> Case:
    n = length(kind)
    scale = 1 / n if kind == "large" else 1.0
    re, im = floats(rng, kind, n), floats(rng, kind, n)
    spectrum = np.fft.fft(re.astype(np.float64) + 1j * im) * scale
    scratch = Out(sound.fft_scratch(n), scratch=True)
    args = [re, im, n, scale, sound.fft_table(n), scratch, Out(n), Out(n)]
    return Case(args, [spectrum.real, spectrum.imag], float(np.abs(spectrum).max()))


def rfft(rng: Rng, kind: str) -> Case:
    n = 2 * length(kind, 256)
    x = floats(rng, kind, n)
    spectrum = np.fft.rfft(x.astype(np.float64))
    scratch = Out(sound.rfft_scratch(n), scratch=True)
    args = [x, n, sound.rfft_table(n), scratch, Out(n // 2 + 1), Out(n // 2 + 1)]
    return Case(args, [spectrum.real, spectrum.imag], float(np.abs(spectrum).max()))


def irfft(rng: Rng, kind: str) -> Case:
    n = 2 * length(kind, 200)
    re, im = floats(rng, kind, n // 2 + 1), floats(rng, kind, n // 2 + 1)
    y = np.fft.irfft(re.astype(np.float64) + 1j * im, n)
    scratch = Out(sound.rfft_scratch(n), scratch=True)
    return Case([re, im, n, sound.rfft_table(n), scratch, Out(n)], [y])


def stft_power(rng: Rng, kind: str) -> Case:
    n = {"small": 16, "odd": 90, "large": 400, "extreme": 512, "weird": 48}[kind]
    frames, hop = pick(kind, 1, 3, 5), pick(kind, 1, 25, 160)
    used = {"small": 1, "odd": 75, "weird": 47}.get(kind, 400)
    x, window = floats(rng, kind, (frames - 1) * hop + used), np.hanning(used).astype(np.float32)
    pieces = np.stack([x[f * hop : f * hop + used] for f in range(frames)]).astype(np.float64)
    y = np.abs(np.fft.rfft(pieces * window, n)) ** 2
    scratch = Out(sound.rfft_scratch(n), scratch=True)
    table, out = sound.rfft_table(n), Out((frames, n // 2 + 1))
    return Case([x, window, frames, hop, used, n, table, scratch, out], [y])


# ---- spectra and mel ----


def window(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x, w = floats(rng, kind, n), floats(rng, "small", n)
    y = np.concatenate([x * w, np.zeros(n // 2, np.float32)])
    return Case([x, w, n, len(y), Out(len(y))], [y], exact=True)


def preemphasis(rng: Rng, kind: str) -> Case:
    n, factor, before = size(kind), np.float32(0.97), np.float32(0.25)
    x = floats(rng, kind, n)
    y = x - factor * np.concatenate([[before], x[:-1]])
    return Case([x, n, float(factor), float(before), Out(n)], [y], exact=True)


def power(rng: Rng, kind: str) -> Case:
    n = size(kind)
    re, im = floats(rng, kind, n), floats(rng, kind, n)
    return Case([re, im, n, Out(n)], [re * re + im * im], exact=True)


def magnitude(rng: Rng, kind: str) -> Case:
    n = size(kind)
    re, im = floats(rng, kind, n), floats(rng, kind, n)
    return Case([re, im, n, Out(n)], [np.sqrt(re * re + im * im)], exact=True)


def mel(rng: Rng, kind: str) -> Case:
    """Runs of every length, empty ones too, and real filters in the large case."""
    frames, bins, filters = pick(kind, 1, 3, 6), pick(kind, 1, 77, 201), pick(kind, 1, 9, 80)
    dense = np.zeros((filters, bins))
    if kind in ("large", "extreme"):
        dense[:] = sound.mel_filters(16000, 400, filters)
        rows, weights = sound.sparse_rows(dense)
    else:
        runs = [(int(rng.integers(0, bins)), int(rng.integers(0, bins + 1))) for _ in dense]
        rows = np.array([(a, min(n, bins - a)) for a, n in runs], np.int32)
        weights = floats(rng, "small", max(1, int(rows[:, 1].sum())))
        at = 0
        for row, (first, count) in zip(dense, rows, strict=True):
            row[first : first + count] = weights[at : at + count]
            at += count
    x = floats(rng, kind, frames, bins)
    x = np.abs(x) if kind == "extreme" else x
    y = x.astype(np.float64) @ dense.T
    scale = float((np.abs(x.astype(np.float64)) @ np.abs(dense).T).max() or 1)
    return Case([x, frames, bins, rows, weights, filters, Out((frames, filters))], [y], scale)


def dct(rng: Rng, kind: str) -> Case:
    frames, n, outputs = pick(kind, 1, 3, 4), pick(kind, 1, 23, 80), pick(kind, 1, 13, 20)
    outputs = min(outputs, n)
    x = floats(rng, kind, frames, n)
    k = np.arange(outputs)[:, None]
    table = np.sqrt(2 / n) * np.cos(np.pi / n * (np.arange(n) + 0.5) * k)
    table[0] = np.sqrt(1 / n)
    y = x.astype(np.float64) @ table.T
    args = [x, frames, n, sound.dct_table(n, outputs), outputs, Out((frames, outputs))]
    return Case(args, [y], float((np.abs(x.astype(np.float64)) @ np.abs(table).T).max()))


def log(rng: Rng, kind: str) -> Case:
    n, floor, scale = size(kind), np.float32(1e-10), 1.0
    x = np.exp(rng.uniform(-40, 40, n)).astype(np.float32)
    if kind == "small":
        x[:], scale = 1.0, 0.4342944819032518
    if kind == "extreme":
        x = np.resize(np.float32([0, -1, 1e-38, 3.4e38, 1.1754944e-38, 1, 0.99999994]), n)
        floor = np.float32(1.1754944e-38)
    if kind == "weird":
        x = floats(rng, kind, n)
    y = np.log(np.maximum(x, floor).astype(np.float64)) * scale
    return Case([x, n, float(floor), scale, Out(n)], [y], scale=max(1.0, float(np.abs(y).max())))


# ---- filters ----


def fir(rng: Rng, kind: str) -> Case:
    n, k = pick(kind, 1, 77, 300), pick(kind, 1, 5, 129)
    x, taps = signal(rng, kind, n + k - 1), floats(rng, "small", k) / np.float32(4 * k)
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), k)
    scale = float((np.abs(pieces) @ np.abs(taps)).max())
    return Case([x, n, taps, k, Out(n)], [pieces @ taps.astype(np.float64)], scale)


def fir_decimate(rng: Rng, kind: str) -> Case:
    n, k, step = pick(kind, 1, 11, 60), pick(kind, 1, 5, 129), pick(kind, 1, 3, 4)
    x = signal(rng, kind, (n - 1) * step + k)
    taps = floats(rng, "small", k) / np.float32(4 * k)
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), k)[::step]
    scale = float((np.abs(pieces) @ np.abs(taps)).max())
    return Case([x, n, step, taps, k, Out(n)], [pieces @ taps.astype(np.float64)], scale)


def biquad(rng: Rng, kind: str) -> Case:
    n, count = pick(kind, 1, 77, 300), pick(kind, 1, 3, 2)
    x = signal(rng, kind, n)
    sections = np.float32([[0.2, 0.4, 0.2, -0.6, 0.3], [1, -2, 1, -1.6, 0.7], [1, 0, 0, 0.5, 0]])
    state, after = floats(rng, "small", count, 2), np.zeros((count, 2), np.float32)
    y = x
    for s, (b0, b1, b2, a1, a2) in enumerate(sections[:count]):
        (s1, s2), out = state[s], np.empty_like(y)
        for i, v in enumerate(y):
            out[i] = b0 * v + s1
            s1 = (b1 * v + s2) - a1 * out[i]
            s2 = b2 * v - a2 * out[i]
        y, after[s] = out, (s1, s2)
    args = [x, n, sections[:count], count, state, Out((count, 2)), Out(n)]
    return Case(args, [after, y], exact=True)


def resample(rng: Rng, kind: str) -> Case:
    up, down = {"small": (1, 1), "odd": (7, 3), "weird": (3, 7)}.get(kind, (160, 441))
    n, phase = pick(kind, 1, 77, 300), pick(kind, 0, 2, 159)
    table = sound.resample_table(up, down, 2 if kind == "small" else 16)
    taps = table.shape[1]
    at = phase + np.arange(n) * down
    x = signal(rng, kind, int(at[-1]) // up + taps)
    pieces = np.stack([x[a // up : a // up + taps] for a in at]).astype(np.float64)
    rows = table[at % up].astype(np.float64)
    scale = float((np.abs(pieces) * np.abs(rows)).sum(1).max())
    args = [x, table, up, down, taps, phase, n, Out(n)]
    return Case(args, [(pieces * rows).sum(1)], scale)


def resample_linear(rng: Rng, kind: str) -> Case:
    samples, n = size(kind), pick(kind, 3, 100, 900)
    x = signal(rng, kind, samples)
    first, step = pick(kind, 0, 1 << 30, 5 << 31), pick(kind, 1 << 31, (4 << 32) // 5, 3 << 31)
    at = first + step * np.arange(n)
    a, b = (np.minimum((at >> 32) + i, samples - 1) for i in (0, 1))
    part = (at & 0xFFFFFFFF).astype(np.float32) * np.float32(2.0**-32)
    y = x[a] + (x[b] - x[a]) * part
    return Case([x, samples, first, step, n, Out(n)], [y], exact=True)


# ---- samples ----


def codes(x: Array, scale: float, low: int, high: int) -> Array:
    """Nearest, ties to even, clipped, NaN to 0: as float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        v = (x * np.float32(scale)).astype(np.float64)
    return np.rint(np.clip(np.nan_to_num(v, nan=0, posinf=np.inf, neginf=-np.inf), low, high))


def s24_unpack(rng: Rng, kind: str) -> Case:
    n = size(kind)
    v = rng.integers(-(2**23), 2**23, n).astype("<i4")
    v[:1] = -(2**23)
    packed = v.view(np.uint8).reshape(n, 4)[:, :3].reshape(-1)
    return Case([packed, n, 2.0**-23, Out(n)], [(v * 2.0**-23).astype(np.float32)], exact=True)


def s24_pack(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = signal(rng, kind, n)
    v = codes(x, 2.0**23, -(2**23), 2**23 - 1).astype("<i4")
    packed = v.view(np.uint8).reshape(n, 4)[:, :3].reshape(-1)
    return Case([x, n, 2.0**23, Out(3 * n, np.uint8)], [packed], exact=True)


def alaw_values() -> Array:
    """All 256 A-law codes by the tables of G.711: 7 segments whose steps double, codes ^ 0x55."""
    code = np.arange(256) ^ 0x55
    segment, step = code >> 4 & 7, code & 15
    m = np.where(segment == 0, 2 * step + 1, (2 * step + 33) * 2 ** np.maximum(segment - 1, 0)) * 8
    return np.where(code & 128, m, -m).astype(np.int16)


def ulaw_values() -> Array:
    code = 255 - np.arange(256)
    m = ((2 * (code & 15) + 33) * 2 ** (code >> 4 & 7) - 33) * 4
    return np.where(code & 128, -m, m).astype(np.int16)


def companded_decode(values: Array) -> Maker:
    def make(rng: Rng, kind: str) -> Case:
        n = size(kind)
        x = rng.integers(0, 256, n).astype(np.uint8)
        if kind == "extreme":
            x = np.resize(np.arange(256, dtype=np.uint8), n)
        return Case([x, n, Out(n, np.int16)], [values[x]], exact=True)

    return make


def companded_encode(law: str) -> Maker:
    """One sample after the other, as the flow charts of G.191 have it."""

    def a_law(v: int) -> int:
        m, segment = (~v if v < 0 else v) >> 4, 0
        if m > 15:
            segment = 1
            while m > 31:
                m, segment = m >> 1, segment + 1
            m += segment * 16 - 16
        return (m | (128 if v >= 0 else 0)) ^ 0x55

    def mu_law(v: int) -> int:
        m = min(((~v if v < 0 else v) >> 2) + 33, 0x1FFF)
        segment = 1
        while m >> segment > 31:
            segment += 1
        return (8 - segment) * 16 + 15 - (m >> segment & 15) + (128 if v >= 0 else 0)

    def make(rng: Rng, kind: str) -> Case:
        n = size(kind)
        x = (rng.standard_normal(n) * rng.choice([10, 300, 9000], n)).clip(-32768, 32767)
        x = x.astype(np.int16)
        if kind == "extreme":
            edges = [s * (1 << b) + d for b in range(16) for s in (1, -1) for d in (-1, 0, 1)]
            x = np.resize(np.clip(edges, -32768, 32767).astype(np.int16), n)
        y = np.array([(a_law if law == "a" else mu_law)(int(v)) for v in x], np.uint8)
        return Case([x, n, Out(n, np.uint8)], [y], exact=True)

    return make


def interleave(rng: Rng, kind: str) -> Case:
    n = size(kind)
    left, right = floats(rng, kind, n), floats(rng, kind, n)
    return Case([left, right, n, Out((n, 2))], [np.stack([left, right], 1)], exact=True)


def deinterleave(rng: Rng, kind: str) -> Case:
    n = size(kind)
    x = floats(rng, kind, n, 2)
    return Case([x, n, Out(n), Out(n)], [x[:, 0], x[:, 1]], exact=True)


def downmix(rng: Rng, kind: str) -> Case:
    n, channels = size(kind), pick(kind, 1, 5, 2)
    x = floats(rng, kind, n, channels)
    y = x[:, 0].copy()
    for c in range(1, channels):
        y = y + x[:, c]
    y = y * (np.float32(1) / np.float32(channels))
    return Case([x, n, channels, Out(n)], [y], exact=True)


def gain(rng: Rng, kind: str) -> Case:
    n, limit = size(kind), np.float32(0.9)
    x = floats(rng, kind, n)
    y = np.clip(np.nan_to_num(x * np.float32(1.7), nan=0, posinf=9, neginf=-9), -limit, limit)
    return Case([x, n, 1.7, float(limit), Out(n)], [y], exact=True)


def energy(rng: Rng, kind: str) -> Case:
    frames, hop, used = pick(kind, 1, 3, 9), pick(kind, 1, 20, 160), pick(kind, 1, 77, 400)
    x = signal(rng, kind, (frames - 1) * hop + used)
    pieces = [x[f * hop : f * hop + used].astype(np.float64) for f in range(frames)]
    y = np.array([np.mean(p * p) for p in pieces])
    return Case([x, frames, hop, used, Out(frames)], [y])


MAKERS: dict[str, Maker] = {
    "fft_f32": fft,
    "rfft_f32": rfft,
    "irfft_f32": irfft,
    "stft_power_f32": stft_power,
    "window_f32": window,
    "preemphasis_f32": preemphasis,
    "power_f32": power,
    "magnitude_f32": magnitude,
    "mel_f32": mel,
    "dct_f32": dct,
    "log_f32": log,
    "fir_f32": fir,
    "fir_decimate_f32": fir_decimate,
    "biquad_f32": biquad,
    "resample_f32": resample,
    "resample_linear_f32": resample_linear,
    "s24_unpack": s24_unpack,
    "s24_pack": s24_pack,
    "alaw_decode": companded_decode(alaw_values()),
    "ulaw_decode": companded_decode(ulaw_values()),
    "alaw_encode": companded_encode("a"),
    "ulaw_encode": companded_encode("mu"),
    "interleave_f32": interleave,
    "deinterleave_f32": deinterleave,
    "downmix_f32": downmix,
    "gain_f32": gain,
    "energy_f32": energy,
}
