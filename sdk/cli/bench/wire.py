"""`claw bench wire`: what a small request costs, beside the plainest broker that ZeroMQ gives.

Echo of float32[16]: client, kernel, sandboxed worker and back, and the same over ``broker``:
client, ROUTER, DEALER, worker. Both stay up and are asked in turn, in alternating order. The lone
client is ``Client`` on our side and a bare DEALER on the other; 1, 8 and 32 clients are processes
of their own on both sides (``crowd``). The operation (``plugins/mirror``) may be given up to 32
waiting requests in one message, as any stateless one may that says so.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

import click
import zmq

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.crowd import OPERATION, PAYLOAD, TENSOR, Crowd
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private, family
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import interleaved, middle, percentile
from clawai.sdk.errors import ClawError

PEER = "bare zeromq"
BARS = (
    Bar(key="p50_ms", most=1.5, of=PEER),
    Bar(key="rps_32", least=0.7, of=PEER),
)
CLIENTS = (1, 8, 32)


class Side:
    """One of the two that are measured.

    Args:
        once: one request of the lone client.
        loads: clients, by their number.
    """

    def __init__(self, once: Callable[[], None], loads: dict[int, Crowd]) -> None:
        self._once = once
        self._loads = loads
        self.forget()

    def forget(self) -> None:
        """Drop what was measured."""
        self._lone: list[list[float]] = []
        self._rates: dict[int, list[float]] = {count: [] for count in self._loads}

    def round(self, samples: int, seconds: float) -> None:
        """Everything once."""
        times = []
        for _ in range(samples):
            start = time.perf_counter_ns()
            self._once()
            times.append((time.perf_counter_ns() - start) / 1e6)
        self._lone.append(times)
        for count, load in self._loads.items():
            self._rates[count].append(load.run(seconds))

    def figures(self) -> dict[str, float]:
        """Median of the rounds' medians; the 99th percentile of all samples together."""
        every = [each for times in self._lone for each in times]
        rates = {f"rps_{count}": middle(each, 0) for count, each in self._rates.items()}
        return {
            "p50_ms": middle([percentile(times, 50) for times in self._lone], 4),
            "p99_ms": round(percentile(every, 99), 4),
            **rates,
        }


def ours(kernel: Private, stack: ExitStack) -> Side:
    """A private kernel and its plugin."""
    client = kernel.client()

    def once() -> None:
        found = client.call(OPERATION, TENSOR, frames=[PAYLOAD])
        if found.frames != (PAYLOAD,):
            raise ClawError("bad_worker", "the echo is not what was sent", got=found.frames)

    once()  # starts the worker
    return Side(once, crowds("kernel", str(kernel.folder), stack))


def crowds(side: str, address: str, stack: ExitStack) -> dict[int, Crowd]:
    """All clients of a side."""
    found = {}
    for count in CLIENTS:
        found[count] = Crowd(side, address, count)
        stack.callback(found[count].close)
    return found


def bare(stack: ExitStack) -> tuple[Side, int]:
    """The bare broker with its worker, and the broker's process."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="claw-bench-"))
    front, back = (f"ipc://{folder}/{name}" for name in ("front", "back"))
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "clawai.sdk.cli.bench.broker", front, back],
            stdin=subprocess.PIPE,  # closed at the end, which ends the broker
            stdout=subprocess.PIPE,
        )
    )
    assert process.stdout
    if process.stdout.readline() != b"ready\n":
        raise ClawError("worker_failed", "the bare broker did not start")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.destroy, 0)
    sock: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    sock.connect(front)

    def once() -> None:
        sock.send_multipart([PAYLOAD])
        if sock.recv_multipart() != [PAYLOAD]:
            raise ClawError("bad_worker", "the echo of the bare broker is not what was sent")

    return Side(once, crowds("broker", front, stack)), process.pid


def measure(rounds: int, samples: int, seconds: float, config: str = "") -> Report:
    """Both sides in turn."""
    status = output.Status()
    with ExitStack() as stack:
        stack.callback(status.clear)
        kernel = Private(config)
        stack.callback(kernel.remove)
        kernel.plugin("mirror")
        kernel.start()
        plain, broker = bare(stack)
        sides = {"clawai": ours(kernel, stack), PEER: plain}
        for side in sides.values():
            side.round(200, 0.3)  # only warms
            side.forget()
        # The clients are children of this process, the broker too.
        neighbours = Neighbours(
            sorted({*family(os.getpid()), *kernel.processes(), *family(broker)})
        )
        for number, name in interleaved(list(sides), rounds):
            status.show(f"round {number + 1} of {rounds}: {name}")
            sides[name].round(samples, seconds)
        busy = round(neighbours.share(), 3)
        figures = {name: side.figures() for name, side in sides.items()}
    settings = {
        "payload": "float32[16]",
        "rounds": rounds,
        "samples": samples,
        "seconds": seconds,
        "clients": "processes, both sides",
        "others_busy_ratio": busy,
    }
    return Report("wire", settings, figures.pop("clawai"), figures)


@click.command("wire")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--samples", type=click.IntRange(10, 100_000), default=1000, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=1.0, show_default=True)
@click.option("--quick", is_flag=True, help="Two short rounds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(rounds: int, samples: int, seconds: float, quick: bool, as_json: bool) -> None:
    """Measure a small request through client, kernel and sandboxed worker, and back.

    \b
    Example:
      claw bench wire
      claw bench wire --json
    """
    if quick:
        rounds, samples, seconds = 2, 300, 0.4
    finish(measure(rounds, samples, seconds), as_json)
