"""The state of the core: its tables of transitions, and who holds what.

Written by the functions of ``tasks``, ``workers`` and ``leases`` only, in ``Core.handle``.

A **service** is one (plugin, model, lane): its queue, and its worker if one lives. A worker's
number is its incarnation: it is never used again.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from clawai.kernel.costs import Batching, Costs, Key
from clawai.kernel.events import (
    Borrowed,
    Fault,
    Instruction,
    Log,
    Spec,
    Submitted,
    WorkerReserved,
)
from clawai.kernel.ledger import Ledger
from clawai.kernel.pool import Memory
from clawai.kernel.queue import BATCH, Queue


def table(*rows: str) -> dict[tuple[str, str], str]:
    """Rows of ``state: what happened > next state, ...``. What has no row is a bug and stops us."""
    split = [(row.partition(": ")[0], row.partition(": ")[2].split(", ")) for row in rows]
    moves = [(state, *move.split(" > ")) for state, all_moves in split for move in all_moves]
    return {(state, happened): after for state, happened, after in moves}


TASK = table(
    "new: accept > queued",
    "queued: dispatch > running, cancel > cancelled, expire > expired, fail > failed",
    "running: finish > done, fail > failed, requeue > queued, cancel > cancelling",
    "running: expire > expiring",
    "cancelling: finish > cancelled, fail > cancelled",
    "expiring: finish > expired, fail > expired",
)
TASK_ENDS = frozenset(("done", "failed", "cancelled", "expired"))
WORKER = table(
    "new: start > starting",
    "starting: reserve > waiting, ready > ready, stop > stopping, gone > gone",
    "waiting: grant > loading, stop > stopping, gone > gone",
    "loading: ready > ready, stop > stopping, gone > gone",
    "ready: stop > stopping, gone > gone",
    "stopping: gone > gone",
)
MEMORY = table(
    "new: fill > filling, share > shared",
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
    asked: Submitted
    service: "Service"
    submitted: int
    rank: int
    """Place of its class in ``queue.CLASSES``; ageing lowers it while it waits."""
    deadline: int | None
    """Later than asked for by the time that it was suspended."""
    key: Key
    """Of what costs the same."""
    cost: int = 0
    """Expected run time, 0 if nothing is known."""
    sort: int = 0
    """When it is due, or would be: its place in its class."""
    since: int = 0
    """When it came into its class, while it is queued."""
    state: str = "new"
    worker: int = 0
    slot: int = 0
    attempts: int = 0
    streamed: bool = False
    yielding: bool = False
    """It was asked to go back to the queue."""
    told: bool = False
    """Its owner has been told the end, at the deadline; the worker still has to let go."""
    dispatched: int = 0
    load_ns: int = 0
    fault: Fault | None = None
    """Why it is being ended, while it is cancelling or expiring."""
    grace: int = 0
    """When the worker must have let go of it."""


@dataclass(slots=True)
class Worker:
    """One incarnation of a service's process."""

    id: int
    service: "Service"
    started: int
    spec: Spec
    due: int
    """When it must be ready, or gone."""
    holds: int
    """Bytes of its own that are charged."""
    state: str = "new"
    slots: int = 0
    running: dict[int, dict[int, Task]] = field(default_factory=dict)
    """By slot, then by number: more than one task in a slot are a batch."""
    sizes: dict[int, int] = field(default_factory=dict)
    """By slot: how many tasks its batch had when it began."""
    rank: int = BATCH
    """Class of what it was last given."""
    words: dict[int, int] = field(default_factory=dict)
    """The control words that are not 0."""
    threads: int = 0
    """Granted; 0 while nothing was, -1 while it is held."""
    group: int = 0
    """The class that it computed as when the processors were last divided."""
    held_since: int = 0
    ageing: bool = False
    """A timer is set that looks how long it has been held."""
    wanted: WorkerReserved | None = None
    """What it waits for, in state waiting."""
    ready_at: int = 0
    idle_since: int = 0
    missed: int = 0
    """Pings without an answer. Counted, not timed: the clock may jump."""
    pinged: bool = False
    retired: int = 0
    suspended: int = 0
    """Since when; 0: it runs."""
    killed: bool = False
    """Its end is on the way; it gets nothing more to do."""
    broke: bool = False
    """It broke the protocol: nothing that it says counts any more."""
    why: str = ""
    fault: Any = None
    """What its tasks are told (a ``Fault``, or what the plugin said)."""

    @property
    def leaving(self) -> bool:
        """Its memory is on its way back."""
        return self.state == "stopping" or self.killed

    def tasks(self) -> list[Task]:
        """All that it runs."""
        return [task for batch in self.running.values() for task in batch.values()]


