"""Tasks: submit, cancel, expire, output, end. Every function changes ``State`` in place."""

from typing import Any

from clawai.kernel import limits
from clawai.kernel.events import (
    CancelAsked,
    Control,
    Output,
    Reply,
    Submitted,
    Tell,
)
from clawai.kernel.ledger import Ledger
from clawai.kernel.state import TASK, TASK_ENDS, Service, State, Task, Worker, step
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

TIMINGS = ("compute_us", "plugin_us")
"""What a worker may say of where the time went."""


def refuse(state: State, client: int, request: int, error: ClawError) -> None:
    """Answer a request that never became a task."""
    state.counts["refused"] = state.counts.get("refused", 0) + 1
    state.out.append(Reply(client, wire.error_message(error, request)))


def never_fits(ledger: Ledger, need: int, what: str) -> ClawError:
    """The honest answer to what no eviction can make room for."""
    return ClawError(
        "never_fits",
        f"{what} needs more memory than the whole budget",
        got=f"{need / limits.MIB:.0f} MiB",
        allowed=f"{ledger.budget / limits.MIB:.0f} MiB",
        hint="set memory.budget_mib (`claw config`), a smaller workers.context or a smaller model",
    )


def _objection(state: State, event: Submitted, service: Service | None) -> ClawError | None:
    mine = sum(1 for client, _ in state.requests if client == event.client)
    if state.stopping:
        return ClawError("kernel_stopped", "the kernel is stopping")
    if (event.client, event.request) in state.requests:
        return ClawError("bad_state", "this request id is in use", got=event.request)
    if event.deadline is not None and event.deadline <= state.now:
        return ClawError("deadline_passed", "the deadline had passed when the task arrived")
    if (
        mine >= limits.TASKS_PER_CLIENT
        or len(state.tasks) >= limits.TASKS
        or state.payload + event.payload > limits.PAYLOAD_TOTAL
    ):
        return ClawError(
            "queue_full",
            "the queue is full",
            got={"yours": mine, "all": len(state.tasks), "bytes": state.payload + event.payload},
            allowed={
                "yours": limits.TASKS_PER_CLIENT,
                "all": limits.TASKS,
                "bytes": limits.PAYLOAD_TOTAL,
            },
            hint="wait for an answer before sending more",
        )
    need = event.spec.base_bytes + event.spec.model_bytes
    if need > state.ledger.budget:
        return never_fits(state.ledger, need, event.spec.model or event.spec.plugin)
    if service and state.now < service.quarantined_until:
        return quarantined(state, service)
    return lease_objection(state, event, service.worker if service else None)


