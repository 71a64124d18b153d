"""Measures which ops this box runs fastest, within a second, and prints it as one line of JSON.

    python -I -m clawai.plugins.accelerator.profile

A race runs its candidates in turn, round after round, and compares medians: a slower moment of the
box hits all of them. Something else than the default is chosen only if it wins by more than 5 %,
and only among candidates that give the same bits (``tuned.SAME_BITS``). Weights are larger than the
second-level cache, as a model's are. The whole stays within ``BUDGET_S`` of processor time: what is
left out for want of time stays at its default.

In order: the instruction set of each family that is measured; how far the products of one token ask
ahead; the tile of the products of many; and whether fewer threads are faster than all.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import mmap
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from clawai.plugins.accelerator.driver import CpuDriver, CpuPlan
from clawai.plugins.accelerator.native import FORMATS, ffi, lib, packed_bytes
from clawai.plugins.accelerator.tuned import DEFAULTS, alike, rows, tune
from clawai.sdk import tuning
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

BUDGET_S = 0.8
"""Of processor time, for everything that is measured."""
HANGS_S = 10
WINS_BY = 0.05
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
AHEAD = (2048, 4096, 8192, 16384)
TILES = (2, 3)
WIDTH = 1024
"""Of the matrices."""
TOKENS = 48
"""Of a prompt."""
PANELS = 4
"""Of a product of many tokens, one after the other."""
QUIET = 0.9
"""Part of the cores that all threads must have got, spinning ones too: where others compute, fewer
threads look better, and that must not decide for the time when they do not."""
SHARES = {"isa": 0.5, "ahead": 0.15, "tile": 0.15, "threads": 0.2}
"""Of the budget."""

Call = Callable[[], object]


class Memory:
    """What the ops read and write: large, and of bytes that are ordinary numbers in any format."""

    def __init__(self) -> None:
        cache = 0
        with contextlib.suppress(ValueError, OSError):
            cache = os.sysconf("SC_LEVEL2_CACHE_SIZE")
        size = min(max(4 * cache, 8 << 20), 16 << 20)
        self.weights = np.full(size, 0x2C, np.uint8)
        self.floats = np.linspace(-1, 1, TOKENS * WIDTH, dtype=np.float32)
        self.codes = np.full(TOKENS * WIDTH, 3, np.int8)
        self.scales = np.full(TOKENS * WIDTH // 32, 0.01, np.float32)
        self.limits = np.arange(64 - 8, 64, dtype=np.int32) + 1
        self.scratch = np.zeros(1 << 16, np.float32)
        self.out = np.zeros(size // 16 + 4096, np.float32)

    def blocks(self, fmt: str) -> int:
        """Groups of 8 rows that the weights hold."""
        return int(self.weights.nbytes) // packed_bytes(fmt, 8, WIDTH) & ~1


def pointer(array: Any, offset: int = 0) -> Any:
    """The address of an array's bytes from ``offset`` on, for any parameter."""
    return ffi.cast("void *", array.ctypes.data + offset)


def call(table: Any, op: str, memory: Memory) -> Call | None:
    """One call of an op, or one for each of some panels; None for an op that is not measured."""
    m, function = memory, getattr(table, op)
    kind, _, fmt = op.partition("_")
    if fmt not in FORMATS:
        kind = ""
    x, q, d, y = pointer(m.floats), pointer(m.codes), pointer(m.scales), pointer(m.out)
    work, n = pointer(m.scratch), int(m.floats.size)
    if kind in ("gemv", "gemm") and fmt not in FORMATS:
        return None  # a product of its own kind, that plans do not use
    if kind == "gemv":
        w, blocks = pointer(m.weights), m.blocks(fmt)
        given = (q, d, d) if fmt.startswith("q") else (x,)
        return lambda: function(w, blocks, WIDTH, *given, y)
    if kind == "gemm":
        step, count = 2 * packed_bytes(fmt, 8, WIDTH), m.blocks(fmt) // 2
        starts = itertools.cycle([pointer(m.weights, step * i) for i in range(count)])
        head, tail = ((q, d, d), (work,)) if fmt.startswith("q") else ((x, WIDTH), ())

        def panels() -> None:
            for start in itertools.islice(starts, PANELS):
                function(start, 2, WIDTH, *head, TOKENS, *tail, y, 16)

        return panels
    caches = pointer(m.weights), pointer(m.weights, 8192)
    calls: dict[str, Call] = {
        "quantize_q8": lambda: function(x, n, q, d, y),
        "rmsnorm": lambda: function(x, x, n, 1e-5, y),
        "add": lambda: function(x, x, n, y),
        "silu_mul": lambda: function(x, x, n, y),
        "attention_f16": lambda: function(
            x, 8, 64, 0.125, pointer(m.limits), 8192, *caches, work, y
        ),
    }
    return calls.get(op)


