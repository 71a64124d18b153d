"""How long bulk workers wait for a processor, which their clocks do not count.

A bulk worker stands back, so while others want every processor it hardly runs: it starts and
answers late, and does not hang. The system counts for each thread how long it was ready to run and
did not (the second number of /proc/PID/schedstat, in nanoseconds). Every
five seconds the longest wait of a worker's threads is added up, less what the process ran and what
its own bound of processor time held it back, and told to the core in whole pings: more threads than
processors keep one another waiting, and a worker that has these, or a low bound, may hang as well
as any. What waits for anything else, a lock or a reply, is not counted either.

Until a worker's process is known, what starts it is looked at: the launcher of its lane and the
processes that this has forked.

A wait is counted by the system when it is over, so a little late. Where the system does not count
it (CONFIG_SCHED_INFO) bulk workers have ``limits.BULK_PATIENCE`` alone. Nothing is looked at while
no bulk worker lives.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from clawai.kernel.limits import PING, SECOND
from clawai.kernel.steward.log import LogFile


@dataclass(slots=True)
class Wait:
    """Of one worker."""

    since: int
    """When it was first looked at: it cannot have waited longer than that."""
    total: int = 0
    told: int = 0
    throttled: int = 0


@dataclass
class Waits:
    """Of all of them; ``bulk`` gives the launcher and, by worker, the process or 0 before it is
    known. ``told`` gets a worker and nanoseconds, a multiple of ``PING``. ``throttled`` gives the
    nanoseconds for which a worker's own bound has held it back so far.
    """

    log: LogFile
    told: Callable[[int, int], object]
    bulk: Callable[[], tuple[int, Mapping[int, int]]]
    throttled: Callable[[int], int] = lambda _: 0
    _workers: dict[int, Wait] = field(default_factory=dict)
    _threads: dict[str, int] = field(default_factory=dict)
    """How long each had waited at the last look; and by the number alone, a process had run."""
    _due: int | None = None

    def attend(self, now: int) -> None:
        """Look, or do not: call it whenever a worker may have been started or ended."""
        needed = bool(self.bulk()[1])
        if needed and self._due is None:
            self._due = now
        elif not needed:
            self._due = None
            self._workers.clear()
            self._threads.clear()

    def next_timer(self) -> int | None:
        """When to look next; None while no bulk worker lives."""
        return self._due

    def expire(self, now: int) -> None:
        """Look at all of them, if that is due."""
        if self._due is None or now < self._due:
            return
        self._due = now + PING
        launcher, workers = self.bulk()
        before, self._threads = self._threads, {}
        launching = self._kept_waiting([launcher, *_children(launcher)], before)
        for worker in self._workers.keys() - workers.keys():
            del self._workers[worker]
        for worker, pid in workers.items():
            wait = self._workers.setdefault(worker, Wait(now))
            span = self._kept_waiting([pid], before) if pid else launching
            throttled = self.throttled(worker)
            span = max(0, span - (throttled - wait.throttled))
            wait.throttled = throttled
            wait.total = min(wait.total + span, now - wait.since)
            if (whole := (wait.total - wait.told) // PING * PING) > 0:
                self._tell(worker, wait, whole)

    def _tell(self, worker: int, wait: Wait, span: int) -> None:
        if not wait.told:
            text = f"worker {worker} waits for a processor: others want every one of them"
            self.log.write("info", text)
        wait.told += span
        waited = f"worker {worker} has waited {wait.told // SECOND} s for a processor"
        self.log.write("debug", waited)
        self.told(worker, span)

    def _kept_waiting(self, pids: Iterable[int], before: Mapping[str, int]) -> int:
        """The most that a thread of one of them has waited since the last look, less what that
        process ran."""
        found = [0]
        for pid in pids:
            longest = 0
            for name, waited in _waited(pid).items():
                self._threads[name] = waited
                longest = max(longest, waited - before.get(name, 0))
            self._threads[str(pid)] = ran = _ran(pid)
            found.append(longest - max(0, ran - before.get(str(pid), 0)))
        return max(found)


def _waited(pid: int) -> dict[str, int]:
    """What each thread has waited in its life; of those that have just ended, nothing."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            name = f"{pid}/task/{thread}"
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[name] = int(_read(f"{name}/schedstat").split()[1])
    return found


def _ran(pid: int) -> int:
    """Processor time of a process, of threads that have ended, too; 0 if it is gone."""
    with contextlib.suppress(OSError, OverflowError):
        return time.clock_gettime_ns(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
    return 0


def _children(pid: int) -> list[int]:
    """The processes that a process with one thread has forked."""
    with contextlib.suppress(OSError):
        return [int(each) for each in _read(f"{pid}/task/{pid}/children").split()]
    return []


def _read(name: str) -> bytes:
    handle = os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 65536)
    finally:
        os.close(handle)
