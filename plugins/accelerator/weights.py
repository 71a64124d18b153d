"""The read-only memories of a plan: packed matrices and vectors; rotation tables.

Items lie in the order in which steps read them. They are registered while the graph is lowered
(offsets and sizes from shapes alone) and written when the memory is filled. The same item asked for
twice is stored once (tied embeddings). Weights and tables are two memories because weights depend
on the model alone: other workers may share them, whatever context they were started with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from clawai.plugins.accelerator.arena import align
from clawai.plugins.accelerator.native import FORMATS, PACKED, ffi, lib, packed_bytes
from clawai.sdk.model.driver import UnsupportedGraph
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import let_go
from clawai.sdk.model.graph import Tensor

Write = Callable[[memoryview], None]
ROWS = 64
"""Positions whose rotations are written at a time."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation table depends on."""

    theta: float
    rot_dim: int
    interleaved: bool
    stretch: float = 1.0
    divisors: str = ""
    """Name of the vector that divides the frequencies."""


@dataclass(frozen=True, slots=True)
class Item:
    """A region of the weights memory and the function that fills it."""

    offset: int
    nbytes: int
    write: Write
    label: str
    """The same for the same item of the same model, in any process."""


class Memory:
    """A read-only memory of a plan: what lies where in it, and how it is filled."""

    def __init__(self) -> None:
        self.items: dict[object, Item] = {}
        self.nbytes = 0
        self.turns: list[Turn] = []
        """Tables of rotations, which are written by themselves."""

    def item(self, key: object, nbytes: int, write: Write, label: str) -> int:
        """Offset of ``nbytes`` that ``write`` fills; the same ``key`` gets the same bytes."""
        if key not in self.items:
            self.items[key] = Item(self.nbytes, nbytes, write, label)
            self.nbytes = align(self.nbytes + nbytes)
        return self.items[key].offset

    def fill(self, memory: memoryview, progress: Callable[[float], None] | None = None) -> None:
        """Write every item; ``memory`` is zeroed and at least ``nbytes`` long."""
        done = 0
        for item in self.items.values():
            item.write(memory[item.offset : item.offset + item.nbytes])
            done += item.nbytes
            if progress is not None:
                progress(done / max(self.nbytes, 1))


