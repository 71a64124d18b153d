"""`claw bench all` and `claw bench compare`: every report of a box in one file, and two such files.

    {"made": "2026-01-31T12:00:00+00:00", "reports": [REPORT, ...], "failed": {NAME: "why"}}

Each benchmark runs as a command of its own, so that none inherits the memory, the threads or the
failure of another.
"""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clawai.sdk.cli import output
from clawai.sdk.cli.bench import report
from clawai.sdk.cli.bench.command import bench_command
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

LIMIT = 16 << 20


def run(path: str, names: Sequence[str], quick: bool) -> None:
    """Run each, show it, and write the report; exits with 1 if one of them failed."""
    reports, failed = [], {}
    for name in names:
        output.note(f"claw bench {name}")
        try:
            reports.append(_one(name, quick))
        except ClawError as error:
            failed[name] = error.message
            output.print_error(error)
            continue
        report.show(reports[-1])
        print(flush=True)
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    whole = {"made": made, "reports": reports, "failed": failed}
    Path(path).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    output.note(f"written: {path}")
    if failed:
        raise ClawError(
            "worker_failed",
            f"{len(failed)} of {len(names)} benchmarks failed",
            got=", ".join(failed),
            hint="run each by its name to see why",
        )


def _one(name: str, quick: bool) -> dict[str, Any]:
    command = bench_command.get_command(None, name)  # type: ignore[arg-type]
    options = {flag for option in command.params for flag in option.opts} if command else set()
    words = ["--quick"] if quick and "--quick" in options else []
    done = subprocess.run(
        [sys.executable, "-m", "clawai.sdk.cli.main", "bench", name, "--json", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        found["figures"]
    except (ValueError, KeyError):
        raise ClawError(
            "worker_failed", f"claw bench {name} ended without a report", got=done.returncode
        ) from None
    return found


def read(path: str) -> dict[str, dict[str, Any]]:
    """The reports of a file, by name.

    Raises:
        ClawError: bad_config.
    """
    try:
        with open_regular(Path(path), follow=True) as file:
            whole = json.loads(file.read(LIMIT))
        return {each["bench"]: each for each in whole["reports"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClawError(
            "bad_config", f"{path} is no report of `claw bench all`", got=str(error)[:200]
        ) from error


def compare(first: str, second: str) -> None:
    """One table a benchmark: both boxes' figures and how the first stands to the second."""
    ours, theirs = read(first), read(second)
    for name, mine in ours.items():
        if name not in theirs:
            output.note(f"{name}: only in {first}")
            continue
        other = theirs[name]["figures"]
        rows = [
            (
                key,
                report.figure(key, value),
                report.figure(key, other.get(key)),
                report.compared(key, value, other.get(key)),
            )
            for key, value in mine["figures"].items()
        ]
        output.table((name.upper(), Path(first).name, Path(second).name, ""), rows, right=(1, 2, 3))
        print()
