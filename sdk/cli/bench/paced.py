"""A client that asks at a fixed pace, in a process of its own, and keeps what each request took.

    python -m clawai.sdk.cli.bench.paced FOLDER PERIOD_MS OP [OP ...]

Takes the operations in turn, each with ``{"n": NUMBER}``, which must come back. A time counts from
when the request was due, not from when it was sent, so that a stall counts for all that it delayed.
When standard input ends, one line of JSON: ``{"samples": [[due, ms], ...], "lost": [error, ...]}``,
``due`` in seconds of the monotonic clock.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError


def main() -> None:
    """Ask until standard input ends."""
    folder, period, ops = Path(sys.argv[1]), float(sys.argv[2]) / 1000, sys.argv[3:]
    samples: list[tuple[float, float]] = []
    lost: list[str] = []
    with Client(folder=folder, timeout=30) as client:
        for op in ops:
            client.call(op, {"n": 0})  # starts its worker
        print("ready", flush=True)
        due, number = time.monotonic(), 0
        while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            number += 1
            try:
                if client.call(ops[number % len(ops)], {"n": number}).value != number:
                    lost.append("a wrong answer")
            except ClawError as error:
                lost.append(f"{error.code}: {error.message}")
            now = time.monotonic()
            samples.append((due, (now - due) * 1000))
            # What it could not ask in time during a stall is one late sample each.
            while (due := due + period) < now - period:
                samples.append((due, (now - due) * 1000))
    print(json.dumps({"samples": samples, "lost": lost}), flush=True)


class Paced:
    """Starts such a client and collects what it found."""

    def __init__(self, folder: Path, period_ms: float, ops: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), str(period_ms), *ops],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        assert self._process.stdout
        if self._process.stdout.readline() != b"ready\n":
            self.kill()
            raise ClawError("worker_failed", "the paced client did not start")

    def finish(self) -> tuple[list[tuple[float, float]], list[str]]:
        """Its samples (due, milliseconds), and what was lost."""
        said, _ = self._process.communicate(b"", timeout=120)
        found: dict[str, Any] = json.loads(said)
        return [(due, took) for due, took in found["samples"]], found["lost"]

    def kill(self) -> None:
        """End it without asking."""
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    main()
