"""`claw bench share`: two language models and a third worker at once, against their ideal.

Each of the three can use the whole box: both models with as many threads as it has cores, the third
(``plugins/bulk``: loops in C that look at nothing) with as many tasks. Windows with one of them
alone and windows with all three take turns, each load in the class ``normal``. What a load does in
the common window is divided by what it does alone; if the box were cut into slices of time and
nothing were lost, the three shares would add up to 1.

    shared_ratio             the sum of the three shares
    model_1_share_ratio ...  the shares; nobody should be left without one
    model_1_alone_rps ...    pieces of text a second, calls a second for the third
"""

import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

BARS = (Bar(key="shared_ratio", least=0.9),)
MODELS = ("model_1", "model_2")
THIRD = "third"
WARM_S = 0.4
"""Loads run so long before a window begins."""
PARAMS = {"prompt": "Once upon a time", "max_tokens": 200}
UNITS = 20_000
"""Of one call of the third: about 10 ms."""


class Load:
    """One load: ``threads`` clients that ask again and again, while it is on; counts what comes."""

    def __init__(self, folder: Path, work: Callable[["Load", Client], None], threads: int) -> None:
        self._folder, self._work, self._number = folder, work, threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._failed: ClawError | None = None
        self.count = 0
        self.ended = threading.Event()

    def add(self) -> None:
        """One more piece of work is done."""
        with self._lock:
            self.count += 1

    def start(self) -> None:
        """Begin to ask."""
        self.ended.clear()
        self._threads = [threading.Thread(target=self._run) for _ in range(self._number)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more, and wait until nothing is under way.

        Raises:
            ClawError: what a request failed with.
        """
        self.ended.set()
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed

    def _run(self) -> None:
        try:
            with Client(folder=self._folder, timeout=60) as client:
                while not self.ended.is_set():
                    self._work(self, client)
        except ClawError as error:
            self._failed = error


def generate(model: str) -> Callable[[Load, Client], None]:
    """One answer; each piece of its text counts."""

    def work(load: Load, client: Client) -> None:
        task = client.submit("llm.generate", PARAMS, model=model, priority="normal")
        for event in task:
            if event.kind == "chunk":
                load.add()
            if load.ended.is_set():
                task.cancel()
        try:
            task.result()
        except ClawError as error:
            if error.code != "cancelled":
                raise

    return work


def call(load: Load, client: Client) -> None:
    """One call of the third."""
    client.call("bulk.hash", {"units": UNITS}, priority="normal")
    load.add()


def window(loads: Sequence[Load], seconds: float) -> list[float]:
    """What each of ``loads`` does a second while all of them are on."""
    for load in loads:
        load.start()
    try:
        time.sleep(WARM_S)
        before, began = [load.count for load in loads], time.monotonic()
        time.sleep(seconds)
        after, ended = [load.count for load in loads], time.monotonic()
    finally:
        for load in loads:
            load.ended.set()
        for load in loads:
            load.stop()
    return [(then - now) / (ended - began) for now, then in zip(before, after, strict=True)]


def install(box: Private, model: Path) -> None:
    """The models, which are one file under two names, and the third."""
    for name in MODELS:
        folder = box.models_dir / name
        folder.mkdir()
        shutil.copyfile(model, folder / "model.gguf")
        record = {
            "name": name,
            "file": "model.gguf",
            "bytes": model.stat().st_size,
            "sha256": "",
            "capability": "llm",
        }
        (folder / "model.json").write_text(json.dumps(record))
    box.plugin("bulk")


def measure(model: Path, rounds: int, seconds: float) -> Report:
    """Run windows alone and together, in turn.

    Raises:
        ClawError: whatever a request failed with.
    """
    cores = len(os.sched_getaffinity(0))
    status = output.Status()
    box = Private("[workers]\nidle_minutes = 0\n")
    alone: dict[str, list[float]] = {}
    together: dict[str, list[float]] = {}
    try:
        install(box, model)
        box.start()
        loads = {name: Load(box.folder, generate(name), 1) for name in MODELS}
        loads[THIRD] = Load(box.folder, call, cores)
        status.show("loading the models")
        client = box.client()
        for name in MODELS:
            client.call("llm.generate", {**PARAMS, "max_tokens": 1}, model=name)
        client.call("bulk.hash", {"units": 1}, priority="normal")
        neighbours = Neighbours(box.processes())
        for number in range(rounds):
            for name, load in loads.items():
                status.show(f"round {number + 1} of {rounds}: {name} alone")
                alone.setdefault(name, []).extend(window([load], seconds))
            status.show(f"round {number + 1} of {rounds}: all at once")
            for name, rate in zip(loads, window(list(loads.values()), seconds), strict=True):
                together.setdefault(name, []).append(rate)
        busy = round(neighbours.share(), 3)
    finally:
        status.clear()
        box.remove()
    settings = {"model": model.name, "rounds": rounds, "window_s": seconds}
    settings |= {"others_busy_ratio": busy}
    return Report("share", settings, figures(alone, together))


def figures(alone: dict[str, list[float]], together: dict[str, list[float]]) -> dict[str, float]:
    """Medians; the sum is that of each round, so that a slow minute of the box hits both sides."""
    shares = {
        name: [now / max(then, 1e-9) for now, then in zip(together[name], alone[name], strict=True)]
        for name in alone
    }
    sums = [sum(row) for row in zip(*shares.values(), strict=True)]
    found = {"shared_ratio": round(statistics.median(sums), 3)}
    for name, each in shares.items():
        found[f"{name}_share_ratio"] = round(statistics.median(each), 3)
    for name, each in alone.items():
        found[f"{name}_alone_rps"] = round(statistics.median(each), 1)
    return found


@click.command("share")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=3.0, show_default=True)
@click.option("--quick", is_flag=True, help="Two rounds of short windows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, rounds: int, seconds: float, quick: bool, as_json: bool) -> None:
    """Measure what two language models and a third worker reach together.

    \b
    Example:
      claw bench share --model smollm2
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    if quick:
        rounds, seconds = 2, 1.5
    finish(measure(path, rounds, seconds), as_json)
