"""Recordings as strangers send them: files, or bare samples; out come parts of 16 kHz."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clawai.sdk.errors import ClawError

F32 = NDArray[np.float32]
RATE = 16_000
"""Samples a second, as the models take them."""
MOST = 3600
"""Seconds of a recording."""
LONGEST, SHORTEST = 24 * RATE, 8 * RATE
"""Of a part, but for the last: between the two it is cut where it is quietest."""
CHANNELS = 16
FRAME = RATE // 50
QUIET = 1e-3
"""Root mean square of a frame, of a full scale of 1, below which nobody speaks (-60 dB)."""


def of_file(data: memoryview) -> tuple[F32, int]:
    """The samples of a file, channels mixed, and how many a second there are.

    WAV, FLAC, OGG (Vorbis, Opus), MP3 and what else libsndfile reads.

    Raises:
        ClawError: bad_params.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _bound(file.frames, file.samplerate, file.channels)
            # The header may lie about the length: no more than the bound is ever read.
            samples = file.read(MOST * file.samplerate + 1, dtype="float32", always_2d=True)
            _bound(len(samples), file.samplerate, file.channels)
            return samples.mean(axis=1), file.samplerate
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        text = f"this is no recording that can be read: {' '.join(str(error).split())[:200]}"
        allowed = "WAV, FLAC, OGG or MP3; or samples (float32 or int16) and their rate"
        raise ClawError("bad_params", text, bytes(data[:12]).hex(" "), allowed) from None


def of_samples(array: "np.ndarray[Any, Any]", rate: int | None) -> tuple[F32, int]:
    """The same of bare samples: float32 within 1, or int16; one channel.

    Raises:
        ClawError: bad_params.
    """
    if rate is None:
        raise ClawError(
            "bad_params", "samples need their rate, in a second", allowed="8000 or more"
        )
    if array.ndim != 1 or array.dtype not in (np.float32, np.int16):
        got = f"{array.dtype.str} {list(array.shape)}"
        allowed = "one channel of float32 or int16, or the bytes of a file (uint8)"
        raise ClawError("bad_params", "samples of a recording", got, allowed)
    _bound(array.size, rate, 1)
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32768), rate
    if not np.isfinite(array).all():
        raise ClawError("bad_params", "samples that are no finite numbers")
    return np.clip(array, -1, 1), rate


def _bound(frames: int, rate: int, channels: int) -> None:
    if not (1000 <= rate <= 384_000 and 1 <= channels <= CHANNELS):
        allowed = f"1000 to 384000 a second, up to {CHANNELS} channels"
        raise ClawError("bad_params", "samples of a recording", f"{rate}, {channels}", allowed)
    if frames > MOST * rate:
        raise ClawError("too_large", "seconds of a recording", frames // rate, MOST)


def resampled(samples: F32, rate: int) -> F32:
    """At ``RATE``."""
    if rate == RATE:
        return samples
    import soxr

    found: F32 = soxr.resample(samples, rate, RATE)
    return found


def parts(samples: F32) -> Iterator[tuple[int, F32]]:
    """Where parts begin, and what they are; those in which nobody speaks are left out."""
    if not len(samples):
        return
    frames = -(-len(samples) // FRAME)
    padded = np.zeros(frames * FRAME, np.float32)
    padded[: len(samples)] = samples
    power = np.square(padded).reshape(frames, FRAME).mean(axis=1)
    # A pause is longer than a frame: the mean of 9 around it, 180 ms.
    smooth = np.convolve(power, np.full(9, 1 / 9), "same")
    begin = 0
    while begin < len(samples):
        end = len(samples)
        if end - begin > LONGEST:
            first, last = (begin + SHORTEST) // FRAME, (begin + LONGEST) // FRAME
            end = (first + int(smooth[first:last].argmin())) * FRAME
        if np.sqrt(power[begin // FRAME : -(-end // FRAME)].max(initial=0)) >= QUIET:
            yield begin, samples[begin:end]
        begin = end
