"""What waits for a processor is told apart from what hangs: real processes, and a real start."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel import events as ev
from clawai.kernel.limits import MIB, PING, SECOND
from clawai.kernel.replay.files import Entry, parts, read
from clawai.kernel.replay.thaw import event
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.waits import Waits
from clawai.sandbox import cgroups
from support import Kernel, wait_until

BURN = "while True: pass"
SLEEP = "import time; time.sleep(600)"
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(code: str, core: int, idle: bool = False) -> Iterator[int]:
    """A program on one processor; ``idle``: it stands back for any other there."""
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as made:
        try:
            os.sched_setaffinity(made.pid, {core})
            if idle:
                os.sched_setscheduler(made.pid, os.SCHED_IDLE, os.sched_param(0))
            yield made.pid
        finally:
            made.kill()


def computed(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Watched:
    """``Waits`` of one worker, on a clock that goes on by one look at a time."""

    def __init__(self, folder: Path, worker: int, launcher: int = 0) -> None:
        self.told: list[tuple[int, int]] = []
        self.log = LogFile(folder / "log", "debug", MIB, False)
        self.workers = {7: worker}
        tell: Callable[[int, int], None] = lambda *said: self.told.append(said)  # noqa: E731
        self.waits = Waits(self.log, tell, lambda: (launcher, self.workers))
        self.now = time.monotonic_ns()
        self.waits.attend(self.now)
        self.waits.expire(self.now)

    def look(self) -> int:
        """The next look; all that was told until then."""
        due = self.waits.next_timer()
        assert due is not None
        self.now = due
        self.waits.expire(due)
        return sum(span for _, span in self.told)


def delay(pid: int) -> int:
    """What the system counts: nanoseconds that its first thread was ready and did not run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])


@pytest.fixture(scope="module", autouse=True)
def counted() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not count waits (CONFIG_SCHED_INFO)")


@pytest.fixture(autouse=True)
def usual() -> None:
    """What stands back is told from what runs at the usual priority, as these tests then do."""
    if os.getpriority(os.PRIO_PROCESS, 0):
        try:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        except PermissionError:
            pytest.skip("these tests were started with a low priority")


def core() -> int:
    return max(os.sched_getaffinity(0))


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_that_stands_back_is_told_to_wait(tmp_path: Path, known: bool) -> None:
    """Also before its process is known: then it is a child of the launcher."""
    with running(BURN, core()), running(BURN, core(), idle=True) as worker:
        watched = Watched(tmp_path, worker if known else 0, 0 if known else os.getpid())
        began, before = delay(worker), computed(worker)
        wait_until(lambda: delay(worker) - began > 1.1 * PING, "it waits", 60)
        had = computed(worker) - before
        watched.look()
        told = watched.look()
        watched.log.close()
    assert told >= PING
    assert all(worker == 7 and span % PING == 0 for worker, span in watched.told)
    assert had < PING / 1e9 / 2, "it had next to no processor time meanwhile"
    text = (tmp_path / "log").read_text()
    assert "worker 7 waits for a processor: others want every one of them" in text
    assert f"worker 7 has waited {told // SECOND} s for a processor" in text


def test_who_sleeps_or_computes_does_not_wait(tmp_path: Path) -> None:
    """One that holds a processor, and one that wants none, may well hang."""
    with running(SLEEP, core()) as worker:
        watched = Watched(tmp_path, worker)
        assert [watched.look() for _ in range(4)] == [0] * 4
        watched.log.close()


CROWD = """
import hashlib, threading
def work():
    while True:
        hashlib.sha256(bytes(1 << 22))  # lets the other threads run meanwhile
for _ in range(7):
    threading.Thread(target=work).start()
work()
"""


def test_threads_that_keep_one_another_waiting_are_not_kept_waiting(tmp_path: Path) -> None:
    """Or a worker that hangs in many threads would be left alone for longer than others."""
    with running(CROWD, core()) as worker:
        watched = Watched(tmp_path, worker)
        wait_until(lambda: delay(worker) > 0.5e9, "its threads wait for one another", 60)
        assert watched.look() == 0
        assert watched.waits._workers[7].total < delay(worker) / 2
        watched.log.close()


def test_a_bound_of_its_own_does_not_keep_it_waiting(tmp_path: Path) -> None:
    """What its quota holds back is not held back by others."""
    places = cgroups.find()
    if not places.kind("cpu"):
        pytest.skip("no controller bounds processor time here")
    cage = cgroups.make(places, f"{cgroups.PREFIX}{os.getpid()}-quota", cgroups.Bounds(cpu=0.05))
    try:
        with running(BURN, core()) as worker:
            cage.enter(worker)
            watched = Watched(tmp_path, worker)
            watched.waits.throttled = lambda _: cage.throttled()
            wait_until(lambda: delay(worker) > 2e9, "its quota holds it back", 60)
            assert watched.look() == 0
            assert watched.waits._workers[7].total < delay(worker) / 2
            watched.log.close()
    finally:
        wait_until(cage.remove, "the group is empty")


def test_nobody_has_waited_longer_than_he_was_there(tmp_path: Path) -> None:
    """What a thread has waited before it was first looked at is not told of a new worker."""
    with running(BURN, core()), running(BURN, core(), idle=True) as worker:
        wait_until(lambda: delay(worker) > 0.5e9, "it waits", 60)
        watched = Watched(tmp_path, worker)
        assert watched.waits._workers[7].total == 0
        watched.workers[8] = watched.workers.pop(7)
        watched.look()
        assert watched.waits._workers.keys() == {8}
        assert watched.waits._workers[8].total == 0
        watched.log.close()


def test_nothing_is_looked_at_without_bulk_workers(tmp_path: Path) -> None:
    watched = Watched(tmp_path, os.getpid())
    assert watched.waits.next_timer() is not None
    watched.workers.clear()
    watched.waits.attend(watched.now)
    assert watched.waits.next_timer() is None
    watched.waits.expire(watched.now + PING)
    watched.workers[9] = 1 << 30  # no process has this number
    watched.waits.attend(watched.now)
    assert watched.look() == watched.look() == 0
    watched.log.close()


def test_a_bulk_worker_that_starts_beside_busy_programs(start_kernel: Any) -> None:
    """Every processor is wanted by others: it does not get on, the core is told, it is not killed,
    and when they have gone it answers."""
    kernel: Kernel = start_kernel(config='[preemption]\nmeans = "auto"\n')
    with kernel.client() as client, ExitStack() as hogs:
        ladder = wait_until(lambda: client.query("status").get("preemption"), "a verdict")
        if ladder["means"]["kind"] in ("none", "realtime"):
            pytest.skip("bulk work does not stand back here, as the kernel says")
        for each in os.sched_getaffinity(0):
            hogs.enter_context(running(BURN, each))
        task = client.submit("echo.say", {"text": "late"}, priority="batch")
        wait_until(lambda: "waits for a processor" in kernel.log(), "its wait is seen", 60)
        hogs.close()
        assert task.result().value == "late"
    assert "died" not in kernel.log()
    kernel.stop()
    told = journal(kernel)
    waits = [each for each in told if type(each) is ev.WorkerWaited]
    ready = [each for each in told if type(each) is ev.WorkerReady]
    assert waits and {each.worker for each in waits} == {ready[-1].worker}
    assert told.index(waits[0]) < told.index(ready[-1]), "it was told while it started"


def journal(kernel: Kernel) -> list[ev.Event]:
    """What the core was told."""
    files = parts(kernel.base / "state" / "clawai" / "journal")
    return [event(entry.event) for entry in read(files) if isinstance(entry, Entry)]
