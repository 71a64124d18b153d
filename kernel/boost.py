"""Critical tasks pass ordinary programs for a moment, where the system lets the kernel do that.

Lowering bulk work (rung 2) leaves two waits. A fair scheduler owes a group of any weight its part:
where an urgent program and a bulk one want the same processor, the bulk one is picked now and then
and keeps it until the next tick of the clock. And a program of ordinary weight, a browser that
paints, is as good as we are. So the daemon, without which nobody is served, and a worker that gets
a critical task are scheduled in the real-time class, below everything else that is in it. Both only
for a moment, so that no plugin and no crowd of clients can take the box from its owner:

- a worker for ``ns`` after it got such a task, then it goes on as before;
- one that has answered for ``LINGER`` longer at most, as the next task is often near, and to put it
  back and raise it again takes twenty system calls;
- all workers together for ``SHARE`` of the box's processor time in the long run, by what they have
  really computed; what is left of that for ``SAVED`` at most;
- the daemon until it computes for half of a ``WINDOW``: then it is as all others for a ``PAUSE``;
- a worker that nobody puts back, as the daemon is stopped, ends when it has computed for
  ``means.REALTIME_S`` without a wait.

Only threads that wait are raised: those that compute already have the processor, and the system
counts that time from their last wake-up on. What a worker starts is not raised with it.

While no bulk work computes and nobody else needs the box nobody is raised: what is woken then finds
a free processor. The system allows all this to who holds CAP_SYS_NICE, as root does; else nobody is
raised, nor the daemon alone, as urgent work would still wait for its worker. (A grant by
``RLIMIT_RTPRIO`` does not do: a worker's own limit is 0.)
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
AGAIN = 1 * SECOND
"""So long after its threads were listed, a worker may have new ones that are not raised."""
WINDOW = 100 * MS
PAUSE = 1 * SECOND
THREADS = 16
"""Each costs some system calls; a worker with more is not raised."""
_PROCESS_CPU = 2
"""Of a clock's number, ``CPUCLOCK_SCHED`` (man clock_getcpuclockid)."""
_FIFO = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
# Without privilege the flag cannot be taken away again; it does nothing to an ordinary program.
_OTHER = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
_ORDINARY = (os.SCHED_OTHER, _OTHER)


