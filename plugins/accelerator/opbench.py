"""Times every op of the list on every instruction set that runs here, for ``claw bench ops``.

    python -I -m clawai.plugins.accelerator.opbench '{"families": [], "isas": [], "quick": false}'

prints one JSON object: the ceilings of one thread, and a row for each op and set. One thread, as an
op runs; all sets of an op take turns on the same arrays, and medians are reported, less what a call
that does nothing takes. Where an op reads what a model does not find in a cache (weights, caches of
keys, frames, files), its large arrays are copies in turn, more than a cache holds.

The share of a row is the longer of two times, at the ceilings of the same run, divided by the time
that the op took: its bytes at the speed at which memory is read, if they come from memory, and its
products at the peak of the best instruction set here. Bytes that are written count once, as if
they were read: memory moves them twice unless an op goes round the caches. What stays in a cache
and computes little has no share, nor has what is too short to be told from an empty call.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clawai.plugins.accelerator import timed_arrays, timed_images, timed_language
from clawai.plugins.accelerator.listing import set_of
from clawai.plugins.accelerator.native import available_isas, ffi, lib
from clawai.plugins.accelerator.roofline import REGION, best, fastest_read, region
from clawai.plugins.accelerator.timed import Case, Maker, Out, nbytes
from clawai.plugins.accelerator.tuned import Row, rows
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields

CASES: dict[str, Maker] = {
    **timed_language.CASES,
    **timed_images.CASES,
    **timed_arrays.CASES,
}
LARGE = 16 << 10
"""Bytes from which an array of a cold case has copies."""
ROUNDS, QUICK_ROUNDS = 9, 3
SAMPLE_S, QUICK_SAMPLE_S = 1e-3, 1e-4
"""Of the calls that one look at the clock covers."""
MOST = 5000
"""Calls in such a sample."""
PEAK_ROUNDS = 1 << 19
NOISE = 0.5
"""A call that takes less than this times an empty one cannot be told from it."""
ALIGN = 64

Call = tuple[Any, ...]


class Memory:
    """Where the arrays of cold cases lie: more than the caches hold, in huge pages."""

    def __init__(self) -> None:
        self.map = region(huge=True)
        self.bytes = np.frombuffer(self.map, np.uint8)

    def calls(self, function: Any, case: Case) -> list[Call]:
        """The arguments of one call; of a cold case those of several, on copies."""
        kinds = [kind.cname.replace("const ", "") for kind in ffi.typeof(function).args]
        kept = [self._array(arg) for arg in case.args]
        large = [case.cold and nbytes(arg) >= LARGE for arg in case.args]
        size = sum(_padded(nbytes(a)) for a, far in zip(case.args, large, strict=True) if far)
        copies = max(1, REGION // size) if size else 1
        calls, at = [], 0
        for _ in range(copies):
            given: list[Any] = []
            for arg, kind, far in zip(kept, kinds, large, strict=True):
                if not isinstance(arg, np.ndarray):
                    given.append(arg)
                    continue
                array = arg
                if far:
                    array = self.bytes[at : at + arg.nbytes]
                    array[:] = arg.view(np.uint8)
                    at += _padded(arg.nbytes)
                given.append(ffi.cast(kind, array.ctypes.data))
            calls.append(tuple(given))
        self.kept = kept
        return calls

    def read(self) -> float:
        """Bytes a second at which one thread reads all of it."""
        roof = ffi.new("claw_roof *")
        lib.claw_roofline(available_isas()[-1].encode(), roof)
        held = [ffi.from_buffer("uint8_t[]", self.map)]
        return REGION / fastest_read(roof, held, 1)[0]

    @staticmethod
    def _array(arg: Any) -> Any:
        if isinstance(arg, Out):
            return np.zeros(arg.n, arg.dtype)
        return np.ascontiguousarray(arg) if isinstance(arg, np.ndarray) else arg


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


@dataclass(slots=True)
class Peaks:
    """The ceilings of one thread: the best of all instruction sets of this processor."""

    read: float
    """Bytes a second."""
    compute: dict[str, float]
    """By unit, operations a second."""

    @classmethod
    def measure(cls, memory: Memory) -> "Peaks":
        """Look once."""
        roof = ffi.new("claw_roof *")
        peaks = cls(0.0, {"fma": 0.0, "int8": 0.0})
        for isa in available_isas():
            lib.claw_roofline(isa.encode(), roof)
            fma = PEAK_ROUNDS * roof.flops / best(lambda _: roof.fma(PEAK_ROUNDS), 1)
            dot = PEAK_ROUNDS * roof.int_ops / best(lambda _: roof.dot(PEAK_ROUNDS), 1)
            peaks.compute["fma"] = max(peaks.compute["fma"], fma)
            peaks.compute["int8"] = max(peaks.compute["int8"], dot)
        peaks.look(memory)
        return peaks

    def look(self, memory: Memory) -> None:
        """Look at the memory again: a box that shares its own has slower seconds."""
        self.read = max(self.read, memory.read())

    def share(self, case: Case, seconds: float) -> tuple[str, float] | None:
        """The ceiling that is nearer and how much of it is reached; None: none is near."""
        least = {}
        if case.cold:
            least["read"] = case.moved / self.read
        if case.unit:
            least[case.unit] = case.ops / self.compute[case.unit]
        if not least:
            return None
        name = max(least, key=lambda key: least[key])
        return name, round(least[name] / seconds, 3)

    def figures(self) -> dict[str, float]:
        """Under the keys of ``claw bench roofline``."""
        return {
            "read_1t_gb_s": round(self.read / 1e9, 2),
            "fma_1t_gflop_s": round(self.compute["fma"] / 1e9, 2),
            "int8_1t_gop_s": round(self.compute["int8"] / 1e9, 2),
        }


def timer(function: Any, ring: Iterator[Call], count: int) -> float:
    """Seconds of ``count`` calls, one after the other round the ring."""
    calls = list(itertools.islice(ring, count))
    start = time.perf_counter()
    for args in calls:
        function(*args)
    return time.perf_counter() - start


class Bench:
    """All rows of a run."""

    def __init__(self, quick: bool) -> None:
        self.rounds = QUICK_ROUNDS if quick else ROUNDS
        self.sample = QUICK_SAMPLE_S if quick else SAMPLE_S
        self.memory = Memory()
        self.empty = self._empty()

    def _empty(self) -> float:
        """Seconds of a call that computes nothing."""
        nowhere = ffi.new("float[8]")
        add, ring = (
            lib.claw_ops_named(ffi.NULL).add,
            itertools.repeat((nowhere, nowhere, 0, nowhere)),
        )
        return min(timer(add, ring, 2000) for _ in range(9)) / 2000

    def times(self, op: str, case: Case, isas: list[str]) -> dict[str, float]:
        """Seconds of one call on each set."""
        functions = {i: getattr(lib.claw_ops_named(i.encode()), op) for i in isas}
        ring = itertools.cycle(self.memory.calls(functions[isas[0]], case))
        counts = {}
        for isa, function in functions.items():  # warms caches and page tables, too
            once = min(timer(function, ring, 1) for _ in range(2))
            counts[isa] = max(1, min(MOST, int(self.sample / once)))
        seen: dict[str, list[float]] = {isa: [] for isa in isas}
        for _ in range(self.rounds):
            for isa, function in functions.items():
                seen[isa].append(timer(function, ring, counts[isa]) / counts[isa])
        return {isa: statistics.median(each) - self.empty for isa, each in seen.items()}


@dataclass(frozen=True, slots=True)
class Timed:
    """An op that was timed on its sets."""

    row: Row
    case: Case
    times: dict[str, float]
    """Seconds, by set, the scalar reference among them."""

    def told(self, isa: str, peaks: Peaks, empty: float) -> dict[str, Any]:
        """The row of one set."""
        seconds, least = self.times[isa], NOISE * empty
        clear = seconds > least
        seconds = max(seconds, least)
        found: dict[str, Any] = {
            "family": self.row.family,
            "op": self.row.op,
            "dtype": self.row.dtype,
            "isa": isa,
            "shape": self.case.about,
            "from": "memory" if self.case.cold else "cache",
            "time_us": round(seconds * 1e6, 3),
        }
        if not clear:
            return found | {"why": "too short"}
        found["moved_gb_s"] = round(self.case.moved / seconds / 1e9, 3)
        if self.case.ops:
            found["done_gop_s"] = round(self.case.ops / seconds / 1e9, 3)
        if share := peaks.share(self.case, seconds):
            found["of"], found["share_ratio"] = share
        else:
            found["why"] = "in cache"
        if isa != "scalar":
            found["faster_ratio"] = round(self.times["scalar"] / seconds, 2)
        return found


def require(wanted: list[str], allowed: list[str], what: str) -> list[str]:
    """What is wanted, by default all.

    Raises:
        ClawError: bad_params: something else is wanted.
    """
    for name in wanted:
        if name not in allowed:
            raise ClawError(
                "bad_params",
                f"there is no {what} {name} here",
                got=name,
                allowed=allowed,
                hint="claw ops lists families and instruction sets",
            )
    return [name for name in allowed if not wanted or name in wanted]


def bench(families: list[str], isas: list[str], quick: bool) -> dict[str, Any]:
    """Time the ops of some families on some sets; of none that are named on all.

    Raises:
        ClawError: bad_params: no such family, or a set that cannot run here.
    """
    known = list(dict.fromkeys(row.family for row in rows()))
    families = require(families, known, "family of ops")
    isas = require(isas, available_isas(), "instruction set")
    run = Bench(quick)
    peaks = Peaks.measure(run.memory)
    timed = []
    for row in rows():
        if row.family in families and (own := [i for i in isas if set_of(row, i) == i]):
            case = CASES[row.op]()
            times = run.times(row.op, case, ["scalar", *(i for i in own if i != "scalar")])
            timed.append((own, Timed(row, case, times)))
    peaks.look(run.memory)
    timed.sort(key=lambda each: known.index(each[1].row.family))
    found = [each.told(isa, peaks, run.empty) for own, each in timed for isa in own]
    return {"ceilings": peaks.figures(), "empty_us": round(run.empty * 1e6, 3), "rows": found}


def main() -> None:
    """Print it."""
    try:
        found = bench(**json.loads(sys.argv[1]))
    except ClawError as error:
        found = {"error": error_fields(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
