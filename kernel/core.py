"""The microkernel as a pure machine: ``handle(event, now)`` returns instructions.

There is no clock, no socket, no thread and no random number here, so that any run can be replayed
from its events. The tables of transitions stand in ``state``; who may change what, in the modules
that this one dispatches to. Time is an int of nanoseconds that never goes back.
"""

import heapq
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import grants, leases, limits, tasks, weights, workers
from clawai.kernel.ledger import Ledger
from clawai.kernel.state import Service, State
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

RUNGS = frozenset((0, 1, 2, 3, 4))


class Core:
    """The whole state of the kernel and its only door.

    Args:
        budget: bytes that may be handed out.
        idle_ns: how long a worker stays without work; 0: for ever.
        cores: processors that running workers share.
        rungs: of the preemption ladder, those in use.
        hung_ns: a busy worker that answers no ping for so long is ended.
        most_tasks: that may wait or run at a time.
    """

    def __init__(
        self,
        budget: int,
        idle_ns: int = 0,
        cores: int = 2,
        rungs: frozenset[int] = RUNGS,
        hung_ns: int = limits.HUNG,
        most_tasks: int = limits.TASKS,
    ) -> None:
        self.state = State(Ledger(budget), idle_ns, cores, rungs, hung_ns, most_tasks)

    def handle(self, event: ev.Event, now: int) -> list[ev.Instruction]:
        """Take one event; return what is to be done, in order."""
        state = self.state
        state.now = max(now, state.now)
        state.out = []
        kind = type(event)
        if kind in _FROM_WORKER:
            self._from_worker(_FROM_WORKER[kind], event)
        else:
            _HANDLERS[kind](state, event)
        workers.schedule(state)
        if state.redivide:
            grants.divide(state)
        return state.out

    def _from_worker(self, handler: Any, event: Any) -> None:
        """A worker's word counts only while it lives, and a breach of the protocol ends it."""
        worker = self.state.workers.get(event.worker)
        if worker is None or (worker.error and worker.error.code == "bad_worker"):
            return
        try:
            handler(self.state, event)
        except ClawError as error:
            workers.broke(self.state, worker, f"{error.message}, got {error.got!r}")

    def next_timer(self) -> int | None:
        """When ``Timer`` is due at the latest; None when nothing is planned."""
        return self.state.timers[0][0] if self.state.timers else None

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every event."""
        state = self.state
        state.ledger.check()
        holders = {("worker", number) for number in state.workers}
        holders |= {("segment", number) for number in state.segments}
        holders |= {("weights", number) for number in state.weights}
        assert set(state.ledger.holders) <= holders, "somebody who is gone holds memory"
        for task in state.tasks.values():
            service = state.services[task.asked.spec.key]
            worker = state.workers.get(task.worker)
            batch = worker.running.get(task.slot, {}) if worker else {}
            running = task.state in ("running", "cancelling", "expiring")
            assert (task.id in service.queue) == (task.state == "queued"), f"{task} is lost"
            assert (batch.get(task.id) is task) == running, f"{task} is lost"
        owned = sum(len(mine) for mine in state.requests.values())
        assert len(state.tasks) == owned, "a request without a task"
        assert state.payload == sum(task.asked.payload for task in state.tasks.values())
        for worker in state.workers.values():
            assert len(worker.running) <= worker.slots
            assert worker.service.worker is worker
        for held in state.weights.values():
            assert all(user.weights is held for user in held.users.values())


def _timer(state: State, event: ev.Timer) -> None:
    while state.timers and state.timers[0][0] <= state.now:
        _, _, action, subject = heapq.heappop(state.timers)
        _TIMERS[action](state, subject)


def _deadline(state: State, number: int) -> None:
    task = state.tasks.get(number)
    if task and task.deadline is not None and task.deadline <= state.now:
        worker = state.workers.get(task.worker)
        if task.state in ("queued", "running") and not (worker and worker.suspended):
            tasks.stop(state, task, "expire", "the deadline passed before the task had ended")


def _grace(state: State, number: int) -> None:
    task = state.tasks.get(number)
    if task and task.grace and task.grace <= state.now and task.state in ("cancelling", "expiring"):
        worker = state.workers[task.worker]
        if not worker.suspended:
            workers.kill(state, worker, "it did not let go of a task")


def _wake(state: State, key: Any) -> None:
    if service := state.services.get(key):
        state.dirty[key] = service


def _start_late(state: State, number: int) -> None:
    worker = state.workers.get(number)
    if worker and worker.state in ("starting", "loading") and worker.due <= state.now:
        workers.too_slow(state, worker)


def _stop_late(state: State, number: int) -> None:
    worker = state.workers.get(number)
    if worker and worker.state == "stopping" and worker.due <= state.now:
        state.out.append(ev.Kill(number, worker.why))


def _idle(state: State, number: int) -> None:
    worker = state.workers.get(number)
    if worker is None or worker.state != "ready":
        return
    keep = worker.service.keep_ns
    stay = state.idle_ns if keep is None else keep
    due = worker.idle_since + stay
    kept = worker.service.pinned or worker.suspended or (keep is None and not state.idle_ns)
    if due <= state.now and not kept and not workers.in_use(state, worker):
        workers.stop(state, worker, "idle")
    else:
        state.timer(max(due, state.now + limits.SECOND), "idle", number)


def _ping(state: State, number: int) -> None:
    if worker := state.workers.get(number):
        workers.watch(state, worker)


def _held(state: State, number: int) -> None:
    if worker := state.workers.get(number):
        grants.held(state, worker)


def _client_left(state: State, event: ev.ClientLeft) -> None:
    tasks.client_left(state, event.client)
    leases.client_left(state, event.client)


def _commanded(state: State, event: ev.Commanded) -> None:
    """Do what the owner says to all that runs under a name."""
    found = []
    for (plugin, model, lane), service in state.services.items():
        if event.name not in (plugin, model):
            continue
        worker, waiting = service.worker, len(service.queue)
        if event.command in ("pin", "unpin"):
            service.pinned = event.command == "pin"
        elif event.command in ("suspend", "resume"):
            service.held = event.command == "suspend"
            if worker:
                (grants.suspend if service.held else grants.resume)(state, worker)
        else:
            _unload(state, service, event.name)
        if worker or event.command in ("pin", "unpin"):
            found.append({"plugin": plugin, "model": model, "lane": lane, "waiting": waiting})
    if event.command == "unload":
        weights.drop_unused(state, state.ledger.budget)
    told = "stopped" if event.command == "unload" else "changed"
    answer = wire.Answer(id=event.request, data=wire.pack({told: found}))
    state.out.append(ev.Reply(event.client, answer))


def _unload(state: State, service: Service, name: str) -> None:
    """Stop what runs; its tasks are told that the owner stopped it."""
    error = ClawError("cancelled", f"{name} was stopped by its owner")
    workers.fail_waiting(state, service, error)
    service.quarantined_until = service.retry_at = service.quarantines = 0
    service.deaths.clear()
    service.pinned = service.held = False
    if service.worker:
        for task in service.worker.tasks():
            tasks.stop(state, task, "cancel", error.message)
        workers.stop(state, service.worker, "the owner stopped it")


def _shutdown(state: State, event: ev.ShutdownAsked) -> None:
    state.stopping = True
    error = ClawError("kernel_stopped", "the kernel is stopping")
    for service in state.services.values():
        workers.fail_waiting(state, service, error)
    for worker in list(state.workers.values()):
        worker.error = error
        state.out.append(ev.Kill(worker.id, "the kernel stops"))


def _answered(state: State, event: ev.WorkerAnswered) -> None:
    state.workers[event.worker].missed = 0


def _broke(state: State, event: ev.WorkerBroke) -> None:
    workers.broke(state, state.workers[event.worker], event.why)


def _sealed(state: State, event: ev.WeightsSealed) -> None:
    if error := weights.sealed(state, event):
        raise error


def _pressure(state: State, event: ev.Pressure) -> None:
    grants.pressure(state, event)
    if state.ledger.free < 0:
        workers.make_room(state, 0, None)


_HANDLERS: dict[type, Any] = {
    ev.Submitted: tasks.submitted,
    ev.CancelAsked: tasks.cancel_asked,
    ev.ClientLeft: _client_left,
    ev.Borrowed: leases.borrowed,
    ev.Returned: leases.returned,
    ev.Commanded: _commanded,
    ev.ShutdownAsked: _shutdown,
    ev.WorkerGone: workers.gone,
    ev.WeightsGone: weights.freed,
    ev.Pressure: _pressure,
    ev.SegmentGone: leases.freed,
    ev.SegmentFailed: leases.failed,
    ev.Unmapped: leases.unmapped,
    ev.Timer: _timer,
}
_FROM_WORKER: dict[type, Any] = {
    ev.WorkerReserved: workers.reserved,
    ev.WorkerFilled: weights.filled,
    ev.WeightsSealed: _sealed,
    ev.WorkerReady: workers.ready,
    ev.WorkerUnready: workers.unready,
    ev.WorkerYielded: tasks.yielded,
    ev.WorkerBroke: _broke,
    ev.WorkerAnswered: _answered,
    ev.Output: tasks.output,
    ev.SegmentDropped: leases.dropped,
}
_TIMERS: dict[str, Any] = {
    "deadline": _deadline,
    "grace": _grace,
    "tick": lambda state, _: tasks.tick(state),
    "turn": lambda state, _: grants.turn(state),
    "wake": _wake,
    "start": _start_late,
    "stop": _stop_late,
    "idle": _idle,
    "ping": _ping,
    "held": _held,
}
