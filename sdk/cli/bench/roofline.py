"""`claw bench roofline`: what the processor and its memory can do at most.

The loops are the accelerator's own (``core/roofline.c``), in a process of their own; every other
figure of the language-model benchmarks can be read as a share of these.
"""

import json
import os
import subprocess
import sys
from typing import Any

import click

from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.report import Report
from clawai.sdk.errors import ClawError

PROGRAM = "clawai.plugins.accelerator.roofline"
TIMEOUT = 120.0


def ceilings(threads: int | None = None) -> dict[str, Any]:
    """``isa``, ``threads`` and ``figures`` as the program prints them.

    Args:
        threads: None: as many as this process has cores.

    Raises:
        ClawError: worker_failed, with what it said.
    """
    count = threads or len(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, str(count)],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    if done.returncode:
        raise ClawError("worker_failed", f"{PROGRAM} failed", got=done.stderr[-500:].strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@click.command("roofline")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> None:
    """Measure the ceilings of this box: memory, float32 and byte arithmetic.

    \b
    Example:
      claw bench roofline --json
    """
    found = ceilings()
    settings = {"threads": found["threads"], "isa": found["isa"]}
    finish(Report("roofline", settings, found["figures"]), as_json)
