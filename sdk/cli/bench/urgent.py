"""`claw bench urgent`: does urgent work wait behind bulk work that never yields?

An urgent operation of 1 ms of processor time is asked for every 10 ms, through a private kernel and
sandboxed workers, alone ("solo") and while 20 bulk tasks (class ``batch``, four plugins, loops in C
that look at nothing, see ``plugins/bulk``) keep every core busy ("loaded"). Solo and loaded windows
alternate.

Latency is counted at the client: the moment it has the answer, minus the moment at which the
request was due. A client that is woken late, or held up by the request before, counts as late, so
nothing is left out of the tail. Samples during which the hypervisor took time from this box (the
steal count of /proc/stat rose) say nothing about us: they are counted apart (``_stolen``) and are
part of no other figure. So are those that became due before such a sample ended, and on until the
client has caught up (``Theft``): they began late for the same reason, although nothing was taken
while they ran. A client that never catches up would show nearly all of its samples there.

The same is measured with every means of preemption that works here, each in a kernel of its own, in
windows in between, and with none: "nothing" has its bulk workers in the group of all others. Bulk
throughput counts tasks that ended in the loaded windows; ``bulk_kept_ratio`` compares it with
"nothing" under the same urgent load, ``bulk_of_alone_ratio`` with bulk work that has the box alone.
With ``--page`` a browser of this box shows the gateway's page of whichever kernel is measured, all
means alike; beside them is a kernel with the same means that nobody looks at ("no page"), and
``bulk_beside_page_ratio`` is what bulk work does of what it does there.

One request is under way at a time: where ``loaded_rps`` stays below what was due, the box did less
urgent work than was asked.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.browser import chromium, page_of
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.gateway import free_port
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private, family
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import percentile
from clawai.sdk.cli.bench.saturator import Saturator
from clawai.sdk.client import Client
from clawai.sdk.config import MEANS
from clawai.sdk.errors import ClawError

BARS = (
    Bar(key="p99_added_ms", most=1.0),
    Bar(key="over_3ms_added_ratio", most=0.005),
    Bar(key="p999_added_ms", most=4.0),
    Bar(key="over_10ms_added", most=2),
    Bar(key="bulk_kept_ratio", least=0.95),
)
NOTHING = "nothing"
NO_PAGE = "no page"
BLANK = "about:blank"
PERIOD_S = 0.01
WORK_US = 1000
TASKS = 20
TASK_US = 50_000
PLUGINS = ("bulk1", "bulk2", "bulk3", "bulk4")
KINDS = ("hash", "sum", "power")
SETTLE_S = 0.5
"""Bulk tasks run so long before a loaded window begins."""
SHOWN_S = 1.0
"""A page is open so long before the windows that it is looked at in."""
ALONE_S = 1.0
"""Bulk work has the box alone at least so long in each round."""
CONFIG = """
[preemption]
means = "{}"
[workers]
idle_minutes = 0
[plugins]
ports = ["gateway:8080={}"]
"""


@dataclass
class Window:
    """What the client saw in one kind of window, all rounds together."""

    late_ms: list[float] = field(default_factory=list)
    stolen_ms: list[float] = field(default_factory=list)
    """The same of samples that the hypervisor made late."""
    seconds: float = 0.0

    def over(self, limit_ms: float) -> int:
        """How many took longer."""
        return sum(each > limit_ms for each in self.late_ms)


class Steal:
    """The time that the hypervisor took from this box, in ticks."""

    def __init__(self) -> None:
        self._file = os.open("/proc/stat", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        """Since the boot."""
        words = os.pread(self._file, 200, 0).split(None, 9)
        return int(words[8])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Theft:
    """Which samples the hypervisor made late: one after the other, as one client asks them."""

    def __init__(self) -> None:
        self._ended = -math.inf
        """When the last of them ended."""

    def hit(self, due: float, ended: float, taken: bool) -> bool:
        """Whether the next sample is one of them.

        Args:
            due, ended: when it was to begin and when it had its answer, on one clock.
            taken: steal time rose between the end of the sample before and this one's.
        """
        found = taken or due < self._ended
        if found:
            self._ended = ended
        return found


class Side:
    """One kernel with one means, its urgent client and its bulk load."""

    def __init__(self, means: str, stack: ExitStack, name: str = "") -> None:
        self.means = means
        self.name = name or label(means)
        self.port = free_port()
        self.page = BLANK
        self.kernel = stack.enter_context(Private(CONFIG.format(means, self.port)))
        self.kernel.plugin("urgent")
        for name in PLUGINS:
            self.kernel.plugin("bulk", copy_as=name)
        self.client = self.kernel.client()
        self.solo, self.loaded = Window(), Window()
        self.rates: list[float] = []
        self.alone: list[float] = []

    def prepare(self, units: dict[str, int], stack: ExitStack) -> None:
        """Start every worker, then connect the bulk load."""
        self.client.call("urgent.work", {"cpu_us": WORK_US}, priority="critical")
        for name in PLUGINS:
            self.client.call(f"{name}.sum", {"units": 1}, priority="batch")
        places = [(PLUGINS[n % len(PLUGINS)], KINDS[n % len(KINDS)]) for n in range(TASKS)]
        tasks = [(f"{plugin}.{kind}", {"units": units[kind]}) for plugin, kind in places]
        self.bulk = stack.enter_context(Saturator(self.kernel.folder, tasks))

    def publish(self) -> None:
        """Serve the page, of which that is looked at which shows what runs now, as it changes."""
        self.page = f"{page_of(self.kernel, self.port)}/now"

    def in_force(self) -> dict[str, Any]:
        """What the kernel says of its ladder; empty if it says nothing."""
        told: dict[str, Any] = self.client.query("status").get("preemption") or {}
        return told

    def round(self, samples: int, steal: Steal, alone_s: float) -> None:
        """A solo window, a loaded one, and one with bulk work only."""
        ask(self.client, samples, self.solo, steal)
        self.bulk.start()
        time.sleep(SETTLE_S)
        with self.bulk.counting(self.rates):
            ask(self.client, samples, self.loaded, steal)
        if alone_s:
            with self.bulk.counting(self.alone):
                time.sleep(alone_s)
        self.bulk.stop()

    def figures(self) -> dict[str, float]:
        """Under the keys that stay."""
        found: dict[str, float] = {}
        for name, window in (("solo", self.solo), ("loaded", self.loaded)):
            late = window.late_ms
            for key, share in (("p50", 50), ("p99", 99), ("p999", 99.9), ("max", 100)):
                found[f"{name}_{key}_ms"] = round(percentile(late, share), 3)
            found[f"{name}_over_3ms_ratio"] = round(window.over(3) / len(late), 5)
            found[f"{name}_over_10ms"] = window.over(10)
            found[f"{name}_stolen"] = len(window.stolen_ms)
            found[f"{name}_stolen_max_ms"] = round(max(window.stolen_ms, default=0.0), 3)
            found[f"{name}_rps"] = round((len(late) + len(window.stolen_ms)) / window.seconds, 1)
        for key in ("p99_ms", "p999_ms", "over_3ms_ratio", "over_10ms"):
            stem, _, unit = key.rpartition("_")
            added = f"{key}_added" if key == "over_10ms" else f"{stem}_added_{unit}"
            found[added] = round(found[f"loaded_{key}"] - found[f"solo_{key}"], 5)
        if sum(self.alone):  # on a box that others saturate it may end nothing at all
            ratio = statistics.mean(self.rates) / statistics.mean(self.alone)
            found["bulk_of_alone_ratio"] = round(ratio, 4)
        return found

    def bulk_rate(self) -> float:
        """Tasks a second in the loaded windows."""
        return statistics.mean(self.rates)


def ask(client: Client, samples: int, into: Window, steal: Steal) -> None:
    """Ask ``samples`` times, ``PERIOD_S`` apart."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter() + PERIOD_S
        before, theft = steal.read(), Theft()
        for number in range(samples):
            due = start + number * PERIOD_S
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
            client.call("urgent.work", {"cpu_us": WORK_US}, priority="critical")
            ended = time.perf_counter()
            after = steal.read()
            stolen = theft.hit(due, ended, after != before)
            (into.stolen_ms if stolen else into.late_ms).append((ended - due) * 1000)
            before = after
        into.seconds += time.perf_counter() - start
    finally:
        gc.enable()
    if not into.late_ms:
        raise ClawError(
            "unsupported_system",
            "the hypervisor took time from this box during every sample",
            hint="measure on a box that is not shared, or at another hour",
        )


