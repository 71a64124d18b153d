"""The microkernel as a pure machine: ``handle(event, now)`` returns instructions.

There is no clock, no socket, no thread and no random number here, so that any run can be replayed
from its events. The tables of transitions stand in ``state``; who may change what, in the modules
that this one dispatches to. Time is an int of nanoseconds that never goes back.
"""

import heapq
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import grants, leases, shared, tasks, workers
from clawai.kernel.ledger import Ledger
from clawai.kernel.state import DEAF, BreachError, Service, State, Task
from clawai.sdk import wire


class Core:
    """The whole state of the kernel and its only door.

    Args:
        budget: bytes that may be handed out.
        settings, named: of the fields of ``State``, those from ``idle_ns`` to ``most_tasks``.
    """

    def __init__(self, budget: int, *settings: Any, **named: Any) -> None:
        self.state = State(Ledger(budget), *settings, **named)

    def handle(self, event: ev.Event, now: int) -> list[ev.Instruction]:
        """Take one event; return what is to be done, in order."""
        state = self.state
        state.now = max(now, state.now)
        state.out = []
        for each in event.events if type(event) is ev.Together else (event,):
            if handler := _HANDLERS.get(type(each)):
                handler(state, each)
            else:
                self._from_worker(each)
        workers.schedule(state)
        if state.redivide:
            grants.divide(state)
        return state.out

    def _from_worker(self, event: Any) -> None:
        """A worker's word counts until it is killed, and a breach of the protocol kills it."""
        worker = self.state.workers.get(event.worker)
        if worker is None or worker.state in DEAF:
            return
        try:
            _FROM_WORKER[type(event)](self.state, worker, event)
        except BreachError as breach:
            workers.broke(self.state, worker, ev.WorkerBroke(worker.id, str(breach)))

    def next_timer(self) -> int | None:
        """When ``Timer`` is due at the latest; None when nothing is planned."""
        return self.state.timers[0][0] if self.state.timers else None


def _timer(state: State, event: ev.Timer) -> None:
    state.redivide = True  # it may be the next one's turn
    while state.timers and state.timers[0][0] <= state.now:
        _, kind, number = heapq.heappop(state.timers)
        if (thing := getattr(state, kind).get(number)) is not None:
            _TIMERS[kind](state, thing)


def _overdue(state: State, task: Task) -> None:
    """A task has had its time, or that to let go of it; a suspended worker has no time."""
    worker = task.slot and task.slot.worker
    if task.deadline > state.now or (worker and worker.suspended):
        return
    if task.state in ("queued", "running"):
        tasks.stop(state, task, "expire", ev.Fault("deadline_passed"))
    elif worker:
        workers.kill(state, worker, "it did not let go of a task")


def _wake(state: State, service: Service) -> None:
    state.dirty[service.key] = service


def _commanded(state: State, event: ev.Commanded) -> None:
    """Do what the owner says to all that runs under a name."""
    unload, found = event.command == "unload", []
    for service in state.services.values():
        if event.name not in service.key[:2]:
            continue
        if service.worker or event.command in ("pin", "unpin"):
            plugin, model, lane = service.key
            row = {"plugin": plugin, "model": model, "lane": lane, "waiting": len(service.queue)}
            found.append(row)
        if unload:
            _unload(state, service, event.name)
        elif event.command in ("pin", "unpin"):
            service.pinned = event.command == "pin"
        else:
            service.held = event.command == "suspend"
            grants.suspend(state, service.worker)
    if unload:
        shared.reclaim(state, state.ledger.budget, client=0)
    data = wire.pack({"stopped" if unload else "changed": found})
    state.out.append(ev.Reply(event.client, wire.Answer(id=event.request, data=data)))


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
    for worker in state.workers.values():
        workers.kill(state, worker, "the kernel stops", fault)


_HANDLERS: dict[type, Any] = {
    ev.Submitted: tasks.submitted,
    ev.Taken: tasks.taken,
    ev.CancelAsked: tasks.cancel_asked,
    ev.ClientLeft: tasks.client_left,
    ev.Borrowed: leases.borrowed,
    ev.Returned: leases.returned,
    ev.Commanded: _commanded,
    ev.ShutdownAsked: _shutdown,
    ev.WorkerGone: workers.gone,
    ev.Pressure: workers.pressure,
    ev.MemoryGone: shared.gone,
    ev.MemorySpoiled: shared.spoiled,
    ev.Unmapped: shared.unmapped,
    ev.Timer: _timer,
}
_FROM_WORKER: dict[type, Any] = {
    ev.WorkerReserved: workers.reserved,
    ev.WorkerFilled: shared.filled,
    ev.WorkerReady: workers.ready,
    ev.WorkerUnready: workers.unready,
    ev.WorkerBroke: workers.broke,
    ev.WorkerAnswered: workers.answered,
    ev.WorkerWaited: workers.waited,
    ev.Output: tasks.output,
    ev.WorkerDropped: shared.dropped,
}
_TIMERS: dict[str, Any] = {
    "tasks": _overdue,
    "services": _wake,
    "workers": workers.look,
}
"""Of what a timer is (a table of ``State``), and what then happens."""
