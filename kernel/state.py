"""The state of the core: its tables of transitions, and who holds what.

Written by the functions of ``tasks``, ``workers`` and ``leases`` only, in ``Core.handle``.

A **service** is one (plugin, model, lane): its queue, and its worker if one lives. A worker's
number is its incarnation: it is never used again.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.costs import Batching, Costs, Key
from clawai.kernel.ledger import Ledger
from clawai.kernel.pool import Memory
from clawai.kernel.queue import BATCH, NEVER, Queue


def table(*rows: str) -> dict[tuple[str, str], str]:
    """Rows of ``state: what happened > next state, ...``. What has no row is a bug and stops us."""
    split = [(row.partition(": ")[0], row.partition(": ")[2].split(", ")) for row in rows]
    moves = [(state, *move.split(" > ")) for state, all_moves in split for move in all_moves]
    return {(state, happened): after for state, happened, after in moves}


TASK = table(
    "queued: dispatch > running, cancel > cancelled, expire > expired, fail > failed",
    "running: finish > done, fail > failed, requeue > queued, cancel > cancelling",
    "running: expire > expiring",
    "cancelling: finish > cancelled, fail > cancelled",
    "expiring: finish > expired, fail > expired",
)
TASK_ENDS = frozenset(("done", "failed", "cancelled", "expired"))
WORKER = table(
    "starting: reserve > waiting, ready > ready, stop > stopping, kill > killed, gone > gone",
    "waiting: grant > loading, stop > stopping, kill > killed, gone > gone",
    "loading: ready > ready, stop > stopping, kill > killed, gone > gone",
    "ready: stop > stopping, kill > killed, gone > gone",
    "stopping: kill > stopped, gone > gone",
    "killed: kill > killed, stop > stopped, gone > gone",
    "stopped: kill > stopped, gone > gone",
)
LEAVING = frozenset(("stopping", "stopped", "killed"))
"""Its memory is on its way back."""
DEAF = frozenset(("stopped", "killed"))
"""The end is on its way: nothing is said to such a worker, and nothing that it says counts."""
MEMORY = table(
    "filling: share > shared, drop > dropping",
    "shared: drop > dropping, gone > gone",
    "dropping: unmapped > freeing",
    "freeing: gone > gone",
)


class BreachError(Exception):
    """A worker said what it may not say; its message says what."""


class BrokenInvariantError(Exception):
    """A bug of the kernel. It stops at once, rather than go on with a wrong ledger."""


def step(table: dict[tuple[str, str], str], thing: Any, happened: str) -> None:
    """Move ``thing.state`` as the table says."""
    try:
        thing.state = table[thing.state, happened]
    except KeyError:
        raise BrokenInvariantError(f"{happened!r} cannot happen to {thing!r}") from None


class Task(Struct, eq=False):
    """One request. It leaves ``State.tasks`` at its end, which is told exactly once.

    A struct, as it is made five times as fast.
    """

    id: int
    asked: ev.Submitted
    service: "Service"
    submitted: int
    rank: int
    """Place of its class in ``queue.CLASSES``; ageing lowers it while it waits."""
    deadline: int
    """``NEVER``: it has none. Later than asked for by the time that it was suspended. While it is
    cancelling or expiring: when its worker must have let go of it."""
    key: Key
    """Of what costs the same."""
    cost: int = 0
    """Expected run time, 0 if nothing is known."""
    sort: int = 0
    """When it is due, or would be: its place in its class."""
    since: int = 0
    """When it came into its class, while it is queued."""
    state: str = "queued"
    slot: "Slot | None" = None
    """Where it runs, or ran last unless it is queued again."""
    attempts: int = 0
    streamed: bool = False
    yielding: bool = False
    """It was asked to go back to the queue."""
    told: bool = False
    """Its owner has been told the end, at the deadline; the worker still has to let go."""
    load_ns: int = 0
    fault: ev.Fault | None = None
    """Why it is being ended, while it is cancelling or expiring."""
    children: dict[int, "Task"] = {}
    """By number, those that its operation has submitted and that have not ended."""
    untaken: int = 0
    """Bytes of its chunks that its client has not taken."""

    @property
    def ahead(self) -> bool:
        """Whether it is to wait until its client has taken more of what it streams."""
        return 0 < self.asked.window <= self.untaken

    @property
    def worker(self) -> int:
        """The number of the worker that runs it, 0 while none does."""
        return self.slot.worker.id if self.slot else 0

    def step(self, happened: str) -> None:
        """Move it as the table says."""
        step(TASK, self, happened)

    @property
    def again(self) -> bool:
        """Whether it could still run again from its beginning."""
        return self.state == "running" and self.asked.idempotent and not self.streamed


@dataclass(slots=True)
class Slot:
    """Where a worker runs one task at a time, or several as a batch."""

    worker: "Worker"
    number: int
    word: int = 0
    """Its control word."""
    tasks: dict[int, Task] = field(default_factory=dict)
    """By number; none while it is free."""
    size: int = 0
    """How many there were when they began."""
    dispatched: int = 0
    """When that was, later by the time for which they were suspended."""

    def first(self) -> Task:
        """One for all that run together."""
        return next(iter(self.tasks.values()))


@dataclass(slots=True)
class Worker:
    """One incarnation of a service's process."""

    id: int
    service: "Service"
    started: int
    spec: ev.Spec
    holds: int
    """Bytes of its own that are charged."""
    look: int = NEVER
    """When it is looked at next, in the state that it is in."""
    state: str = "starting"
    slots: list[Slot] = field(default_factory=list)
    running: dict[int, Slot] = field(default_factory=dict)
    """The slots that are not free, by number."""
    rank: int = BATCH
    """Class of what it was last given."""
    threads: int = 0
    """Granted; 0 while nothing was, -1 while it is held."""
    held_since: int = 0
    wanted: ev.WorkerReserved | None = None
    """What it waits for, in state waiting."""
    weights: Memory | None = None
    """What it fills or maps."""
    ready_at: int = 0
    idle_since: int = 0
    missed: int = 0
    """Pings without an answer. Counted, not timed: the clock may jump."""
    retired: int = 0
    suspended: int = 0
    """Since when; 0: it runs."""
    why: str = ""
    fault: Any = None
    """What its tasks are told (a ``Fault``, or what the plugin said)."""

    def tasks(self) -> list[Task]:
        """All that it runs."""
        return [task for slot in self.running.values() for task in slot.tasks.values()]

    def step(self, happened: str) -> None:
        """Move it as the table says. Each state has a clock of its own."""
        step(WORKER, self, happened)
        self.look = NEVER

    def best(self) -> int:
        """The highest class of what it runs."""
        return min([task.rank for task in self.tasks()])

    @property
    def stale(self) -> bool:
        """Whether its model or its plugin's settings were replaced: nothing new goes to it."""
        new = self.service.spec
        return (self.spec.identity, self.spec.settings) != (new.identity, new.settings)