def calibrate(client: Client) -> dict[str, int]:
    """Units of each kind of bulk task that take about ``TASK_US`` of processor time."""
    found = {}
    for kind in KINDS:
        units, took = 256, 0
        while took < TASK_US / 8:
            units *= 2
            took = client.call(f"{PLUGINS[0]}.{kind}", {"units": units}, priority="batch").value
        found[kind] = max(1, round(units * TASK_US / took))
    return found


def measure(
    samples: int, rounds: int, means: str, others: Sequence[str], share: float, page: bool = False
) -> Report:
    """The kernel with ``means``, and beside it one for each of ``others``.

    Args:
        samples: in all rounds together, solo and loaded each.
        others: further means; their windows have ``share`` of the samples. One that does not work
            on this box is left out.
        page: a browser shows the page of whichever is measured; beside them is one more kernel
            with ``means``, that nobody looks at.

    Raises:
        ClawError: unsupported_system, without a browser where one is needed.
    """
    status = output.Status()
    with ExitStack() as stack:
        stack.callback(status.clear)
        status.show("starting kernels and workers")
        sides: list[Side] = []
        units: dict[str, int] = {}
        tab = chromium(stack).new_page() if page else None
        unseen = [(means, NO_PAGE)] if page else []
        # One after the other: each kernel measures its means at its start.
        for kind, name in ((means, ""), *unseen, *((each, "") for each in others)):
            side = Side(kind, stack, name)
            units = units or calibrate(side.client)
            side.prepare(units, stack)
            if not sides or name or side.in_force().get("means", {}).get("kind", kind) == kind:
                sides.append(side)
        for side in sides if tab else ():
            if side.name != NO_PAGE:
                side.publish()
        steal = Steal()
        stack.callback(steal.close)
        ours = [family(os.getpid()), *(side.kernel.processes() for side in sides)]
        neighbours = Neighbours(sorted({pid for each in ours for pid in each} - {os.getpid()}))
        for number in range(rounds):
            for side in sides if number % 2 else reversed(sides):
                status.show(f"round {number + 1} of {rounds}: {side.name}")
                first = side is sides[0]
                if tab:
                    tab.goto(side.page, wait_until="load")
                    time.sleep(SHOWN_S)
                count = max(10, round(samples / rounds * (1 if first else share)))
                side.round(count, steal, max(ALONE_S, count * PERIOD_S / 4) if first else 0)
        busy = round(neighbours.share(), 3)
        force = sides[0].in_force()
        figures = [side.figures() for side in sides]
        _keep_bulk(sides, figures)
    settings: dict[str, Any] = {
        "means": means,
        "page": page,
        "in_force": force.get("means", {}).get("kind", ""),
        "samples": samples,
        "rounds": rounds,
        "period_ms": PERIOD_S * 1000,
        "work_us": WORK_US,
        "bulk_tasks": TASKS,
        "uid": os.getuid(),
        "others_busy_ratio": busy,
    }
    against = {side.name: found for side, found in zip(sides, figures, strict=True)}
    del against[sides[0].name]
    return Report("urgent", settings, figures[0], against)


