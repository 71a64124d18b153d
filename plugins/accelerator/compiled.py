"""A lowered graph as plain numbers: what a plan is made of, and quick to write down and read.

To check and lower a graph takes longer than to read all of its weights. Whoever has done it once
keeps this beside the packed weights. It may come back from a disk, through a worker that had met a
hostile model: its types are checked here, and every offset by ``claw_plan_new``, which trusts no
record.
"""

import hashlib
from typing import Any

import msgspec

from clawai.plugins.accelerator.arena import Buffer
from clawai.plugins.accelerator.lower import Lowering, View
from clawai.plugins.accelerator.native import ffi, lib
from clawai.plugins.accelerator.weights import Turn

LAYOUT = 1
"""Raise it when ``csrc/core/pack.c`` or ``layout.h`` come to mean other bytes."""


class Compiled(msgspec.Struct, frozen=True, array_like=True):
    """Steps and sizes of a graph for one length of the context and one kind of cache."""

    context: int
    kv: str
    chunk: int
    vocabulary: int
    layout: str
    weights: int
    """Bytes, as all that follow."""
    tables: int
    cache: int
    """Of one sequence."""
    cache_block: int
    arena: int
    turns: list[Turn]
    names: list[str]
    """Of the steps."""
    steps: bytes
    """The C records."""

    def records(self) -> Any:
        """The steps as the executor takes them."""
        records = ffi.new("claw_step[]", len(self.names))
        ffi.buffer(records)[:] = self.steps
        return records


def compiled_from(lowering: Lowering) -> Compiled:
    """Write a lowered graph down."""
    items = lowering.weights.items.values()
    places = repr([(item.label, item.offset, item.nbytes) for item in items])
    return Compiled(
        context=lowering.context,
        kv=lowering.kv,
        chunk=lowering.chunk,
        vocabulary=lowering.graph.vocabulary,
        layout=f"r8k4-{LAYOUT}-{hashlib.sha256(places.encode()).hexdigest()[:16]}",
        weights=lowering.weights.nbytes,
        tables=lowering.tables.nbytes,
        cache=lowering.cache_bytes,
        cache_block=lowering.cache_block,
        arena=lowering.arena_bytes,
        turns=lowering.tables.turns,
        names=[step.name for step in lowering.steps],
        steps=bytes(ffi.buffer(step_records(lowering))),
    )


def read_compiled(saved: bytes) -> Compiled:
    """Read what was written down.

    Raises:
        ValueError: it is damaged, or of another library.
    """
    compiled = msgspec.msgpack.decode(saved, type=Compiled)
    sizes = (
        compiled.weights,
        compiled.tables,
        compiled.cache,
        compiled.cache_block,
        compiled.arena,
    )
    if (
        len(compiled.steps) != len(compiled.names) * ffi.sizeof("claw_step")
        or not compiled.names
        or not 1 <= compiled.chunk <= compiled.context <= lib.CLAW_MAX_CONTEXT
        or not 1 <= compiled.vocabulary <= 1 << 31
        or not all(0 <= size <= 1 << 48 for size in sizes)
        or not all(turn.fits(compiled.tables, compiled.context) for turn in compiled.turns)
    ):
        raise ValueError("the kept plan is damaged")
    return compiled


def step_records(lowering: Lowering) -> Any:
    """The steps as an array of C structs."""
    steps = lowering.steps
    records = ffi.new("claw_step[]", len(steps))
    index = {id(step): i for i, step in enumerate(steps)}
    for record, step in zip(records, steps, strict=True):
        record.code, record.flags = step.code, step.flags
        for key, value in step.numbers.items():
            setattr(record, key, value)
        for key, view in step.views.items():
            set_view(getattr(record, key), view, lowering.graph.vocabulary)
        record.q8, record.in_q8 = offset_of(step.q8), offset_of(step.in_q8)
        record.folds = 0 if step.folds is None else index[id(step.folds)] + 1
    return records


def set_view(record: Any, view: View, vocabulary: int) -> None:
    """One view; without a buffer it is the caller's logits."""
    if view.buffer is None:
        record.base, record.stride = lib.CLAW_IN_OUT, vocabulary
    else:
        record.offset = view.buffer.offset + 4 * view.column
        record.stride = view.buffer.width


def offset_of(buffer: Buffer | None) -> int:
    """A buffer's offset in the arena."""
    return 0 if buffer is None else buffer.offset
