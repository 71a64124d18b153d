"""`claw bench batch`: what collecting small tasks gains, and what it costs a lone client.

The work is 5 ms and 0.1 ms an item (``plugins/batched``), so 32 items in one call are 20 times as
fast as one by one. The same plugin runs under several names that differ only in the most items that
a call may take: 1 (unbatched), and 2 to 64. With 64 the kernel chooses the size by itself. All
workers stay up and are measured in turn; every answer is checked.

    throughput_N_ratio   N clients, size chosen by the kernel, to the same clients unbatched
    size_N_ratio         32 clients, at most N items a call, to unbatched
    chosen_ratio         the kernel's choice to the best of those sizes
    lone_latency_ratio   median of a lone client, to unbatched
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.load import Load, Ours, Parts
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import interleaved, middle
from clawai.sdk.errors import ClawError

CLIENTS = (1, 2, 4, 8, 16, 32)
SIZES = (1, 2, 4, 8, 16, 32, 64)
CHOSEN = 64
BARS = (
    Bar(key="throughput_32_ratio", least=13),
    Bar(key="throughput_1_ratio", least=0.97),
    *(Bar(key=f"size_{size}_ratio", least=0.97) for size in SIZES[1:]),
    Bar(key="chosen_ratio", least=0.95),
    Bar(key="lone_latency_ratio", most=1.05),
)


class Squares:
    """Asks for another square each time and checks it (see ``load.Talk``)."""

    def __init__(self, op: str, first: int) -> None:
        self.ours = Ours(op, {"n": first})
        self.n = first

    @property
    def session(self) -> Any:
        """For the handshake."""
        return self.ours.session

    def ask(self) -> Parts:
        """The next number."""
        self.n = (self.n + 7919) % 1_000_003
        self.ours.params = {"n": self.n}
        return self.ours.ask()

    def heard(self, frames: list[bytes]) -> bool:
        """Whether it is answered, and right."""
        if not self.ours.heard(frames):
            return False
        if self.ours.value != self.n * self.n + 1:
            raise ClawError("bad_worker", "a batch gave a wrong result", got=self.ours.value)
        return True


Case = tuple[int, int]
"""Most items of a call, and clients."""


def cases() -> list[Case]:
    """What is measured: every size with all clients, and both ends with fewer."""
    found = [(size, CLIENTS[-1]) for size in SIZES]
    found += [(size, count) for count in CLIENTS[:-1] for size in (1, CHOSEN)]
    return found


def install(kernel: Private) -> None:
    """The plugin once for each size."""
    for size in SIZES:
        manifest = kernel.plugin("batched", f"batched{size}") / "plugin.toml"
        text = manifest.read_text(encoding="utf-8")
        manifest.write_text(text.replace("batch = 64", f"batch = {size}"), encoding="utf-8")


def measure(rounds: int, seconds: float) -> Report:
    """All cases in turn."""
    rates: dict[Case, list[float]] = {case: [] for case in cases()}
    lone: dict[int, list[float]] = {1: [], CHOSEN: []}
    status = output.Status()
    with ExitStack() as stack:
        stack.callback(status.clear)
        kernel = Private("[workers]\nidle_minutes = 0\n")
        stack.callback(kernel.remove)
        install(kernel)
        kernel.start()
        loads: dict[int, Load] = {}
        for size in SIZES:
            talks = [Squares(f"batched{size}.work", place) for place in range(CLIENTS[-1])]
            loads[size] = Load.of_kernel(kernel.folder, talks)
            stack.callback(loads[size].close)
            loads[size].run(0.5)  # starts the worker, and the kernel learns what it costs
        neighbours = Neighbours(kernel.processes())
        for number, case in interleaved(list(rates), rounds):
            status.show(f"round {number + 1} of {rounds}: size {case[0]}, {case[1]} clients")
            told: Callable[[int], None] | None = None
            if case[1] == 1:
                times = lone[case[0]]
                told = times.append
            rates[case].append(loads[case[0]].run(seconds, told, case[1]))
        busy = round(neighbours.share(), 3)
    settings = {"work": "5 ms + 0.1 ms an item", "rounds": rounds, "seconds": seconds}
    return Report("batch", {**settings, "others_busy_ratio": busy}, figures(rates, lone))


def figures(rates: dict[Case, list[float]], lone: dict[int, list[float]]) -> dict[str, float]:
    """Ratios of medians."""
    rate = {case: middle(each, 2) for case, each in rates.items()}
    most = CLIENTS[-1]
    found = {f"throughput_{count}_ratio": rate[CHOSEN, count] / rate[1, count] for count in CLIENTS}
    found |= {f"size_{size}_ratio": rate[size, most] / rate[1, most] for size in SIZES[1:]}
    best = max(rate[size, most] for size in SIZES[1:])
    found["chosen_ratio"] = rate[CHOSEN, most] / best
    found["lone_latency_ratio"] = middle(lone[CHOSEN]) / middle(lone[1])
    found = {key: round(value, 3) for key, value in found.items()}
    return {**found, "unbatched_rps": rate[1, most], "batched_rps": rate[CHOSEN, most]}


@click.command("batch")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=1.0, show_default=True)
@click.option("--quick", is_flag=True, help="Two short rounds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(rounds: int, seconds: float, quick: bool, as_json: bool) -> None:
    """Measure what collecting small tasks into batches gains.

    \b
    Example:
      claw bench batch
      claw bench batch --quick --json
    """
    if quick:
        rounds, seconds = 2, 0.5
    finish(measure(rounds, seconds), as_json)
