"""The microkernel as a pure machine: ``handle(event, now)`` returns instructions.

There is no clock, no socket, no thread and no random number here, so that any run can be replayed
from its events. The tables of transitions stand in ``state``; who may change what, in the modules
that this one dispatches to. Time is an int of nanoseconds that never goes back.
"""

import heapq
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import grants, leases, limits, shared, tasks, weights, workers
from clawai.kernel.ledger import Ledger
from clawai.kernel.state import BreachError, Service, State, Task, Worker
from clawai.sdk import wire

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
        if worker is None or worker.broke:
            return
        try:
            handler(self.state, event)
        except BreachError as breach:
            workers.broke(self.state, worker, str(breach))

    def next_timer(self) -> int | None:
        """When ``Timer`` is due at the latest; None when nothing is planned."""
        return self.state.timers[0][0] if self.state.timers else None


def _timer(state: State, event: ev.Timer) -> None:
    while state.timers and state.timers[0][0] <= state.now:
        _, _, action, subject = heapq.heappop(state.timers)
        of, handler = _TIMERS[action]
        if of is None:
            handler(state)
        elif (thing := getattr(state, of).get(subject)) is not None:
            handler(state, thing)


def _grace(state: State, task: Task) -> None:
    if task.grace and task.grace <= state.now and task.state in ("cancelling", "expiring"):
        worker = state.workers[task.worker]
        if not worker.suspended:
            workers.kill(state, worker, "it did not let go of a task")


def _wake(state: State, service: Service) -> None:
    state.dirty[service.key] = service


def _start_late(state: State, worker: Worker) -> None:
    if worker.state in ("starting", "loading") and worker.due <= state.now:
        workers.too_slow(state, worker)


def _stop_late(state: State, worker: Worker) -> None:
    if worker.state == "stopping" and worker.due <= state.now:
        state.out.append(ev.Kill(worker.id, worker.why))


def _idle(state: State, worker: Worker) -> None:
    if worker.state != "ready":
        return
    keep = worker.service.keep_ns
    due = worker.idle_since + (state.idle_ns if keep is None else keep)
    kept = worker.service.pinned or worker.suspended or (keep is None and not state.idle_ns)
    if due <= state.now and not kept and not workers.in_use(state, worker):
        workers.stop(state, worker, "idle")
    else:
        state.timer(max(due, state.now + limits.SECOND), "idle", worker.id)


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
        shared.reclaim(state, state.ledger.budget, client=0)
    told = "stopped" if event.command == "unload" else "changed"
    answer = wire.Answer(id=event.request, data=wire.pack({told: found}))
    state.out.append(ev.Reply(event.client, answer))


def _unload(state: State, service: Service, name: str) -> None:
    """Stop what runs; its tasks are told that the owner stopped it."""
    fault = ev.Fault("stopped", name)
    workers.fail_waiting(state, service, fault)
    service.quarantined_until = service.retry_at = service.quarantines = 0
    service.deaths.clear()
    service.pinned = service.held = False
    if service.worker:
        for task in service.worker.tasks():
            tasks.stop(state, task, "cancel", fault)
        workers.stop(state, service.worker, "the owner stopped it")


def _shutdown(state: State, event: ev.ShutdownAsked) -> None:
    state.stopping = True
    fault = ev.Fault("kernel_stopped")
    for service in state.services.values():
        workers.fail_waiting(state, service, fault)
    for worker in list(state.workers.values()):
        worker.fault = fault
        state.out.append(ev.Kill(worker.id, "the kernel stops"))


def _answered(state: State, event: ev.WorkerAnswered) -> None:
    state.workers[event.worker].missed = 0


def _broke(state: State, event: ev.WorkerBroke) -> None:
    workers.broke(state, state.workers[event.worker], event.why)


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
    ev.Pressure: _pressure,
    ev.MemoryGone: shared.gone,
    ev.Unmapped: shared.unmapped,
    ev.Timer: _timer,
}
_FROM_WORKER: dict[type, Any] = {
    ev.WorkerReserved: workers.reserved,
    ev.WorkerFilled: weights.filled,
    ev.WorkerReady: workers.ready,
    ev.WorkerUnready: workers.unready,
    ev.WorkerBroke: _broke,
    ev.WorkerAnswered: _answered,
    ev.Output: tasks.output,
    ev.WorkerDropped: shared.dropped,
}
_TIMERS: dict[str, tuple[str | None, Any]] = {
    "deadline": ("tasks", tasks.deadline),
    "grace": ("tasks", _grace),
    "wake": ("services", _wake),
    "start": ("workers", _start_late),
    "stop": ("workers", _stop_late),
    "idle": ("workers", _idle),
    "ping": ("workers", workers.watch),
    "held": ("workers", grants.held),
    "turn": (None, grants.turn),
}
"""Of what each is (a table of ``State``), and what then happens if it is still there."""