@dataclass(slots=True)
class Service:
    """One (plugin, model, lane)."""

    key: tuple[str, str, str]
    spec: ev.Spec
    """The latest; the key is always the same."""
    keep_ns: int
    """How long its worker stays when idle: as the last task that said so wished."""
    queue: Queue = field(default_factory=Queue)
    batching: Batching = field(default_factory=Batching)
    borrows: list[ev.Borrowed] = field(default_factory=list)
    worker: Worker | None = None
    deaths: list[int] = field(default_factory=list)
    """Since its last answer."""
    retry_at: int = 0
    put_off: int = 0
    """How often its load was made to wait for another one."""
    quarantined_until: int = 0
    quarantines: int = 0
    """In a row, without an answer between them."""
    revive: bool = False
    """Start again although nothing is queued: it died while it served."""
    started: int = 0
    pinned: bool = False
    held: bool = False
    """Suspended by its owner."""
    last_why: Any = ""
    """Why its last worker could not start, or died (as ``Worker.fault``, or our own text)."""

    @property
    def waited_for(self) -> bool:
        """Whether it is to have a worker."""
        return bool(self.queue or self.borrows or self.revive)

    @property
    def title(self) -> str:
        """For people."""
        return " ".join(filter(None, self.key[:2]))


@dataclass
class State:
    """Everything."""

    ledger: Ledger
    idle_ns: int = 0
    """How long a worker stays without work; 0: for ever."""
    cores: int = 2
    """Processors that running workers share."""
    rungs: frozenset[int] = frozenset(range(5))
    """Of the preemption ladder, those in use."""
    most_tasks: int = limits.TASKS
    """That may wait or run at a time."""
    share: float = 1.0
    """Of ``cores``, what others on the box leave us."""
    costs: Costs = field(default_factory=Costs)
    tasks: dict[int, Task] = field(default_factory=dict)
    requests: dict[int, dict[int, Task]] = field(default_factory=dict)
    """By client, then by its request."""
    services: dict[tuple[str, str, str], Service] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    memory: dict[int, Memory] = field(default_factory=dict)
    dirty: dict[tuple[str, str, str], Service] = field(default_factory=dict)
    """To be looked at before this event is over."""
    hungry: dict[tuple[str, str, str], Service] = field(default_factory=dict)
    """Waiting for memory."""
    computing: dict[int, Worker] = field(default_factory=dict)
    """Workers that run tasks and are not suspended: they share the processors."""
    redivide: bool = False
    """The processors are to be divided anew before this event is over."""
    turn: int = -1
    """Where workers take turns, as there are too many: a timer is set for the end of this one."""
    payload: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    stopping: bool = False
    now: int = 0
    out: list[ev.Instruction] = field(default_factory=list)
    timers: list[tuple[int, str, Any]] = field(default_factory=list)
    """What ``timer`` was told."""
    purged: int = 0
    """Timers that were left when those of what is gone were last thrown away."""
    last: dict[str, int] = field(default_factory=dict)

    def number(self, kind: str) -> int:
        """The next number of a kind, from 1; numbers are never used again."""
        self.last[kind] = self.last.get(kind, 0) + 1
        return self.last[kind]

    def timer(self, when: int, kind: str = "services", number: Any = ()) -> None:
        """Look at a thing (``kind`` is its table here) at that time, or at none (``()``, which can
        be compared with the key of a service).
        """
        heapq.heappush(self.timers, (when, kind, number))
        if len(self.timers) > max(64 + 4 * (len(self.tasks) + len(self.workers)), 2 * self.purged):
            # Deadlines of tasks that have ended would stay until they come, which can be years.
            self.timers = [e for e in self.timers if not e[2] or e[2] in getattr(self, e[1])]
            heapq.heapify(self.timers)
            self.purged = len(self.timers)

    def look(self, worker: Worker, when: int) -> None:
        """Have a worker looked at when that time has come, or before."""
        if when < worker.look:
            worker.look = when
            self.timer(when, "workers", worker.id)

    def log(self, level: str, text: str) -> None:
        """Write a line."""
        self.out.append(ev.Log(level, text))

    def computes(self, worker: Worker) -> None:
        """A worker has begun or ended to run something, or to be suspended."""
        if worker.running and not worker.suspended:
            self.computing[worker.id] = worker
        else:
            self.computing.pop(worker.id, None)
        self.redivide = True

    def service(self, spec: ev.Spec) -> Service:
        """The service of a spec, which is looked at before the event is over."""
        key = spec.key
        service = self.services.get(key) or Service(key, spec, self.idle_ns or NEVER)
        service.spec = spec
        self.services[key] = self.dirty[key] = service
        return service
