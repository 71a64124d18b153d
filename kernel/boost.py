"""Critical tasks pass ordinary programs for a moment, where the system lets the kernel do that.

Lowering bulk work (rung 2) leaves two waits. A fair scheduler owes a group of any weight its part:
where an urgent program and a bulk one want the same processor, the bulk one is picked now and then
and keeps it until the next tick of the clock. And a program of ordinary weight, a browser that
paints, is as good as we are. So the daemon, without which nobody is served, and a worker that runs
a critical task are scheduled in the real-time class, below everything else that is in it. Both only
for a moment, so that no plugin and no crowd of clients can take the box from its owner:

- a task for ``ns`` at most, then it goes on as before;
- all workers together for ``SHARE`` of the time;
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
SHARE = 0.5
"""Of the time that passes, for all workers together."""
SAVED = 1 * SECOND
"""So much of that is kept for later at most."""
WINDOW = 100 * MS
PAUSE = 1 * SECOND
THREADS = 16
"""Each costs two system calls; a worker with more is not raised."""
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
    until: dict[int, int] = field(default_factory=dict)
    """Of those that are, when they are put back."""
    raised: bool = False
    """The daemon is; while it is not, nobody is, as it could not put them back in time."""
    _saved: int = SAVED
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

    def started(self, worker: int, pid: int) -> None:
        """A worker is this process."""
        if self.ns:
            self.pids[worker] = pid

    def gone(self, worker: int) -> None:
        """It has ended, and its number may soon be another's."""
        self.pids.pop(worker, None)
        self.until.pop(worker, None)

    def grant(self, worker: int, now: int) -> None:
        """A worker is about to get a critical task."""
        if worker not in self.pids:
            return
        if not self.raised:
            self._due = self._paused
            self.attend(now)
            if not self.raised:
                return
        self._saved = min(SAVED, self._saved + int((now - self._counted) * SHARE))
        self._counted = now
        if self._saved < self.ns:
            return
        if worker not in self.until:
            try:
                self._put(worker, os.SCHED_OTHER, _FIFO, WORKER)
            except PermissionError:
                self._settle(False)
                self.ns = 0
                return
            except OSError:  # it has just ended
                del self.pids[worker]
                return
        self.until[worker] = now + self.ns
        self._saved -= self.ns  # what it does not use is given back

    def done(self, worker: int, now: int) -> None:
        """It has ended a task: it is put back as soon as there is nothing else to do."""
        if (until := self.until.get(worker, 0)) > now:
            self._saved += until - now
            self.until[worker] = now

    def next_timer(self) -> int | None:
        """When somebody is to be put back."""
        return min(self.until.values(), default=None) if self.until else None

    def expire(self, now: int) -> None:
        """Put back whose time is over."""
        for worker in [each for each, until in self.until.items() if until <= now]:
            del self.until[worker]
            with contextlib.suppress(OSError):  # it has just ended
                self._put(worker, os.SCHED_FIFO, _OTHER, 0)

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
            self.expire(max(self.until.values(), default=0))
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
