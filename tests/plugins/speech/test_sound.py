"""Recordings as they come: files of every kind, bare samples, parts that end in pauses."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from clawai.plugins.speech.moonshine import vocabulary
from clawai.plugins.speech.sound import (
    LONGEST,
    RATE,
    SHORTEST,
    of_file,
    of_samples,
    parts,
    resampled,
)
from clawai.sdk.errors import ClawError


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * at)).astype(np.float32)


def file(samples: np.ndarray, rate: int, **kind: Any) -> memoryview:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, **kind)
    return memoryview(out.getvalue())


@pytest.mark.parametrize(
    "kind",
    [
        {"format": "WAV", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "PCM_24"},
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "WAV", "subtype": "ULAW"},
        {"format": "FLAC"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
        {"format": "MP3"},
    ],
    ids=lambda kind: "-".join(kind.values()),
)
def test_a_file_of_any_kind_has_the_same_sound(kind: dict[str, str]) -> None:
    both = np.stack([tone(1, 48_000), tone(1, 48_000)], axis=1)
    samples, rate = of_file(file(both, 48_000, **kind))
    found = resampled(samples, rate)
    assert rate == 48_000
    spectrum = np.abs(np.fft.rfft(found[: RATE // 2]))
    assert abs(spectrum.argmax() * 2 - 440) <= 2
    assert 0.3 < np.abs(found[RATE // 4 : RATE // 2]).max() < 0.7


def test_samples_are_taken_as_they_are() -> None:
    floats = tone(0.5)
    assert of_samples(floats, RATE)[0].tolist() == floats.tolist()
    whole = (floats * 32767).astype(np.int16)
    np.testing.assert_allclose(of_samples(whole, 8000)[0], floats, atol=1e-4)


@pytest.mark.parametrize(
    ("array", "rate", "said"),
    [
        (tone(1), None, "need their rate"),
        (tone(1), 10, "samples of a recording"),
        (tone(1).astype(np.float64), RATE, "samples of a recording"),
        (np.stack([tone(1), tone(1)]), RATE, "samples of a recording"),
        (np.full(99, np.nan, np.float32), RATE, "no finite numbers"),
        (np.zeros(3_700_000, np.int16), 1000, "seconds of a recording"),
    ],
)
def test_samples_that_are_none_are_refused(array: np.ndarray, rate: Any, said: str) -> None:
    with pytest.raises(ClawError, match=said):
        of_samples(array, rate)


def test_a_file_that_says_it_is_longer_than_it_is_gives_what_it_has() -> None:
    data = bytearray(file(tone(1), RATE, format="WAV", subtype="PCM_16"))
    data[40:44] = (1 << 30).to_bytes(4, "little")
    samples, _ = of_file(memoryview(bytes(data)))
    assert abs(len(samples) - RATE) < 100


@pytest.mark.parametrize("data", [b"", b"RIFF", b"GIF89a", b"ID3" + bytes(99), b"OggS" * 50])
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    with pytest.raises(ClawError, match="no recording that can be read"):
        of_file(memoryview(data))


@given(st.lists(st.tuples(st.floats(0.05, 40), st.booleans()), max_size=6))
def test_parts_hold_all_that_is_heard_and_none_is_too_long(spans: list[tuple[float, bool]]) -> None:
    pieces = [tone(seconds) * loud for seconds, loud in spans]
    samples = np.concatenate([np.zeros(0, np.float32), *pieces])
    heard = np.zeros(len(samples), bool)
    before = 0
    for begin, part in parts(samples):
        assert before <= begin and 0 < len(part) <= LONGEST
        assert np.array_equal(part, samples[begin : begin + len(part)])
        heard[begin : begin + len(part)] = True
        before = begin + len(part)
        assert len(part) >= SHORTEST or before == len(samples)
    assert not samples[~heard].any()


def test_a_part_ends_in_the_pause() -> None:
    talk = np.concatenate([tone(15), np.zeros(RATE, np.float32), tone(20)])
    (_, first), (begin, _) = parts(talk)
    assert 15 * RATE <= len(first) == begin <= 16 * RATE


def test_a_vocabulary_is_read_or_refused() -> None:
    words = [b"a", b"", b"x" * 127, b"y" * 128, b"z" * 300]
    data = b"".join(
        (bytes([len(w)]) if len(w) < 128 else bytes([len(w) & 127 | 128, len(w) >> 7])) + w
        for w in words
    )
    assert vocabulary(memoryview(data)) == words
    for cut in (1, 100, len(data) - 1):
        try:
            assert vocabulary(memoryview(data[:cut])) == words[: 1 + (cut > 1)]
        except ClawError as error:
            assert error.code == "bad_model"
