"""`claw bench pool`: how full the memory pool gets before it must refuse, and what recycling saves.

The trace runs through the production core as a program (``kernel/poolbench.py``), beside the same
core with a segment for every lease (`whole`, how it was before) and, for the number of models,
beside an allocator that wastes no byte (`ideal`). Recycling is measured through a kernel of the
benchmark's own, the first touch of every page included on both sides. `remap_1gb_ms` is what a
worker that was killed and started again needs until it has its weights object of 1 GB again: it
asks the kernel, maps what its predecessor filled, and reads of every page.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import middle
from clawai.sdk.errors import ClawError

PROGRAM = "clawai.kernel.poolbench"
BARS = (
    Bar(key="utilisation_ratio", least=0.95),
    Bar(key="fragmentation_ratio", most=0.05),
    Bar(key="models_fit_ratio", least=1.4),
    Bar(key="recycle_ratio", least=100),
    Bar(key="remap_1gb_ms", most=50),
)
LEASE = 256 << 20
WEIGHTS = 1_000_000_000 // 4096 * 4096
"""Bytes of what is mapped again: whole pages."""
TOUCH = 4096 - 64
"""So far apart, every page is written to, each at another place: the same place in every page falls
into the same few sets of a processor's cache, which would then be what is measured."""
FIT_LENGTH = 10.0
"""Mean lifetimes: those of the trace as it was committed before the allocator."""
SETTINGS = "[memory]\nbudget_mib = 2048\n"
KEEPER = '''
"""A worker whose weights outlive it."""

import os
import time

from clawai.sdk.plugin import Start, hookimpl, operation

SIZE = {size}


FOUND = {{"ms": 0.0, "filled": False}}


@hookimpl
def claw_start(worker: Start) -> None:
    began = time.perf_counter()
    weights = worker.weights("ones", SIZE, 1 << 20, fill)
    pages = bytes(weights[::4096])
    FOUND["ms"] = 1e3 * (time.perf_counter() - began)
    if pages.count(1) != len(pages):
        raise ValueError("these are other weights")


def fill(memory: memoryview) -> None:
    FOUND["filled"] = True
    piece = b"\\1" * (1 << 20)
    for begin in range(0, len(memory), len(piece)):
        memory[begin : begin + len(piece)] = piece[: len(memory) - begin]


@operation("keeper.took")
def took() -> dict[str, float]:
    return FOUND


@operation("keeper.die")
def die() -> None:
    os._exit(1)
'''


def program(*words: object) -> list[dict[str, Any]]:
    """What the kernel's program says, a JSON object a line.

    Raises:
        ClawError: worker_failed.
    """
    command = [sys.executable, "-m", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClawError("worker_failed", f"{PROGRAM} ended", got=done.stderr[-500:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def recycling(rounds: int) -> tuple[float, float, float]:
    """Seconds until a client has a lease and every page of it: a fresh one, a recycled one.

    And what others used of the box meanwhile.
    """
    fresh: list[float] = []
    recycled: list[float] = []
    with Private(SETTINGS) as kernel:
        kernel.client().call("echo.say", {"text": "the worker is there"})
        neighbours = Neighbours(kernel.processes())
        for _ in range(rounds):
            client = kernel.client()  # a pair of its own, so that nothing is there to recycle
            for number in range(4):
                began = time.perf_counter()
                loan = client.borrow("echo.tensor", LEASE)
                array = loan.array("<u1", (LEASE,))
                array[::TOUCH] = number
                (recycled if number else fresh).append(time.perf_counter() - began)
                del array
                client.give_back(loan)
            client.close()
        busy = neighbours.share()
    return statistics.median(fresh), statistics.median(recycled), busy


def remapping(rounds: int) -> tuple[list[float], float]:
    """Milliseconds of each new worker, and of the first, which filled the object.

    Raises:
        ClawError: worker_failed, if one had to fill it again.
    """
    with Private(SETTINGS) as kernel:
        code = KEEPER.format(size=WEIGHTS)
        kernel.write_plugin("keeper", code, "keeper.took", "keeper.die", limits="memory_mib = 64")
        client = kernel.client()
        first = client.call("keeper.took").value
        times = []
        for _ in range(rounds):
            with contextlib.suppress(ClawError):
                client.call("keeper.die")
            found = client.call("keeper.took").value
            if found["filled"]:
                raise ClawError("worker_failed", "the weights had gone with their worker")
            times.append(found["ms"])
        return times, first["ms"]


def measure(seeds: int, fits: int, rounds: int) -> Report:
    """Everything in turn."""
    status = output.Status()
    try:
        status.show(f"the trace, {seeds} seeds")
        runs = {name: program(name, *range(seeds)) for name in ("trace", "whole")}
        status.show(f"the number of models, {fits} seeds")
        fit = program("fit", FIT_LENGTH, *range(fits))
        status.show("fresh and recycled leases")
        fresh, recycled, busy = recycling(rounds)
        status.show("mapping again")
        maps, filled = remapping(rounds)
    finally:
        status.clear()
    ours, whole = ({key: _middle(found, key) for key in found[0]} for found in runs.values())
    keys = ("utilisation_ratio", "fragmentation_ratio")
    figures = {key: ours[key] for key in keys} | {
        "models_fit_ratio": _middle(fit, "models_fit_ratio"),
        "recycle_ratio": middle([fresh / recycled], 1),
        "remap_1gb_ms": middle(maps, 1),
        "fresh_256mb_ms": middle([1e3 * fresh]),
        "recycled_256mb_ms": middle([1e3 * recycled]),
        "fill_1gb_ms": middle([filled], 1),
    }
    against = {
        "whole": {key: whole[key] for key in keys},
        "ideal": {"models_fit_ratio": _middle(fit, "ideal_ratio")},
    }
    settings = {
        "seeds": seeds,
        "fit_seeds": fits,
        "rounds": rounds,
        "segments": ours["segments"],
        "others_busy_ratio": round(busy, 3),
    }
    return Report("pool", settings, figures, against)


def _middle(found: list[dict[str, Any]], key: str) -> float:
    return middle([each[key] for each in found], 4)


@click.command("pool")
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="Fewer seeds and rounds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(seeds: int, rounds: int, quick: bool, as_json: bool) -> None:
    """Measure how full the memory pool gets before it must refuse, and what recycling saves.

    \b
    Example:
      claw bench pool --quick
      claw bench pool --json
    """
    if quick:
        seeds, rounds = 5, 2
    finish(measure(seeds, max(1, seeds // 4), rounds), as_json)
