"""Speech in a worker: reads its model, and writes down recordings part by part."""

import time
from collections.abc import Generator, Iterable
from typing import Annotated

import msgspec
import numpy as np

from clawai.plugins.speech.moonshine import Moonshine
from clawai.plugins.speech.sound import RATE, of_file, of_samples, parts, resampled
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model import bundle
from clawai.sdk.plugin import Context, Operation, Start, Tensor, operation, operations_of


class Part(msgspec.Struct, frozen=True):
    """What was said in a part of the recording."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    text: str


class Transcript(msgspec.Struct, frozen=True):
    """All of it."""

    text: str
    seconds: float
    """Length of the recording."""
    compute_us: int


class Speech:
    """The plugin object: its hooks and its operation."""

    def __init__(self) -> None:
        self._model: Moonshine | None = None

    @hookimpl
    def claw_start(self, worker: Start) -> None:
        """Load the model."""
        self._model = Moonshine(bundle.read(worker.model_fd))

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """The method below."""
        return list(operations_of(self))

    @operation("audio.transcribe")
    def transcribe(
        self,
        ctx: Context,
        audio: Tensor,
        rate: Annotated[int, msgspec.Meta(ge=1000, le=384_000)] | None = None,
    ) -> Generator[Part, None, Transcript]:
        """Write down what is said in a recording, part by part.

        A part ends in a pause, after 24 seconds at most; parts in which nobody speaks are left out.

        Args:
            audio: the bytes of a file (uint8), WAV, FLAC, OGG or MP3; or samples (float32, int16).
            rate: of samples, how many a second.
        """
        assert self._model is not None
        began = time.perf_counter_ns()
        array = ctx.array(audio)
        # What lies in memory that its client can write is looked at once.
        if array.dtype == np.uint8:
            samples, rate = of_file(memoryview(array.tobytes()))
        else:
            samples, rate = of_samples(array.copy(), rate)
        ctx.checkpoint()
        samples = resampled(samples, rate)
        texts = []
        for begin, part in parts(samples):
            text = self._model.write(part, ctx.checkpoint)
            end = begin + len(part)
            ctx.progress(end / len(samples), f"{end / RATE:.0f} of {len(samples) / RATE:.0f} s")
            if text:
                texts.append(text)
                yield Part(round(begin / RATE, 2), round(end / RATE, 2), text)
        ctx.compute_us = (time.perf_counter_ns() - began) // 1000
        return Transcript(" ".join(texts), round(len(samples) / RATE, 2), ctx.compute_us)
