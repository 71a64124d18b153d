"""A consistent world around the pure core: clients, processes and memory that answer as they may.

``World`` hands events to a ``Core`` and carries out what it says, as the real shell would, and
keeps books of its own: every request gets exactly one end, memory that really exists never exceeds
the budget, nothing runs on a worker that was told to stop, no slot is idle while a task could use
it. What may happen in it is in ``core_acts``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import core_rules
from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.core import Core
from clawai.kernel.queue import BATCH
from clawai.kernel.sim.check import check
from clawai.kernel.state import DEAF
from clawai.sdk import wire
from clawai.sdk.codes import CODES
from core_bench import message
from core_rules import Waiting

Choose = Callable[[Sequence[Any]], Any]
KIB = 1024
BUDGET = 1024 * KIB
CORES = 4
TOOL = ev.Spec("tool", "", 128 * KIB, 0, 2)
BULK = ev.Spec("tool", "", 128 * KIB, 0, 2, lane="bulk")
OTHER = ev.Spec("other", "", 256 * KIB, 0, 1)
WIDE = ev.Spec("wide", "", 64 * KIB, 0, 2, cooperative=True)
SMALL = ev.Spec("engine", "small", 128 * KIB, 64 * KIB, 2, cooperative=True)
LARGE = ev.Spec("engine", "large", 128 * KIB, 512 * KIB, 1, cooperative=True)
HUGE = ev.Spec("engine", "huge", 128 * KIB, 2048 * KIB, 1)
SPECS = (TOOL, BULK, OTHER, WIDE, SMALL, LARGE, HUGE)
MADE_UP = "made_up"
"""A code of a worker's own, which is passed on."""
TERMINAL = (wire.Done, wire.Error, wire.Answer, wire.Leased)


@dataclass(slots=True)
class Proc:
    """One worker process, from ``Start`` to ``WorkerGone``."""

    id: int
    spec: ev.Spec
    holds: int
    wanted: int = -1
    granted: bool = False
    weights: int = 0
    """The object that it was given; negative while it fills it."""
    ready: bool = False
    slots: int = 0
    tasks: dict[int, Any] = field(default_factory=dict)
    """``Run`` or ``BatchItem`` by number."""
    slot_of: dict[int, int] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    """Tasks that it was told to cancel."""
    yielding: set[int] = field(default_factory=set)
    """Tasks that it was told to give back."""
    streamed: set[int] = field(default_factory=set)
    drops: list[int] = field(default_factory=list)
    told_to_stop: bool = False
    killed: bool = False
    suspended_at: int = 0
    held_at: int = 0
    """All that it runs is held since then."""
    held_ns: int = 0
    may_stop_busy: bool = False
    """Somebody asked for its end, or it broke: it may be stopped with tasks on it."""
    control: dict[int, int] = field(default_factory=dict)

    def word(self, slot: int) -> int:
        """The low byte of a control word."""
        return self.control.get(slot, 0) & 0xFF

    def busy(self) -> set[int]:
        """Slots with tasks."""
        return {self.slot_of[number] for number in self.tasks}

    def note_held(self, now: int) -> None:
        """Count how long it stood still for the sake of others."""
        if self.held_at:
            self.held_ns += now - self.held_at
        held = bool(self.tasks) and all(self.word(slot) == wire.HOLD for slot in self.busy())
        self.held_at = now if held else 0

    def let_go(self, number: int) -> None:
        """It no longer runs a task."""
        del self.tasks[number], self.slot_of[number]


@dataclass(slots=True)
class Mem:
    """One memfd that exists."""

    id: int
    client: int
    worker: int
    size: int
    leases: dict[int, wire.Lease] = field(default_factory=dict)
    """By generation, those that their client has not returned."""
    client_maps: bool = True
    worker_maps: bool = True
    asked_back: bool = False
    """Of the client."""
    refilled: bool = False
    """Its worker wrote to it while its pages were given back: they are back when it is gone."""


@dataclass(slots=True)
class Weights:
    """One weights object that exists."""

    id: int
    size: int
    sealed: bool = False


@dataclass(slots=True)
class Asked:
    """One request as its client sees it."""

    kind: str
    submitted: Any = None
    task: int = 0


