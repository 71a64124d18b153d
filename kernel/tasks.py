"""Tasks: submit, cancel, expire, output, end. Every function changes ``State`` in place."""

from typing import Any

from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import leases, limits
from clawai.kernel.costs import Key
from clawai.kernel.ledger import Ledger
from clawai.kernel.queue import RANK
from clawai.kernel.state import TASK, TASK_ENDS, BreachError, Service, State, Task, Worker, step
from clawai.sdk import wire


def refuse(state: State, client: int, request: int, fault: ev.Fault) -> None:
    """Answer a request that never became a task."""
    state.counts["refused"] = state.counts.get("refused", 0) + 1
    state.out.append(ev.Pass(client, request, fault))


def never_fits(ledger: Ledger, need: int, what: str) -> ev.Fault:
    """The honest answer to what no eviction can make room for."""
    got, allowed = f"{need / limits.MIB:.0f} MiB", f"{ledger.budget / limits.MIB:.0f} MiB"
    return ev.Fault("never_fits", what, got, allowed)


def quarantined(state: State, service: Service) -> ev.Fault:
    """The plugin died too often."""
    wait = 1000 * max(1, -(-(service.quarantined_until - state.now) // limits.SECOND))
    return ev.Fault("quarantined", service.title, retry_ms=wait, because=service.last_why)


# Admission.


def cost_key(asked: ev.Submitted) -> Key:
    """What tasks that cost the same have in common."""
    size = asked.payload
    for lease in asked.leases:
        size += lease.length
    return asked.op, asked.spec.model, size.bit_length()


def wait_ns(state: State, service: Service, rank: int) -> int:
    """How long a task of a class would wait now, by what those before it have taken."""
    ahead = service.queue.ahead(rank)[1]
    worker = service.worker
    at_once = service.batching.expected or 1
    if worker is None or worker.state != "ready":
        load = state.costs.p50(("", service.title, 0))
        load -= min(load, state.now - worker.started) if worker else 0
        return load + ahead // (service.spec.slots * at_once)
    if len(worker.running) >= worker.slots:
        for batch in worker.running.values():
            for task in batch.values():
                if (left := task.cost + task.dispatched - state.now) > 0:
                    ahead += left
                break  # what runs in one slot runs together
    return ahead // (worker.slots * at_once)


def _objection(state: State, event: ev.Submitted, service: Service | None) -> ev.Fault | None:
    mine = state.requests.get(event.client, {})
    if state.stopping:
        return ev.Fault("kernel_stopped")
    if event.request in mine:
        return ev.Fault("request_in_use", got=event.request)
    if event.deadline is not None and event.deadline <= state.now:
        return ev.Fault("deadline_had_passed")
    if event.job and event.leases:
        return ev.Fault("durable_with_leases")
    if len(mine) >= limits.TASKS_PER_CLIENT and event.client:
        return _full(state, event)
    if (need := event.spec.base_bytes + event.spec.model_bytes) > state.ledger.budget:
        return never_fits(state.ledger, need, event.spec.model or event.spec.plugin)
    if service and state.now < service.quarantined_until:
        return quarantined(state, service)
    worker = service.worker if service else None
    return leases.objection(state, event, worker) if event.leases else None


def _full(state: State, event: ev.Submitted) -> ev.Fault:
    mine = len(state.requests.get(event.client, ()))
    got = {"yours": mine, "all": len(state.tasks), "bytes": state.payload + event.payload}
    most = (limits.TASKS_PER_CLIENT, state.most_tasks, limits.PAYLOAD_TOTAL)
    return ev.Fault("queue_full", "", got, dict(zip(got, most, strict=True)), limits.RETRY_MS)


def _unreachable(state: State, event: ev.Submitted, wait: int, cost: int) -> ev.Fault | None:
    """Refuse at once what would only fail later."""
    if event.deadline is None or not cost or state.now + wait + cost <= event.deadline:
        return None
    takes = f"{(wait + cost) // limits.MS} ms"
    left = f"{(event.deadline - state.now) // limits.MS} ms"
    return ev.Fault("deadline_unreachable", event.op, left, takes, wait // limits.MS)


def _shed(state: State, event: ev.Submitted, rank: int) -> bool:
    """While everything is full, give up the last of the lowest class; False if there is none."""
    most = limits.PAYLOAD_TOTAL - event.payload
    while len(state.tasks) >= state.most_tasks or state.payload > most:
        lower = [t for t in state.tasks.values() if t.state == "queued" and t.rank > rank]
        if not lower:
            return False
        victim = max(lower, key=lambda task: (task.rank, task.submitted, task.id))
        victim.service.queue.remove(victim)
        fault = ev.Fault("overloaded", event.priority, retry_ms=limits.RETRY_MS)
        end(state, victim, "fail", fault)
    return True


def submitted(state: State, event: ev.Submitted) -> None:
    """Queue a task, or refuse it with the reason."""
    if event.leases and (segment := state.segments.get(event.leases[0].segment)):
        sharer = state.workers.get(segment.worker)
        if sharer and sharer.spec.key[:2] == event.spec.key[:2]:
            # The worker that shares the memory, whatever lane the task's class would have chosen.
            event = replace(event, spec=sharer.service.spec)
    rank = RANK[event.priority] if 0 in state.rungs else 0
    service = state.services.get(event.spec.key)
    cost = state.costs.p50(key := cost_key(event))
    wait = wait_ns(state, service, rank) if service and cost else 0
    fault = _objection(state, event, service) or _unreachable(state, event, wait, cost)
    if not fault and not _shed(state, event, rank):
        fault = _full(state, event)
    if fault:
        refuse(state, event.client, event.request, fault)
        return
    service = state.service(event.spec)
    number = state.number("task")
    task = Task(number, event, service, state.now, rank, event.deadline, key, cost)
    step(TASK, task, "accept")
    state.tasks[task.id] = task
    state.requests.setdefault(event.client, {})[event.request] = task
    state.payload += event.payload
    task.position = service.queue.ahead(rank)[0]
    service.queue.push(task)
    service.batching.arrived(state.now)
    estimate = wait // limits.MS if cost else None
    told: ev.Instruction = ev.Reply(
        event.client,
        wire.Accepted(
            id=event.request,
            task=task.id,
            position=task.position,
            estimate_ms=estimate,
            job=event.job,
        ),
    )
    if event.job and event.client:  # one that came back after a restart is in the journal
        told = ev.Record("accept", event.job, task.id, event, (told,))
    state.out.append(told)
    if event.deadline is not None:
        state.timer(event.deadline, "tasks", task.id)
    if not state.ticking:
        state.ticking = True
        state.timer(state.now + limits.TICK, "tick")


# Running.


def refresh(state: State, worker: Worker, slot: int) -> None:
    """Write the control word of a slot, if it is to be another."""
    alive = [task for task in worker.running[slot].values() if task.state == "running"]
    if not alive:
        command = wire.STOP
    elif alive[0].yielding:  # only one that is alone in its slot is ever asked to
        command = wire.YIELD
    else:
        command = wire.HOLD if worker.threads < 0 else wire.GO
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
        if task.asked.leases and (fault := leases.objection(state, task.asked, worker)):
            end(state, task, "fail", fault)
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
    worker.rank = min([task.rank for task in good])
    state.computes(worker, 1)
    state.look(worker, state.now + limits.PING)
    refresh(state, worker, slot)
    runs = tuple([(task.id, task.asked, _left(state, task)) for task in good])
    told: ev.Instruction = ev.Dispatch(worker.id, slot, runs)
    for task in good:
        if task.asked.job:  # it must be known to have begun before it begins
            told = ev.Record("start", task.asked.job, task.id, task.asked, (told,))
    state.out.append(told)
    return True


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
    state.dirty[service.key] = service
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
    if task.asked.keep_ns is not None:
        service.keep_ns = task.asked.keep_ns


def output(state: State, worker: Worker, event: ev.Output) -> None:
    """A worker's word on a task; what it may not say is a breach of the protocol."""
    task = running(state, worker, event.task)
    if event.kind == "done" or event.kind == "error":
        let_go(state, worker, task)
        worker.service.deaths.clear()
        worker.service.quarantines = 0
        if event.kind == "done":
            state.costs.learn(task.key, state.now - task.dispatched)
        end(state, task, "finish" if event.kind == "done" else "fail", event.body)
    elif task.state == "running":
        task.streamed = task.streamed or event.kind == "chunk"
        state.out.append(ev.Pass(task.asked.client, task.asked.request, event.body))


def running(state: State, worker: Worker, number: int) -> Task:
    """The task of a number that a worker runs.

    Raises:
        BreachError: it runs no such task.
    """
    task = state.tasks.get(number)
    if task is None or task.worker != worker.id or number not in worker.running.get(task.slot, ()):
        raise BreachError(f"a message about task {number}, which it does not run")
    return task


def yielded(state: State, worker: Worker, event: ev.WorkerYielded) -> None:
    """A worker gave a task back, which it may only when asked; it runs again later."""
    task = running(state, worker, event.task)
    if not task.yielding or task.streamed:
        raise BreachError(f"gave task {event.task} back, which it was to finish")
    let_go(state, worker, task)
    if task.state == "running":
        requeue(state, worker.service, task)
        task.attempts -= 1
    else:
        end(state, task, "fail")


def requeue(state: State, service: Service, task: Task) -> None:
    """Back to the queue, at its old place."""
    step(TASK, task, "requeue")
    task.worker = 0
    task.yielding = False
    service.queue.push(task, state.now)
    state.dirty[service.key] = service


# Ends.


def cancel_asked(state: State, event: ev.CancelAsked) -> None:
    """The owner takes a request back. One that has ended already needs no answer."""
    if task := state.requests.get(event.client, {}).get(event.request):
        stop(state, task, "cancel", ev.Fault("cancelled"))


def client_left(state: State, event: ev.ClientLeft) -> None:
    """Nobody waits for these any more, but the durable ones."""
    for task in list(state.requests.get(event.client, {}).values()):
        if not task.asked.job:
            stop(state, task, "cancel", ev.Fault("client_left"))
    leases.client_left(state, event.client)


def stop(state: State, task: Task, happened: str, fault: ev.Fault) -> None:
    """End a task (``happened``: cancel or expire), at once or when its worker lets go of it."""
    if task.state == "queued":
        task.service.queue.remove(task)
        end(state, task, happened, fault)
    elif task.state == "running" or (task.state == "expiring" and happened == "cancel"):
        step(TASK, task, happened)
        task.fault, task.deadline = fault, None
        worker = state.workers[task.worker]
        batch = worker.running[task.slot].values()
        if happened == "expire" or worker.suspended or len(batch) > 1:
            # The owner hears it now, however long the worker takes to stop.
            _tell_end(state, task, fault)
        refresh(state, worker, task.slot)
        state.out.append(ev.Tell(task.worker, wire.Cancel(id=task.id)))
        if all(each.state != "running" for each in batch):  # a batch ends as a whole
            task.deadline = state.now + limits.CANCEL_GRACE
            state.timer(task.deadline, "tasks", task.id)


def end(state: State, task: Task, happened: str, word: Any = None) -> None:
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
    _tell_end(state, task, task.fault or word)


def _tell_end(state: State, task: Task, word: Any) -> None:
    """Tell the owner, once; of a durable task only when the outcome is safe."""
    if task.told:
        return
    task.told = True
    asked = task.asked
    began = task.dispatched or state.now
    queued = max(0, began - task.submitted - task.load_ns)
    told = ev.Pass(asked.client, asked.request, word, (queued, task.load_ns, state.now - began))
    if not asked.job:
        state.out.append(told)
    elif not (isinstance(word, ev.Fault) and word.key == "kernel_stopped"):
        # One that the kernel's own end cut short goes on when it is back.
        state.out.append(ev.Record("end", asked.job, task.id, asked, (told,)))


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
    service = task.service
    worker = service.worker
    request = task.asked.request
    if task.state == "running":
        held = "held" if worker and worker.threads < 0 else "running"
        now = "suspended" if worker and worker.suspended else held
        return wire.Progress(id=request, state=now)
    how = "loading" if worker and worker.state in ("starting", "waiting", "loading") else "queued"
    count, wait = service.queue.ahead(task.rank)[0], None
    if task.cost:
        key = service.key, task.rank
        if key not in waits:
            waits[key] = wait_ns(state, service, task.rank)
        wait = waits[key] * task.position // count // limits.MS
    return wire.Progress(id=request, state=how, position=task.position, estimate_ms=wait)
