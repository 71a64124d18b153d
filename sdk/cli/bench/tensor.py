"""`claw bench tensor`: large arrays by lease, whose cost does not depend on their size.

In each round the client writes fresh random content into both arrays (not timed). Then it asks, in
alternating order, for a small echo and for 16 bytes of each array at random offsets, which it
compares with what it wrote; the worker inverts one byte, which the client looks for in its own
mapping. A copy anywhere would show in the time, and in the processor time of the client, the daemon
and the worker. An echo and a probe of a small array, not timed, go before: what is measured is the
path, not the caches that the client's own writing has emptied. The worker has read each array to
its end once, compared by its sum: its page table is filled, as with any lease that is used again.
"""

import statistics
import time
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import middle
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

SIZES = {"4mb": 4_000_000, "64mb": 64_000_000}
SMALL = 65536
PROBES = 16
BARS = (
    Bar(key="added_4mb_us", most=50),
    Bar(key="added_64mb_us", most=50),
    Bar(key="cpu_64mb_over_4mb_us", most=50),
)
WARM = 20
SETTINGS = "[memory]\nbudget_mib = 512\n"


class Side:
    """One kind of request: how long each took, and the processor time of the three processes."""

    def __init__(self, client: Client, pids: list[int], random: Any) -> None:
        self.client = client
        self.random = random
        self.times: list[float] = []
        self.cpu: list[float] = []
        self._clocks = [time.CLOCK_PROCESS_CPUTIME_ID, *map(clock_of, pids)]

    def prepare(self) -> None:
        """What comes before, untimed."""

    def once(self) -> None:
        """One request, timed."""
        spent = sum(map(time.clock_gettime, self._clocks))
        began = time.perf_counter()
        found = self.ask()
        self.times.append(1e6 * (time.perf_counter() - began))
        self.cpu.append(1e6 * (sum(map(time.clock_gettime, self._clocks)) - spent))
        self.check(found)

    def ask(self) -> Any:
        """The request."""
        return self.client.call("probe.say", {"text": "x"}).value

    def check(self, found: Any) -> None:
        """Whether the answer is right."""
        if found != "x":
            raise ClawError("bad_worker", "the echo is not what was sent", got=found)


class Lent(Side):
    """An array by lease."""

    def __init__(self, client: Client, pids: list[int], random: Any, size: int) -> None:
        super().__init__(client, pids, random)
        self.loan = client.borrow("probe.read", size)
        self.numbers = self.loan.array("<f8", (size // 8,))
        self.bytes = self.loan.array("<u1", (size,))
        self._expected: list[int] = []
        self._flip = self._inverted = 0
        self._params: dict[str, Any] = {}

    def prepare(self) -> None:
        """Fresh content, and where it will be looked at."""
        self.random.random(out=self.numbers)
        *offsets, self._flip = self.random.integers(0, len(self.bytes), PROBES + 1).tolist()
        self._expected = self.bytes[offsets].tolist()
        self._inverted = int(self.bytes[self._flip]) ^ 0xFF
        where = {"dtype": "<u1", "shape": [len(self.bytes)], "lease": 0}
        self._params = {"x": where, "offsets": offsets, "flip": self._flip}

    def read_all(self) -> None:
        """Have the worker read every byte."""
        params = {"x": {"dtype": "<u1", "shape": [len(self.bytes)], "lease": 0}}
        found = self.client.call("probe.sum", params, leases=[self.loan]).value
        written = int(self.bytes.sum(dtype="u8"))
        if found != written:
            raise ClawError("bad_worker", "the worker read other bytes", found, written)

    def ask(self) -> Any:
        """Probe it."""
        return self.client.call("probe.read", self._params, leases=[self.loan]).value

    def check(self, found: Any) -> None:
        """What was read is what was written, and what was written there is seen here."""
        seen = int(self.bytes[self._flip])
        if found != self._expected or seen != self._inverted:
            raise ClawError(
                "bad_worker",
                "the worker does not share the client's memory",
                got=[found, seen],
                allowed=[self._expected, self._inverted],
            )


def clock_of(pid: int) -> int:
    """The clock of a process's processor time, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def measure(rounds: int) -> Report:
    """All kinds in turn.

    Raises:
        ClawError: bad_worker, if a byte is not what it must be.
    """
    import numpy

    random = numpy.random.default_rng()
    status = output.Status()
    with Private(SETTINGS) as kernel:
        kernel.plugin("probe")
        client = kernel.client()
        client.call("probe.say", {"text": "x"})
        pids = [kernel.pid, client.query("workers")["workers"][0]["pid"]]
        sides: dict[str, Side] = {"echo": Side(client, pids, random)}
        lent = {name: Lent(client, pids, random, size) for name, size in SIZES.items()}
        warmer = Lent(client, pids, random, SMALL)
        sides |= lent
        order = list(sides.values())
        neighbours = Neighbours(kernel.processes())
        for number in range(rounds + WARM):
            if number % 50 == 0:
                status.show(f"round {number} of {rounds}")
            if number == WARM:
                for side in order:
                    side.times.clear()
                    side.cpu.clear()
            for side in (*order, warmer):
                side.prepare()
            if number == 0:
                for array in lent.values():
                    array.read_all()
            for side in (sides["echo"], warmer):
                side.check(side.ask())
            for side in order:
                side.once()
            order.append(order.pop(0))
        busy = neighbours.share()
        status.clear()
    settings = {"rounds": rounds, "probes": PROBES, "others_busy_ratio": round(busy, 3)}
    return Report("tensor", settings, figures(sides))


def figures(sides: dict[str, Side]) -> dict[str, float]:
    """The medians, those of differences inside a round among them."""
    echo, small, large = sides.values()
    found = {"echo_p50_us": middle(echo.times, 1)}
    found |= {f"lease_{name}_p50_us": middle(sides[name].times, 1) for name in SIZES}
    for name in SIZES:
        pairs = zip(sides[name].times, echo.times, strict=True)
        found[f"added_{name}_us"] = round(statistics.median(one - other for one, other in pairs), 1)
    cpu = zip(large.cpu, small.cpu, strict=True)
    found["cpu_64mb_over_4mb_us"] = round(statistics.median(one - other for one, other in cpu), 1)
    found["cpu_echo_us"] = middle(echo.cpu, 1)
    return found


@click.command("tensor")
@click.option("--rounds", type=click.IntRange(10, 100_000), default=300, show_default=True)
@click.option("--quick", is_flag=True, help="Fewer rounds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(rounds: int, quick: bool, as_json: bool) -> None:
    """Measure what an array of 4 and of 64 MB costs that travels as a lease.

    \b
    Example:
      claw bench tensor
      claw bench tensor --json
    """
    finish(measure(60 if quick else rounds), as_json)
