"""Timed calls of the ops of sound and of arrays; see ``timed``."""

import numpy as np

from clawai.plugins.accelerator import sound
from clawai.plugins.accelerator.timed import (
    FFN,
    HIDDEN,
    VOCABULARY,
    Args,
    Array,
    Case,
    Maker,
    Out,
    Y,
    bytes_out,
    case,
    codes,
    floats,
    integers,
    ordinary,
    over,
    scratch,
)

SECOND = 16000
SECONDS = 30 * SECOND
CLIP, PIECE = "30 s at 16 kHz, Whisper", "1 s at 16 kHz"
MANY = 1 << 20
LARGE = "1 M numbers, weights or samples"
MID = "width 8192, Llama 3.2 1B"
_UNITS = 1024
LSTM = "1024 units"
LOGITS = "128256 logits, Llama 3.2 1B"


def transform_ops(n: int) -> float:
    """The usual count of a transform of n complex numbers (Cooley and Tukey, 1965)."""
    return 5 * n * float(np.log2(n))


def fft() -> Case:
    n = 512
    args = (floats(n), floats(n), n, 1.0, sound.fft_table(n), scratch(sound.fft_scratch(n)))
    return Case("512 complex", (*args, Y(n), Y(n)), ops=transform_ops(n), unit="fma")


def rfft(back: bool) -> Case:
    n = 512
    half = n // 2 + 1
    tools = (n, sound.rfft_table(n), scratch(sound.rfft_scratch(n)))
    if back:
        args: Args = (floats(half), floats(half), *tools, Y(n))
    else:
        args = (floats(n), *tools, Y(half), Y(half))
    return Case("512 samples", args, ops=transform_ops(n) / 2, unit="fma")


