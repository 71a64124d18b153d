"""The microkernel as a pure machine: ``handle(event, now)`` returns instructions.

There is no clock, no socket, no thread and no random number here, so that any run can be replayed
from its events. The tables of transitions stand in ``state``; who may change what, in the modules
that this one dispatches to. Time is an int of nanoseconds that never goes back.
"""

import heapq
from typing import Any

from clawai.kernel import leases, limits, tasks, workers
from clawai.kernel.events import (
    Borrowed,
    CancelAsked,
    ClientLeft,
    Commanded,
    Event,
    Instruction,
    Kill,
    Output,
    Reply,
    Returned,
    SegmentDropped,
    SegmentFailed,
    SegmentGone,
    ShutdownAsked,
    Submitted,
    Timer,
    WorkerAnswered,
    WorkerBroke,
    WorkerGone,
    WorkerReady,
    WorkerReserved,
    WorkerUnready,
)
from clawai.kernel.ledger import Ledger
from clawai.kernel.state import SEGMENT, State, step
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

FROM_WORKER = (
    WorkerReserved,
    WorkerReady,
    WorkerUnready,
    WorkerBroke,
    WorkerAnswered,
    Output,
    SegmentDropped,
)


class Core:
    """The whole state of the kernel and its only door."""

    def __init__(self, budget: int, idle_ns: int = 0) -> None:
        self.state = State(Ledger(budget), idle_ns)

    def handle(self, event: Event, now: int) -> list[Instruction]:
        """Take one event; return what is to be done, in order."""
        state = self.state
        state.now = max(now, state.now)
        state.out = []
        if isinstance(event, FROM_WORKER):
            self._from_worker(event)
        else:
            _HANDLERS[type(event)](self, event)
        workers.schedule(state)
        self._after()
        return state.out

    def _from_worker(self, event: Any) -> None:
        """A worker's word counts only while it lives, and a breach of the protocol ends it."""
        worker = self.state.workers.get(event.worker)
        if worker is None or (worker.error and worker.error.code == "bad_worker"):
            return
        try:
            _HANDLERS[type(event)](self, event)
        except ClawError as error:
            workers.broke(self.state, worker, f"{error.message}, got {error.got!r}")

    def _after(self) -> None:
        """Watch whoever is busy now, and note since when the others are idle."""
        state = self.state
        for worker in state.workers.values():
            if worker.state == "ready" and worker.running and not worker.pinged:
                worker.pinged = True
                worker.answered = state.now
                state.timer(state.now + limits.PING, "ping", worker.id)
            if worker.running:
                worker.idle_since = state.now

    def next_timer(self) -> int | None:
        """When ``Timer`` is due at the latest; None when nothing is planned."""
        return self.state.timers[0][0] if self.state.timers else None

    def _timer(self, event: Timer) -> None:
        state = self.state
        while state.timers and state.timers[0][0] <= state.now:
            _, _, action, subject = heapq.heappop(state.timers)
            _TIMERS[action](self, subject)

    def _deadline(self, number: int) -> None:
        if (task := self.state.tasks.get(number)) and task.state in ("queued", "running"):
            tasks.stop(self.state, task, "expire", "the deadline passed before the task had ended")

    def _grace(self, number: int) -> None:
        task = self.state.tasks.get(number)
        if task and task.state in ("cancelling", "expiring"):
            workers.kill(self.state, self.state.workers[task.worker], "it did not let go of a task")

    def _tick(self, _: int) -> None:
        tasks.tick(self.state)

    def _wake(self, _: int) -> None:
        """Only so that ``schedule`` looks again."""

    def _start_late(self, number: int) -> None:
        worker = self.state.workers.get(number)
        limit = limits.START if worker and worker.state == "starting" else limits.LOAD
        due = worker and self.state.now - worker.started >= limit
        if worker and due and worker.state in ("starting", "loading"):
            workers.too_slow(self.state, worker, limit)

    def _stop_late(self, number: int) -> None:
        worker = self.state.workers.get(number)
        if worker and worker.state == "stopping":
            self.state.out.append(Kill(number, worker.why))

    def _idle(self, number: int) -> None:
        worker = self.state.workers.get(number)
        if worker is None or worker.state != "ready":
            return
        due = worker.idle_since + self.state.idle_ns
        lent = any(segment.worker == number for segment in self.state.segments.values())
        if not worker.running and due <= self.state.now and not lent:
            workers.stop(self.state, worker, "idle")
        else:
            self.state.timer(max(due, self.state.now + limits.SECOND), "idle", number)

    def _ping(self, number: int) -> None:
        if worker := self.state.workers.get(number):
            workers.watch(self.state, worker)

    def _client_left(self, event: ClientLeft) -> None:
        tasks.client_left(self.state, event.client)
        leases.client_left(self.state, event.client)

    def _unload(self, event: Commanded) -> None:
        """Stop what runs under a name; its tasks are told that the owner stopped it."""
        state = self.state
        stopped = []
        for (plugin, model, _), service in state.services.items():
            if event.name not in (plugin, model):
                continue
            error = ClawError("cancelled", f"{event.name} was stopped by its owner")
            waiting = len(service.queue)
            workers.fail_waiting(state, service, error)
            service.quarantined_until = service.retry_at = 0
            service.deaths.clear()
            if service.worker:
                stopped.append({"plugin": plugin, "model": model, "waiting": waiting})
                for task in list(service.worker.running.values()):
                    tasks.stop(state, task, "cancel", error.message)
                workers.stop(state, service.worker, "the owner stopped it")
        answer = wire.Answer(id=event.request, data=wire.pack({"stopped": stopped}))
        state.out.append(Reply(event.client, answer))

    def _shutdown(self, event: ShutdownAsked) -> None:
        state = self.state
        state.stopping = True
        error = ClawError("kernel_stopped", "the kernel is stopping")
        for service in state.services.values():
            workers.fail_waiting(state, service, error)
        for worker in list(state.workers.values()):
            worker.error = error
            state.out.append(Kill(worker.id, "the kernel stops"))

    def _answered(self, event: WorkerAnswered) -> None:
        self.state.workers[event.worker].answered = self.state.now

    def _broke(self, event: WorkerBroke) -> None:
        workers.broke(self.state, self.state.workers[event.worker], event.why)

    def _segment_failed(self, event: SegmentFailed) -> None:
        segment = self.state.segments.pop(event.segment)
        step(SEGMENT, segment, "failed")
        self.state.ledger.release(("segment", event.segment))

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every event."""
        state = self.state
        state.ledger.check()
        holders = {("worker", number) for number in state.workers}
        holders |= {("segment", number) for number in state.segments}
        assert set(state.ledger.holders) <= holders, "somebody who is gone holds memory"
        for task in state.tasks.values():
            service = state.services[task.asked.spec.key]
            queued = task.id in service.queue
            worker = state.workers.get(task.worker)
            runs = worker is not None and worker.running.get(task.slot) is task
            assert queued == (task.state == "queued"), f"{task} is lost"
            assert runs == (task.state in ("running", "cancelling", "expiring")), f"{task} is lost"
        assert len(state.tasks) == len(state.requests), "a request without a task"
        assert state.payload == sum(task.asked.payload for task in state.tasks.values())
        assert all(len(worker.running) <= worker.slots for worker in state.workers.values())


_HANDLERS: dict[type, Any] = {
    Submitted: lambda core, event: tasks.submitted(core.state, event),
    CancelAsked: lambda core, event: tasks.cancel_asked(core.state, event),
    ClientLeft: Core._client_left,
    Borrowed: lambda core, event: leases.borrowed(core.state, event),
    Returned: lambda core, event: leases.returned(core.state, event),
    Commanded: Core._unload,
    ShutdownAsked: Core._shutdown,
    WorkerReserved: lambda core, event: workers.reserved(core.state, event),
    WorkerReady: lambda core, event: workers.ready(core.state, event),
    WorkerUnready: lambda core, event: workers.unready(core.state, event),
    WorkerGone: lambda core, event: workers.gone(core.state, event.worker, event.why),
    WorkerBroke: Core._broke,
    WorkerAnswered: Core._answered,
    Output: lambda core, event: tasks.output(core.state, event),
    SegmentDropped: lambda core, event: leases.dropped(core.state, event),
    SegmentGone: lambda core, event: leases.freed(core.state, event.segment),
    SegmentFailed: Core._segment_failed,
    Timer: Core._timer,
}
_TIMERS: dict[str, Any] = {
    "deadline": Core._deadline,
    "grace": Core._grace,
    "tick": Core._tick,
    "wake": Core._wake,
    "start": Core._start_late,
    "stop": Core._stop_late,
    "idle": Core._idle,
    "ping": Core._ping,
}
