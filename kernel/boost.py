"""Critical tasks pass ordinary programs for a moment, where the system lets the kernel do that.

Lowering bulk work (rung 2) leaves two waits. A fair scheduler owes a group of any weight its part:
where an urgent program and a bulk one want the same processor, the bulk one is picked now and then
and keeps it until the next tick of the clock. And a program of ordinary weight, a browser that
paints, is as good as we are. So the daemon, without which nobody is served, and a worker that runs
a critical task are scheduled in the real-time class, below everything else that is in it. Both only
for a moment, so that no plugin and no crowd of clients can take the box from its owner:

- a task for ``ns`` at most, then it goes on as before;
- a worker that has answered ``LINGER`` longer, as the next task is often near, and to put it back
  and raise it again takes twenty system calls;
- all workers together for ``SHARE`` of the box's processor time, by what they have really used;
- the daemon until it computes for half of a ``WINDOW``: then it is as all others for a ``PAUSE``;
- a worker that nobody puts back, as the daemon is stopped, ends by ``means.REALTIME_S``.

On a box with a free processor nobody is raised: what is woken finds that at once.

The system allows it to who holds CAP_SYS_NICE, as root does; else nobody is raised, nor the daemon
alone, as urgent work would still wait for its worker. (A grant by ``RLIMIT_RTPRIO`` does not do: a
worker's own limit is 0.) What a worker forks is not in that class.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from clawai.kernel.limits import MS, SECOND

WORKER, DAEMON = 1, 2
"""Priorities of SCHED_FIFO, whose least is 1: the daemon before the workers that it feeds."""
LINGER = 50 * MS
SHARE = 0.25
SAVED = 1 * SECOND
"""So much of their processor time is kept for later at most."""
AGAIN = 1 * SECOND
"""So long after it was raised, a worker may have new threads that are not."""
WINDOW = 100 * MS
PAUSE = 1 * SECOND
THREADS = 16
"""Each costs two system calls; a worker with more is not raised."""
_PROCESS_CPU = 2
"""Of a clock's number, ``CPUCLOCK_SCHED`` (man clock_getcpuclockid)."""
_FIFO = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
# Without privilege the flag cannot be taken away again; it does nothing to an ordinary program.
_OTHER = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK


def allowed() -> bool:
    """Whether the system lets this process do that. A thread's class is its own: call it where
    there is one."""
    try:
        os.sched_setscheduler(0, _FIFO, os.sched_param(DAEMON))
    except OSError:
        return False
    os.sched_setscheduler(0, _OTHER, os.sched_param(0))
    return True


def used(pid: int) -> int:
    """What a process has computed, all its threads, in nanoseconds.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime_ns(~pid << 3 | _PROCESS_CPU)


@dataclass(slots=True)
class Lift:
    """A worker that is raised."""

    until: int
    """When it is put back."""
    listed: int
    """When its threads were."""
    mark: int
    """What it had computed when that was last taken off what is saved."""


@dataclass
class Boost:
    """Who is raised, and until when.

    Args:
        ns: for how long a task is at most; 0 raises nobody, nor the daemon.
        crowded: whether there is no processor to spare.
    """

    ns: int
    crowded: Callable[[], bool]
    pids: dict[int, int] = field(default_factory=dict)
    """Of the workers that may be raised, their process."""
    lifts: dict[int, Lift] = field(default_factory=dict)
    """Those that are."""
    raised: bool = False
    """The daemon is; while it is not, nobody is, as it could not put them back in time."""
    _saved: float = SAVED
    _due: int = 0
    """When to look at the daemon, ..."""
    _paused: int = 0
    """... and not before, although it might be raised."""
    _seen: int = 0
    """When that was done last, ..."""
    _used: int = 0
    """... and what it had computed by then."""
    _counted: int = 0
    """Up to when ``_saved`` has grown."""
    _share: float = SHARE * len(os.sched_getaffinity(0))

    def started(self, worker: int, pid: int) -> None:
        """A worker is this process."""
        if self.ns:
            self.pids[worker] = pid

    def gone(self, worker: int) -> None:
        """It has ended, and its number may soon be another's."""
        self.pids.pop(worker, None)
        self.lifts.pop(worker, None)

    def grant(self, worker: int, now: int) -> None:
        """A worker is about to get a critical task."""
        if worker not in self.pids:
            return
        if not self.raised:
            self._due = self._paused
            self.attend(now)
            if not self.raised:
                return
        self._saved = min(SAVED, self._saved + (now - self._counted) * self._share)
        self._counted = now
        lift = self.lifts.get(worker)
        try:
            if lift:
                self._charge(worker, lift)
            if self._saved < self.ns:
                if lift:
                    self._lower(worker)
                return
            if not lift:
                lift = self.lifts[worker] = Lift(0, -AGAIN, used(self.pids[worker]))
            if now >= lift.listed + AGAIN:
                self._put(worker, os.SCHED_OTHER, _FIFO, WORKER)
                lift.listed = now
            lift.until = now + self.ns
        except PermissionError:
            self._settle(False)
            self.ns = 0
        except OSError:  # it has just ended
            self.gone(worker)

    def done(self, worker: int, now: int) -> None:
        """It has ended a task."""
        if (lift := self.lifts.get(worker)) and lift.until > now:
            lift.until = now + LINGER

    def next_timer(self) -> int | None:
        """When somebody is to be put back."""
        return min(lift.until for lift in self.lifts.values()) if self.lifts else None

    def expire(self, now: int) -> None:
        """Put back whose time is over."""
        for worker in [each for each, lift in self.lifts.items() if lift.until <= now]:
            self._lower(worker)

    def _lower(self, worker: int) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            self._charge(worker, self.lifts[worker])
            self._put(worker, os.SCHED_FIFO, _OTHER, 0)
        del self.lifts[worker]

    def _charge(self, worker: int, lift: Lift) -> None:
        """Take off what a worker has computed since it was raised."""
        computed = used(self.pids[worker])
        self._saved -= computed - lift.mark
        lift.mark = computed

    def attend(self, now: int) -> None:
        """Raise the daemon or put it back, as it is needed: for every turn of the loop."""
        if now < self._due or not self.ns:
            return
        used = time.thread_time_ns()
        greedy = self.raised and used - self._used > (now - self._seen) // 2
        self._seen, self._used = now, used
        self._due = now + WINDOW
        if greedy:
            self._due = self._paused = now + PAUSE
        if (wanted := not greedy and self.crowded()) != self.raised:
            self._settle(wanted)

    def _settle(self, wanted: bool) -> None:
        """Raise the daemon, or put it back and all that it has raised."""
        if not wanted:
            for worker in list(self.lifts):
                self._lower(worker)
        try:
            ours = _FIFO if self.raised else os.SCHED_OTHER
            if (os.sched_getscheduler(0) ^ ours) & ~os.SCHED_RESET_ON_FORK:
                raise PermissionError  # the means "realtime" has us there, for good
            param = os.sched_param(DAEMON if wanted else 0)
            os.sched_setscheduler(0, _FIFO if wanted else _OTHER, param)
            self.raised = wanted
        except PermissionError:
            self.raised, self.ns = False, 0

    def _put(self, worker: int, of: int, policy: int, priority: int) -> None:
        """Move those threads of a worker that are in the class ``of``."""
        pid, param = self.pids[worker], os.sched_param(priority)
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
        for thread in threads if len(threads) <= THREADS or not priority else ():
            with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                if os.sched_getscheduler(int(thread)) & ~os.SCHED_RESET_ON_FORK == of:
                    os.sched_setscheduler(int(thread), policy, param)