def matrix(memory: Memory, parts: tuple[Tensor, ...], *, alternate: bool = False) -> int:
    """Offset of the rows of ``parts`` one below the other, or alternating 8 by 8."""
    fmt = PACKED[parts[0].dtype]
    rows = [int(p.shape[0]) for p in parts]
    width = int(parts[0].shape[1])
    nbytes = sum(packed_bytes(fmt, r, width) for r in rows)

    def write(out: memoryview) -> None:
        first = 0
        for i, (part, r) in enumerate(zip(parts, rows, strict=True)):
            start, step = (i, len(parts)) if alternate else (first, 1)
            pack(part, fmt, out, start, step)
            let_go(payload(part))
            first += -(-r // 8)

    label = f"{fmt} {alternate} {[(p.name, *p.shape) for p in parts]}"
    return memory.item((fmt, alternate, *(id(p) for p in parts)), nbytes, write, label)


def vector(memory: Memory, parts: tuple[Tensor | int, ...]) -> int:
    """Offset of float32 vectors, end to end; a number stands for that many zeros."""
    sizes = [p if isinstance(p, int) else int(p.shape[0]) for p in parts]

    def write(out: memoryview) -> None:
        target = np.frombuffer(out, np.float32, sum(sizes))
        at = 0
        for part, size in zip(parts, sizes, strict=True):
            if not isinstance(part, int):
                target[at : at + size] = as_float32(part)
            at += size

    key = ("vector", *(p if isinstance(p, int) else (id(p),) for p in parts))
    label = f"vector {[p if isinstance(p, int) else p.name for p in parts]}"
    return memory.item(key, 4 * sum(sizes), write, label)


def rotation(memory: Memory, turn: Rotation, context: int, divisors: Tensor | None = None) -> int:
    """Offset of the table that ``csrc/ops/rope.c`` describes, one row a position."""
    width = turn.rot_dim * (2 if turn.interleaved else 1)
    by = np.ones(1, np.float32) if divisors is None else as_float32(divisors)
    if not np.all(np.isfinite(by) & (by > 0)):
        raise UnsupportedGraph(f"divisors of frequencies {turn.divisors!r} must be positive")
    known = turn in memory.items
    offset = memory.item(turn, 4 * width * context, lambda _: None, f"{turn} {context}")
    if not known:
        table = Turn(offset, turn.theta, turn.rot_dim, turn.interleaved, turn.stretch, by.tolist())
        memory.turns.append(table)
    return offset


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """A rotation table at its place in the tables of a plan."""

    offset: int
    theta: float
    rot_dim: int
    interleaved: bool
    stretch: float
    divisors: list[float]
    """Of the frequencies; one stands for all."""

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.rot_dim * (2 if self.interleaved else 1)

    def fits(self, nbytes: int, context: int) -> bool:
        """Whether it lies inside of ``nbytes``, and has numbers that make a table."""
        return (
            2 <= self.rot_dim <= 1 << 16
            and len(self.divisors) in (1, self.rot_dim // 2)
            and 0 <= self.offset <= nbytes - 4 * self.width * context
        )

    def write(self, tables: npt.NDArray[np.uint8], first: int, last: int) -> None:
        """Fill the rows of the positions from ``first`` to ``last - 1``."""
        row = 4 * self.width
        out = tables[self.offset + row * first : self.offset + row * last]
        table = out.view(np.float32).reshape(-1, self.width)
        power = np.arange(self.rot_dim // 2, dtype=np.float64) * 2 / self.rot_dim
        frequency = self.theta**-power / self.stretch / np.asarray(self.divisors, np.float64)
        step = max(1, (1 << 20) // self.width)
        for start in range(first, last, step):
            rows = table[start - first : start - first + step]
            angle = np.arange(start, start + len(rows))[:, None] * frequency
            cosine, sine = np.cos(angle), np.sin(angle)
            if self.interleaved:
                rows[:, : self.rot_dim] = np.repeat(cosine, 2, axis=1)
                rows[:, self.rot_dim :: 2] = -sine
                rows[:, self.rot_dim + 1 :: 2] = sine
            else:
                rows[:] = np.concatenate([cosine, sine], axis=1)


class Tables:
    """The rotation tables of a plan, written as far as its sequences have come.

    All of a long context would take milliseconds at the start, which a short answer never needs.
    """

    def __init__(self, turns: list[Turn], memory: npt.NDArray[np.uint8], context: int) -> None:
        self._turns, self._memory, self._context = turns, memory, context
        self._written = 0

    def reach(self, position: int) -> None:
        """See to it that all positions below ``position`` have their rows. Call it alone."""
        if position > self._written:
            end = min(-(-position // ROWS) * ROWS, self._context)
            for turn in self._turns:
                turn.write(self._memory, self._written, end)
            self._written = end


def payload(tensor: Tensor) -> memoryview:
    """The bytes of a weight, of exactly the size that its shape and dtype imply."""
    data = tensor.data
    rows = int(np.prod([int(d) for d in tensor.shape[:-1]], dtype=np.int64))
    expected = rows * tensor.dtype.row_bytes(int(tensor.shape[-1]))
    if data is None or data.nbytes != expected or not data.c_contiguous:
        raise UnsupportedGraph(
            f"weight {tensor.name!r} {tensor.shape} of {tensor.dtype.name} must have {expected} "
            f"contiguous bytes, got {'none' if data is None else data.nbytes}"
        )
    return data


def pack(tensor: Tensor, fmt: str, out: memoryview, first: int, step: int) -> None:
    """Pack a matrix into ``out``; its group i of 8 rows becomes block ``first + i * step``."""
    rows, width = (int(d) for d in tensor.shape)
    source, target = ffi.from_buffer(payload(tensor)), ffi.from_buffer(out, require_writable=True)
    code = lib.claw_pack(
        FORMATS.index(fmt), int(tensor.dtype), rows, width,
        ffi.cast("const uint8_t *", source), len(source),
        ffi.cast("uint8_t *", target), len(target), first, step,
    )  # fmt: skip
    if code:
        raise UnsupportedGraph(f"weight {tensor.name!r} {tensor.shape} cannot be packed as {fmt}")


def as_float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A vector of any float type as float32."""
    data = payload(tensor)
    if tensor.dtype is DType.BF16:
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    kind = np.float32 if tensor.dtype is DType.F32 else np.float16
    return np.frombuffer(data, kind).astype(np.float32)
