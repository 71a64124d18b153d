"""What the processor and its memory can do at most, by loops that do nothing else.

    python -m clawai.plugins.accelerator.roofline [THREADS]

prints one JSON object: bytes a second read by one thread and by THREADS (else as many as this
process has cores), float32 and byte operations a second (a multiply and an add are two). Each is
the best of several short runs, and of several ways to read: a ceiling is what was reached, not what
was typical.
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


def fastest_read(roof: Any, held: list[Any], threads: int) -> float:
    """Seconds in which ``threads`` threads read a region each, the best way."""

    def read(way: int, thread: int) -> None:
        roof.read(way, held[thread], REGION)

    ways = range(lib.CLAW_READS)
    return min(best(partial(read, way), threads, READ_RUNS) for way in ways)


def measure(threads: int, *, huge: bool = True) -> dict[str, float]:
    """The ceilings, under the keys of ``claw bench roofline``."""
    roof = ffi.new("claw_roof *")
    lib.claw_roofline(choose_isa().encode(), roof)
    kept = [region(huge) for _ in range(threads)]
    held = [ffi.from_buffer("uint8_t[]", memory) for memory in kept]
    figures = {}
    for count in sorted({1, threads}):
        seconds = fastest_read(roof, held, count)
        figures[f"read_{count}t_gb_s"] = count * REGION / seconds / 1e9
    for count, name in ((1, "_1t"), (threads, "")):
        seconds = best(lambda _: roof.fma(ROUNDS), count)
        figures[f"fma{name}_gflop_s"] = count * ROUNDS * roof.flops / seconds / 1e9
        seconds = best(lambda _: roof.dot(ROUNDS), count)
        figures[f"int8{name}_gop_s"] = count * ROUNDS * roof.int_ops / seconds / 1e9
    return {key: round(value, 2) for key, value in figures.items()}


def main() -> None:
    """Print them."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else max(1, len(os.sched_getaffinity(0)))
    print(json.dumps({"isa": choose_isa(), "threads": threads, "figures": measure(threads)}))


if __name__ == "__main__":
    main()
