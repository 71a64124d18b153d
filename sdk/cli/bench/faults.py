"""`claw bench faults`: plugins that crash, hang and run wild, and what that costs the others.

Twenty plugins (half of them import numpy) are made to fail in nine ways (``plugins/victim``), one
after the other; meanwhile one more hangs at any time and one more is stopped from outside, since
those take the heartbeat's seconds to notice. A client of its own asks four other plugins 100 times
a second all the while, also in quiet windows between the faults.

``recovery``: from the error that says what happened to the answer of the plugin's next request, for
kinds that end the worker. Each request is answered before the next fault, so nothing is put into
quarantine for failing too often. ``detect``: from the fault, or the request for it, to that error.
"""

import contextlib
import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.paced import Paced
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import percentile
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

PLUGINS, NEIGHBOURS = 20, 4
DEATHS = ("segv", "abort", "closed", "garbage")
LIMITS = ("memory", "descriptors", "threads")
SLOW = ("hang", "stop")
BLOCK = 25
"""Faults between two quiet windows."""
PERIOD_MS = 10.0
BARS = (
    Bar(key="kernel_restarts", most=0),
    Bar(key="neighbour_lost", most=0),
    Bar(key="unanswered", most=0),
    Bar(key="neighbour_p99_added_ms", most=1),
    Bar(key="recovery_p50_ms", most=200),
    Bar(key="recovery_numpy_p50_ms", most=400),
    Bar(key="detect_death_p50_ms", most=20),
)


