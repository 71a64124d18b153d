"""The driver for the processor: compiles graphs to plans, and the plan that an engine runs.

A plan shares its weights with whoever maps them and holds several sequences, of which one runs at a
time, or several a token each. It refuses what the library cannot run (``UnsupportedGraph``) before
any memory is asked for, and tokens that do not fit (``ValueError``) before C sees them.
"""

import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from clawai.plugins.accelerator.arena import align
from clawai.plugins.accelerator.batch import CpuBatch
from clawai.plugins.accelerator.compiled import Compiled, compiled_from, read_compiled
from clawai.plugins.accelerator.lower import KV_TYPES, Lowering
from clawai.plugins.accelerator.native import ffi, lib
from clawai.plugins.accelerator.sequence import CpuSequence, Shared
from clawai.plugins.accelerator.tuned import tune
from clawai.plugins.accelerator.weights import Tables
from clawai.sdk.model.driver import Allocate, Footprint, UnsupportedGraph
from clawai.sdk.model.graph import Graph

CHUNK = 128
"""Prompt tokens that run together: enough to pay for unpacking, few enough to stop quickly."""


class CpuDriver:
    """The processor, through the op table of the best instruction set that it has."""

    name = "cpu"

    def __init__(self) -> None:
        self._known: tuple[Graph, Compiled] | None = None
        """The last one: an engine asks for size, layout and plan of the same graph."""

    def _compiled(self, graph: Graph, context: int, kv: str) -> Compiled:
        if self._known and self._known[0] is graph:
            compiled = self._known[1]
            if (compiled.context, compiled.kv) == (context, kv):
                return compiled
        compiled = compiled_from(lower(graph, context, kv))
        self._known = graph, compiled
        return compiled

    def layout(self, graph: Graph) -> str:
        """Names how ``pack`` lays weights out; the same for all instruction sets."""
        if self._known and self._known[0] is graph:
            return self._known[1].layout  # of any context: weights do not depend on it
        return self._compiled(graph, 1, "f16").layout

    def saved(self, graph: Graph, *, context: int, kv: str = "f16") -> bytes:
        """What ``restore`` takes (see ``Driver``)."""
        return msgspec.msgpack.encode(self._compiled(graph, context, kv))

    def restore(self, graph: Graph, saved: bytes) -> None:
        """Know a graph without looking at it (see ``Driver``)."""
        self._known = graph, read_compiled(saved)

    def footprint(
        self,
        graph: Graph,
        *,
        context: int,
        sequences: int = 1,
        threads: int | None = None,
        kv: str = "f16",
    ) -> Footprint:
        """Memory that a plan will need (see ``Driver``)."""
        sizes = Sizes(self._compiled(graph, context, kv), threads or default_threads())
        return Footprint(sizes.weights, sizes.tables, sizes.kv * sequences, sizes.all(sequences))

    def pack(
        self, graph: Graph, memory: memoryview, progress: Callable[[float], None] | None = None
    ) -> None:
        """Write the weights into ``memory`` (see ``Driver``)."""
        lower(graph, 1).weights.fill(memory, progress)

    def compile(
        self,
        graph: Graph,
        *,
        context: int,
        threads: int,
        weights: memoryview,
        allocate: Allocate,
        sequences: int = 1,
        kv: str = "f16",
    ) -> "CpuPlan":
        """Plan the arena and start the threads (see ``Driver``)."""
        for name, got, most in (
            ("threads", threads, lib.CLAW_MAX_THREADS),
            ("sequences", sequences, lib.CLAW_MAX_SEQUENCES),
        ):
            if not 1 <= got <= most:
                raise ValueError(f"{name} must be in 1..{most}, got {got}")
        compiled = self._compiled(graph, context, kv)
        return CpuPlan(compiled, threads, weights, allocate, sequences)


class Sizes:
    """Bytes of the memories of a plan: kv and arena of one sequence, work of all threads."""

    def __init__(self, compiled: Compiled, threads: int) -> None:
        self.steps = compiled.records()
        self.weights = max(compiled.weights, 64)
        self.tables = max(compiled.tables, 64)
        self.kv = max(compiled.cache, 64)
        self.arena = max(compiled.arena, 64)
        self.work = int(
            lib.claw_scratch_bytes(self.steps, len(self.steps), compiled.chunk, threads)
        )
        self.logits = align(4 * compiled.vocabulary)

    def all(self, sequences: int) -> int:
        """Of the arena as it is allocated: activations, a row of logits each, then work."""
        rows = (sequences + batches_of(sequences)) * self.arena
        return rows + sequences * self.logits + self.work


