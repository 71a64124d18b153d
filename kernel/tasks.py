"""Tasks: submit, cancel, expire, output, end. Every function changes ``State`` in place."""

from typing import Any

import msgspec

from clawai.kernel import costs, leases, limits
from clawai.kernel import events as ev
from clawai.kernel.ledger import Ledger
from clawai.kernel.queue import RANK
from clawai.kernel.state import TASK, TASK_ENDS, Service, State, Task, Worker, step
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

TIMINGS = ("compute_us", "plugin_us")
"""What a worker may say of where the time went."""


def refuse(state: State, client: int, request: int, error: ClawError) -> None:
    """Answer a request that never became a task."""
    state.counts["refused"] = state.counts.get("refused", 0) + 1
    state.out.append(ev.Reply(client, wire.error_message(error, request)))


def never_fits(ledger: Ledger, need: int, what: str) -> ClawError:
    """The honest answer to what no eviction can make room for."""
    return ClawError(
        "never_fits",
        f"{what} needs more memory than the whole budget",
        got=f"{need / limits.MIB:.0f} MiB",
        allowed=f"{ledger.budget / limits.MIB:.0f} MiB",
        hint="set memory.budget_mib (`claw config`), a smaller workers.context or a smaller model",
    )


def quarantined(state: State, service: Service) -> ClawError:
    """The plugin died too often."""
    wait = max(1, -(-(service.quarantined_until - state.now) // limits.SECOND))
    text = f"{service.title} kept dying ({service.last_why})"
    hint = f"it may be started again in {wait} s; `claw logs` shows what it said"
    return ClawError("quarantined", text, hint=hint, retry_after_ms=1000 * wait)


# Admission.


def cost_key(asked: ev.Submitted) -> costs.Key:
    """What tasks that cost the same have in common."""
    size = asked.payload + sum(lease.length for lease in asked.leases)
    return asked.op, asked.spec.model, size.bit_length()


def wait_ns(state: State, service: Service, rank: int) -> int:
    """How long a task of a class would wait now, by what those before it have taken."""
    ahead = service.queue.ahead(rank)[1]
    worker = service.worker
    slots, load = service.spec.slots, 0
    if worker is None or worker.state != "ready":
        load = state.costs.p50(("", service.title, 0))
        load -= min(load, state.now - worker.started) if worker else 0
    elif len(worker.running) >= (slots := worker.slots):
        for task in worker.tasks():
            ahead += max(0, task.cost - (state.now - task.dispatched))
    return load + ahead // (slots * max(1, service.batching.expected))


def _objection(state: State, event: ev.Submitted, service: Service | None) -> ClawError | None:
    mine = state.requests.get(event.client, {})
    if state.stopping:
        return ClawError("kernel_stopped", "the kernel is stopping")
    if event.request in mine:
        return ClawError("bad_state", "this request id is in use", got=event.request)
    if event.deadline is not None and event.deadline <= state.now:
        return ClawError("deadline_passed", "the deadline had passed when the task arrived")
    if event.job and event.leases:
        return ClawError("bad_params", "a durable task cannot use leases", hint="send frames")
    if len(mine) >= limits.TASKS_PER_CLIENT and event.client:
        return _full(state, event, len(mine))
    if (need := event.spec.base_bytes + event.spec.model_bytes) > state.ledger.budget:
        return never_fits(state.ledger, need, event.spec.model or event.spec.plugin)
    if service and state.now < service.quarantined_until:
        return quarantined(state, service)
    worker = service.worker if service else None
    return leases.objection(state, event, worker) if event.leases else None


def _full(state: State, event: ev.Submitted, mine: int) -> ClawError:
    names = ("yours", "all", "bytes")
    got = (mine, len(state.tasks), state.payload + event.payload)
    most = (limits.TASKS_PER_CLIENT, state.most_tasks, limits.PAYLOAD_TOTAL)
    hint, retry = "wait for an answer before sending more", limits.RETRY // limits.MS
    allowed = dict(zip(names, most, strict=True))
    got_now = dict(zip(names, got, strict=True))
    return ClawError("queue_full", "the queue is full", got_now, allowed, hint, retry)


def _unreachable(state: State, event: ev.Submitted, wait: int, cost: int) -> ClawError | None:
    """Refuse at once what would only fail later."""
    if event.deadline is None or not cost or state.now + wait + cost <= event.deadline:
        return None
    takes = f"{(wait + cost) // limits.MS} ms"
    text = f"{event.op} would end in about {takes}"
    got = f"{(event.deadline - state.now) // limits.MS} ms"
    hint, retry = "allow more time, or a higher priority class", wait // limits.MS
    return ClawError("deadline_unreachable", text, got, takes, hint, retry)


def _shed(state: State, event: ev.Submitted, rank: int) -> bool:
    """While everything is full, give up the last of the lowest class; False if there is none."""
    while (
        len(state.tasks) >= state.most_tasks or state.payload + event.payload > limits.PAYLOAD_TOTAL
    ):
        lower = [t for t in state.tasks.values() if t.state == "queued" and t.rank > rank]
        if not lower:
            return False
        victim = max(lower, key=lambda task: (task.rank, task.submitted, task.id))
        text, retry = f"given up for a {event.priority} task", limits.RETRY // limits.MS
        error = ClawError("overloaded", text, hint="send it again", retry_after_ms=retry)
        state.services[victim.asked.spec.key].queue.remove(victim)
        end(state, victim, "fail", wire.error_message(error))
    return True


def submitted(state: State, event: ev.Submitted) -> None:
    """Queue a task, or refuse it with the reason."""
    if event.leases and (segment := state.segments.get(event.leases[0].segment)):
        sharer = state.workers.get(segment.worker)
        if sharer and sharer.spec.key[:2] == event.spec.key[:2]:
            # The worker that shares the memory, whatever lane the task's class would have chosen.
            event = msgspec.structs.replace(event, spec=sharer.service.spec)
    rank = RANK[event.priority] if 0 in state.rungs else 0
    service = state.services.get(event.spec.key)
    cost = state.costs.p50(key := cost_key(event))
    wait = wait_ns(state, service, rank) if service and cost else 0
    error = _objection(state, event, service) or _unreachable(state, event, wait, cost)
    if not error and not _shed(state, event, rank):
        error = _full(state, event, len(state.requests.get(event.client, {})))
    if error:
        refuse(state, event.client, event.request, error)
        return
    service = state.service(event.spec)
    service.spec = event.spec
    task = Task(state.number("task"), event, state.now, rank, event.deadline, key, cost)
    step(TASK, task, "accept")
    state.tasks[task.id] = task
    state.requests.setdefault(event.client, {})[event.request] = task
    state.payload += event.payload
    task.position = service.queue.ahead(rank)[0]
    service.queue.push(task)
    service.batching.arrived(state.now)
    place, estimate = task.position, wait // limits.MS if cost else None
    accepted = wire.Accepted(
        id=event.request, task=task.id, position=place, estimate_ms=estimate, job=event.job
    )
    reply = ev.Reply(event.client, accepted)
    if event.job and event.client:  # one that came back after a restart is in the journal
        state.out.append(ev.Record("accept", event.job, task.id, event, (reply,)))
    else:
        state.out.append(reply)
    if event.deadline is not None:
        state.timer(event.deadline, "deadline", task.id)
    if not state.ticking:
        state.ticking = True
        state.timer(state.now + limits.TICK, "tick")


# Running.


def refresh(state: State, worker: Worker, slot: int) -> None:
    """Write the control word of a slot, if it is to be another."""
    command = wire.HOLD if worker.threads < 0 else wire.GO
    batch = worker.running[slot].values()
    if not [task for task in batch if task.state == "running"]:
        command = wire.STOP
    elif [task for task in batch if task.yielding]:
        command = wire.YIELD
    word = command | max(0, worker.threads) << 8
    if worker.words.get(slot, 0) != word:
        worker.words[slot] = word
        state.out.append(ev.Control(worker.id, slot, word))


def dispatch(state: State, worker: Worker, slot: int, batch: list[Task]) -> bool:
    """Give tasks that were taken from the queue to a free slot; more than one run as a batch.

    False: none of them could run any more.
    """
    good = []
    for task in batch:
        if task.asked.leases and (error := leases.objection(state, task.asked, worker)):
            end(state, task, "fail", wire.error_message(error))
            continue
        step(TASK, task, "dispatch")
        if task.asked.leases:
            leases.pin(state, task.asked.leases, 1)
        task.worker, task.slot = worker.id, slot
        task.attempts += 1
        task.dispatched = state.now
        task.load_ns = max(0, worker.ready_at - max(task.submitted, worker.started))
        good.append(task)
    if not good:
        return False
    worker.running[slot] = {task.id: task for task in good}
    worker.sizes[slot] = len(good)
    worker.rank = min(task.rank for task in good)
    state.computes(worker, 1)
    if not worker.pinged:
        worker.pinged, worker.missed = True, 0
        state.timer(state.now + state.hung_ns // limits.MISSED, "ping", worker.id)
    refresh(state, worker, slot)
    told: tuple[ev.Instruction, ...] = (_run(state, worker, slot, good),)
    for task in good:
        if task.asked.job:  # it must be known to have begun before it begins
            told = (ev.Record("start", task.asked.job, task.id, task.asked, told),)
    state.out += told
    return True


def _run(state: State, worker: Worker, slot: int, batch: list[Task]) -> ev.Tell:
    """What a worker is told of the tasks that it is to run, with their payload."""
    asked = batch[0].asked
    if len(batch) == 1:
        message: wire.Message = wire.Run(
            id=batch[0].id,
            op=asked.op,
            params=asked.params,
            slot=slot,
            remaining_ms=_left(state, batch[0]),
            priority=asked.priority,
            leases=asked.leases,
        )
        return ev.Tell(worker.id, message, asked.body)
    items = [
        wire.BatchItem(
            id=task.id,
            params=task.asked.params,
            frames=task.asked.frames,
            remaining_ms=_left(state, task),
            priority=task.asked.priority,
            leases=task.asked.leases,
        )
        for task in batch
    ]
    body = tuple(frame for task in batch for frame in task.asked.body or ())
    return ev.Tell(worker.id, wire.Batch(op=asked.op, slot=slot, items=tuple(items)), body)


def _left(state: State, task: Task) -> int | None:
    if task.deadline is None:
        return None
    return max(1, (task.deadline - state.now) // limits.MS)


def let_go(state: State, worker: Worker, task: Task) -> None:
    """A worker no longer runs a task."""
    batch = worker.running[task.slot]
    del batch[task.id]
    if task.asked.leases:
        leases.pin(state, task.asked.leases, -1)
    service = worker.service
    state.dirty[service.spec.key] = service
    if batch:
        return
    size, took = worker.sizes.pop(task.slot), state.now - task.dispatched
    del worker.running[task.slot]
    if task.asked.batch > 1:
        waiting = len(service.queue)
        service.batching.ended(size, took, waiting, task.asked.batch, state.now)
    state.computes(worker, -1)
    worker.idle_since = state.now
    state.ledger.freed = True  # it may be evicted now
    if worker.service.keep_ns != task.asked.keep_ns is not None:
        worker.service.keep_ns = task.asked.keep_ns
        state.timer(state.now + task.asked.keep_ns, "idle", worker.id)


def output(state: State, event: ev.Output) -> None:
    """A worker's word on a task; what it may not say is a breach of the protocol."""
    message = event.message
    worker = state.workers[event.worker]
    task = running(state, worker, message.id)
    if isinstance(message, wire.Done | wire.Error):
        let_go(state, worker, task)
        worker.service.deaths.clear()
        worker.service.quarantines = 0
        if isinstance(message, wire.Done):
            state.costs.learn(task.key, state.now - task.dispatched)
            end(state, task, "finish", message, event.frames)
        else:
            end(state, task, "fail", wire.error_message(wire.error_from(message)))
    elif task.state == "running":
        request = task.asked.request
        if isinstance(message, wire.Chunk):
            task.streamed = True
            told: wire.Message = wire.Chunk(id=request, data=message.data)
        else:
            done, note = message.fraction, message.note
            told = wire.Progress(id=request, state="running", fraction=done, note=note)
        state.out.append(ev.Reply(task.asked.client, told, event.frames))


def running(state: State, worker: Worker, number: int | None) -> Task:
    """The task of a number that a worker runs.

    Raises:
        ClawError: bad_worker.
    """
    task = state.tasks.get(number) if number is not None else None
    if task is None or task.id not in worker.running.get(task.slot, ()) or task.worker != worker.id:
        raise ClawError("bad_worker", "a message about a task that it does not run", number)
    return task


def yielded(state: State, event: ev.WorkerYielded) -> None:
    """A worker gave a task back, which it may only when asked; it runs again later."""
    worker = state.workers[event.worker]
    task = running(state, worker, event.task)
    if not task.yielding or task.streamed:
        raise ClawError("bad_worker", "gave a task back that it was to finish", event.task)
    let_go(state, worker, task)
    task.yielding = False
    if task.state != "running":
        end(state, task, "fail", ending("cancel", task.why))
        return
    requeue(state, worker.service, task)
    task.attempts -= 1


def requeue(state: State, service: Service, task: Task) -> None:
    """Back to the queue, at its old place."""
    step(TASK, task, "requeue")
    task.worker = 0
    service.queue.push(task, state.now)
    state.dirty[service.spec.key] = service


# Ends.


def cancel_asked(state: State, event: ev.CancelAsked) -> None:
    """The owner takes a request back. One that has ended already needs no answer."""
    if task := state.requests.get(event.client, {}).get(event.request):
        stop(state, task, "cancel", "the task was cancelled by its owner")


def client_left(state: State, client: int) -> None:
    """Nobody waits for these any more, but the durable ones."""
    for task in list(state.requests.get(client, {}).values()):
        if not task.asked.job:
            stop(state, task, "cancel", "the client has left")


def stop(state: State, task: Task, happened: str, why: str) -> None:
    """End a task (``happened``: cancel or expire), at once or when its worker lets go of it."""
    if task.state == "queued":
        state.services[task.asked.spec.key].queue.remove(task)
        end(state, task, happened, ending(happened, why))
    elif task.state == "running" or (task.state == "expiring" and happened == "cancel"):
        step(TASK, task, happened)
        task.why = why
        worker = state.workers[task.worker]
        batch = worker.running[task.slot].values()
        if (happened == "expire" or worker.suspended or len(batch) > 1) and not task.told:
            # The owner hears it now, however long the worker takes to stop.
            _tell_end(state, task, ending(happened, why), ())
        refresh(state, worker, task.slot)
        state.out.append(ev.Tell(task.worker, wire.Cancel(id=task.id)))
        if all(each.state != "running" for each in batch):  # a batch ends as a whole
            task.grace = state.now + limits.CANCEL_GRACE
            state.timer(task.grace, "grace", task.id)


def ending(happened: str, why: str) -> wire.Error:
    """What an owner is told of a task that was cancelled or has expired."""
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
    mine = state.requests[asked.client]
    del mine[asked.request]
    if not mine:
        del state.requests[asked.client]
    state.payload -= asked.payload
    state.counts[task.state] = state.counts.get(task.state, 0) + 1
    if task.state == "cancelled" or task.state == "expired":
        instead = ending("expire" if task.state == "expired" else "cancel", task.why)
        message = message if isinstance(message, wire.Error) and not task.why else instead
        frames = ()
    _tell_end(state, task, message, frames)


def _tell_end(state: State, task: Task, message: wire.Message, frames: tuple[bytes, ...]) -> None:
    """Tell the owner, once; of a durable task only when the outcome is safe."""
    if task.told:
        return
    task.told = True
    asked = task.asked
    told = _with(message, asked.request, timings(state, task, message))
    reply = ev.Reply(asked.client, told, frames)
    if not asked.job:
        state.out.append(reply)
    elif not (isinstance(told, wire.Error) and told.code == "kernel_stopped"):
        # One that the kernel's own end cut short goes on when it is back.
        record = ev.Record("end", asked.job, task.id, asked, (reply,), told, frames)
        state.out.append(record)


def _with(message: Any, request: int, times: dict[str, int]) -> wire.Message:
    """The message under the id of the request, with the kernel's view of the times."""
    if isinstance(message, wire.Done):
        return wire.Done(id=request, result=message.result, timings=times)
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return wire.Error(**fields | {"id": request, "timings": times, "incarnation": 0})


def timings(state: State, task: Task, message: Any) -> dict[str, int]:
    """Where the time went, in microseconds; a worker's own figures are cut to what is possible."""
    started = task.dispatched or state.now
    left = (state.now - started) // 1000
    times = {
        "queue_us": max(0, started - task.submitted - task.load_ns) // 1000,
        "load_us": task.load_ns // 1000,
    }
    for key in TIMINGS:
        times[key] = min(left, max(0, getattr(message, "timings", {}).get(key, 0)))
        left -= times[key]
    times["wire_us"] = left
    return times


# Once a second.


def tick(state: State) -> None:
    """Tell every owner, once a second, that its task lives and where it stands.

    Where there are many, a part of them at a time: nothing urgent is to wait for this.
    """
    state.ticking = bool(state.tasks)
    if not state.ticking:
        return
    parts = 1 + min(15, len(state.tasks) // 64)
    state.phase = (state.phase + 1) % parts
    state.timer(state.now + limits.TICK // parts, "tick")
    if state.phase == 0:
        for service in state.services.values():
            for position, task in enumerate(service.queue.ordered() if service.queue else ()):
                task.position = position
    waits: dict[Any, int] = {}
    for task in state.tasks.values():
        if task.id % parts == state.phase and task.state in ("queued", "running"):
            state.out.append(ev.Reply(task.asked.client, _progress(state, task, waits)))


def _progress(state: State, task: Task, waits: dict[Any, int]) -> wire.Progress:
    service = state.services[task.asked.spec.key]
    worker = service.worker
    request = task.asked.request
    if task.state == "running":
        held = "held" if worker and worker.threads < 0 else "running"
        now = "suspended" if worker and worker.suspended else held
        return wire.Progress(id=request, state=now)
    how = "loading" if worker and worker.state in ("starting", "waiting", "loading") else "queued"
    count, wait = service.queue.ahead(task.rank)[0], None
    if task.cost:
        key = service.spec.key, task.rank
        if key not in waits:
            waits[key] = wait_ns(state, service, task.rank)
        wait = waits[key] * task.position // count // limits.MS
    return wire.Progress(id=request, state=how, position=task.position, estimate_ms=wait)
