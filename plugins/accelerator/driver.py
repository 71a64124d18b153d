"""The driver for the processor: compiles graphs to plans, and the plan that an engine runs.

A plan holds one sequence. It refuses what the library cannot run (``UnsupportedGraph``) before any
memory is asked for, and token ids or lengths that do not fit (``ValueError``) before C sees them.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clawai.plugins.accelerator.arena import Buffer, align
from clawai.plugins.accelerator.lower import Lowering, View
from clawai.plugins.accelerator.native import choose_isa, ffi, lib
from clawai.sdk.model.driver import Allocate, Footprint, Stopped, UnsupportedGraph
from clawai.sdk.model.graph import Graph

CHUNK = 128
"""Prompt tokens that run together: enough to pay for unpacking, few enough to stop quickly."""


class CpuDriver:
    """The processor, through the op table of the best instruction set that it has."""

    name = "cpu"

    def footprint(self, graph: Graph, *, context: int, threads: int | None = None) -> Footprint:
        """Memory that ``compile`` will need (see ``Driver``)."""
        lowering = lower(graph, context)
        steps = step_records(lowering)
        return footprint_of(lowering, steps, threads or default_threads())

    def compile(
        self,
        graph: Graph,
        *,
        context: int,
        threads: int,
        allocate: Allocate,
        control: memoryview | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> "CpuPlan":
        """Pack the weights, plan the arena and start the threads (see ``Driver``)."""
        if not 1 <= threads <= lib.CLAW_MAX_THREADS:
            raise ValueError(f"threads must be in 1..{lib.CLAW_MAX_THREADS}, got {threads}")
        if control is not None and control.nbytes < 4:
            raise ValueError(f"control must hold a 32-bit word, got {control.nbytes} bytes")
        lowering = lower(graph, context)
        return CpuPlan(lowering, context, threads, allocate, control, progress)


class CpuPlan:
    """One sequence of one model; see ``clawai.sdk.model.driver.Plan``."""

    def __init__(
        self,
        lowering: Lowering,
        context: int,
        threads: int,
        allocate: Allocate,
        control: memoryview | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.context = context
        self.vocabulary = lowering.graph.vocabulary
        self.isa = choose_isa()
        self._lock = threading.Lock()
        self._names = [step.name for step in lowering.steps]
        steps = step_records(lowering)
        need = footprint_of(lowering, steps, threads)
        spec = ffi.new("claw_spec *")
        isa = ffi.new("char[]", self.isa.encode())
        weights = take(allocate, need.weights, "weights")
        kv, arena = take(allocate, need.kv, "kv"), take(allocate, need.arena, "arena")
        self._keep: list[Any] = [weights, kv, arena, isa]
        for key, memory in (("weights", weights), ("kv", kv), ("arena", arena)):
            held = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
            self._keep.append(held)
            setattr(spec, key, held)
            setattr(spec, f"{key}_bytes", memory.nbytes)
            if key == "weights":
                lib.claw_advise_huge(held, memory.nbytes)
        if control is not None:
            held = ffi.from_buffer("uint8_t[]", control)
            self._keep.append(held)
            spec.control = ffi.cast("const uint32_t *", held)
        spec.isa, spec.scratch = isa, lowering.arena_bytes
        spec.context, spec.chunk, spec.threads = context, lowering.chunk, threads
        spec.vocabulary, spec.kv_block = self.vocabulary, lowering.cache_block
        row = 4 * self.vocabulary
        logits = arena[need.arena - align(row) : need.arena - align(row) + row]
        self._logits = np.frombuffer(logits, np.float32).reshape(1, -1)
        lowering.weights.fill(weights, progress)
        self._plan = new_plan(spec, steps, self._names)

    def run(self, tokens: Sequence[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens`` and return logits (see ``Plan``)."""
        ids = self._checked(tokens)
        with self._lock:
            plan = self._open()
            if len(ids) > self.context - self.position:
                raise ValueError(
                    f"{len(ids)} tokens after {self.position} do not fit a context of "
                    f"{self.context}; rewind, or compile with a larger context"
                )
            whole = (len(ids), self.vocabulary)
            logits = np.empty(whole, np.float32) if all_logits else self._logits
            code = lib.claw_plan_run(
                plan,
                ffi.from_buffer("int32_t[]", ids),
                len(ids),
                ffi.from_buffer("float[]", logits, require_writable=True),
                all_logits,
            )
        if code == lib.CLAW_STOPPED:
            raise Stopped(f"the control word was set; {self.position} tokens are in the cache")
        if code:
            raise RuntimeError(f"the executor refused checked tokens with code {code}")
        return logits

    def _checked(self, tokens: Sequence[int]) -> Any:
        try:
            ids = np.asarray(tokens, dtype=np.int64)
        except OverflowError as error:
            raise ValueError(f"a token id does not fit 64 bits: {error}") from error
        if ids.ndim != 1 or not ids.size:
            raise ValueError(f"tokens must be a sequence of at least one id, got shape {ids.shape}")
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise ValueError(
                f"token ids must be in 0..{self.vocabulary - 1}, got {ids.min()}..{ids.max()}"
            )
        return ids.astype(np.int32)

    def _open(self) -> Any:
        if self._plan is None:
            raise ValueError("the plan is closed; compile the graph again")
        return self._plan

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return int(lib.claw_plan_position(self._open()))

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on."""
        with self._lock:
            if not 0 <= position <= self.position:
                raise ValueError(f"rewind takes 0..{self.position}, got {position}")
            lib.claw_plan_rewind(self._open(), position)

    def op_times(self) -> list[tuple[str, int]]:
        """(step, nanoseconds) of the last run, oldest first; a prompt has one entry a chunk."""
        with self._lock:
            times = ffi.new("claw_time[]", lib.CLAW_TIMES)
            n = lib.claw_plan_times(self._open(), times, lib.CLAW_TIMES)
        return [(self._names[times[i].step], int(times[i].ns)) for i in range(n)]

    def close(self) -> None:
        """Join the threads and let the memory go; a second call does nothing."""
        with self._lock:
            if self._plan is not None:
                lib.claw_plan_free(self._plan)
                self._plan = None
                self._keep.clear()


def lower(graph: Graph, context: int) -> Lowering:
    """Check and lower a graph.

    Raises:
        UnsupportedGraph: what the library cannot run.
        ValueError: ``context`` is out of range.
    """
    top = min(graph.context, lib.CLAW_MAX_CONTEXT)
    if not 1 <= context <= top:
        raise ValueError(f"context must be in 1..{top} tokens, got {context}")
    return Lowering(graph, context, min(CHUNK, context))


def default_threads() -> int:
    """Cores that this process may use."""
    return max(1, min(len(os.sched_getaffinity(0)), int(lib.CLAW_MAX_THREADS)))


def footprint_of(lowering: Lowering, steps: Any, threads: int) -> Footprint:
    """Bytes of each memory; the arena ends with the scratch, then one row of logits."""
    scratch = lib.claw_scratch_bytes(steps, len(steps), lowering.chunk, threads)
    logits = align(4 * lowering.graph.vocabulary)
    return Footprint(
        weights=max(lowering.weights.nbytes, 64),
        kv=max(lowering.cache_bytes, 64),
        arena=lowering.arena_bytes + int(scratch) + logits,
    )


def take(allocate: Allocate, nbytes: int, purpose: str) -> memoryview:
    """Memory from the engine, checked to be what ``Allocate`` promises."""
    memory = allocate(nbytes, purpose).cast("B")
    if memory.nbytes < nbytes or memory.readonly:
        raise ValueError(f"allocate({nbytes}, {purpose!r}) gave {memory.nbytes} bytes")
    address = int(ffi.cast("uintptr_t", ffi.from_buffer("uint8_t[]", memory)))
    if address % 64:
        raise ValueError(f"allocate({nbytes}, {purpose!r}) gave memory not aligned to 64 bytes")
    return memory[:nbytes]


def step_records(lowering: Lowering) -> Any:
    """The steps as the array of C structs that the executor takes."""
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