class CpuPlan:
    """One model and its sequences; see ``clawai.sdk.model.driver.Plan``."""

    def __init__(
        self,
        compiled: Compiled,
        threads: int,
        weights: memoryview,
        allocate: Allocate,
        sequences: int,
    ) -> None:
        self.context = context = compiled.context
        tuned = tune()
        self.isa = str(tuned)
        self.steps = tuple(compiled.names)
        vocabulary, names = compiled.vocabulary, compiled.names
        sizes = Sizes(compiled, threads)
        spec, isa = ffi.new("claw_spec *"), ffi.new("char[]", tuned.isa.encode())
        tables = take(allocate, sizes.tables, "tables")
        kv = take(allocate, sizes.kv * sequences, "kv")
        arena = take(allocate, sizes.all(sequences), "arena")
        rows = (sequences + batches_of(sequences)) * sizes.arena
        work = rows + sequences * sizes.logits
        areas = {
            "weights": aligned(weights, sizes.weights, "weights"),
            "tables": tables,
            "kv": kv,
            "arena": arena[:rows],
            "work": arena[work : work + sizes.work],
        }
        keep: list[Any] = [isa, tuned.table]
        for key, memory in areas.items():
            # An array, which the garbage collector does not look into: Python 3.11 crashes when it
            # collects, in a circle, a memoryview whose buffer something else in it holds.
            held = np.frombuffer(memory, np.uint8)
            keep.append(held)
            setattr(spec, key, ffi.cast("uint8_t *", held.ctypes.data))
            setattr(spec, f"{key}_bytes", memory.nbytes)
        spec.kv_bytes, spec.arena_bytes = sizes.kv, sizes.arena
        spec.isa, spec.ops = isa, tuned.table
        spec.context, spec.chunk = context, compiled.chunk
        spec.threads, spec.sequences = threads, sequences
        spec.batches = batches_of(sequences)
        spec.vocabulary, spec.kv_block = vocabulary, compiled.cache_block
        plan = new_plan(spec, sizes.steps, names)
        turned = Tables(compiled.turns, np.frombuffer(tables, np.uint8), context)
        self._shared = Shared(context, vocabulary, compiled.chunk, names, plan, keep, turned)
        self.sequences = tuple(
            CpuSequence(self._shared, number, arena[at : at + 4 * vocabulary])
            for number, at in enumerate(range(rows, work, sizes.logits))
        )
        self.batches = tuple(CpuBatch(self._shared, number) for number in range(spec.batches))

    def preempt(self, on: bool) -> None:
        """While ``on``, have whatever runs leave between two steps (see ``Plan``)."""
        lib.claw_plan_preempt(self._shared.open(), on)

    def close(self) -> None:
        """Join the threads and let the memory go; a second call does nothing."""
        shared = self._shared
        with shared.lock:
            if shared.plan is not None:
                lib.claw_plan_free(shared.plan)
                shared.plan = None
                shared.keep.clear()
                shared.tables = None
                for sequence in self.sequences:
                    sequence.close()


def lower(graph: Graph, context: int, kv: str = "f16") -> Lowering:
    """Check and lower a graph.

    Raises:
        UnsupportedGraph: what the library cannot run.
        ValueError: ``context`` is out of range, or ``kv`` is not one of ``KV_TYPES``.
    """
    top = min(graph.context, lib.CLAW_MAX_CONTEXT)
    if not 1 <= context <= top:
        raise ValueError(f"context must be in 1..{top} tokens, got {context}")
    if kv not in KV_TYPES:
        raise ValueError(f"kv must be one of {', '.join(KV_TYPES)}, got {kv!r}")
    return Lowering(graph, context, min(CHUNK, context), kv)


def batches_of(sequences: int) -> int:
    """Joint steps that can be left at the same time; each has at least two sequences."""
    return min(int(lib.CLAW_MAX_BATCHES), sequences // 2)


def default_threads() -> int:
    """Cores that this process may use."""
    return max(1, min(len(os.sched_getaffinity(0)), int(lib.CLAW_MAX_THREADS)))


def take(allocate: Allocate, nbytes: int, purpose: str) -> memoryview:
    """Memory from the engine, checked to be what ``Allocate`` promises."""
    memory = allocate(nbytes, purpose)
    if memory.readonly:
        raise ValueError(f"allocate({nbytes}, {purpose!r}) gave memory that is read only")
    return aligned(memory, nbytes, purpose)


def aligned(memory: memoryview, nbytes: int, purpose: str) -> memoryview:
    """``memory`` cut to ``nbytes``, if it is as large and aligned to a cache line."""
    memory = memory.cast("B")
    if memory.nbytes < nbytes:
        raise ValueError(f"allocate({nbytes}, {purpose!r}) gave {memory.nbytes} bytes")
    address = int(ffi.cast("uintptr_t", ffi.from_buffer("uint8_t[]", memory)))
    if address % 64:
        raise ValueError(f"allocate({nbytes}, {purpose!r}) gave memory not aligned to 64 bytes")
    return memory[:nbytes]


def new_plan(spec: Any, steps: Any, names: list[str]) -> Any:
    """The C plan, or the reason why there is none."""
    code, bad = ffi.new("int32_t *"), ffi.new("uint32_t *")
    plan = lib.claw_plan_new(spec, steps, len(steps), code, bad)
    if plan != ffi.NULL:
        return plan
    if code[0] == lib.CLAW_BAD_PLAN:
        raise UnsupportedGraph(f"step {names[bad[0]]!r} is outside of the library's limits")
    if code[0] == lib.CLAW_NO_THREAD:
        raise RuntimeError(f"could not start {spec.threads - 1} threads; try fewer")
    raise MemoryError("no memory for the plan's own records")