@dataclass
class Found:
    """What all injectors note."""

    detect: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recovery: dict[bool, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By whether the plugin imports numpy; kinds that end the worker only."""
    unanswered: list[str] = field(default_factory=list)
    windows: list[tuple[float, float, bool]] = field(default_factory=list)
    """Begin, end, and whether faults were injected."""

    @property
    def injected(self) -> int:
        """Faults so far."""
        return sum(map(len, self.detect.values())) + len(self.unanswered)


@dataclass
class Scene:
    """The kernel, its victims, and what was found."""

    folder: Path
    found: Found
    random: random.Random
    busy: list[threading.Lock] = field(
        default_factory=lambda: [threading.Lock() for _ in range(PLUGINS)]
    )
    """Held while somebody makes this plugin fail."""

    @contextlib.contextmanager
    def victim(self) -> Iterator[int]:
        """A plugin that nobody else is at."""
        order = self.random.sample(range(PLUGINS), PLUGINS)
        number = next(each for each in itertools.cycle(order) if self.busy[each].acquire(False))
        try:
            yield number
        finally:
            self.busy[number].release()

    def inject(self, client: Client, number: int, kind: str) -> None:
        """One fault, and the plugin's next request."""
        try:
            start, told = _fault(client, f"victim{number}", kind)
            again = client.call(f"victim{number}.fine", {"n": number}, deadline=60)
            ended = time.perf_counter()
            if again.value != number:
                raise ClawError("bad_worker", "a wrong answer", got=again.value)
        except ClawError as error:
            self.found.unanswered.append(f"victim{number} {kind}: {error.code}: {error.message}")
            return
        self.found.detect[kind].append((told - start) * 1000)
        if kind not in LIMITS:
            self.found.recovery[_heavy(number)].append((ended - told) * 1000)


def _heavy(number: int) -> bool:
    return number % 2 == 1


def _fault(client: Client, name: str, kind: str) -> tuple[float, float]:
    """Make a plugin fail: when it was asked to, and when the client heard of it.

    Raises:
        ClawError: if nothing came of it.
    """
    start = time.perf_counter()
    task = client.submit(f"{name}.fail", {"kind": "nap" if kind == "stop" else kind})
    if kind == "stop":
        pid = _running(client, name)
        start = time.perf_counter()
        os.kill(pid, signal.SIGSTOP)
    try:
        task.result()
    except ClawError as error:
        if error.code in ("worker_died", "worker_failed", "worker_hung", "bad_worker"):
            return start, time.perf_counter()
        raise
    raise ClawError("bad_state", "the fault had no effect", got=kind)


def _running(client: Client, name: str) -> int:
    """The process of a plugin's worker, once it runs a task."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for worker in client.query("workers")["workers"]:
            if worker["plugin"] == name and worker["pid"] and worker.get("running", True):
                return int(worker["pid"])
        time.sleep(0.02)
    raise ClawError("worker_hung", f"{name} never ran")


def _slowly(scene: Scene, kind: str, least: int, ended: threading.Event) -> None:
    """Keep one plugin hanging, or stopped, until the others are done."""
    with Client(folder=scene.folder, timeout=30) as client:
        for number in itertools.count():
            if number >= least and ended.is_set():
                return
            with scene.victim() as victim:
                scene.inject(client, victim, kind)


def _quickly(scene: Scene, count: int, quiet_s: float, status: output.Status) -> None:
    """Inject faults that are noticed at once, in blocks with quiet windows between."""
    kinds = list(itertools.islice(itertools.cycle(DEATHS + LIMITS), count))
    scene.random.shuffle(kinds)
    with Client(folder=scene.folder, timeout=30) as client:
        for first in range(0, count, BLOCK):
            status.show(f"{scene.found.injected} faults")
            began = time.monotonic()
            for kind in kinds[first : first + BLOCK]:
                with scene.victim() as victim:
                    scene.inject(client, victim, kind)
            ended = time.monotonic()
            scene.found.windows.append((began, ended, True))
            time.sleep(0.5)  # what the last restart still does belongs to nobody
            quiet = time.monotonic()
            time.sleep(quiet_s)
            scene.found.windows.append((quiet, time.monotonic(), False))


def install(kernel: Private) -> None:
    """Victims and neighbours."""
    for number in range(PLUGINS):
        code = kernel.plugin("victim", f"victim{number}") / "claw_bench_victim.py"
        if _heavy(number):
            text = code.read_text(encoding="utf-8")
            code.write_text(text.replace("HEAVY = False", "HEAVY = True"), encoding="utf-8")
    for number in range(NEIGHBOURS):
        kernel.plugin("neighbour", f"neighbour{number}")


def measure(count: int, slow: int, quiet_s: float, seed: int) -> Report:
    """Inject ``count`` faults, at least ``slow`` of each kind that is noticed late."""
    found = Found()
    status = output.Status()
    with contextlib.ExitStack() as stack:
        stack.callback(status.clear)
        kernel = Private("[workers]\nidle_minutes = 0\n")
        stack.callback(kernel.remove)
        install(kernel)
        kernel.start()
        status.show("starting the workers")
        with Client(folder=kernel.folder, timeout=30) as client:
            for number in range(PLUGINS):
                client.call(f"victim{number}.fine", {"n": number})
        ops = [f"neighbour{number}.say" for number in range(NEIGHBOURS)]
        paced = Paced(kernel.folder, PERIOD_MS, ops)
        stack.callback(paced.kill)
        scene = Scene(kernel.folder, found, random.Random(seed))
        ended = threading.Event()
        late = [
            threading.Thread(target=_slowly, args=(scene, kind, slow, ended))
            for kind in (SLOW if slow else ())
        ]
        try:
            for thread in late:
                thread.start()
            # The slow ones come on top of the quick ones; a few are spent before the end is known.
            _quickly(scene, count - len(SLOW) * slow, quiet_s, status)
        finally:
            ended.set()
            status.show("waiting for those that hang")
            for thread in late:
                thread.join()
        samples, lost = paced.finish()
        restarts = 0 if kernel.alive() else 1
    for line in [*found.unanswered[:5], *lost[:5]]:
        output.note(line)
    settings = {"plugins": PLUGINS, "neighbours": NEIGHBOURS, "period_ms": PERIOD_MS, "seed": seed}
    return Report("faults", settings, figures(found, samples, lost, restarts))


def figures(
    found: Found, samples: list[tuple[float, float]], lost: list[str], restarts: int
) -> dict[str, float]:
    """All that was asked, and detection by kind."""
    took: dict[bool, list[float]] = {True: [], False: []}
    for due, each in samples:
        for begin, end, faults in found.windows:
            if begin <= due < end:
                took[faults].append(each)
    quiet, beside = percentile(took[False], 99), percentile(took[True], 99)
    both = found.recovery[False] + found.recovery[True]
    deaths = [each for kind in DEATHS for each in found.detect[kind]]
    result = {
        "injected": found.injected,
        "kernel_restarts": restarts,
        "neighbour_lost": len(lost),
        "unanswered": len(found.unanswered),
        "neighbour_p99_added_ms": beside - quiet,
        "neighbour_quiet_p50_ms": percentile(took[False], 50),
        "neighbour_quiet_p99_ms": quiet,
        "neighbour_p50_ms": percentile(took[True], 50),
        "neighbour_p99_ms": beside,
        "recovery_p50_ms": statistics.median(found.recovery[False]),
        "recovery_numpy_p50_ms": statistics.median(found.recovery[True]),
        "recovery_p99_ms": percentile(both, 99),
        "detect_death_p50_ms": statistics.median(deaths),
        "detect_death_p99_ms": percentile(deaths, 99),
    }
    for kind in (*DEATHS, *LIMITS, *SLOW):
        if times := found.detect[kind]:
            result[f"detect_{kind}_p50_ms"] = statistics.median(times)
    return {key: round(value, 3) for key, value in result.items()}


@click.command("faults")
@click.option("--count", type=click.IntRange(40, 100_000), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="60 faults.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(count: int, seed: int, quick: bool, as_json: bool) -> None:
    """Measure what failing plugins cost their neighbours, and how soon they serve again.

    \b
    Example:
      claw bench faults --quick
      claw bench faults --json
    """
    count, slow, quiet = (60, 1, 4.0) if quick else (count, 4, 5.0)
    finish(measure(count, slow, quiet, seed), as_json)