class World:
    """See the module."""

    def __init__(self, idle_ns: int = 60 * limits.SECOND) -> None:
        self.core = Core(BUDGET, idle_ns, cores=CORES)
        self.now = 1_000 * limits.SECOND
        self.clients = [1, 2, 3]
        self.procs: dict[int, Proc] = {}
        self.memory: dict[int, Mem] = {}
        self.freeing: list[int] = []
        self.weights: dict[int, Weights] = {}
        self.asked: dict[tuple[int, int], Asked] = {}
        self.ended: list[tuple[int, int, wire.Message]] = []
        self.journal: dict[str, list[str]] = {}
        self.told: list[ev.Instruction] = []
        """Everything that the core ever said."""
        self.waiting = Waiting()
        self.requests = 0
        self.fail_segments = ""
        """How the next segment fails, if it does."""
        self.unmade: set[int] = set()
        """Segments that could not be made: nobody hears of leases of them."""
        self.stopping = False
        self.follow_ups: list[ev.Event] = []
        self.gathered: list[ev.Submitted | ev.Output] | None = None
        """What is to be heard in one event, while that is put together."""

    # The door.

    def do(self, event: ev.Event) -> list[ev.Instruction]:
        """One event, its instructions carried out, and what follows from them."""
        if self.gathered is not None:
            assert isinstance(event, ev.Submitted | ev.Output)
            self.gathered.append(event)
            return []
        said = self.core.handle(event, self.now)
        check(self.core)
        self.told += said
        for instruction in said:
            self._carry(instruction)
        if isinstance(event, ev.ClientLeft):
            for key in [k for k, a in self.asked.items() if k[0] == event.client]:
                if self.asked[key].kind == "borrow":
                    del self.asked[key]  # nobody is there to hear the answer
        if not self.follow_ups:
            self._check()
        while self.follow_ups:
            said += self.do(self.follow_ups.pop(0))
        return said

    def _carry(self, told: ev.Instruction) -> None:
        match told:
            case ev.Reply() | ev.Pass():
                self._reply(told.client, message(told))
            case ev.Dispatch():
                self._dispatch(self.procs[told.worker], told.slot, message(told))
            case ev.Start():
                assert not any(p.spec.key == told.spec.key for p in self.procs.values())
                self.procs[told.worker] = Proc(told.worker, told.spec, told.spec.base_bytes)
            case ev.Tell():
                self._tell(self.procs[told.worker], told.message)
            case ev.Control():
                self._control(self.procs[told.worker], told)
            case ev.Suspend():
                self._suspend(self.procs[told.worker], told.stopped)
            case ev.Kill():
                assert told.worker in self.procs, "killed a process that is gone"
                self.procs[told.worker].killed = True
            case ev.Record():
                self._record(told)
            case ev.MakeMemory():
                self._make(told)
            case ev.GiveMemory():
                assert self.weights[told.memory].sealed, "a map of what can still be written"
                assert told.memory not in self.freeing
                self.procs[told.worker].weights = told.memory
            case ev.FreeMemory():
                self._free(told.memory)
            case ev.Log():
                pass
            case _:
                raise AssertionError(f"what is {told}?")

    def _record(self, told: ev.Record) -> None:
        """A job is accepted once, begins after that, and ends once, and nothing follows its end."""
        kinds = self.journal.setdefault(told.asked.job, [])
        assert told.kind == "accept" if not kinds else told.kind != "accept", (told, kinds)
        assert "end" not in kinds, "a job that ended goes on"
        if told.kind == "start" and "start" in kinds:
            assert told.asked.idempotent or kinds[-1] == "again", "run twice, and not idempotent"
        kinds.append(told.kind)
        self._carry(told.then)

    def _control(self, proc: Proc, told: ev.Control) -> None:
        assert 0 <= told.slot < proc.slots
        proc.control[told.slot] = told.value
        proc.note_held(self.now)
        if told.value & 0xFF == wire.YIELD:
            proc.yielding |= {n for n in proc.tasks if proc.slot_of[n] == told.slot}

    def _suspend(self, proc: Proc, stopped: bool) -> None:
        assert stopped != bool(proc.suspended_at), "suspended or resumed twice"
        if stopped:
            proc.suspended_at = self.now
        else:
            self.resumed(proc)

    def resumed(self, proc: Proc) -> None:
        """The clocks of what it runs stood still."""
        for number in proc.tasks:
            wait = self.waiting.tasks.get(number)
            if wait and wait.deadline is not None:
                wait.deadline += self.now - proc.suspended_at
        proc.suspended_at = 0

    def _free(self, number: int) -> None:
        if freed := self.memory.get(number):
            assert not (freed.client_maps or freed.worker_maps), "freed what is mapped"
        else:
            assert number in self.weights
            mapped = [p.id for p in self.procs.values() if abs(p.weights) == number]
            assert not mapped, "freed what is mapped"
        assert number not in self.freeing, "freed twice"
        self.freeing.append(number)

    def _make(self, told: ev.MakeMemory) -> None:
        assert told.worker in self.procs
        if not told.client:
            self.weights[told.memory] = Weights(told.memory, told.size)
            self.procs[told.worker].weights = -told.memory
        elif self.fail_segments:
            self.unmade.add(told.memory)
            if self.fail_segments == "leave":  # what it is told finds that the client is gone
                self.client_leaves(told.client)
            self.follow_ups.insert(0, ev.MemoryGone(told.memory))
            self.fail_segments = ""
        else:
            made = Mem(told.memory, told.client, told.worker, told.size)
            made.client_maps = told.client in self.clients
            self.memory[told.memory] = made

    def _tell(self, proc: Proc, message: Any) -> None:
        match message:
            case wire.Cancel():
                slot = proc.slot_of[message.id]
                proc.stopped.add(message.id)
                rest = {n for n in proc.tasks if proc.slot_of[n] == slot} - proc.stopped
                assert rest or proc.word(slot) == wire.STOP
            case wire.Granted():
                assert proc.wanted >= 0
                assert not proc.granted
                assert (message.weights == "fill") == (proc.weights < 0)
                assert (message.weights == "map") == (proc.weights > 0)
                proc.granted = True
                proc.holds += proc.wanted
            case wire.Sealed():
                assert self.weights[-proc.weights].sealed
                proc.weights = -proc.weights
            case wire.Stop():
                lent = [m.id for m in self.memory.values() if m.worker == proc.id and m.leases]
                assert proc.may_stop_busy or not (proc.tasks or lent), "stopped while in use"
                assert not proc.suspended_at, "it cannot hear"
                proc.told_to_stop = True
            case wire.Drop():
                proc.drops.append(message.segment)

    def _dispatch(self, proc: Proc, slot: int, run: Any) -> None:
        assert run.slot == slot
        if isinstance(run, wire.Batch):
            assert len(run.items) > 1
            self._run(proc, slot, list(run.items))
        else:
            self._run(proc, slot, [run])

    def _run(self, proc: Proc, slot: int, items: list[Any]) -> None:
        assert not proc.told_to_stop, "a task for a worker that was told to stop"
        assert not proc.killed, "a task for a worker that is being killed"
        assert not proc.suspended_at, "a task for a worker that is suspended"
        assert proc.ready
        assert slot not in proc.busy(), "two dispatches in one slot"
        assert 0 <= slot < proc.slots
        assert proc.word(slot) in (wire.GO, wire.HOLD), "it would stop at once"
        asked = [self.core.state.tasks[item.id].asked for item in items]
        assert len({each.op for each in asked}) == 1, "a batch of two operations"
        assert len(items) <= asked[0].batch
        for item in items:
            self.waiting.runs(item.id, self.now)
            for lease in item.leases:
                assert self.memory[lease.segment].worker == proc.id, "a lease of another worker"
            proc.tasks[item.id] = item
            proc.slot_of[item.id] = slot
            for flags in (proc.stopped, proc.yielding, proc.streamed):
                flags.discard(item.id)

    def leased(self, client: int, lease: wire.Lease) -> None:
        """The pages are nobody else's, and no running task writes to them."""
        segment = self.memory[lease.segment]
        assert segment.client == client, "a lease of another client's memory"
        assert lease.offset % 4096 == 0
        assert lease.offset + lease.length <= segment.size
        proc = self.procs.get(segment.worker)
        running = [each for run in proc.tasks.values() for each in run.leases] if proc else []
        used = [each for each in running if each.segment == lease.segment]
        for other in [*segment.leases.values(), *used]:
            apart = (
                other.offset + other.length <= lease.offset
                or lease.offset + lease.length <= other.offset
            )
            assert apart, "two leases of one page"
        assert lease.generation not in segment.leases
        if client in self.clients:
            segment.leases[lease.generation] = lease

    def _reply(self, client: int, message: Any) -> None:
        if isinstance(message, wire.Drop):
            segment = self.memory[message.segment]
            assert segment.client == client
            assert segment.client_maps, "asked back what is not mapped"
            assert not segment.leases, "asked back what is lent"
            segment.asked_back = True
            return
        key = (client, message.id)
        asked = self.asked.get(key)
        assert asked is not None, f"a reply to nothing that is open: {key} {message}"
        if isinstance(message, wire.Accepted):
            assert asked.kind == "submit"
            assert not asked.task, "accepted twice"
            asked.task = message.task
            task = self.core.state.requests.get(client, {}).get(message.id)
            # One that what was heard with it has ended already (it was shed) has its own spec only.
            spec = task.asked.spec if task else asked.submitted.spec
            self.waiting.accepted(message.task, asked.submitted, spec.key, self.now)
        elif isinstance(message, wire.Progress | wire.Chunk):
            assert asked.task, "news of a task that was not accepted"
        else:
            assert isinstance(message, TERMINAL)
            if isinstance(message, wire.Leased) and message.lease.segment in self.unmade:
                message = wire.Error(id=message.id, code="no_memory", message="")
            if isinstance(message, wire.Error):
                assert message.code in (*CODES, MADE_UP)
            if isinstance(message, wire.Leased):
                self.leased(client, message.lease)
            del self.asked[key]
            self.ended.append((client, message.id, message))
            self.waiting.ended(asked.task)

    # The books of the world against those of the core.

    def _check(self) -> None:
        state = self.core.state
        used = sum(proc.holds for proc in self.procs.values())
        used += sum(segment.size for segment in self.memory.values())
        used += sum(held.size for held in self.weights.values())
        assert used <= BUDGET, "more memory exists than there is"
        assert used <= state.ledger.used, "memory that nobody is charged for"
        for (client, request), asked in self.asked.items():
            if asked.kind == "submit" and not self.stopping:
                assert request in state.requests.get(client, {}), "a request is lost"
        self._check_threads()
        core_rules.no_knot(state)
        if not self.stopping:
            self._check_idle_slots()

    def _check_threads(self) -> None:
        """What is granted stays within the processors, and somebody computes if anybody may."""
        awake = [p for p in self.procs.values() if p.busy() and not p.suspended_at]
        awake = [p for p in awake if self.core.state.workers[p.id].state not in DEAF]
        tasks = self.core.state.tasks.values()
        waiting = {task.asked.parent for task in tasks}
        plain = 0
        for proc in awake:
            if not proc.spec.cooperative and proc.spec.lane == "main":
                idle = {proc.slot_of[number] for number in proc.tasks if number in waiting}
                plain += len(proc.busy() - idle)
        ahead = {task.id for task in tasks if task.ahead}
        sharing = [p for p in awake if p.spec.cooperative]
        words = [[p.control.get(slot, 0) for slot in p.busy()] for p in sharing]
        grants = [max(word >> 8 for word in each) for each in words]
        assert sum(grants) <= max(1, CORES - plain), "more threads than processors"
        for proc in sharing:
            for number in ahead & set(proc.tasks):
                word = proc.word(proc.slot_of[number])
                assert word != wire.GO, "it streams on, and nobody takes it"
        sharing = [p for p in sharing if not ahead & set(p.tasks)]
        held = [all(p.word(slot) == wire.HOLD for slot in p.busy()) for p in sharing]
        dying = any(p.busy() and p.killed for p in self.procs.values())
        assert dying or not (held and all(held)), "everybody waits for nobody"

    def _check_idle_slots(self) -> None:
        """No slot of a ready worker is free while a task waits that could use it."""
        if (due := self.core.next_timer()) is not None and due <= self.now:
            return  # it may be what looks again
        for service in self.core.state.services.values():
            proc = self.procs.get(service.worker.id) if service.worker else None
            if proc is None or not proc.ready or proc.killed or proc.told_to_stop:
                continue
            free = proc.slots - len(proc.busy())
            if proc.suspended_at or service.worker.state in DEAF or service.worker.fault:
                continue
            if service.batching.waits(len(service.queue), self.now):
                continue
            kept = 1 if proc.slots > 1 and proc.spec.model else 0
            best = service.queue.best()
            assert free <= (kept if best == BATCH else 0) or not service.queue, "an idle slot"

    def requeue(self, proc: Proc, number: int) -> None:
        """A process no longer runs a task, which may be queued again."""
        proc.note_held(self.now)
        if task := self.core.state.tasks.get(number):
            self.waiting.requeued(number, self.now, task.rank, proc.held_ns)

    def client_leaves(self, client: int) -> None:
        """Its connection has ended; another client comes."""
        if client in self.clients:
            self.clients[self.clients.index(client)] = max(self.clients) + 1
        for segment in self.memory.values():
            if segment.client == client:
                segment.leases.clear()
                segment.client_maps = False
        self.follow_ups.append(ev.ClientLeft(client))

    def heard(self, proc: Proc) -> bool:
        """Whether the core still listens to it."""
        worker = self.core.state.workers[proc.id]
        return worker.state not in DEAF
