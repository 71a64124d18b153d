"""What the processor and its memory can do at most, by loops that do nothing else.

    python -m clawai.plugins.accelerator.roofline [THREADS [SECONDS]]

prints one JSON object: bytes a second read by one thread and by THREADS (else as many as this
process has cores), float32 and byte operations a second (a multiply and an add are two). Each is
the best of several short runs, and of several ways to read: a ceiling is what was reached, not what
was typical. With SECONDS, ``read_steady_gb_s`` is what THREADS read in so long a time without a
pause, the way that is the fastest: what a figure that takes seconds, too, can be compared with.
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


def steady_read(roof: Any, held: list[Any], threads: int, seconds: float) -> float:
    """Bytes a second that are read in so long a time, by the way that is the fastest now."""
    first, way = fastest_read(roof, held, threads)
    times = max(1, round(seconds / first))
    took = best(partial(reading, roof, held, way, times), threads, 1)
    return threads * REGION * times / took


def measure(threads: int, seconds: float = 0, *, huge: bool = True) -> dict[str, float]:
    """The ceilings, under the keys of ``claw bench roofline``; ``seconds``: of steady reading."""
    roof = ffi.new("claw_roof *")
    lib.claw_roofline(choose_isa().encode(), roof)
    kept = [region(huge) for _ in range(threads)]
    held = [ffi.from_buffer("uint8_t[]", memory) for memory in kept]
    figures = {}
    for count in sorted({1, threads}):
        took, _ = fastest_read(roof, held, count)
        figures[f"read_{count}t_gb_s"] = count * REGION / took / 1e9
    if seconds:
        figures["read_steady_gb_s"] = steady_read(roof, held, threads, seconds) / 1e9
    for count, name in ((1, "_1t"), (threads, "")):
        took = best(lambda _: roof.fma(ROUNDS), count)
        figures[f"fma{name}_gflop_s"] = count * ROUNDS * roof.flops / took / 1e9
        took = best(lambda _: roof.dot(ROUNDS), count)
        figures[f"int8{name}_gop_s"] = count * ROUNDS * roof.int_ops / took / 1e9
    return {key: round(value, 2) for key, value in figures.items()}


def main() -> None:
    """Print them."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else max(1, len(os.sched_getaffinity(0)))
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    figures = measure(threads, seconds)
    print(json.dumps({"isa": choose_isa(), "threads": threads, "figures": figures}))


if __name__ == "__main__":
    main()