def used(pid: int) -> int:
    """What a process has computed, all its threads, in nanoseconds.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime_ns(~pid << 3 | _PROCESS_CPU)


@dataclass(slots=True)
class Lift:
    """A worker that is raised."""

    threads: set[int]
    """Those that were."""
    listed: int
    """When."""
    until: int
    """When it is put back, ..."""
    most: int
    """... and how far answers can move that."""
    charged: int
    """When what it computes was last taken off what is saved, ..."""
    mark: int
    """... and how much that was by then."""


@dataclass
class Boost:
    """Who is raised, and until when.

    Args:
        ns: for how long a worker is after a critical task has come; 0 raises nobody, nor the
            daemon. It becomes 0 where the system does not allow it.
        crowded: whether there may be no processor to spare.
        processors: the box's, for us.
    """

    ns: int
    crowded: Callable[[], bool]
    processors: float = 1
    raised: bool = False
    """The daemon is; while it is not, nobody is, as it could not put them back in time."""
    lifts: dict[int, Lift] = field(default_factory=dict)
    """By worker."""
    _homes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of a worker that may be raised, its process and an open ``/proc/PID/task``, which is never
    another's."""
    _saved: float = SAVED
    _counted: int = 0
    """Up to when that has grown."""
    _due: int = 0
    """When to look at the daemon, ..."""
    _paused: int = 0
    """... and not before, although it might be raised."""
    _seen: int = 0
    """When that was done last, ..."""
    _used: int = 0
    """... and what it had computed by then."""

    def __post_init__(self) -> None:
        if self.ns:
            self._settle(True)
        if self.raised:  # so it is allowed
            self._settle(False)

    def started(self, worker: int, pid: int) -> None:
        """A worker is this process."""
        if self.ns:
            with contextlib.suppress(OSError):  # it has ended, or we have no descriptor to spare
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._homes[worker] = pid, os.open(f"/proc/{pid}/task", flags)

    def gone(self, worker: int, now: int) -> None:
        """It has ended; nobody knows any more how much it has computed."""
        if lift := self.lifts.pop(worker, None):
            self._saved -= (now - lift.charged) * min(len(lift.threads), self.processors)
        if home := self._homes.pop(worker, None):
            os.close(home[1])

    def grant(self, worker: int, now: int) -> None:
        """A worker is about to get a critical task."""
        if worker not in self._homes or not self.ns:
            return
        if not self.raised:
            self._due = self._paused
        self.attend(now)
        if not self.raised:
            return
        self._saved = min(SAVED, self._saved + (now - self._counted) * SHARE * self.processors)
        self._counted = now
        lift = self.lifts.get(worker)
        if lift:
            self._charge(worker, lift, now)
        if self._saved < self.ns:
            self._lower(worker, now)
        elif not lift or now >= lift.listed + AGAIN:
            self._raise(worker, now)
        else:
            lift.until = now + self.ns
            lift.most = lift.until + LINGER

    def done(self, worker: int, now: int) -> None:
        """It has ended a task, of whatever class."""
        if lift := self.lifts.get(worker):
            lift.until = min(now + LINGER, lift.most)

    def next_timer(self) -> int | None:
        """When somebody is to be put back."""
        return min(lift.until for lift in self.lifts.values()) if self.lifts else None

    def expire(self, now: int) -> None:
        """Put back whose time is over."""
        for worker in [each for each, lift in self.lifts.items() if lift.until <= now]:
            self._lower(worker, now)

    def attend(self, now: int) -> None:
        """Raise the daemon or put it back, as it is needed: for every turn of the loop."""
        if now < self._due or not self.ns:
            return
        computed = time.thread_time_ns()
        greedy = self.raised and computed - self._used > (now - self._seen) // 2
        self._seen, self._used = now, computed
        self._due = now + WINDOW
        if greedy:
            self._due = self._paused = now + PAUSE
        if (wanted := not greedy and self.crowded()) != self.raised:
            self._settle(wanted, now)

    def close(self) -> None:
        """Put everybody back, for good."""
        if self.raised:
            self._settle(False)
        self.ns = 0

    def _settle(self, wanted: bool, now: int = 0) -> None:
        """Raise the daemon, or put it back and before it all that it has raised."""
        for worker in [] if wanted else list(self.lifts):
            self._lower(worker, now)
        try:
            if os.sched_getscheduler(0) not in ((_FIFO,) if self.raised else _ORDINARY):
                raise PermissionError  # another has put us there, such as the means "realtime"
            param = os.sched_param(DAEMON if wanted else 0)
            os.sched_setscheduler(0, _FIFO if wanted else _OTHER, param)
            self.raised = wanted
        except OSError:  # not allowed; or a system without such classes
            self.raised, self.ns = False, 0

    def _raise(self, worker: int, now: int) -> None:
        """Raise the threads of a worker that wait."""
        pid, home = self._homes[worker]
        lift = self.lifts.get(worker)
        try:
            computed = used(pid)
            threads = os.listdir(home)  # noqa: PTH208
            if len(threads) > THREADS:
                self._lower(worker, now)
                return
            if not lift:
                lift = self.lifts[worker] = Lift(set(), now, 0, 0, now, computed)
            for thread in map(int, threads):
                if thread not in lift.threads:
                    self._raise_thread(home, thread, lift)
        except PermissionError:
            self._settle(False, now)
            self.ns = 0
        except OSError:  # it has ended, or we have no descriptor to spare
            self._lower(worker, now)
        else:
            lift.listed = now
            lift.until = now + self.ns
            lift.most = lift.until + LINGER
            if not lift.threads:
                del self.lifts[worker]

    def _raise_thread(self, home: int, thread: int, lift: Lift) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if _waits(home, thread) and os.sched_getscheduler(thread) in _ORDINARY:
                lift.threads.add(thread)  # first: whatever follows, it is put back
                os.sched_setscheduler(thread, _FIFO, os.sched_param(WORKER))

    def _lower(self, worker: int, now: int) -> None:
        """Put a worker back, if it is raised. It takes no descriptor, so it cannot fail for one."""
        lift = self.lifts.pop(worker, None)
        if not lift:
            return
        self._charge(worker, lift, now)
        pid, home = self._homes[worker]
        for thread in {pid, *lift.threads}:  # a thread that calls execve takes the number pid
            with contextlib.suppress(OSError):  # it has ended
                os.stat(str(thread), dir_fd=home)
                if os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
                    os.sched_setscheduler(thread, _OTHER, os.sched_param(0))

    def _charge(self, worker: int, lift: Lift, now: int) -> None:
        """Take off what a worker has computed since it was raised."""
        with contextlib.suppress(OSError):  # it has just ended: then ``gone`` does it
            computed = used(self._homes[worker][0])
            self._saved -= max(0, computed - lift.mark)
            lift.charged, lift.mark = now, computed


def _waits(home: int, thread: int) -> bool:
    """Whether a thread sleeps.

    Raises:
        OSError: it has ended, or no descriptor could be had.
    """
    file = os.open(f"{thread}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=home)
    try:
        return os.read(file, 512).rpartition(b") ")[2][:1] == b"S"
    finally:
        os.close(file)
