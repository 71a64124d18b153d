"""The quantizer in a worker: reads its model's file and streams the new one."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clawai.plugins.quantizer.plan import Plan, Step, figures, plan
from clawai.sdk.hooks import LARGEST
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model import gguf
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import GGUF, ModelFileError
from clawai.sdk.plugin import Context, Operation, Start, operation, operations_of

Type = Literal["q8_0", "q4_0", "q4_1"]
PIECE = 1 << 20
"""Bytes of a chunk, at most, and weights that are in memory at a time, about."""


class Quantizer:
    """The plugin object: its hooks and its operation."""

    def __init__(self) -> None:
        self._worker: Start | None = None
        self._file: GGUF | None = None

    @hookimpl
    def claw_start(self, worker: Start) -> None:
        """Read the header of the model; its weights stay in the file."""
        self._worker = worker
        self._file = gguf.read(worker.model_fd)

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """The method below."""
        return list(operations_of(self))

    @operation("model.quantize")
    def quantize(
        self, ctx: Context, to: Type, embedding: Type | None = None
    ) -> Generator[dict[str, Any] | bytes, None, dict[str, Any]]:
        """Write the model's file with its weights in another type, piece by piece.

        The first chunk says how large the file will be, the others are its bytes. The result has
        the same figures and the sha256 of the file.

        Args:
            to: the type of the matrices; q4_1 is searched for the smallest error.
            embedding: the type of the embedding and the output; else they get q8_0, or stay as they
                are if they have no more bits.
        """
        assert self._file is not None
        made = plan(self._file, DType[to.upper()], DType[embedding.upper()] if embedding else None)
        told = figures(self._file, made)
        yield told
        digest, total = hashlib.sha256(), made.nbytes
        done = 0
        for name, piece in self._pieces(ctx, made):
            digest.update(piece)
            done += len(piece)
            ctx.progress(done / total, name)
            yield piece
        return told | {"sha256": digest.hexdigest()}

    def _pieces(self, ctx: Context, made: Plan) -> Iterator[tuple[str, bytes]]:
        """The bytes of the file in order, and what they are part of."""
        for piece in chunks(made.head):
            yield "header", piece
        for step, rest in made.pieces():
            whole = chunks([step.source.data]) if step.copied else self._converted(step)
            for piece in whole:
                yield step.made.name, piece
                ctx.checkpoint()
            if rest:
                yield step.made.name, rest

    def _converted(self, step: Step) -> Iterator[bytes]:
        """The tensor in its new type, some rows at a time; of very long rows a part."""
        assert self._worker is not None
        for weights in matrices(step):
            if step.made.dtype is DType.F32:
                yield weights.tobytes()
                continue
            # A block type has its scales in float16. A hostile file may hold anything.
            if not (largest := float(np.abs(weights).max())) <= LARGEST:
                allowed = f"finite numbers within +-{LARGEST:.0f}"
                text = f"tensor {step.source.name} has a weight that cannot be quantized"
                raise ModelFileError(text, step.source.where, repr(largest), allowed)
            yield from chunks([memoryview(self._worker.quantize(weights, step.made.dtype))])


def matrices(step: Step) -> Iterator[NDArray[np.float32]]:
    """The weights of a tensor as float32, about ``PIECE`` at a time, in whole blocks."""
    source, width = step.source, step.source.shape[-1]
    block, nbytes = source.dtype.geometry
    total = len(source.data) // nbytes * block
    count = PIECE // width * width or PIECE
    for first in range(0, total, count):
        n = min(count, total - first)
        data = source.data[first // block * nbytes : (first + n) // block * nbytes]
        shape = (n // width, width) if width <= PIECE else (1, n)
        with np.errstate(all="ignore"):
            weights = dequantize(data, source.dtype, shape)
        yield weights


def chunks(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes in pieces of at most ``PIECE``, small ones joined."""
    held = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        for at in range(0, len(view), PIECE):
            piece = view[at : at + PIECE]
            if len(held) + len(piece) > PIECE:
                yield bytes(held)
                held.clear()
            held += piece
    if held:
        yield bytes(held)