def _keep_bulk(sides: Sequence[Side], figures: Sequence[dict[str, float]]) -> None:
    """Add the bulk throughput, and its relation to "nothing" and to "no page" where there are."""
    rates = {side.name: side.bulk_rate() for side in sides}
    nothing, unseen = rates.get(NOTHING, 0.0), rates.get(NO_PAGE, 0.0)
    for side, found in zip(sides, figures, strict=True):
        found["bulk_tasks_s"] = round(side.bulk_rate(), 2)
        if nothing:
            found["bulk_kept_ratio"] = round(side.bulk_rate() / nothing, 4)
    if unseen:
        figures[0]["bulk_beside_page_ratio"] = round(sides[0].bulk_rate() / unseen, 4)


def label(means: str) -> str:
    """What the table calls a means."""
    return NOTHING if means == "none" else means


@click.command("urgent")
@click.option("--samples", type=click.IntRange(20, 1_000_000), default=10_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option(
    "--means", type=click.Choice(MEANS), default="auto", show_default=True, help="What is measured."
)
@click.option(
    "--against",
    type=click.Choice([each for each in MEANS if each != "auto"]),
    multiple=True,
    default=("none",),
    help="Other means, for the table; none is always good to have.",
)
@click.option("--every", is_flag=True, help="Beside every means that works here.")
@click.option(
    "--share", type=click.FloatRange(0.01, 1), default=0.2, show_default=True,
    help="Of the samples, for each of the others.",
)  # fmt: skip
@click.option("--page", is_flag=True, help="While a browser here shows the gateway's page.")
@click.option("--quick", is_flag=True, help="Two rounds of 300 samples.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    samples: int,
    rounds: int,
    means: str,
    against: tuple[str, ...],
    every: bool,
    share: float,
    page: bool,
    quick: bool,
    as_json: bool,
) -> None:
    """Measure how long urgent work takes on a saturated box, for each means of preemption.

    \b
    Example:
      claw bench urgent --quick
      claw bench urgent --every --json
      claw bench urgent --page
    """
    if quick:
        samples, rounds, share = 600, 2, 0.5
    others = [each for each in MEANS if each != "auto"] if every else list(against)
    others = [each for each in dict.fromkeys(reversed(others)) if each != means]
    finish(measure(samples, rounds, means, others, share, page), as_json)