def stft_power() -> Case:
    n, hop, frames = 400, 160, 100
    x, window = floats((frames - 1) * hop + n), np.hanning(n).astype(np.float32)
    tools = (sound.rfft_table(n), scratch(sound.rfft_scratch(n)))
    args = (x, window, frames, hop, n, n, *tools, Y(frames * (n // 2 + 1)))
    ops = frames * transform_ops(n) / 2
    return Case("1 s at 16 kHz, Whisper", args, ops=ops, unit="fma")


def mel() -> Case:
    frames, bins, filters = 100, 201, 80
    rows, weights = sound.sparse_rows(sound.mel_filters(SECOND, 400, filters))
    x = floats(frames * bins, 0.1, 2)
    ops = 2.0 * frames * weights.size
    args = (x, frames, bins, rows, weights, filters, Y(frames * filters))
    return Case("1 s, 80 filters, Whisper", args, ops=ops, unit="fma")


def dct() -> Case:
    frames, n, outputs = 100, 80, 13
    args = (floats(frames * n), frames, n, sound.dct_table(n, outputs), outputs)
    ops = 2.0 * frames * n * outputs
    return Case("1 s, 13 of 80", (*args, Y(frames * outputs)), ops=ops, unit="fma")


def fir(step: int) -> Case:
    k, n = 129, SECOND // step
    x, taps = floats((n - 1) * step + k), floats(k)
    steps = () if step == 1 else (step,)
    args = (x, n, *steps, taps, k, Y(n))
    return Case(f"{PIECE}, 129 taps", args, ops=2.0 * n * k, unit="fma")


def biquad() -> Case:
    sections = np.array([0.2, 0.4, 0.2, -0.6, 0.3, 1, -2, 1, -1.6, 0.7], np.float32)
    args = (floats(SECOND), SECOND, sections, 2, floats(4), Y(4), Y(SECOND))
    return Case(f"{PIECE}, 2 sections", args)


def resample() -> Case:
    n, up, down = SECOND, 160, 441
    table = sound.resample_table(up, down, 16)
    taps = table.shape[1]
    x = floats(n * down // up + taps + 1)
    args = (x, table, up, down, taps, 0, n, Y(n))
    return Case("1 s, 44.1 to 16 kHz", args, ops=2.0 * n * taps, unit="fma")


def resample_linear() -> Case:
    length = SECOND * 3
    args = (floats(length), length, 0, 3 << 32, SECOND, Y(SECOND))
    return Case("1 s, 48 to 16 kHz", args)


def converted(read: type, write: type, *numbers: float) -> Maker:
    """A million numbers from one type to another."""

    def make() -> Case:
        if np.issubdtype(read, np.floating):
            x: Array = floats(MANY).astype(read)
        else:
            x = ordinary(MANY, read) if read is np.uint16 else codes(MANY, read)
        return case(LARGE, x, MANY, *numbers, Out(MANY, write), cold=True)

    return make


def samples(width: int, dtype: type, out: Out, *numbers: float) -> Maker:
    """Half a minute of samples of ``width`` elements."""

    def make() -> Case:
        n = SECONDS
        x = floats(n) if dtype is np.float32 else codes(n * width, dtype)
        return case(CLIP, x, n, *numbers, out, cold=True)

    return make


def reduced(*numbers: float, dtype: type = np.float32, n: int = 1) -> Maker:
    """All numbers of a row of logits to one or two."""
    size = VOCABULARY
    return lambda: case(LOGITS, floats(size), size, *numbers, Out(n, dtype))


def rows_of(dtype: type, unit: str, factor: float = 2, out: type = np.float32) -> Maker:
    """A query against the vectors of an index."""

    def make() -> Case:
        n, width = 16384, 384
        size = n * width
        if dtype is np.float32:
            rows, query = floats(size), floats(width)
        elif dtype is np.int8:
            rows, query = codes(size), codes(width)
        else:
            rows, query = ordinary(size, dtype), floats(width)
        args = (query, rows, n, width, width, Out(n, out))
        return Case("16384 vectors of 384, MiniLM", args, True, factor * size, unit)

    return make


def hamming() -> Case:
    n, words = 65536, 6
    query, rows = codes(words, np.int64), codes(n * words, np.int64)
    return case("65536 codes of 384 bits", query, rows, n, words, Out(n, np.int32), cold=True)


def gated(inputs: int, outputs: int = 1) -> Maker:
    n = _UNITS
    return lambda: case(LSTM, *[floats(n) for _ in range(inputs)], n, *[Y(n)] * outputs)


def gather(f16: bool) -> Case:
    rows, n, width = 512, 256, HIDDEN
    table = ordinary(rows * width, np.uint16)
    index = integers(n, 0, rows)
    if f16:
        args = (table, rows, width, index, n, Y(n * width))
    else:
        args = (table.view(np.uint8), rows, 2 * width, index, n, bytes_out(2 * n * width))
    moved = n * width * (6 if f16 else 4)
    return Case("256 rows of 512 x 2048", args, True, reads=moved)


def scatter_add() -> Case:
    width, n, rows = HIDDEN, 256, 64
    args = (floats(n * width), width, integers(n, 0, rows), n, rows, Y(rows * width))
    return Case("256 rows of 2048 onto 64", args, True)


def quantized(bits: int) -> Maker:
    """64 rows to GGUF blocks."""

    def make() -> Case:
        n = 64 * FFN
        return case("64 rows of 8192", floats(n), n, bytes_out(n // 32 * bits), cold=True)

    return make


def weights_q4_1() -> Case:
    k, rows = HIDDEN, 8
    args = (floats(rows * k), floats(k, 0.5, 2), rows, k, bytes_out(rows * k // 32 * 20))
    return Case("8 rows of 2048", args)


_PAIRS = "mul sub div max min"
_M = FFN

CASES: dict[str, Maker] = {
    "fft_f32": fft,
    "rfft_f32": lambda: rfft(False),
    "irfft_f32": lambda: rfft(True),
    "stft_power_f32": stft_power,
    "window_f32": lambda: case("400 samples", floats(400), floats(400), 400, 512, Y(512)),
    "preemphasis_f32": over(SECOND, 0.97, 0.25, about=PIECE),
    "power_f32": lambda: case(MID, floats(_M), floats(_M), _M, Y(_M)),
    "magnitude_f32": lambda: case(MID, floats(_M), floats(_M), _M, Y(_M)),
    "mel_f32": mel,
    "dct_f32": dct,
    "log_f32": lambda: case("100 frames of 80", floats(8000, 0.01, 9), 8000, 1e-10, 1.0, Y(8000)),
    "fir_f32": lambda: fir(1),
    "fir_decimate_f32": lambda: fir(3),
    "biquad_f32": biquad,
    "resample_f32": resample,
    "resample_linear_f32": resample_linear,
    "s24_unpack": samples(3, np.uint8, Y(SECONDS), 2.0**-23),
    "s24_pack": samples(1, np.float32, bytes_out(3 * SECONDS), 2.0**23),
    "alaw_decode": samples(1, np.uint8, Out(SECONDS, np.int16)),
    "alaw_encode": samples(1, np.int16, bytes_out(SECONDS)),
    "ulaw_decode": samples(1, np.uint8, Out(SECONDS, np.int16)),
    "ulaw_encode": samples(1, np.int16, bytes_out(SECONDS)),
    "interleave_f32": lambda: case(
        CLIP, floats(SECONDS), floats(SECONDS), SECONDS, Y(2 * SECONDS), cold=True
    ),
    "deinterleave_f32": lambda: case(
        CLIP, floats(2 * SECONDS), SECONDS, Y(SECONDS), Y(SECONDS), cold=True
    ),
    "downmix_f32": lambda: case(
        f"{CLIP}, stereo", floats(2 * SECONDS), SECONDS, 2, Y(SECONDS), cold=True
    ),
    "gain_f32": samples(1, np.float32, Y(SECONDS), 0.5, 1.0),
    "energy_f32": lambda: case(PIECE, floats(99 * 160 + 400), 100, 160, 400, Y(100)),
    "convert_f32_s16": converted(np.float32, np.int16, 9000.0),
    "convert_f32_s32": converted(np.float32, np.int32, 2.0**29),
    "convert_s16_f32": converted(np.int16, np.float32, 2.0**-15),
    "convert_s32_f32": converted(np.int32, np.float32, 2.0**-31),
    "convert_f32_f16": converted(np.float32, np.uint16),
    "convert_f16_f32": converted(np.uint16, np.float32),
    "convert_f32_bf16": converted(np.float32, np.uint16),
    "convert_bf16_f32": converted(np.uint16, np.float32),
    "convert_f64_f32": converted(np.float64, np.float32),
    "convert_f32_f64": converted(np.float32, np.float64),
    "sum_f32": reduced(),
    "sum_squares_f32": reduced(),
    "mean_variance_f32": reduced(n=2),
    "max_of_f32": reduced(),
    "min_of_f32": reduced(),
    "absmax_f32": reduced(),
    "level_f32": reduced(n=2),
    "cumsum_f32": over(VOCABULARY, 0.5, about=LOGITS),
    "count_nonfinite_f32": reduced(dtype=np.int32),
    "dot_rows_f32": rows_of(np.float32, "fma"),
    "dot_rows_f16": rows_of(np.uint16, "fma"),
    "dot_rows_bf16": rows_of(np.uint16, "fma"),
    "dot_rows_s8": rows_of(np.int8, "int8", out=np.int32),
    "l2_rows_f32": rows_of(np.float32, "fma", 3),
    "l2_rows_s8": rows_of(np.int8, "int8", 3, np.int32),
    "cosine_rows_f32": rows_of(np.float32, "fma", 4),
    "hamming_rows": hamming,
    "lstm_gates_f32": gated(5, 2),
    "gru_gates_f32": gated(5),
    "gru_reset_f32": gated(2),
    "gru_update_f32": gated(3),
    **{f"{name}_f32": over(_M, about=MID, inputs=2) for name in _PAIRS.split()},
    "mul_add_f32": over(_M, about=MID, inputs=3),
    "axpy_f32": lambda: case(MID, floats(_M), 0.5, floats(_M), _M, Y(_M)),
    "affine_f32": lambda: case(MID, floats(_M), 0.5, 0.25, _M, Y(_M)),
    "select_f32": lambda: case(
        MID, codes(_M, np.uint8) & np.uint8(1), floats(_M), floats(_M), _M, Y(_M)
    ),
    "gather_rows": lambda: gather(False),
    "gather_rows_f16": lambda: gather(True),
    "scatter_add_f32": scatter_add,
    "weights_q8_0": quantized(34),
    "weights_q4_0": quantized(18),
    "weights_q4_1": weights_q4_1,
}