def synthetic_plan(memory: Memory, threads: int) -> CpuPlan:
    """A model of little but norms and products, as many as ``memory`` has weights for."""
    one = np.zeros(WIDTH * (WIDTH // 32) * 20, np.uint8)  # Q4_1; what the plan reads is packed
    square = Tensor("w", (WIDTH, WIDTH), DType.Q4_1, memoryview(one.data))
    table = Tensor("table", (WIDTH, WIDTH), DType.Q4_1, memoryview(one.data))
    gain = Tensor(
        "gain", (WIDTH,), DType.F32, memoryview(np.ones(WIDTH, np.float32).data).cast("B")
    )
    tensors = {"tokens": Tensor("tokens", ("tokens",), DType.I32), "gain": gain, "table": table}
    nodes: list[Node] = []

    def add(op: Op, *inputs: str, rows: str = "tokens", **attrs: float) -> str:
        name = f"y{len(nodes)}"
        tensors[name] = Tensor(name, (rows, WIDTH), DType.F32)
        nodes.append(Node(op, inputs, name, attrs))
        return name

    x = add(Op.EMBED, "tokens", "table")
    heads = WIDTH // 64
    x = add(Op.ATTENTION, x, x, x, layer=0, scale=0.125, heads=heads, kv_heads=heads, head_dim=64)
    for number in range(max(2, memory.weights.nbytes // packed_bytes("q4a", WIDTH, WIDTH) - 2)):
        weight = f"w{number}"
        tensors[weight] = dataclasses.replace(square, name=weight, data=memoryview(one.data))
        x = add(Op.ADD, x, add(Op.MATMUL, add(Op.RMSNORM, x, "gain", eps=1e-5), weight))
    x = add(Op.MATMUL, add(Op.LAST, x, rows="rows"), "table", rows="rows")
    graph = Graph(tensors, tuple(nodes), ("tokens",), (x,), 2 * TOKENS, WIDTH, 1)
    driver = CpuDriver()
    need = driver.footprint(graph, context=2 * TOKENS, threads=threads)
    weights = memory.weights
    if weights.nbytes < need.weights:
        weights = np.full(need.weights + 64, 0x2C, np.uint8)
    weights = weights[-weights.ctypes.data % 64 :]
    return driver.compile(
        graph,
        context=2 * TOKENS,
        threads=threads,
        weights=memoryview(weights.data),
        allocate=lambda nbytes, _: memoryview(mmap.mmap(-1, nbytes)),
    )


class Clock:
    """The processor time that is left."""

    def __init__(self) -> None:
        self._start = time.process_time()
        self._given = 0.0

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self._start

    def until(self, share: float) -> float:
        """When a stage that may take this share of the budget ends."""
        self._given += share * BUDGET_S
        return self._start + self._given


def race(calls: Sequence[Call], until: float) -> list[float] | None:
    """The median microseconds of each; None if there is no time for enough rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(MOST_ROUNDS + 1):
        if time.process_time() >= until:
            break
        for index, each in enumerate(calls):
            start = time.perf_counter()
            each()
            if turn:  # the first warms caches and page tables
                times[index].append(time.perf_counter() - start)
    if len(times[-1]) < LEAST_ROUNDS:
        return None
    return [round(statistics.median(each) * 1e6, 2) for each in times]


def winner(times: dict[str, float], default: str) -> str:
    """The fastest candidate if it is worth leaving the default for, else the default."""
    best = min(times, key=lambda name: times[name])
    return best if times[best] * (1 + WINS_BY) < times[default] else default


class Measurement:
    """All races of one box."""

    def __init__(self) -> None:
        self.memory, self.clock = Memory(), Clock()
        self.tuned = tune("")
        self.choices: dict[str, str | int] = {}
        self.timed: dict[str, dict[str, float]] = {}
        self.trials: dict[str, dict[str, float]] = {}

    def isas(self) -> None:
        """Each family on the set on which its ops take the least time, as a mean of ratios."""
        names = alike(self.tuned.isa)
        tables = [lib.claw_ops_named(name.encode()) for name in names]
        measured = [row for row in rows() if call(tables[0], row.op, self.memory)]
        first, last = time.process_time(), self.clock.until(SHARES["isa"])
        logs: dict[str, list[list[float]]] = {}
        for number, row in enumerate(measured, 1):
            calls = [made for t in tables if (made := call(t, row.op, self.memory))]
            until = first + (last - first) * number / len(measured)
            if (times := race(calls, until)) is None:
                continue
            for name, each in zip(names, times, strict=True):
                self.timed.setdefault(name, {})[row.op] = each
            logs.setdefault(row.family, []).append([math.log(max(each, 1e-3)) for each in times])
        for family, found in logs.items():
            means = [math.exp(statistics.fmean(column)) for column in zip(*found, strict=True)]
            ratios = dict(zip(names, means, strict=True))
            if (best := winner(ratios, self.tuned.isa)) != self.tuned.isa:
                self.choices[family] = best

    def number(self, name: str, op: str, values: Iterable[int]) -> None:
        """The best value of a hint for an op, measured as it will run."""
        candidates = sorted({*values, DEFAULTS[name]})
        now = tune(tuning.line(self.choices))
        run = call(now.table, op, self.memory)
        assert run

        def tried(value: int) -> Call:
            def both() -> None:
                setattr(lib.claw_tune, name, value)
                run()

            return both

        times = race([tried(value) for value in candidates], self.clock.until(SHARES[name]))
        if times is None:
            return
        found = dict(zip(map(str, candidates), times, strict=True))
        self.trials[name] = found
        if (best := winner(found, str(DEFAULTS[name]))) != str(DEFAULTS[name]):
            self.choices[name] = int(best)

    def threads(self) -> None:
        """Whether one token, or many, go faster on fewer threads than there are cores.

        Measured on a plan, as a model runs: what sharing the steps costs counts too.
        """
        cores = min(len(os.sched_getaffinity(0)), int(lib.CLAW_MAX_THREADS))
        wanted = sorted({max(1, cores // 4), max(1, cores // 2), cores})
        if len(wanted) == 1:
            return
        os.environ[tuning.VARIABLE] = tuning.line(self.choices)
        word = memoryview(bytearray(4)).cast("I")
        plan = synthetic_plan(self.memory, cores)
        sequence = plan.sequences[0]
        sequence.start(word.cast("B"))

        def runs(threads: int, tokens: list[int]) -> Call:
            def run() -> None:
                word[0] = threads << 8
                sequence.rewind(0)
                sequence.run(tokens)

            return run

        for name, tokens in (("one_threads", [1]), ("many_threads", [1] * TOKENS)):
            until = self.clock.until(SHARES["threads"] / 2)
            got = time.process_time(), time.perf_counter()
            runs(cores, tokens)()
            got = time.process_time() - got[0], time.perf_counter() - got[1]
            if (times := race([runs(each, tokens) for each in wanted], until)) is None:
                continue
            found = dict(zip(map(str, wanted), times, strict=True))
            self.trials[name] = found
            if got[0] < QUIET * cores * got[1]:
                continue
            if (best := winner(found, str(cores))) != str(cores):
                self.choices[name] = int(best)
        plan.close()

    def run(self) -> dict[str, Any]:
        """Everything, in order; see ``clawai.sdk.tuning.Profile``."""
        self.isas()
        self.number("ahead", "gemv_q4a", AHEAD)
        self.number("tile", "gemm_q4a", TILES)
        self.threads()
        return {
            "choices": self.choices,
            "timed": self.timed,
            "trials": self.trials,
            "seconds": round(self.clock.spent, 3),
        }


def main() -> None:
    """Measure and print."""
    signal.alarm(HANGS_S)
    for name in (tuning.VARIABLE, tuning.ISA_VARIABLE):  # what is kept outlives an override
        os.environ.pop(name, None)
    print(json.dumps(Measurement().run()))


if __name__ == "__main__":
    main()
