"""A worker process as the kernel sees it: what it says and when, and how it can go wrong.

Messages of one worker arrive in the order in which they were sent, as on a socket; one that is
delayed delays those behind it. What a suspended process would do waits until it is resumed. Nothing
arrives from a process that is gone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from clawai.kernel import events as ev
from clawai.kernel.limits import MS, SECOND
from clawai.kernel.sim.scenario import Faults, Service
from clawai.sdk import wire

NEWS, DONE, FAILED = ev.Hidden("news"), ev.Hidden("done"), ev.Hidden("worker_failed")
GAVE_UP, BAD_MODEL = ev.Hidden("cancelled"), ev.Hidden("bad_model")
"""What workers say: in place of a message, the code that its end is counted by."""
LATENCY = 50_000
"""Nanoseconds from a worker's write to the kernel's event, at least."""
REAP = 1 * MS
SLOW = 20 * SECOND
LATE = 30 * SECOND
FOREVER = 1 << 62


class Around(Protocol):
    """What a process needs of the world."""

    rng: random.Random
    faults: Faults
    clock: int

    def later(self, delay: int, act: Callable[..., None], *args: Any) -> None: ...
    def hear(self, process: "Process", event: ev.Event) -> None: ...
    def reap(self, process: "Process", why: str) -> None: ...
    def injected(self, kind: str) -> None: ...
    def held(self, task: int, span: int) -> None: ...
    def seals(self, process: "Process") -> bool: ...
    def work_of(self, task: int) -> tuple[int, str, int]: ...


@dataclass(slots=True)
class Job:
    """What runs in one slot: a task, or a batch of them."""

    slot: int
    tasks: list[int]
    left: int
    """Nanoseconds of work."""
    fault: str = ""
    since: int = -1
    """Running since then; -1 while it is held."""
    held_at: int = -1
    """Held since then; -1 while it runs."""
    turn: int = 0
    """Counts the times that it was held, so that an end that was planned before is void."""
    over: bool = False


@dataclass(slots=True, eq=False)
class Process:
    """One incarnation."""

    world: Around
    id: int
    spec: ev.Spec
    service: Service
    holds: int
    wanted: int = 0
    alive: bool = True
    ready: bool = False
    stopping: bool = False
    killed: bool = False
    excused: bool = False
    """Somebody asked for its end or it broke its word: it may be stopped with tasks on it."""
    frozen: bool = False
    deaf: bool = False
    slots: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)
    """Tasks, and their slots, that the core believes to run here."""
    control: dict[int, int] = field(default_factory=dict)
    weights: bool = False
    _sent: int = 0
    _parked: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)

    # Acting and speaking.

    def _later(self, delay: int, act: Callable[..., None], *args: Any) -> None:
        self.world.later(delay, self._act, act, args)

    def _act(self, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._parked.append((act, args))
        else:
            act(*args)

    def _say(self, event: ev.Event, delay: int = 0) -> None:
        clock = self.world.clock
        at = clock + LATENCY + delay
        self._sent = at if at > self._sent else self._sent
        self.world.later(self._sent - clock, self._arrive, event)

    def _arrive(self, event: ev.Event) -> None:
        if self.alive:
            self.world.hear(self, event)

    def die(self, why: str, delay: int = REAP) -> None:
        """The process ends; the kernel hears of it when its memory is back."""
        if self.alive:
            self.alive = False
            self.jobs.clear()
            self.world.later(delay, self.world.reap, self, why)

    def _die_of_a_fault(self, why: str) -> None:
        self.die(why)

    # Its life.

    def start(self) -> None:
        """Launched."""
        world, delay = self.world, self.service.start.draw(self.world.rng)
        if world.rng.random() < world.faults.start:
            self._start_badly(delay)
        else:
            self._later(delay, self._started)

    def _start_badly(self, delay: int) -> None:
        kind = self.world.rng.choice(("crash", "silent", "unready", "slow"))
        self.world.injected(f"start {kind}")
        if kind == "crash":
            self._later(delay, self._die_of_a_fault, "killed by SIGSEGV at its start")
        elif kind == "unready":
            self._later(delay, self._unready)
        elif kind == "slow":
            self._later(delay + SLOW - 5 * SECOND, self._started)

    def _unready(self) -> None:
        self.excused = True
        self._say(ev.WorkerUnready(self.id, BAD_MODEL))

    def _started(self) -> None:
        if not self.service.model:
            self._become_ready()
            return
        size = self.spec.model_bytes
        world = self.world
        if world.rng.random() < world.faults.load:
            kind = world.rng.choice(("lie small", "lie large", "lie huge", "twice"))
            world.injected(f"reservation {kind}")
            size = {"lie small": 0, "lie large": size * 3, "lie huge": 1 << 44}.get(kind, size)
            if kind in ("lie huge", "lie large"):
                self.excused = True  # it may be refused for good
            if kind == "twice":
                self.excused = True
                self._say(self._reservation(size))
        self._say(self._reservation(size))

    def _reservation(self, size: int) -> ev.WorkerReserved:
        if not self.service.weights_mib:
            return ev.WorkerReserved(self.id, size)
        weights = int(self.service.weights_mib * (1 << 20))
        return ev.WorkerReserved(self.id, size, "layout", weights)

    def _load(self, then: Callable[[], None], quick: bool = False) -> None:
        world, delay = self.world, 10 * MS if quick else self.service.load.draw(self.world.rng)
        if world.rng.random() < world.faults.load:
            kind = world.rng.choice(("crash", "silent", "unready", "slow"))
            world.injected(f"load {kind}")
            if kind == "crash":
                self._later(delay // 2, self._die_of_a_fault, "killed by SIGBUS while it loaded")
            elif kind == "unready":
                self._later(delay, self._unready)
            elif kind == "slow":
                self._later(delay + SLOW, then)
            return
        self._later(delay, then)

    def _become_ready(self) -> None:
        self.ready = True
        self.slots = self.spec.slots
        self._say(ev.WorkerReady(self.id, self.slots))

    def _filled(self) -> None:
        self._say(ev.WorkerFilled(self.id, self.world.seals(self)), MS)

    # What it is told.

    def tell(self, message: wire.Message) -> None:
        """A message of the kernel has come."""
        if isinstance(message, wire.Ping):
            if not self.deaf:
                self._later(0, self._pong)
        elif isinstance(message, wire.Granted):
            self.holds += self.wanted
            fill = message.weights == "fill"
            then = self._filled if fill else self._become_ready
            self._load(then, quick=message.weights == "map")
        elif isinstance(message, wire.Sealed):
            self._later(10 * MS, self._become_ready)
        elif isinstance(message, wire.Drop):
            self._later(MS, self._say, ev.WorkerDropped(self.id, message.segment))
        elif isinstance(message, wire.Stop):
            self._stop()

    def _pong(self) -> None:
        self._say(ev.WorkerAnswered(self.id))

    def _stop(self) -> None:
        world = self.world
        if world.rng.random() < world.faults.stop:
            world.injected("never stops")
        else:
            self._later(5 * MS, self.die, "exited with code 0")

    def kill(self) -> None:
        """SIGKILL: also a suspended process ends, but not always soon."""
        slow = self.world.rng.random() < self.world.faults.stop
        if slow and self.alive:
            self.world.injected("dies slowly")
        self.die("killed by SIGKILL", 5 * SECOND if slow else REAP)

    def suspend(self, stopped: bool) -> None:
        """SIGSTOP or SIGCONT."""
        self.frozen = stopped
        if not stopped:
            parked, self._parked = self._parked, []
            for act, args in parked:
                self._later(0, act, *args)

    # Its tasks.

    def run(self, slot: int, tasks: list[int]) -> None:
        """Begin a task, or a batch of tasks."""
        fault, left, chunks = "", 0, 0
        for task in tasks:
            work, bad, pieces = self.world.work_of(task)
            left, fault, chunks = max(left, work), fault or bad, max(chunks, pieces)
        left += int(self.service.item_ms * MS) * (len(tasks) - 1)
        job = self.jobs[slot] = Job(slot, tasks, max(left, 1000), fault)
        if fault:
            self.world.injected(fault)
        if fault in ("endless", "stubborn"):
            job.left = FOREVER if fault == "endless" else job.left * 10
        elif fault in ("crash", "hang", "garbage"):
            self._later(int(job.left * self.world.rng.random()), self._break, job)
        for number in range(chunks):
            self._later(job.left * (number + 1) // (chunks + 2), self._chunk, job)
        if self.control.get(slot, 0) & 0xFF != wire.HOLD or not self.service.cooperative:
            self._go(job)
        else:
            job.held_at = self.world.clock

    def _break(self, job: Job) -> None:
        if job.over:
            return
        if job.fault == "crash":
            self.die("killed by SIGSEGV")
        elif job.fault == "hang":
            self.deaf = job.over = True
        else:
            self.excused = True
            self._say(ev.WorkerBroke(self.id, "garbage on the wire"))

    def _chunk(self, job: Job) -> None:
        if not job.over and job.since >= 0:
            self._say(ev.Output(self.id, job.tasks[0], "chunk", NEWS))

    def _go(self, job: Job) -> None:
        if job.held_at >= 0:
            self._held(job)
        job.since = self.world.clock
        if job.left < FOREVER and job.fault not in ("hang", "garbage"):
            self._later(job.left, self._finish, job, job.turn)

    def _finish(self, job: Job, turn: int) -> None:
        if job.over or job.turn != turn:
            return
        self._free(job)
        for task in job.tasks:
            said = ev.Output(self.id, task, "done", DONE)
            if job.fault == "error":
                said = ev.Output(self.id, task, "error", FAILED)
            if job.fault == "drop":
                continue
            if job.fault == "duplicate":
                self.excused = True
                self._say(said)
            self._say(said, LATE if job.fault == "delay" else 0)

    def _held(self, job: Job) -> None:
        """It was held until now, if nothing else kept it from running."""
        if job.held_at >= 0 and not self.frozen:
            for task in job.tasks:
                self.world.held(task, self.world.clock - job.held_at)
        job.held_at = -1

    def _free(self, job: Job) -> None:
        self._held(job)
        job.over = True
        if self.jobs.get(job.slot) is job:
            del self.jobs[job.slot]

    def threads(self) -> int:
        """The most that a busy slot was granted."""
        words = [self.control.get(slot, 0) for slot in self.jobs]
        return max((word >> 8 for word in words if word & 0xFF != wire.HOLD), default=0)

    def set_control(self, slot: int, value: int) -> None:
        """The control word of a slot has changed; code that reads it acts between two ops."""
        self.control[slot] = value
        job, word = self.jobs.get(slot), value & 0xFF
        if job is None or job.over:
            return
        if word == wire.STOP and job.fault != "stubborn":
            self._later(2 * MS, self._give_up, job)
        elif not self.service.cooperative:
            return
        elif word == wire.HOLD and job.since >= 0:
            if job.left < FOREVER:
                job.left = max(1000, job.left - (self.world.clock - job.since))
            job.since, job.turn, job.held_at = -1, job.turn + 1, self.world.clock
        elif word == wire.GO and job.since < 0:
            self._go(job)
        elif word == wire.YIELD and self.world.rng.random() >= self.world.faults.yields:
            self._later(2 * MS, self._yield, job)

    def _give_up(self, job: Job) -> None:
        if not job.over:
            self._free(job)
            for task in job.tasks:
                self._say(ev.Output(self.id, task, "error", GAVE_UP))

    def _yield(self, job: Job) -> None:
        if not job.over and self.control.get(job.slot, 0) & 0xFF == wire.YIELD:
            self._free(job)
            for task in job.tasks:
                self._say(ev.Output(self.id, task, "yielded"))
