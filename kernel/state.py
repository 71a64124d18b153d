"""The state of the core: its tables of transitions, and who holds what.

Written by the functions of ``tasks``, ``workers`` and ``leases`` only, in ``Core.handle``.

A **service** is one (plugin, model): its queue, and its worker if one lives. A worker's number is
its incarnation: it is never used again.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel.events import Borrowed, Instruction, Log, Spec, Submitted
from clawai.kernel.ledger import Ledger
from clawai.kernel.queue import Queue

# state, what happened -> state. A pair that is not here cannot happen; it is a bug and stops us.
TASK = {
    ("new", "accept"): "queued",
    ("queued", "dispatch"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "expire"): "expired",
    ("queued", "fail"): "failed",
    ("running", "finish"): "done",
    ("running", "fail"): "failed",
    ("running", "requeue"): "queued",
    ("running", "cancel"): "cancelling",
    ("running", "expire"): "expiring",
    ("cancelling", "finish"): "cancelled",
    ("cancelling", "fail"): "cancelled",
    ("expiring", "finish"): "expired",
    ("expiring", "fail"): "expired",
    ("expiring", "cancel"): "cancelling",
}
TASK_ENDS = frozenset(("done", "failed", "cancelled", "expired"))

WORKER = {
    ("new", "start"): "starting",
    ("starting", "reserve"): "waiting",
    ("waiting", "grant"): "loading",
    ("starting", "ready"): "ready",
    ("loading", "ready"): "ready",
    ("starting", "stop"): "stopping",
    ("waiting", "stop"): "stopping",
    ("loading", "stop"): "stopping",
    ("ready", "stop"): "stopping",
    ("starting", "gone"): "gone",
    ("waiting", "gone"): "gone",
    ("loading", "gone"): "gone",
    ("ready", "gone"): "gone",
    ("stopping", "gone"): "gone",
}

SEGMENT = {
    ("new", "lend"): "lent",
    ("lent", "return"): "idle",
    ("idle", "lend"): "lent",
    ("lent", "client_left"): "dropping",
    ("idle", "client_left"): "dropping",
    ("lent", "worker_gone"): "orphan",
    ("idle", "worker_gone"): "freeing",
    ("dropping", "worker_gone"): "freeing",
    ("dropping", "dropped"): "freeing",
    ("orphan", "return"): "freeing",
    ("orphan", "client_left"): "freeing",
    ("freeing", "gone"): "gone",
    ("lent", "failed"): "gone",
    ("dropping", "failed"): "gone",
}


class BrokenInvariantError(Exception):
    """A bug of the kernel. It stops at once, rather than go on with a wrong ledger."""


def step(table: dict[tuple[str, str], str], thing: Any, happened: str) -> None:
    """Move ``thing.state`` as the table says."""
    try:
        thing.state = table[thing.state, happened]
    except KeyError:
        raise BrokenInvariantError(f"{happened!r} cannot happen to {thing!r}") from None


@dataclass(slots=True)
class Task:
    """One request. It leaves ``State.tasks`` at its end, which is told exactly once."""

    id: int
    asked: Submitted
    submitted: int
    state: str = "new"
    worker: int = 0
    slot: int = 0
    attempts: int = 0
    streamed: bool = False
    told: bool = False
    """Its owner has been told the end, at the deadline; the worker still has to let go."""
    dispatched: int = 0
    load_ns: int = 0
    why: str = ""
    """Why it is being ended, while it is cancelling or expiring."""


@dataclass(slots=True)
class Worker:
    """One incarnation of a service's process."""

    id: int
    service: "Service"
    started: int
    spec: Spec
    state: str = "new"
    slots: int = 0
    running: dict[int, Task] = field(default_factory=dict)
    wanted: int = 0
    """Bytes that it waits for, in state waiting."""
    ready_at: int = 0
    idle_since: int = 0
    answered: int = 0
    pinged: bool = False
    retired: int = 0
    killed: bool = False
    """Its end is on the way; it gets nothing more to do."""
    why: str = ""
    error: Any = None


@dataclass(slots=True)
class Service:
    """One (plugin, model)."""

    spec: Spec
    queue: Queue = field(default_factory=Queue)
    borrows: list[Borrowed] = field(default_factory=list)
    worker: Worker | None = None
    deaths: list[int] = field(default_factory=list)
    failed_starts: int = 0
    """In a row: died, or was too slow, before it was ready."""
    retry_at: int = 0
    quarantined_until: int = 0
    revive: bool = False
    """Start again although nothing is queued: it died while it served."""
    started: int = 0
    last_why: str = ""
    failing: bool = False
    """Its last worker could not start, or died."""


@dataclass(slots=True)
class Segment:
    """Memory of one pair (client, worker), for life."""

    id: int
    client: int
    worker: int
    size: int
    state: str = "new"
    generation: int = 0


@dataclass
class State:
    """Everything."""

    ledger: Ledger
    idle_ns: int
    tasks: dict[int, Task] = field(default_factory=dict)
    requests: dict[tuple[int, int], Task] = field(default_factory=dict)
    services: dict[tuple[str, str, str], Service] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    segments: dict[int, Segment] = field(default_factory=dict)
    payload: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    stopping: bool = False
    now: int = 0
    out: list[Instruction] = field(default_factory=list)
    timers: list[tuple[int, int, str, Any]] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    ticking: bool = False

    def number(self, kind: str) -> int:
        """The next number of a kind, from 1; numbers are never used again."""
        self.last[kind] = self.last.get(kind, 0) + 1
        return self.last[kind]

    def timer(self, when: int, action: str, subject: Any) -> None:
        """Have ``action`` looked at when ``when`` has come; what is over by then is ignored."""
        heapq.heappush(self.timers, (when, self.number("timer"), action, subject))
        if len(self.timers) > 64 + 4 * (len(self.tasks) + len(self.workers)):
            # Deadlines of tasks that have ended would stay until they come, which can be years.
            self.timers = [entry for entry in self.timers if self._matters(entry[2], entry[3])]
            heapq.heapify(self.timers)

    def _matters(self, action: str, subject: Any) -> bool:
        if action in ("deadline", "grace"):
            return subject in self.tasks
        return action in ("tick", "wake") or subject in self.workers

    def log(self, level: str, text: str) -> None:
        """Write a line."""
        self.out.append(Log(level, text))
