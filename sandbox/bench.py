"""What the sandbox costs a worker: for ``claw bench sandbox``, which says what to run.

    python -I -m clawai.sandbox.bench < ORDER        ->  one JSON object

The order is JSON: ``target``, ``args``, ``forked`` (what the zygote imports), ``ask`` (the bytes of
one request on the worker's wire, in hexadecimal), ``pairs`` and ``rounds``. Three workers that
differ in nothing else:

    bare     a fresh interpreter that calls the target, with no stage and no layer
    layers   the same through the stage, with every layer that this box has
    forked   with every layer, from a zygote

A start lasts from the order (``spawn``) until the worker's first word on its wire, which says that
it is ready for tasks. A round trip is one request on that wire and its answer. Sides take turns, so
that a slower moment of the box hits all of them; what is reported are differences inside a turn.
The bare side exists in here only: the kernel has no such level.
"""

import base64
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clawai.sandbox.forking import Zygote
from clawai.sandbox.launch import ENVIRONMENT, Spawned, Stage, execute, spawn
from clawai.sandbox.policy import Policy
from clawai.sandbox.probe import probe
from clawai.sandbox.stage import load_target, read_run

Start = Callable[[int, Mapping[str, int], Sequence[int]], Stage]
_PATIENCE_S = 30.0
_WARM = 2


def bare(config: int, fds: Mapping[str, int], keep: Sequence[int]) -> Stage:
    """As ``launch.execute``, but this module's ``run_bare`` in place of the stage."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "clawai.sandbox.bench", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=fds.get("stdout", subprocess.DEVNULL),
        stderr=fds.get("stderr", subprocess.DEVNULL),
        pass_fds=keep,
        env=ENVIRONMENT,
        cwd="/",
    )


def run_bare(config: int) -> None:
    """Call the target in this process, as it is."""
    run = read_run(config, {})
    os.write(run.status, json.dumps({"event": "started", "pid": os.getpid()}).encode() + b"\n")
    os.close(run.status)
    run.programs = []
    load_target(run)(run.fds, run.args)


class Bench:
    """One order, on one box."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order = order
        self.ask = bytes.fromhex(order["ask"])
        found = probe()
        self.level: str = found["level"]
        self.bpf = base64.b64decode(found["bpf"])
        self.zygote = Zygote()
        self.zygote.load(order["forked"])
        self.zygote.receive()
        self.sides: dict[str, Start] = {
            "bare": bare,
            "layers": execute,
            "forked": self.zygote.start,
        }

    @contextmanager
    def worker(self, side: str) -> Iterator[tuple[socket.socket, float]]:
        """A worker that is ready: our end of its wire, and the seconds that it took to start."""
        wire, inner = socket.socketpair()
        leases, leased = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = os.memfd_create("claw-control")
        os.ftruncate(control, os.sysconf("SC_PAGE_SIZE"))
        fds = {"wire": inner.fileno(), "leases": leased.fileno(), "control": control, "stderr": 2}
        wire.settimeout(_PATIENCE_S)
        with wire, leases:
            start = time.perf_counter()
            with inner, leased:
                spawned = spawn(
                    self.order["target"],
                    Policy.load(self.order["profile"]),
                    fds,
                    bpf=self.bpf,
                    level=self.level,
                    args=self.order["args"],
                    start=self.sides[side],
                )
            os.close(control)
            try:
                said = wire.recv(65_536)
                took = time.perf_counter() - start
                if not said:
                    raise OSError(f"the {side} worker ended before it was ready")
                _acknowledge(spawned)
                yield wire, took
            finally:
                spawned.close()
                wire.close()  # which ends the worker
                spawned.stage.wait()

    def starts(self) -> dict[str, list[float]]:
        """Seconds that starts took, by side; the n-th of each side belong together."""
        took: dict[str, list[float]] = {side: [] for side in self.sides}
        for number in range(self.order["pairs"] + _WARM):
            for side in sorted(self.sides, reverse=bool(number % 2)):
                with self.worker(side) as (_, seconds):
                    took[side].append(seconds)
        return {side: values[_WARM:] for side, values in took.items()}

    def echoes(self) -> dict[str, list[float]]:
        """Medians of blocks of round trips in seconds, by side."""
        found: dict[str, list[float]] = {"bare": [], "layers": []}
        with self.worker("bare") as (one, _), self.worker("layers") as (two, _):
            wires = {"bare": one, "layers": two}
            for number in range(self.order["pairs"] + _WARM):
                for side in sorted(wires, reverse=bool(number % 2)):
                    trips = [self._round_trip(wires[side]) for _ in range(self.order["rounds"])]
                    found[side].append(statistics.median(trips))
        return {side: values[_WARM:] for side, values in found.items()}

    def _round_trip(self, wire: socket.socket) -> float:
        start = time.perf_counter()
        wire.sendall(self.ask)
        said = wire.recv(65_536)
        took = time.perf_counter() - start
        if b"done" not in said:
            raise OSError(f"the worker answered {said[:200]!r}")
        return took

    def close(self) -> None:
        """End the zygote."""
        self.zygote.close()


def _acknowledge(spawned: Spawned) -> None:
    """Take the report that it has started, as a launcher does."""
    while spawned.worker_pidfd < 0:
        if not select.select([spawned.status_fd], [], [], _PATIENCE_S)[0]:
            raise OSError("the worker was never reported as started")
        for report in spawned.read_status():
            if report.event == "failed":
                raise OSError(f"no worker: {report.layer}: {report.error}")


def main() -> None:
    """Measure what standard input says, or be a bare worker."""
    if len(sys.argv) > 1:
        run_bare(int(sys.argv[1]))
        return
    bench = Bench(json.load(sys.stdin))
    try:
        print(json.dumps({"level": bench.level, "starts": bench.starts(), "echo": bench.echoes()}))
    finally:
        bench.close()


if __name__ == "__main__":
    main()
