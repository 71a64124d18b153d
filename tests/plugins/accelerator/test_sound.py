"""The ops of sound together, on real work: features as speech models define them, computed from a
waveform in float64 by their papers, against our ops from the 16-bit samples on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clawai.plugins.accelerator import sound
from clawai.plugins.accelerator._ops import ffi, lib
from clawai.plugins.accelerator.native import available_isas
from guarded import Guarded

RATE = 16000
Array = npt.NDArray[Any]
Call = Callable[..., None]


@pytest.fixture(params=available_isas())
def call(request: pytest.FixtureRequest) -> Call:
    """Calls an op of one target by name, with arrays and numbers."""
    table = lib.claw_ops_named(request.param.encode())

    def run(name: str, *args: Any) -> None:
        function = getattr(table, name)
        kinds = [kind.cname.replace("const ", "") for kind in ffi.typeof(function).args]
        given = [
            ffi.cast(kind, a.ctypes.data) if isinstance(a, np.ndarray) else a
            for a, kind in zip(args, kinds, strict=True)
        ]
        function(*given)

    return run


@pytest.fixture(scope="module")
def samples() -> Array:
    """Two seconds of a voice-like sweep with harmonics and pauses, in 16 bits."""
    t = np.arange(2 * RATE) / RATE
    phase = 2 * np.pi * (90 * t + 700 * t**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 4)) * (0.5 + 0.5 * np.sin(9 * t)) ** 4
    noise = np.random.default_rng(7).standard_normal(t.size) * 0.002
    return np.rint((0.3 * voice + noise) * 32767).clip(-32768, 32767).astype(np.int16)


def pieces(x: Array, length: int, hop: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(x, length)[::hop]


def slaney_triangles() -> Array:
    """Whisper's 80 filters: corners by the Auditory Toolbox's scale, height 2 / width in Hz."""
    log_step = np.log(6.4) / 27
    top = 15 + np.log(8000 / 1000) / log_step
    mel = np.linspace(0, top, 82)
    hertz = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * log_step))
    bins = np.arange(201) * 40.0
    return np.stack(
        [
            np.interp(bins, hertz[i : i + 3], [0, 2 / (hertz[i + 2] - hertz[i]), 0])
            for i in range(80)
        ]
    )


def whisper_reference(samples: Array) -> Array:
    x = np.pad(samples / 32768.0, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(pieces(x, 400, 160) * window)) ** 2
    log = np.log10(np.maximum(power[:-1] @ slaney_triangles().T, 1e-10))
    features: Array = (np.maximum(log, log.max() - 8) + 4) / 4
    return features


def test_the_features_of_whisper(call: Call, samples: Array) -> None:
    x = np.empty(samples.size, np.float32)
    call("convert_s16_f32", samples, x.size, 1 / 32768, x)
    x = np.pad(x, 200, mode="reflect")
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)
    frames = (x.size - 400) // 160
    power, scratch = np.empty((frames, 201), np.float32), np.empty(sound.rfft_scratch(400), "f4")
    table = sound.rfft_table(400)
    call("stft_power_f32", x, window, frames, 160, 400, 400, table, scratch, power)
    rows, weights = sound.sparse_rows(sound.mel_filters(RATE, 400, 80))
    mel, peak = np.empty((frames, 80), np.float32), np.empty(1, np.float32)
    call("mel_f32", power, frames, 201, rows, weights, 80, mel)
    call("log_f32", mel, mel.size, 1e-10, 1 / np.log(10), mel)
    call("max_of_f32", mel, mel.size, peak)
    call("max_f32", mel, np.full_like(mel, peak[0] - 8), mel.size, mel)
    call("affine_f32", mel, 0.25, 1.0, mel.size, mel)
    expected = whisper_reference(samples)
    assert expected.shape == (200, 80)
    assert expected.max() - expected.min() == pytest.approx(2), "the sweep reaches the floor"
    np.testing.assert_allclose(mel, expected, rtol=0, atol=1e-4)


def kaldi_reference(samples: Array) -> Array:
    """Frames of 25 ms, mean removed, pre-emphasis, Povey's window, 23 triangles in mel, ln, DCT."""
    x = pieces(samples.astype(np.float64), 400, 160)
    x = x - x.mean(1, keepdims=True)
    x = x - 0.97 * np.concatenate([x[:, :1], x[:, :-1]], 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(x * window, 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * RATE / 512 / 700)
    corners = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 25)
    rows = np.stack([np.interp(mel, corners[i : i + 3], [0, 1, 0]) for i in range(23)])
    log = np.log(np.maximum(power @ rows.T, np.finfo(np.float32).eps))
    k, n = np.arange(13)[:, None], np.arange(23)
    cosines = np.sqrt(2 / 23) * np.cos(np.pi / 23 * (n + 0.5) * k)
    cosines[0] = np.sqrt(1 / 23)
    cepstra: Array = log @ cosines.T * (1 + 11 * np.sin(np.pi * k[:, 0] / 22))
    return cepstra


