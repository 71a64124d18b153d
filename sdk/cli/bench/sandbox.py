"""`claw bench sandbox`: what every layer together costs a worker, beside one without any.

The echo plugin in three workers (``clawai.sandbox.bench`` has how they differ): bare, with every
layer of this box, and with every layer forked from a zygote, as the kernel starts bundled plugins.

``start``: from the order of a launcher until the worker says on its wire that it takes tasks.
``start_added``: the median of the differences inside of pairs. ``echo``: one ``echo.say`` on the
worker's own wire, where the layers are; the way through kernel and client is the same for both and
left out. ``echo_added``: the median over pairs of blocks, ``_low`` and ``_high`` the interval that
holds the true median with at least 95 %, from the order statistics (no shape is assumed).
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

from clawai.sdk import wire
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import middle
from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp import Connection

PAIRS, ROUNDS = 21, 400
CONFIDENCE = 0.95
BARS = (
    Bar(key="start_added_ms", most=10),
    Bar(key="echo_added_us", most=30),
    Bar(key="fork_start_ms", most=25),
)


def order(pairs: int, rounds: int) -> dict[str, Any]:
    """What ``clawai.sandbox.bench`` is to run: a host with the echo plugin, and one request."""
    arguments = {
        "incarnation": 1,
        "plugin": "echo",
        "module": "clawai.plugins.echo",
        "operations": ["echo.say", "echo.count", "echo.tensor"],
        "idempotent": ["echo.say"],
        "drivers": [],
        "model": {},
        "slots": 1,
        "threads": len(os.sched_getaffinity(0)),
        "context": 0,
    }
    run = wire.Run(id=1, op="echo.say", params=wire.pack({"text": "x" * 16}), slot=0)
    zmtp = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
    return {
        "target": "clawai.sdk.host:main",
        "profile": "tool",
        "args": arguments,
        "forked": ["clawai.sdk.host", "clawai.sdk.plugin"],
        "ask": b"".join(map(bytes, zmtp.message(wire.encode(run, ())))).hex(),
        "pairs": pairs,
        "rounds": rounds,
    }


def measure(pairs: int, rounds: int) -> Report:
    """Run it and make the figures.

    Raises:
        ClawError: unsupported_system, if no worker can be had.
    """
    command = [sys.executable, "-I", "-m", "clawai.sandbox.bench"]
    neighbours = Neighbours([])
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with running:
        said, complaint = running.communicate(json.dumps(order(pairs, rounds)))
    if running.returncode:
        raise ClawError(
            "unsupported_system",
            "the sandbox could not be measured",
            got=complaint.strip().rpartition("\n")[2][:500],
            hint="`claw doctor` says what this box offers",
        )
    found = json.loads(said)
    busy = neighbours.share()  # all of ours have ended, and count as ours
    settings = {
        "level": found["level"],
        "pairs": pairs,
        "echoes_a_block": rounds,
        "interval": f"{CONFIDENCE:.0%} of the median",
        "others_busy_ratio": round(busy, 3),
    }
    return Report("sandbox", settings, figures(found))


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Medians, of differences inside of pairs where two sides are compared."""
    starts = {side: [each * 1e3 for each in times] for side, times in found["starts"].items()}
    echo = {side: [each * 1e6 for each in times] for side, times in found["echo"].items()}
    started = _differences(starts["layers"], starts["bare"])
    added = _differences(echo["layers"], echo["bare"])
    low, high = interval(added)
    return {
        "start_added_ms": middle(started, 2),
        "echo_added_us": middle(added, 2),
        "echo_added_low_us": round(low, 2),
        "echo_added_high_us": round(high, 2),
        "fork_start_ms": middle(starts["forked"], 2),
        "bare_start_ms": middle(starts["bare"], 2),
        "layers_start_ms": middle(starts["layers"], 2),
        "bare_echo_us": middle(echo["bare"], 2),
        "layers_echo_us": middle(echo["layers"], 2),
    }


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [left - right for left, right in zip(one, other, strict=True)]


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """What holds the true median with at least ``confidence``: two of the values in order.

    How many of n values lie below the median is binomial with one half. With fewer than six
    values even the smallest and the largest hold it less often than 95 %.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside, rank = 0.0, 0
    while rank < count // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 1 - confidence:
            break
        rank += 1
    rank = max(0, rank - 1)
    return ordered[rank], ordered[count - 1 - rank]


@click.command("sandbox")
@click.option("--pairs", type=click.IntRange(1, 1000), default=PAIRS, show_default=True)
@click.option("--quick", is_flag=True, help="Seven pairs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(pairs: int, quick: bool, as_json: bool) -> None:
    """Measure what the sandbox adds to a start and to an echo, and a forked start.

    \b
    Example:
      claw bench sandbox
      claw bench sandbox --json
    """
    finish(measure(7 if quick else pairs, ROUNDS), as_json)
