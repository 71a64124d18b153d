"""`claw bench soak`: eight models in a budget that holds about half of them, coming and going.

The models are files of zeros; their workers (``plugins/ballast``) reserve as many bytes, write to
every page and keep them. Six clients ask for a model each, the large ones as often as the small,
most with a pause inside the operation, some with a lease, some with a deadline that is too short;
some cancel, some leave in the middle. Every answer is checked.

    oom_kills         processes that the system killed for memory (vmstat)
    evicted_in_use    requests that lost their worker or their lease, though no fault was injected
    failed            other requests that were not answered as they must be
    budget_peak_ratio resident bytes of all workers to the budget, the highest of all samples
    resident_growth_bytes  of the daemon and its helpers, last tenth of the time to the second tenth
    leaked_*          what is there at the end, when all is unloaded, and was not at the start
"""

import contextlib
import os
import random
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import click
import msgspec

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

MIB = 1 << 20
SIZES_MIB = (24, 32, 48, 64, 80, 96, 128, 160)
BASE_MIB = 96
"""What the manifest of the plugin charges for a worker itself."""
BUDGET_MIB = 700
CLIENTS = 6
SAMPLE_S = 1.0
BARS = (
    Bar(key="oom_kills", most=0),
    Bar(key="evicted_in_use", most=0),
    Bar(key="failed", most=0),
    Bar(key="budget_peak_ratio", most=1),
    Bar(key="resident_growth_bytes", most=4 * MIB),
    Bar(key="leaked_descriptors", most=0),
    Bar(key="leaked_processes", most=0),
)


class Churn:
    """What one client does until it is told to stop; several run as threads."""

    def __init__(self, folder: Path, seed: int, counts: "Counter[str]", ended: threading.Event):
        self._folder, self._counts, self._ended = folder, counts, ended
        self._random = random.Random(seed)

    def run(self) -> None:
        """Connect, ask a few times, leave; again and again."""
        while not self._ended.is_set():
            try:
                with Client(folder=self._folder, timeout=60) as client:
                    for _ in range(self._random.randrange(1, 40)):
                        if self._ended.is_set():
                            return
                        self._request(client)
                    if self._random.random() < 0.3:  # leaves with a request under way
                        client.submit(
                            "ballast.work", {"pause_ms": 50, "page": 0}, model=self._model()
                        )
                        self._counts["left"] += 1
            except ClawError as error:
                self._note("failed", error)

    def _model(self) -> str:
        return f"m{self._random.randrange(len(SIZES_MIB))}"

    def _request(self, client: Client) -> None:
        chance = self._random.random()
        try:
            if chance < 0.2:
                self._with_lease(client)
            elif chance < 0.3:
                self._cancelled(client)
            else:
                self._plain(client, short=chance < 0.4)
        except ClawError as error:
            lost = error.code in ("worker_died", "no_lease", "worker_hung", "bad_worker")
            self._note("evicted_in_use" if lost else "failed", error)
        self._counts["requests"] += 1

    def _plain(self, client: Client, short: bool) -> None:
        page = self._random.randrange(1 << 16)
        model = self._model()
        pages = SIZES_MIB[int(model[1:])] * MIB // os.sysconf("SC_PAGE_SIZE")
        params = {"pause_ms": self._random.randrange(60), "page": page}
        try:
            deadline = 0.02 if short else None
            answer = client.call("ballast.work", params, deadline=deadline, model=model)
        except ClawError as error:
            if short and error.code in ("deadline_passed", "deadline_unreachable"):
                return
            raise
        if answer.value != page % pages % 251:
            raise ClawError("bad_worker", "the memory of a model is not what was written")

    def _cancelled(self, client: Client) -> None:
        task = client.submit("ballast.work", {"pause_ms": 5000, "page": 0}, model=self._model())
        time.sleep(self._random.random() / 10)
        task.cancel()
        try:
            task.result()
        except ClawError as error:
            if error.code != "cancelled":
                raise

    def _with_lease(self, client: Client) -> None:
        size = 4096 << self._random.randrange(8)
        model = self._model()
        loan = client.borrow("ballast.look", size, model=model)
        try:
            view = memoryview(loan.mapping)
            fill = self._random.randrange(256)
            view[:size] = bytes((fill,)) * size
            view.release()
            tensor = {"dtype": "|u1", "shape": [size], "lease": 0}
            params = {"x": tensor, "pause_ms": self._random.randrange(60)}
            if client.call("ballast.look", params, leases=[loan], model=model).value != fill * size:
                raise ClawError("bad_worker", "a lease does not hold what was written to it")
        finally:
            client.give_back(loan)

    def _note(self, what: str, error: ClawError) -> None:
        self._counts[what] += 1
        if self._counts[what] <= 5:
            output.note(f"{what}: {error}")


