"""The world around the core: one heap of future events, all chance from one seed, time at will.

``World.run`` hands events to the production state machine and carries out what it says as the shell
would. Cheap checks are made at every event (the books, memory that really exists, who is told
what), ``check`` every so many. A broken promise is a ``BrokenError``.
"""

import random
from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.limits import MIB, MS, SECOND
from clawai.kernel.mail import error
from clawai.kernel.sim.books import Ask, Books, BrokenError
from clawai.kernel.sim.check import check
from clawai.kernel.sim.clients import Clients
from clawai.kernel.sim.memory import Memory
from clawai.kernel.sim.process import NEWS, REAP, Process
from clawai.kernel.sim.scenario import Scenario, Service
from clawai.sdk import wire

START = 1000 * SECOND
LAST = 60
"""Events that a broken promise shows."""
TIMER = ev.Timer()
ROUND = MS // 4
"""What is heard together came within so many nanoseconds."""


class World:
    """One run of a scenario. ``tasks`` ends the arrivals after so many instead of at its time."""

    def __init__(self, scenario: Scenario, seed: int, tasks: int = 0) -> None:
        self.scenario, self.seed = scenario, seed
        self.faults = scenario.faults
        self.rng = random.Random(seed)
        self.budget = int(scenario.box.memory_mib * MIB)
        self.core = Core(
            self.budget,
            int(scenario.box.idle_s * SECOND),
            cores=scenario.box.cores,
            rungs=frozenset(scenario.box.rungs),
            most_tasks=scenario.box.tasks,
        )
        self.clock = START
        self.skew = 0
        self.events = 0
        self.mark = 0
        """Changes with every event and every instruction: equal runs end with equal marks."""
        self.books = Books(ordered=0 in scenario.box.rungs)
        self.memory = Memory(self.budget)
        self.processes: dict[int, Process] = {}
        self.services: dict[tuple[str, str, str], Service] = {}
        self.counts: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.peak_workers = 0
        self.threads_peak = 0
        self.last: deque[tuple[int, int, ev.Event]] = deque(maxlen=LAST)
        self.over = False
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._soon: deque[ev.Event] = deque()
        self._round: list[ev.Submitted | ev.Output] = []
        """What the core is to hear together."""
        self._chance = random.Random(~seed)
        self._unmade: set[int] = set()
        self.clients = Clients(self, tasks)
        self._carry: dict[type, Callable[[Any], None]] = {
            ev.Reply: self._reply,
            ev.Pass: self._pass,
            ev.Dispatch: self._dispatch,
            ev.Start: self._start,
            ev.Tell: self._tell,
            ev.Control: self._control,
            ev.Suspend: lambda told: self._process(told).suspend(told.stopped),
            ev.Kill: self._kill,
            ev.MakeMemory: self._make_memory,
            ev.GiveMemory: self._give_weights,
            ev.FreeMemory: self._free_memory,
            ev.Record: self._record,
            ev.Log: lambda told: self.counts.update((f"log {told.level}",)),
        }

    # Time.

    def later(self, delay: int, act: Callable[..., None], *args: Any) -> None:
        """Have ``act`` called when ``delay`` nanoseconds have passed."""
        self._number += 1
        heappush(self._heap, (self.clock + delay, self._number, act, args))

    def run(self) -> None:
        """All of it, to the end where nothing may be left.

        Raises:
            BrokenError: a promise was broken.
        """
        try:
            self.clients.begin()
            self._turn(lambda: self.clients.finished and not self.books.open)
            self._end()
        except BrokenError:
            raise
        except Exception as error:  # whatever the core raises is a bug of the core
            raise BrokenError(f"{type(error).__name__}: {error}") from error

    def _turn(self, finished: Callable[[], bool]) -> None:
        heap, core = self._heap, self.core
        while not finished():
            due = core.next_timer()
            if due is not None and (not heap or due - self.skew <= heap[0][0]):
                self.clock = max(self.clock, due - self.skew)
                before = len(core.state.timers)
                self.do(TIMER)
                if core.next_timer() == due and len(core.state.timers) == before:
                    raise BrokenError("a timer that stays due would spin")
            elif heap:
                self.clock, _, act, args = heappop(heap)
                act(*args)
            else:
                if self.books.open:
                    raise BrokenError(f"nothing will happen, and these wait: {self._open()}")
                return

    def _open(self) -> list[Ask]:
        return list(self.books.open.values())[:3]

    def do(self, event: ev.Event) -> None:
        """One event into the core, or one more of those that it is to hear together."""
        if isinstance(event, ev.Submitted | ev.Output):
            if self._round:
                self._round.append(event)
                return
            if self._chance.random() < self.scenario.box.together:
                self._round.append(event)
                self.later(self._chance.randrange(ROUND), self._end_round)
                return
        self._end_round()
        self._happen(event)

    def _end_round(self) -> None:
        if self._round:
            events, self._round = tuple(self._round), []
            self._happen(ev.Together(events))

    def _happen(self, event: ev.Event) -> None:
        """One event into the core, and all that it says carried out."""
        self.events += 1
        now = self.clock + self.skew
        self.last.append((self.events, now, event))
        said = self.core.handle(event, now)
        self.mark = ((self.mark * 1_000_003) ^ now ^ len(said)) & 0xFFFF_FFFF_FFFF_FFFF
        carry = self._carry
        for told in said:
            carry[type(told)](told)
        if self.events % self.scenario.check_every == 0:
            self.check()
        while self._soon:
            self.do(self._soon.popleft())

    def check(self) -> None:
        """Everything, at a cost that grows with all that there is."""
        check(self.core)
        state = self.core.state
        held = sum(process.holds for process in self.processes.values()) + self.memory.other
        if held != self.memory.real:
            raise BrokenError(f"the world lost count: {held} and {self.memory.real} bytes")
        if self.memory.real > state.ledger.used:
            raise BrokenError(f"{self.memory.real} bytes exist, {state.ledger.used} are charged")
        threads = sum(process.threads() for process in self.processes.values())
        self.threads_peak = max(self.threads_peak, threads)
        for ask in self.books.open.values():
            mine = state.requests.get(ask.client, {})
            if ask.kind == "submit" and ask.request not in mine:
                raise BrokenError(f"the core has forgotten a request: {ask}")

    def _end(self) -> None:
        """Everybody goes, and nothing may be left behind."""
        self.clients.leave()
        self.over = True
        for process in self.processes.values():
            process.excused = True
        self.do(ev.ShutdownAsked())
        until = self.clock + 60 * SECOND
        self._turn(lambda: self.clock > until or not (self.processes or self.memory.segments))
        self.check()
        state = self.core.state
        segments = {held.id: held for held in state.memory.values() if held.client}
        left = (self.processes, self.books.open, state.tasks, state.workers, segments)
        if any(left):
            raise BrokenError(
                f"left behind at the end: {[dict(list(x.items())[:2]) for x in left]}"
            )
        if self.memory.real != sum(self.memory.objects.values()):  # those end with the kernel
            raise BrokenError(f"{self.memory.real} bytes are left at the end")

    # What processes need (``process.Around``).

    def hear(self, process: Process, event: ev.Event) -> None:
        """A message of a worker has arrived."""
        if isinstance(event, ev.WorkerReserved):
            process.wanted = event.size
        elif isinstance(event, ev.Output):
            if event.kind in ("done", "error", "yielded"):
                process.given.pop(event.task, None)
            if event.kind == "yielded":
                self.counts["yielded"] += 1
                self.books.requeued(event.task)
        self.do(event)

    def reap(self, process: Process, why: str) -> None:
        """A process has ended and its memory is back."""
        del self.processes[process.id]
        self.memory.give(process.holds)
        if not (process.stopping or process.killed):
            self.counts["died"] += 1
        for task in process.given:
            self.books.requeued(task)
        self.do(ev.WorkerGone(process.id, why))

    def injected(self, kind: str) -> None:
        """A fault has happened."""
        self.faulted[kind] += 1

    def held(self, task: int, span: int) -> None:
        """A task stood still for the sake of others for so long."""
        if ask := self.books.by_task.get(task):
            tally = self.books.tallies[ask.rank]
            tally.longest_held = max(tally.longest_held, span)

    def work_of(self, task: int) -> tuple[int, str, int]:
        """Nanoseconds of work, fault, and pieces of the answer of a task."""
        ask = self.books.by_task[task]
        return ask.work, ask.fault, self.scenario.stream[ask.stream].chunks

    # Instructions.

    def _process(self, told: Any) -> Process:
        try:
            return self.processes[told.worker]
        except KeyError:
            raise BrokenError(f"told to a process that is gone: {told}") from None

    def _reply(self, told: ev.Reply) -> None:
        message: Any = told.message
        kind = type(message)
        if kind is wire.Drop:
            self.later(MS, self._unmap, told.client, message.segment)
            return
        if kind is wire.Leased and message.lease.segment in self._unmade:
            self._pass(ev.Pass(told.client, message.id, ev.Fault("no_memory")))
            return
        ask = self._open_ask(told, message.id)
        if kind is wire.Accepted:
            self.books.accepted(ask, message)
        else:
            self.books.end(ask, "done", self.clock)
            self.clients.answered(ask, message)

    def _open_ask(self, told: Any, request: int) -> Ask:
        ask = self.books.open.get(request)
        if ask is None or ask.client != told.client:
            raise BrokenError(f"a reply to nothing that is open: {told}")
        return ask

    def _pass(self, told: ev.Pass) -> None:
        ask, word = self._open_ask(told, told.request), told.word
        if isinstance(word, ev.Fault):
            self.books.end(ask, error(word).code, self.clock)
            self.clients.answered(ask, word)
        elif word is NEWS:
            self.counts["news"] += 1
        else:
            self.books.end(ask, word.message, self.clock)
            self.clients.answered(ask, word)

    def _start(self, told: ev.Start) -> None:
        if any(p.spec.key == told.spec.key and p.alive for p in self._alike(told.spec)):
            raise BrokenError(f"a second worker of {told.spec.key}")
        self.counts["started"] += 1
        service = self.services[told.spec.key]
        process = Process(self, told.worker, told.spec, service, told.spec.base_bytes)
        self.processes[told.worker] = process
        self.peak_workers = max(self.peak_workers, len(self.processes))
        self.memory.take(process.holds)
        process.start()

    def _alike(self, spec: ev.Spec) -> list[Process]:
        found = self.core.state.services[spec.key].worker
        return [self.processes[found.id]] if found and found.id in self.processes else []

    def _tell(self, told: ev.Tell) -> None:
        process, message = self._process(told), told.message
        kind = type(message)
        if kind is wire.Granted:
            self.memory.take(process.wanted)
        elif kind is wire.Stop:
            self._stopped(process)
        process.tell(message)

    def _dispatch(self, told: ev.Dispatch) -> None:
        self.counts["batches"] += len(told.tasks) > 1
        self._run(self._process(told), told.slot, [number for number, _, _ in told.tasks])

    def _run(self, process: Process, slot: int, tasks: list[int]) -> None:
        bad = process.stopping or process.killed or process.frozen or not process.ready
        if bad or slot in process.given.values() or not 0 <= slot < process.slots:
            raise BrokenError(f"tasks {tasks} for slot {slot} of {process}")
        if process.control.get(slot, 0) & 0xFF not in (wire.GO, wire.HOLD):
            raise BrokenError(f"tasks {tasks} would stop at once: {process}")
        for number, task in enumerate(tasks):
            self.books.dispatched(task, self.clock, self.skew, number == 0)
            process.given[task] = slot
        if process.alive:
            process.run(slot, tasks)

    def _stopped(self, process: Process) -> None:
        lent = self.memory.lent(process.id)
        if (process.given or lent) and not process.excused:
            raise BrokenError(f"stopped while in use ({len(lent)} leases): {process}")
        if not process.stopping and not self.over:
            why = self.core.state.workers[process.id].why
            self.counts[f"stopped: {why.partition(':')[0]}"] += 1
        process.stopping = True

    def _kill(self, told: ev.Kill) -> None:
        process = self._process(told)
        if not process.killed and not self.over:
            self.counts[f"killed: {told.why.partition(':')[0]}"] += 1
        process.killed = True
        process.kill()

    def _control(self, told: ev.Control) -> None:
        process = self._process(told)
        if not 0 <= told.slot < process.slots:
            raise BrokenError(f"a control word of no slot: {told}")
        process.set_control(told.slot, told.value)

    def _make_memory(self, told: ev.MakeMemory) -> None:
        process = self._process(told)
        if not told.client:
            process.weights = True
            self.memory.weights(told.memory, told.size)
        elif self.rng.random() < self.faults.segment:
            self.injected("segment")
            self._unmade.add(told.memory)  # its leases, which the core tells next, are refused
            self._soon.append(ev.MemoryGone(told.memory))
        else:
            self.memory.segment(told.memory, told.client, told.worker, told.size)

    def _unmap(self, client: int, number: int) -> None:
        segment = self.memory.segments.get(number)
        if segment and segment.client_maps:  # else the client has left meanwhile
            segment.client_maps = False
            self.do(ev.Unmapped(client, number))

    def _free_memory(self, told: ev.FreeMemory) -> None:
        self.memory.free(told.memory)
        weights = told.memory in self.memory.objects
        self.later(REAP if weights else 2 * MS, self._memory_gone, told.memory)

    def _memory_gone(self, number: int) -> None:
        self.memory.gone(number)
        self.do(ev.MemoryGone(number))

    def seals(self, process: Process) -> bool:
        """Whether nobody can write any more to the weights that a worker has filled."""
        good = self.rng.random() >= self.faults.seal
        if not good:
            self.injected("seal")
            process.excused = True
        return good

    def _give_weights(self, told: ev.GiveMemory) -> None:
        if told.memory not in self.memory.objects:
            raise BrokenError(f"weights that do not exist: {told}")
        self._process(told).weights = True

    def _record(self, told: ev.Record) -> None:
        self.counts[f"journal {told.kind}"] += 1
        self._carry[type(told.then)](told.then)
