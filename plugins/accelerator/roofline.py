"""What the processor and its memory can do at most, by loops that do nothing else.

    python -m clawai.plugins.accelerator.roofline [THREADS]

prints one JSON object: bytes a second read by one thread and by THREADS (else as many as this
process has cores), float32 and byte operations a second (a multiply and an add are two). Each is
the best of several short runs, and of several ways to read: a ceiling is what was reached, not what
was typical.

    python -m clawai.plugins.accelerator.roofline THREADS steady

stays, and reads by the fastest way for as long as it is told to, without a pause: what a
figure that takes seconds, too, can be compared with. It takes orders as a side of ``claw bench
decode`` does: ``{"read": SECONDS}`` is answered with ``{"bytes": ..., "seconds": ...}``.
"""

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from clawai.plugins.accelerator.native import choose_isa, ffi, lib

REGION = 256 << 20
"""Bytes that each thread reads: beyond any cache of a small box."""
RUNS, READ_RUNS = 9, 5
ROUNDS = 1 << 22


def region(huge: bool) -> mmap.mmap:
    """Touched memory of REGION bytes, in huge pages where the system gives them."""
    memory = mmap.mmap(-1, REGION, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    block = bytes(1 << 20)
    for at in range(0, REGION, len(block)):
        memory[at : at + len(block)] = block
    return memory


def best(work: Callable[[int], Any], threads: int, runs: int = RUNS) -> float:
    """Seconds of the fastest of ``runs`` runs, each of ``threads`` threads at once.

    They count from when the first one begins, not from when they are told to.
    """

    def timed(thread: int) -> tuple[float, float]:
        start = time.perf_counter()
        work(thread)
        return start, time.perf_counter()

    took: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(runs):
            starts, ends = zip(*pool.map(timed, range(threads)), strict=True)
            took.append(max(ends) - min(starts))
    return min(took)


def reading(roof: Any, held: list[Any], way: int, times: int, thread: int) -> None:
    """Read the region of a thread so many times."""
    for _ in range(times):
        roof.read(way, held[thread], REGION)


def fastest_read(roof: Any, held: list[Any], threads: int) -> tuple[float, int]:
    """Seconds in which ``threads`` threads read a region each, the best way, and which that is."""

    def tried(way: int) -> float:
        return best(partial(reading, roof, held, way, 1), threads, READ_RUNS)

    return min((tried(way), way) for way in range(lib.CLAW_READS))


class Steady:
    """Reads for seconds on end.

    Args:
        threads: each reads a region of its own, in huge pages where the system gives them.
    """

    def __init__(self, threads: int) -> None:
        self._roof = ffi.new("claw_roof *")
        lib.claw_roofline(choose_isa().encode(), self._roof)
        self._kept = [region(huge=True) for _ in range(threads)]
        self._held = [ffi.from_buffer("uint8_t[]", memory) for memory in self._kept]
        self._first, self._way = fastest_read(self._roof, self._held, threads)

    def read(self, seconds: float) -> dict[str, float]:
        """Read about so long: the bytes of all threads, and the seconds that they took."""
        times, threads = max(1, round(seconds / self._first)), len(self._held)
        took = best(partial(reading, self._roof, self._held, self._way, times), threads, 1)
        return {"bytes": threads * REGION * times, "seconds": took}


def measure(threads: int, *, huge: bool = True) -> dict[str, float]:
    """The ceilings, under the keys of ``claw bench roofline``."""
    roof = ffi.new("claw_roof *")
    lib.claw_roofline(choose_isa().encode(), roof)
    kept = [region(huge) for _ in range(threads)]
    held = [ffi.from_buffer("uint8_t[]", memory) for memory in kept]
    figures = {}
    for count in sorted({1, threads}):
        took, _ = fastest_read(roof, held, count)
        figures[f"read_{count}t_gb_s"] = count * REGION / took / 1e9
    for count, name in ((1, "_1t"), (threads, "")):
        took = best(lambda _: roof.fma(ROUNDS), count)
        figures[f"fma{name}_gflop_s"] = count * ROUNDS * roof.flops / took / 1e9
        took = best(lambda _: roof.dot(ROUNDS), count)
        figures[f"int8{name}_gop_s"] = count * ROUNDS * roof.int_ops / took / 1e9
    return {key: round(value, 2) for key, value in figures.items()}


def main() -> None:
    """Print them, or take orders."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else max(1, len(os.sched_getaffinity(0)))
    if sys.argv[2:] == ["steady"]:
        steady = Steady(threads)
        print(json.dumps({"ready": {"threads": threads}}), flush=True)
        for line in sys.stdin:
            print(json.dumps(steady.read(float(json.loads(line)["read"]))), flush=True)
        return
    figures = measure(threads)
    print(json.dumps({"isa": choose_isa(), "threads": threads, "figures": figures}))


if __name__ == "__main__":
    main()
