"""A consistent world around the pure core: clients, processes and memory that answer as they may.

``World`` hands events to a ``Core`` and carries out what it says, as the real shell would, and
keeps books of its own: every request gets exactly one end, memory that really exists never exceeds
the budget, nothing runs on a worker that was told to stop. Each action takes ``choose``, a function
that picks one of a list, so that Hypothesis and a seeded generator drive the same world.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.core import Core
from clawai.sdk import wire
from clawai.sdk.errors import CODES, ClawError

Choose = Callable[[Sequence[Any]], Any]
KIB = 1024
BUDGET = 1024 * KIB
TOOL = ev.Spec("tool", "", 128 * KIB, 0, 2)
OTHER = ev.Spec("other", "", 256 * KIB, 0, 1)
SMALL = ev.Spec("engine", "small", 128 * KIB, 64 * KIB, 1)
LARGE = ev.Spec("engine", "large", 128 * KIB, 512 * KIB, 1)
HUGE = ev.Spec("engine", "huge", 128 * KIB, 2048 * KIB, 1)
SPECS = (TOOL, OTHER, SMALL, LARGE, HUGE)
TERMINAL = (wire.Done, wire.Error, wire.Answer, wire.Leased)
RANK = {name: rank for rank, name in enumerate(wire.PRIORITIES)}


@dataclass(slots=True)
class Proc:
    """One worker process, from ``Start`` to ``WorkerGone``."""

    id: int
    spec: ev.Spec
    holds: int
    wanted: int = -1
    granted: bool = False
    ready: bool = False
    slots: int = 0
    tasks: dict[int, wire.Run] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    """Tasks that it was told to cancel."""
    drops: list[int] = field(default_factory=list)
    told_to_stop: bool = False
    killed: bool = False
    may_stop_busy: bool = False
    """Somebody asked for its end, or it broke: it may be stopped with tasks on it."""
    control: dict[int, int] = field(default_factory=dict)


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


@dataclass(slots=True)
class Asked:
    """One request as its client sees it."""

    kind: str
    submitted: Any = None
    task: int = 0


class World:
    """See the module."""

    def __init__(self, idle_ns: int = 60 * limits.SECOND) -> None:
        self.core = Core(BUDGET, idle_ns)
        self.now = 1_000 * limits.SECOND
        self.clients = [1, 2, 3]
        self.procs: dict[int, Proc] = {}
        self.memory: dict[int, Mem] = {}
        self.freeing: list[int] = []
        self.asked: dict[tuple[int, int], Asked] = {}
        self.ended: list[tuple[int, int, wire.Message]] = []
        self.told: list[ev.Instruction] = []
        """Everything that the core ever said."""
        self.requests = 0
        self.fail_segments = ""
        """How the next segment fails, if it does."""
        self.stopping = False
        self._follow_ups: list[ev.Event] = []

    # The door.

    def do(self, event: ev.Event) -> list[ev.Instruction]:
        """One event, its instructions carried out, and what follows from them."""
        said = self.core.handle(event, self.now)
        self.core.check()
        self.told += said
        for instruction in said:
            self._carry(instruction)
        if isinstance(event, ev.ClientLeft):
            for key in [k for k, a in self.asked.items() if k[0] == event.client]:
                if self.asked[key].kind == "borrow":
                    del self.asked[key]  # nobody is there to hear the answer
        self._check()
        while self._follow_ups:
            said += self.do(self._follow_ups.pop(0))
        return said

    def _carry(self, told: ev.Instruction) -> None:
        match told:
            case ev.Reply():
                self._reply(told.client, told.message)
            case ev.Start():
                assert not any(p.spec.key == told.spec.key for p in self.procs.values())
                self.procs[told.worker] = Proc(told.worker, told.spec, told.spec.base_bytes)
            case ev.Tell():
                self._tell(self.procs[told.worker], told.message)
            case ev.Control():
                self.procs[told.worker].control[told.slot] = told.value
            case ev.Kill():
                assert told.worker in self.procs, "killed a process that is gone"
                self.procs[told.worker].killed = True
            case ev.MakeSegment():
                self._make(told)
            case ev.FreeSegment():
                freed = self.memory[told.segment]
                assert not (freed.client_maps or freed.worker_maps), "freed what is mapped"
                if told.segment not in self.freeing:
                    self.freeing.append(told.segment)

    def _make(self, told: ev.MakeSegment) -> None:
        assert told.worker in self.procs
        if self.fail_segments:
            self._reply(
                told.client, wire.Error(id=told.reply.message.id, code="no_memory", message="")
            )  # type: ignore[union-attr]
            if self.fail_segments == "leave":  # the same reply finds that the client is gone
                self._leaves(told.client)
            self._follow_ups.insert(0, ev.SegmentFailed(told.segment, "no memory"))
            self.fail_segments = ""
            return
        self.memory[told.segment] = Mem(told.segment, told.client, told.worker, told.size)
        self._reply(told.client, told.reply.message)

    def _tell(self, proc: Proc, message: wire.Message) -> None:
        match message:
            case wire.Run():
                assert not proc.told_to_stop, "a task for a worker that was told to stop"
                assert not proc.killed, "a task for a worker that is being killed"
                assert proc.ready
                taken = {run.slot for run in proc.tasks.values()}
                assert message.slot not in taken, "two tasks in one slot"
                assert 0 <= message.slot < proc.slots
                assert proc.control[message.slot] == 0, "it would stop at once"
                self._in_order(proc, message)
                for lease in message.leases:
                    segment = self.memory[lease.segment]
                    assert segment.worker == proc.id, "a lease of another worker"
                proc.tasks[message.id] = message
            case wire.Cancel():
                assert proc.control[proc.tasks[message.id].slot] == 1
                proc.stopped.add(message.id)
            case wire.Granted():
                assert proc.wanted >= 0
                assert not proc.granted
                proc.granted = True
                proc.holds += proc.wanted
            case wire.Stop():
                lent = [m.id for m in self.memory.values() if m.worker == proc.id and m.leases]
                assert proc.may_stop_busy or not (proc.tasks or lent), "stopped while in use"
                proc.told_to_stop = True
            case wire.Drop():
                proc.drops.append(message.segment)

    def _in_order(self, proc: Proc, run: wire.Run) -> None:
        """The task is the best that waits, by the rule of ``kernel.queue``'s docstring."""
        state = self.core.state
        waiting = [t for t in state.tasks.values() if t.state == "queued" and t.id != run.id]
        waiting = [t for t in waiting if t.asked.spec.key == proc.spec.key]
        if any(t.asked.deadline and t.asked.deadline <= self.now for t in waiting):
            return  # about to expire
        mine = order(state.tasks[run.id], self.now)
        assert all(mine <= order(task, self.now) for task in waiting), "out of order"

    def _leased(self, client: int, lease: wire.Lease) -> None:
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
        elif isinstance(message, wire.Progress | wire.Chunk):
            assert asked.task, "news of a task that was not accepted"
        else:
            assert isinstance(message, TERMINAL)
            if isinstance(message, wire.Error):
                assert message.code in CODES
            if isinstance(message, wire.Leased):
                self._leased(client, message.lease)
            del self.asked[key]
            self.ended.append((client, message.id, message))

    def _check(self) -> None:
        """The books of the world against those of the core."""
        used = sum(proc.holds for proc in self.procs.values())
        used += sum(segment.size for segment in self.memory.values())
        assert used <= BUDGET, "more memory exists than there is"
        assert used <= self.core.state.ledger.used, "memory that nobody is charged for"
        for (client, request), asked in self.asked.items():
            if asked.kind == "submit":
                assert (client, request) in self.core.state.requests, "a request is lost"

    # What clients do.

    def _new(self, kind: str) -> int:
        self.requests += 1
        return self.requests

    def submit(self, choose: Choose) -> None:
        """A task of any kind, with proper, stale or forged leases."""
        spec, client = choose(SPECS), choose(self.clients)
        leases = [lease for m in self.memory.values() for lease in m.leases.values()]
        forged = wire.Lease(segment=choose((1, 2, 99)), offset=0, length=8192, generation=1)
        chosen = choose([(), (), (), (forged,), *((lease,) for lease in leases)])
        deadline = choose(
            (None, None, -1, 0, 5 * limits.MS, 2 * limits.SECOND, 3600 * limits.SECOND)
        )
        request = self._new("submit")
        event = ev.Submitted(
            client=client,
            request=request,
            spec=spec,
            op="op",
            priority=choose(wire.PRIORITIES),
            deadline=None if deadline is None else self.now + deadline,
            idempotent=choose((True, False)),
            payload=choose((10, 100, 5 << 20)),
            leases=chosen,
            params=wire.EMPTY_MAP,
        )
        self.asked[client, request] = Asked("submit", event)
        self.do(event)

    def cancel(self, choose: Choose) -> None:
        """Any request of a living client, open, ended, never made, or another client's."""
        mine = [key for key in self.asked if key[0] in self.clients]
        client, request = choose([*mine, (self.clients[0], 0), (self.clients[0], self.requests)])
        self.do(ev.CancelAsked(client, request))

    def leave(self, choose: Choose) -> None:
        """A client goes; another comes."""
        self._leaves(choose(self.clients))
        while self._follow_ups:
            self.do(self._follow_ups.pop(0))

    def _leaves(self, client: int) -> None:
        if client in self.clients:
            self.clients[self.clients.index(client)] = max(self.clients) + 1
        for segment in self.memory.values():
            if segment.client == client:
                segment.leases.clear()
                segment.client_maps = False
        self._follow_ups.append(ev.ClientLeft(client))

    def borrow(self, choose: Choose) -> None:
        """A segment of a size that fits, or not."""
        client, spec = choose(self.clients), choose(SPECS)
        request = self._new("borrow")
        self.asked[client, request] = Asked("borrow")
        size = choose((0, 1, 4096, 100 * KIB, 400 * KIB, 2048 * KIB))
        self.do(ev.Borrowed(client, request, spec, size))

    def give_back(self, choose: Choose) -> None:
        """A lease, or one that is over, or one that is not the client's."""
        mine = [(m, lease) for m in self.memory.values() for lease in m.leases.values()]
        if not mine:
            return
        segment, lease = choose(mine)
        generation = lease.generation + choose((0, 0, 0, 1))
        client = choose((segment.client, segment.client, self.clients[0]))
        if client == segment.client:
            segment.leases.pop(generation, None)
        self.do(ev.Returned(client, segment.id, generation))

    def unmap(self, choose: Choose) -> None:
        """A client unmaps what it is asked to, or says so of something else."""
        client = choose(self.clients)
        number = choose([*(m.id for m in self.memory.values() if m.asked_back), 0, 1])
        if segment := self.memory.get(number):
            if segment.asked_back and choose((True, True, False)):
                client = segment.client
            if segment.asked_back and client == segment.client:
                segment.client_maps = segment.asked_back = False
        self.do(ev.Unmapped(client, number))

    def unload(self, choose: Choose) -> None:
        """The owner stops something by name."""
        name, client = choose(("tool", "small", "engine", "nothing")), choose(self.clients)
        request = self._new("unload")
        self.asked[client, request] = Asked("unload")
        for proc in self.procs.values():
            proc.may_stop_busy |= name in proc.spec.key
        self.do(ev.Commanded(client, request, "unload", name))

    def fail_next_segment(self, choose: Choose) -> None:
        """The system has no memory for the next segment."""
        self.fail_segments = choose(("", "fail", "leave"))

    def shutdown(self, choose: Choose) -> None:
        """The end begins."""
        for proc in self.procs.values():
            proc.may_stop_busy = True
        self.stopping = True
        self.do(ev.ShutdownAsked())

    # What workers do.

    def _pick(self, choose: Choose, fits: Callable[[Proc], Any]) -> Proc | None:
        found = [proc for proc in self.procs.values() if fits(proc)]
        return choose(found) if found else None

    def reserve(self, choose: Choose) -> None:
        """An engine says what its model needs."""
        if proc := self._pick(choose, lambda p: p.spec.model and p.wanted < 0 and not p.ready):
            size = choose((proc.spec.model_bytes, proc.spec.model_bytes, 900 * KIB, 1 << 40))
            if size > BUDGET:
                proc.may_stop_busy = True
            counts = not proc.told_to_stop and self._heard(proc)
            proc.wanted = size if counts else -1
            self.do(ev.WorkerReserved(proc.id, size))

    def _heard(self, proc: Proc) -> bool:
        worker = self.core.state.workers[proc.id]
        return not (worker.error and worker.error.code == "bad_worker")

    def ready(self, choose: Choose) -> None:
        """A worker has loaded."""

        def may(proc: Proc) -> bool:
            return not proc.ready and (proc.granted or not proc.spec.model)

        if proc := self._pick(choose, may):
            if self._heard(proc) and not proc.told_to_stop:
                proc.ready = True
                proc.slots = min(choose((1, 4)), proc.spec.slots)
            self.do(ev.WorkerReady(proc.id, 4 if proc.slots > 1 else 1))

    def unready(self, choose: Choose) -> None:
        """A worker cannot serve."""
        if proc := self._pick(choose, lambda p: True):
            proc.may_stop_busy = True
            self.do(ev.WorkerUnready(proc.id, ClawError("bad_model", "broken")))

    def say(self, choose: Choose) -> None:
        """A worker streams or ends a task that it runs."""
        proc = self._pick(choose, lambda p: p.tasks)
        if proc is None:
            return
        task = choose(list(proc.tasks))
        message = choose(
            (
                wire.Progress(id=task, fraction=0.5),
                wire.Chunk(id=task),
                wire.Done(id=task, timings={"compute_us": 10**18, "plugin_us": -5}),
                wire.Error(id=task, code="cancelled", message="as asked"),
                wire.Error(id=task, code="made_up", message="a code that is not ours"),
            )
        )
        if isinstance(message, wire.Done | wire.Error) and self._heard(proc):
            del proc.tasks[task]
        self.do(ev.Output(proc.id, message))

    def pong(self, choose: Choose) -> None:
        """A worker lives."""
        if proc := self._pick(choose, lambda p: True):
            self.do(ev.WorkerAnswered(proc.id))

    def drop(self, choose: Choose) -> None:
        """A worker unmaps what it was told to."""
        if proc := self._pick(choose, lambda p: p.drops):
            self._dropped(proc)

    def _dropped(self, proc: Proc) -> None:
        number = proc.drops.pop()
        if self._heard(proc):
            self.memory[number].worker_maps = False
        self.do(ev.SegmentDropped(proc.id, number))

    def die(self, choose: Choose) -> None:
        """A process ends, for any reason or none."""
        if proc := self._pick(choose, lambda p: True):
            self._end(proc, "killed by SIGSEGV")

    def obey(self, choose: Choose) -> None:
        """A process ends that was told to, or is killed."""
        if proc := self._pick(choose, lambda p: p.told_to_stop or p.killed):
            self._end(proc, "exited with code 0")

    def _end(self, proc: Proc, why: str) -> None:
        del self.procs[proc.id]
        for segment in self.memory.values():
            segment.worker_maps = segment.worker_maps and segment.worker != proc.id
        self.do(ev.WorkerGone(proc.id, why))

    def broke(self, choose: Choose) -> None:
        """The shell sees a breach of the protocol."""
        if proc := self._pick(choose, lambda p: True):
            proc.may_stop_busy = True
            self.do(ev.WorkerBroke(proc.id, "garbage"))

    def free(self, choose: Choose) -> None:
        """Pages come back; or the worker that still maps them fills them again, and is caught."""
        if not self.freeing:
            return
        number = choose(self.freeing)
        self.freeing.remove(number)
        segment = self.memory[number]
        proc = self.procs.get(segment.worker)
        if proc and choose((False, False, True)):
            proc.may_stop_busy = True
            self.do(ev.WorkerBroke(segment.worker, "it wrote to memory that was taken back"))
            assert proc.killed
            return
        del self.memory[number]
        self.do(ev.SegmentGone(number))

    def hostile(self, choose: Choose) -> None:
        """What a worker may say and should not; it must be refused without harm."""
        proc = self._pick(choose, lambda p: True)
        if proc is None:
            return
        others = [task for p in self.procs.values() if p is not proc for task in p.tasks]
        task = choose(
            [0, 1 << 61, *others, *(t for t in self.core.state.tasks if t not in proc.tasks)]
        )
        segments = [m for m in self.memory if m not in proc.drops]
        output = [
            wire.Done(id=task),
            wire.Chunk(id=task),
            wire.Progress(id=task),
            wire.Error(id=task, code="", message=""),
            wire.Error(id=None, code="x", message=""),
        ]
        events: list[ev.Event] = [ev.Output(proc.id, message) for message in output]  # type: ignore[arg-type]
        events += [ev.SegmentDropped(proc.id, number) for number in [*segments, 0, 1 << 61]]
        if proc.ready or (proc.wanted >= 0 and not proc.granted):
            events.append(ev.WorkerReady(proc.id, 64))
        if proc.wanted >= 0 or proc.ready:
            events.append(ev.WorkerReserved(proc.id, 1))
        proc.may_stop_busy = True
        was_over = proc.killed or proc.told_to_stop
        self.do(choose(events))
        assert proc.killed or was_over, "a breach of the protocol went unpunished"

    # Time.

    def advance(self, choose: Choose) -> None:
        """Time passes; timers run when they are due, or later."""
        self.now += choose((limits.MS, 100 * limits.MS, limits.SECOND, 25 * limits.SECOND))
        if choose((True, True, False)):
            self.run_timers()

    def run_timers(self) -> None:
        """What the loop does when the next timer is due."""
        while (due := self.core.next_timer()) is not None and due <= self.now:
            for proc in self.procs.values():
                worker = self.core.state.workers[proc.id]
                proc.may_stop_busy |= worker.state in ("starting", "loading")
            before = len(self.core.state.timers), due
            self.do(ev.Timer())
            after = len(self.core.state.timers), self.core.next_timer()
            assert before != after, "a timer that stays due would spin"

    # The end.

    def drain(self) -> None:
        """Everybody leaves, everything that was begun ends; nothing may be left behind."""
        first: Choose = lambda options: options[0]  # noqa: E731
        for client in list(self.clients):
            self.leave(lambda _, client=client: client)
        for _ in range(400):
            if not (self.procs or self.memory or self.asked or self.core.state.tasks):
                break
            for proc in list(self.procs.values()):
                if proc.id not in self.procs:
                    continue
                if proc.told_to_stop or proc.killed:
                    self._end(proc, "ended")
                elif proc.drops:
                    self._dropped(proc)
                elif proc.tasks and self._heard(proc):
                    task = next(iter(proc.tasks))
                    del proc.tasks[task]
                    self.do(ev.Output(proc.id, wire.Error(id=task, code="cancelled", message="x")))
            while self.freeing:
                number = self.freeing.pop()
                del self.memory[number]
                self.do(ev.SegmentGone(number))
            self.reserve(first)
            self.ready(first)
            self.now += 30 * limits.SECOND
            self.run_timers()
        state = self.core.state
        assert not self.procs, self.procs
        assert not self.memory, self.memory
        assert not self.asked, self.asked
        assert not state.tasks
        assert not state.requests
        assert not state.segments
        assert not state.workers
        assert state.ledger.used == 0
        assert state.payload == 0
        assert len(state.timers) < 100, "timers pile up"


def order(task: Any, now: int) -> tuple[int, int, int]:
    """The place of a task in its queue, from the docstring of ``kernel.queue``."""
    rank = RANK[task.asked.priority]
    patience = limits.PROMOTE[task.asked.priority]
    aged = max(0, rank - (now - task.submitted) // patience) if patience else rank
    patient = task.submitted + limits.PATIENCE
    due = patient if task.asked.deadline is None else min(task.asked.deadline, patient)
    return aged, due, task.id


ACTIONS = (
    World.submit,
    World.cancel,
    World.leave,
    World.borrow,
    World.give_back,
    World.unmap,
    World.unload,
    World.fail_next_segment,
    World.reserve,
    World.ready,
    World.unready,
    World.say,
    World.pong,
    World.drop,
    World.die,
    World.obey,
    World.broke,
    World.free,
    World.hostile,
    World.advance,
    World.shutdown,
)
WEIGHTS = (30, 6, 2, 8, 6, 4, 1, 2, 8, 16, 1, 30, 2, 8, 2, 8, 1, 8, 1, 16, 0.05)
