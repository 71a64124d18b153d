"""`claw bench sched`: what a decision of the scheduler costs, and a simulated hour.

The core runs in a program of its own, without the daemon around it; the command line never imports
it. A decision is one task in and one out: a submit, and the end of the running task that dispatches
the next, with so many tasks queued all the while.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.errors import ClawError

CORE = "clawai.kernel.sim.bench"
SIMULATOR = "clawai.kernel.sim"
HOUR = "rush-hour"
BARS = (
    Bar(key="decision_10k_us", most=20.0),
    Bar(key="simulated_hour_s", most=10.0),
)


def _ask(module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("CLAW_DEBUG") else subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise ClawError(
            "worker_failed",
            f"the benchmark's part {module} ended",
            got=f"exit status {done.returncode}: {done.stdout[-500:].decode(errors='replace')}",
            hint="CLAW_DEBUG=1 shows what it printed",
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _children() -> float:
    """Processor seconds of the parts that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(rounds: int, count: int, seed: int) -> Report:
    """Every round in a fresh process; the medians.

    Raises:
        ClawError: worker_failed if a part fails, a broken invariant of the simulated hour among it.
    """
    status = output.Status()
    neighbours, began, used = Neighbours([]), time.monotonic(), _children()
    decisions, hours = [], []
    try:
        for number in range(rounds):
            status.show(f"round {number + 1} of {rounds}: decisions")
            decisions.append(_ask(CORE, "--count", str(count)))
            status.show(f"round {number + 1} of {rounds}: a simulated hour")
            hours.append(_ask(SIMULATOR, HOUR, "--seed", str(seed), "--json"))
    finally:
        status.clear()
    ours = (_children() - used) / ((time.monotonic() - began) * (os.cpu_count() or 1))
    figures = {key: statistics.median(found[key] for found in decisions) for key in decisions[0]}
    figures["simulated_hour_s"] = statistics.median(found["wall_s"] for found in hours)
    figures["simulated_hour_cpu_s"] = statistics.median(found["cpu_s"] for found in hours)
    settings = {
        "rounds": rounds,
        "decisions": count,
        "hour": f"{HOUR}, seed {seed}, {hours[0]['tasks']} tasks, {hours[0]['events']} events",
        "others_busy_ratio": round(max(0.0, neighbours.share() - ours), 3),
    }
    return Report("sched", settings, figures)


@click.command("sched")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--count", type=click.IntRange(100, 10**6), default=2000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 1 << 62), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="One round of 500 decisions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(rounds: int, count: int, seed: int, quick: bool, as_json: bool) -> None:
    """Measure what a decision of the scheduler costs, with 100 to 1,000,000 tasks queued.

    \b
    Example:
      claw bench sched --json
    """
    finish(measure(1, 500, seed) if quick else measure(rounds, count, seed), as_json)