def test_the_cepstra_of_kaldi(call: Call, samples: Array) -> None:
    """Frame by frame, as a stream comes in."""
    window = ((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85).astype(np.float32)
    table, scratch = sound.rfft_table(512), np.empty(sound.rfft_scratch(512), np.float32)
    filters = sound.mel_filters(RATE, 512, 23, low=20, scale="kaldi")
    rows, weights = sound.sparse_rows(filters)
    cosines = sound.dct_table(23, 13, lifter=22)
    got = []
    for frame in pieces(samples, 400, 160):
        x, mean = np.empty(512, np.float32), np.empty(2, np.float32)
        re, im, mel = np.empty(257, np.float32), np.empty(257, np.float32), np.empty(23, "f4")
        call("convert_s16_f32", np.ascontiguousarray(frame), 400, 1.0, x)
        call("mean_variance_f32", x, 400, mean)
        call("affine_f32", x, 1.0, -mean[0], 400, x)
        emphasised = np.empty(400, np.float32)
        call("preemphasis_f32", x, 400, 0.97, x[0], emphasised)
        call("window_f32", emphasised, window, 400, 512, x)
        call("rfft_f32", x, 512, table, scratch, re, im)
        call("power_f32", re, im, 257, re)
        call("mel_f32", re, 1, 257, rows, weights, 23, mel)
        call("log_f32", mel, 23, np.finfo(np.float32).eps, 1.0, mel)
        got.append(np.empty(13, np.float32))
        call("dct_f32", mel, 1, 23, cosines, 13, got[-1])
    np.testing.assert_allclose(got, kaldi_reference(samples), rtol=0, atol=2e-3)


def smooth(most: int) -> set[int]:
    return {
        a * b * c
        for a in (2**i for i in range(8))
        for b in (3**i for i in range(5))
        for c in (1, 5, 25, 125)
        if a * b * c <= most
    }


def test_transforms_of_every_length_and_back(call: Call) -> None:
    """Every length up to 128 with factors 2, 3 and 5, and what models use."""
    rng = np.random.default_rng(3)
    lengths = [*sorted(smooth(128)), 160, 240, 400, 480, 512, 1000, 1024, 4096]
    for n in lengths:
        re, im = rng.standard_normal((2, n)).astype(np.float32)
        table, scratch = sound.fft_table(n), np.empty(sound.fft_scratch(n), np.float32)
        yr, yi, zr, zi = np.empty((4, n), np.float32)
        call("fft_f32", re, im, n, 1.0, table, scratch, yr, yi)
        spectrum = np.fft.fft(re.astype(np.float64) + 1j * im)
        assert np.abs(yr + 1j * yi - spectrum).max() <= 5e-7 * np.abs(spectrum).max(), n
        call("fft_f32", yi, yr, n, 1 / n, table, scratch, zi, zr)
        np.testing.assert_allclose([zr, zi], [re, im], rtol=0, atol=5e-6)
    for n in [n for n in lengths if n % 2 == 0]:
        x = rng.standard_normal(n).astype(np.float32)
        table, scratch = sound.rfft_table(n), np.empty(sound.rfft_scratch(n), np.float32)
        (yr, yi), back = np.empty((2, n // 2 + 1), np.float32), np.empty(n, np.float32)
        call("rfft_f32", x, n, table, scratch, yr, yi)
        spectrum = np.fft.rfft(x.astype(np.float64))
        assert np.abs(yr + 1j * yi - spectrum).max() <= 5e-7 * np.abs(spectrum).max(), n
        call("irfft_f32", yr, yi, n, table, scratch, back)
        np.testing.assert_allclose(back, x, rtol=0, atol=5e-6)


@pytest.mark.parametrize("n", [0, -8, 7, 22, 441])
def test_lengths_that_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"length {n}; allowed: products of 2, 3 and 5"):
        sound.fft_table(n)


def test_odd_lengths_of_real_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="length 45; allowed: even lengths"):
        sound.rfft_table(45)


@pytest.mark.parametrize(("rate", "up", "down"), [(44100, 160, 441), (48000, 1, 3), (8000, 2, 1)])
def test_resampled_tones_keep_level_and_aliases_stay_away(
    call: Call, rate: int, up: int, down: int
) -> None:
    table = sound.resample_table(up, down, zeros=32)
    taps = table.shape[1]
    assert rate * up // down == RATE
    n = RATE // 4
    for hertz, most in ((1000.0, None), (9500.0, 10 ** (-75 / 20))):
        if hertz * 2 > rate:
            continue
        t = (np.arange(n * down // up + taps + 1) - (taps // 2 - 1)) / rate
        x, y = np.sin(2 * np.pi * hertz * t).astype(np.float32), np.empty(n, np.float32)
        call("resample_f32", x, table, up, down, taps, 0, n, y)
        if most is None:
            expected = np.sin(2 * np.pi * hertz * np.arange(n) / RATE)
            np.testing.assert_allclose(y, expected, rtol=0, atol=2e-4)
        else:
            assert np.abs(y).max() < most


def test_telephone_codes_survive(call: Call) -> None:
    """Every code to 16 bits and back; mu-law has two zeros, of which one is left."""
    codes = np.arange(256, dtype=np.uint8)
    for law in ("alaw", "ulaw"):
        values, back = np.empty(256, np.int16), np.empty(256, np.uint8)
        call(f"{law}_decode", codes, 256, values)
        call(f"{law}_encode", values, 256, back)
        expected = np.where((codes == 0x7F) & (law == "ulaw"), 0xFF, codes)
        np.testing.assert_array_equal(back, expected)
        assert np.abs(values).max() == {"alaw": 32256, "ulaw": 32124}[law]


IN_PLACE = ["mul_f32", "sub_f32", "div_f32", "max_f32", "min_f32"]


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("which", [0, 1])
def test_arithmetic_in_place(call: Call, name: str, which: int) -> None:
    a, b = np.random.default_rng(5).standard_normal((2, 77)).astype(np.float32)
    expected = np.empty_like(a)
    call(name, a, b, 77, expected)
    with Guarded("end") as space:
        given = [space.place(a), space.place(b)]
        call(name, *given, 77, given[which])
        np.testing.assert_array_equal(given[which], expected)


def test_filters_and_gates_in_place(call: Call) -> None:
    """A stream is filtered in two parts over its own samples and state: as in one go."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal(200).astype(np.float32)
    sections = np.float32([[0.2, 0.4, 0.2, -0.6, 0.3], [1, -2, 1, -1.6, 0.7]])
    state, whole = np.zeros((2, 2), np.float32), np.empty_like(x)
    call("biquad_f32", x, 200, sections, 2, state, np.empty_like(state), whole)
    first, second = x[:77].copy(), x[77:].copy()
    for part in (first, second):
        call("biquad_f32", part, part.size, sections, 2, state, state, part)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    gates = list(rng.standard_normal((5, 77)).astype(np.float32))
    after, hidden = np.empty((2, 77), np.float32)
    call("lstm_gates_f32", *gates, 77, after, hidden)
    call("lstm_gates_f32", *gates, 77, gates[4], gates[3])
    np.testing.assert_array_equal([gates[4], gates[3]], [after, hidden])


def test_scattered_rows_are_added_to_what_is_there(call: Call) -> None:
    y, x = np.ones((3, 5), np.float32), np.full((4, 5), 2, np.float32)
    call("scatter_add_f32", x, 5, np.array([2, 0, 2, 3], np.int32), 4, 3, y)
    np.testing.assert_array_equal(y[:, 0], [3, 1, 5])