@dataclass(slots=True)
class Service:
    """One (plugin, model, lane)."""

    key: tuple[str, str, str]
    spec: Spec
    """The latest; the key is always the same."""
    queue: Queue = field(default_factory=Queue)
    batching: Batching = field(default_factory=Batching)
    borrows: list[Borrowed] = field(default_factory=list)
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
    keep_ns: int | None = None
    """How long its worker stays when idle, as the last task that said so wished."""
    last_why: Any = ""
    """Why its last worker ended: our own text, or what the plugin said."""
    failing: bool = False
    """Its last worker could not start, or died."""

    @property
    def title(self) -> str:
        """For people."""
        return " ".join(filter(None, self.key[:2]))


@dataclass
class State:
    """Everything."""

    ledger: Ledger
    idle_ns: int
    cores: int
    rungs: frozenset[int]
    """Of the preemption ladder, those in use."""
    hung_ns: int
    most_tasks: int
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
    """Cooperative workers that run tasks: they share the processors."""
    plain: int = 0
    """Slots that run on others of the main lane."""
    squeezed: bool = False
    """Others leave us so little that bulk workers are suspended."""
    redivide: bool = False
    """The processors are to be divided anew before this event is over."""
    turning: bool = False
    turn: int = 0
    """Whose turn it is among equals when there are more workers than processors."""
    payload: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    stopping: bool = False
    now: int = 0
    out: list[Instruction] = field(default_factory=list)
    timers: list[tuple[int, int, str, Any]] = field(default_factory=list)
    purged: int = 0
    """Timers that were left when those of what is gone were last thrown away."""
    last: dict[str, int] = field(default_factory=dict)

    def number(self, kind: str) -> int:
        """The next number of a kind, from 1; numbers are never used again."""
        self.last[kind] = self.last.get(kind, 0) + 1
        return self.last[kind]

    def timer(self, when: int, action: str, subject: Any = None) -> None:
        """Have ``action`` looked at when ``when`` has come; what is over by then is ignored."""
        heapq.heappush(self.timers, (when, self.number("timer"), action, subject))
        if len(self.timers) > max(64 + 4 * (len(self.tasks) + len(self.workers)), 2 * self.purged):
            # Deadlines of tasks that have ended would stay until they come, which can be years.
            self.timers = [entry for entry in self.timers if self._matters(entry[2], entry[3])]
            heapq.heapify(self.timers)
            self.purged = len(self.timers)

    def _matters(self, action: str, subject: Any) -> bool:
        if action in ("deadline", "grace"):
            return subject in self.tasks
        return action in ("wake", "turn") or subject in self.workers

    def log(self, level: str, text: str) -> None:
        """Write a line."""
        self.out.append(Log(level, text))

    def computes(self, worker: Worker, slots: int) -> None:
        """So many slots of a worker have begun to run (less than 0: have ended)."""
        if worker.spec.cooperative:
            if slots > 0 and worker.id in self.computing and worker.rank >= worker.group:
                return  # one more of a class that it computes already
            self.redivide = True
            if worker.running and not worker.suspended:
                self.computing[worker.id] = worker
            else:
                self.computing.pop(worker.id, None)
        elif worker.spec.lane == "main":
            self.plain += slots
            self.redivide = bool(self.computing)

    def service(self, spec: Spec) -> Service:
        """The service of a spec, which is looked at before the event is over."""
        key = spec.key
        service = self.services.get(key)
        if service is None:
            service = self.services[key] = Service(key, spec)
        service.spec = spec
        self.dirty[key] = service
        return service