def resident(pid: int) -> int:
    """Resident bytes of a process that are its own; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in text.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def oom_kills() -> int:
    """Processes that the system has killed for memory since it started."""
    for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


class Watch:
    """Samples of what the kernel and its workers hold."""

    def __init__(self, kernel: Private) -> None:
        self._kernel = kernel
        self._client = kernel.client()
        self.helpers = set(kernel.processes())
        """The daemon and what belongs to it for good."""
        self.ours: list[int] = []
        self.workers: list[int] = []

    def sample(self) -> None:
        """Once."""
        pids = {worker["pid"] for worker in self._client.query("workers")["workers"]}
        self.workers.append(sum(map(resident, pids)))
        self.ours.append(sum(map(resident, self.helpers)))

    def growth(self) -> float:
        """Of the daemon and its helpers, over the time of the churn."""
        tenth = max(1, len(self.ours) // 10)
        first = statistics.median(self.ours[tenth : 2 * tenth] or self.ours)
        return statistics.median(self.ours[-tenth:]) - first

    def descriptors(self) -> int:
        """Open in the daemon and its helpers."""
        count = 0
        for pid in self.helpers:
            with contextlib.suppress(OSError):
                count += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        return count


def store(kernel: Private) -> None:
    """The models: sparse files and their records."""
    kernel.plugin("ballast")
    for number, size in enumerate(SIZES_MIB):
        folder = kernel.models_dir / f"m{number}"
        folder.mkdir()
        with (folder / "model.bin").open("wb") as file:
            file.truncate(size * MIB)
        record = {
            "name": folder.name,
            "file": "model.bin",
            "bytes": size * MIB,
            "sha256": "",
            "capability": "ballast",
        }
        (folder / "model.json").write_bytes(msgspec.json.encode(record))


def unload(client: Client) -> None:
    """Stop every worker and wait until all are gone."""
    until = time.monotonic() + 60
    while workers := client.query("workers")["workers"]:
        for worker in workers:
            client.admin("unload", worker["model"] or worker["plugin"])
        if time.monotonic() > until:
            raise ClawError("worker_hung", "workers do not end", got=workers)
        time.sleep(0.2)


def measure(minutes: float, seed: int) -> Report:
    """Churn for a while."""
    counts: Counter[str] = Counter()
    ended = threading.Event()
    status = output.Status()
    with contextlib.ExitStack() as stack:
        stack.callback(status.clear)
        kernel = Private(f"[memory]\nbudget_mib = {BUDGET_MIB}\n")
        stack.callback(kernel.remove)
        store(kernel)
        kernel.start()
        client = kernel.client()
        # Once through everything, so that what is made on first use is there before the count.
        client.call("ballast.work", {"pause_ms": 0, "page": 0}, model="m0")
        unload(client)
        watch = Watch(kernel)
        descriptors, before = watch.descriptors(), oom_kills()
        threads = [
            threading.Thread(target=Churn(kernel.folder, seed + n, counts, ended).run)
            for n in range(CLIENTS)
        ]
        start = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            while (left := start + minutes * 60 - time.monotonic()) > 0:
                watch.sample()
                status.show(f"{counts['requests']} requests, {left:.0f} s left")
                time.sleep(min(SAMPLE_S, left))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        unload(client)
        time.sleep(1)  # connections that the clients have closed are noticed
        log = kernel.log()
        figures = {
            "oom_kills": oom_kills() - before,
            "evicted_in_use": counts["evicted_in_use"],
            "failed": counts["failed"],
            "budget_peak_ratio": round(max(watch.workers) / (BUDGET_MIB * MIB), 3),
            "resident_bytes": watch.ours[-1],
            "resident_growth_bytes": watch.growth(),
            "leaked_descriptors": max(0, watch.descriptors() - descriptors),
            "leaked_processes": len(set(kernel.processes()) - watch.helpers),
            "requests": counts["requests"],
            "worker_starts": log.count(" is ready after "),
            "evictions": log.count("evicted"),
        }
    models = f"{len(SIZES_MIB)} of {sum(SIZES_MIB)} MiB together"
    settings = {"models": models, "budget_mib": BUDGET_MIB, "clients": CLIENTS, "seed": seed}
    return Report("soak", {**settings, "minutes": minutes}, figures)


@click.command("soak")
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), default=10, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="One minute.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(minutes: float, seed: int, quick: bool, as_json: bool) -> None:
    """Run many models in one memory budget, coming and going, and count what goes wrong.

    \b
    Example:
      claw bench soak --minutes 10
      claw bench soak --quick --json
    """
    finish(measure(1 if quick else minutes, seed), as_json)