def quarantined(state: State, service: Service) -> ClawError:
    """The plugin died too often."""
    wait = max(1, -(-(service.quarantined_until - state.now) // limits.SECOND))
    return ClawError(
        "quarantined",
        f"{' '.join(filter(None, service.spec.key))} kept dying ({service.last_why})",
        hint=f"it may be started again in {wait} s; `claw logs` shows what it said",
    )


def lease_objection(state: State, event: Submitted, worker: Worker | None) -> ClawError | None:
    """Whether each lease is the client's, for this worker's incarnation, current and in bounds."""
    for lease in event.leases:
        segment = state.segments.get(lease.segment)
        if (
            segment is None
            or segment.state != "lent"
            or segment.client != event.client
            or worker is None
            or segment.worker != worker.id
            or segment.generation != lease.generation
            or lease.offset + lease.length > segment.size
        ):
            return ClawError(
                "no_lease",
                "the lease is not valid for this client and this worker",
                got={"segment": lease.segment, "generation": lease.generation},
                hint="borrow again: a lease ends with its client and with its worker",
            )
    return None


def submitted(state: State, event: Submitted) -> None:
    """Queue a task, or refuse it with the reason."""
    service = state.services.get(event.spec.key)
    if error := _objection(state, event, service):
        refuse(state, event.client, event.request, error)
        return
    if service is None:
        service = state.services[event.spec.key] = Service(event.spec)
    service.spec = event.spec
    task = Task(state.number("task"), event, state.now)
    step(TASK, task, "accept")
    state.tasks[task.id] = task
    state.requests[event.client, event.request] = task
    state.payload += event.payload
    position = len(service.queue)
    service.queue.push(task)
    state.out.append(
        Reply(event.client, wire.Accepted(id=event.request, task=task.id, position=position))
    )
    if event.deadline is not None:
        state.timer(event.deadline, "deadline", task.id)
    if not state.ticking:
        state.ticking = True
        state.timer(state.now + limits.TICK, "tick", 0)


def dispatch(state: State, service: Service, worker: Worker, task: Task) -> None:
    """Give a queued task to a free slot of a ready worker."""
    service.queue.remove(task)
    if error := lease_objection(state, task.asked, worker):
        end(state, task, "fail", wire.error_message(error))
        return
    step(TASK, task, "dispatch")
    task.worker = worker.id
    task.slot = next(slot for slot in range(worker.slots) if slot not in worker.running)
    task.attempts += 1
    task.dispatched = state.now
    task.load_ns = max(0, worker.ready_at - max(task.submitted, worker.started))
    worker.running[task.slot] = task
    asked = task.asked
    left = None if asked.deadline is None else max(1, (asked.deadline - state.now) // limits.MS)
    run = wire.Run(
        id=task.id,
        op=asked.op,
        params=asked.params,
        slot=task.slot,
        remaining_ms=left,
        priority=asked.priority,
        leases=asked.leases,
    )
    state.out += [Control(worker.id, task.slot, 0), Tell(worker.id, run, asked.body)]


def cancel_asked(state: State, event: CancelAsked) -> None:
    """The owner takes a request back. One that has ended already needs no answer."""
    if task := state.requests.get((event.client, event.request)):
        stop(state, task, "cancel", "the task was cancelled by its owner")


def client_left(state: State, client: int) -> None:
    """Nobody waits for these any more."""
    for owner, request in list(state.requests):
        if owner == client:
            stop(state, state.requests[owner, request], "cancel", "the client has left")


def stop(state: State, task: Task, happened: str, why: str) -> None:
    """End a task (``happened``: cancel or expire), at once or when its worker lets go of it."""
    if task.state == "queued":
        service = state.services[task.asked.spec.key]
        service.queue.remove(task)
        end(state, task, happened, _ending(happened, why))
    elif task.state == "running" or (task.state == "expiring" and happened == "cancel"):
        step(TASK, task, happened)
        task.why = why
        if happened == "expire":
            # The owner hears it now, however long the worker takes to stop.
            ending = _ending("expire", why)
            times = timings(state, task, ending)
            state.out.append(Reply(task.asked.client, _with(ending, task.asked.request, times)))
            task.told = True
        state.out += [
            Control(task.worker, task.slot, 1),
            Tell(task.worker, wire.Cancel(id=task.id)),
        ]
        state.timer(state.now + limits.CANCEL_GRACE, "grace", task.id)


def _ending(happened: str, why: str) -> wire.Error:
    code = "deadline_passed" if happened == "expire" else "cancelled"
    return wire.Error(code=code, message=why)


def end(
    state: State, task: Task, happened: str, message: wire.Message, frames: tuple[bytes, ...] = ()
) -> None:
    """The one way a task ends: out of every table, and its owner is told."""
    step(TASK, task, happened)
    if task.state not in TASK_ENDS:
        raise AssertionError(f"{happened!r} does not end {task!r}")
    asked = task.asked
    del state.tasks[task.id]
    del state.requests[asked.client, asked.request]
    state.payload -= asked.payload
    state.counts[task.state] = state.counts.get(task.state, 0) + 1
    if task.state == "cancelled" or task.state == "expired":
        ending = _ending("expire" if task.state == "expired" else "cancel", task.why)
        message = message if isinstance(message, wire.Error) and not task.why else ending
        frames = ()
    if not task.told:
        told = _with(message, asked.request, timings(state, task, message))
        state.out.append(Reply(asked.client, told, frames))


def _with(message: Any, request: int, times: dict[str, int]) -> wire.Message:
    """The message under the id of the request, with the kernel's view of the times."""
    if isinstance(message, wire.Done):
        return wire.Done(id=request, result=message.result, timings=times)
    return wire.Error(
        id=request,
        code=message.code,
        message=message.message,
        got=message.got,
        allowed=message.allowed,
        hint=message.hint,
        timings=times,
    )


def timings(state: State, task: Task, message: Any) -> dict[str, int]:
    """Where the time went, in microseconds; a worker's own figures are cut to what is possible."""
    started = task.dispatched or state.now
    total = (state.now - started) // 1000
    times = {
        "queue_us": max(0, started - task.submitted - task.load_ns) // 1000,
        "load_us": task.load_ns // 1000,
    }
    left = total
    for key in TIMINGS:
        times[key] = min(left, max(0, getattr(message, "timings", {}).get(key, 0)))
        left -= times[key]
    times["wire_us"] = left
    return times


def output(state: State, event: Output) -> None:
    """A worker's word on a task; what it may not say is a breach of the protocol."""
    message = event.message
    task = state.tasks.get(message.id) if message.id is not None else None
    worker = state.workers[event.worker]
    if task is None or task.worker != worker.id or worker.running.get(task.slot) is not task:
        raise ClawError("bad_worker", "a message about a task that it does not run", message.id)
    if isinstance(message, wire.Done | wire.Error):
        del worker.running[task.slot]
        if isinstance(message, wire.Done):
            end(state, task, "finish", message, event.frames)
        else:
            end(state, task, "fail", wire.error_message(wire.error_from(message)))
    elif task.state == "running":
        request = task.asked.request
        if isinstance(message, wire.Chunk):
            task.streamed = True
            told: wire.Message = wire.Chunk(id=request, data=message.data)
        else:
            told = wire.Progress(
                id=request, state="running", fraction=message.fraction, note=message.note
            )
        state.out.append(Reply(task.asked.client, told, event.frames))


def tick(state: State) -> None:
    """Tell every owner, once a second, that its task lives and where it stands."""
    state.ticking = bool(state.tasks)
    if not state.ticking:
        return
    state.timer(state.now + limits.TICK, "tick", 0)
    for service in state.services.values():
        worker = service.worker
        loading = worker is not None and worker.state in ("starting", "waiting", "loading")
        for position, task in enumerate(service.queue.ordered(state.now)):
            asked = task.asked
            told = wire.Progress(
                id=asked.request, state="loading" if loading else "queued", position=position
            )
            state.out.append(Reply(asked.client, told))
    for task in state.tasks.values():
        if task.state == "running":
            told = wire.Progress(id=task.asked.request, state="running")
            state.out.append(Reply(task.asked.client, told))
