"""Tasks: submit, cancel, expire, output, end. Every function changes ``State`` in place."""

from typing import Any

from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import families, leases, limits
from clawai.kernel.ledger import Ledger
from clawai.kernel.queue import NEVER, RANK
from clawai.kernel.state import TASK_ENDS, BreachError, Service, Slot, State, Task, Worker
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


def hopeless(state: State, service: Service, need: int, what: str) -> ev.Fault | None:
    """Why nothing more can be begun for a service, or not with so many bytes."""
    if state.stopping:
        return ev.Fault("kernel_stopped")
    if need > state.ledger.budget:
        return never_fits(state.ledger, need, what)
    if state.now < service.quarantined_until:
        return quarantined(state, service)
    return None


# Admission.


def wait_ns(state: State, service: Service, ahead: int, now: int) -> int:
    """How long a task would wait now, by what those before it have taken (``ahead``: queued)."""
    worker = service.worker
    at_once = service.batching.expected or 1
    if worker is None or worker.state != "ready":
        load = state.costs.p50(("", service.title, 0))
        load -= min(load, now - worker.started) if worker else 0
        return load + ahead // (service.spec.slots * at_once)
    if len(worker.running) == len(worker.slots):
        for slot in worker.running.values():
            ahead += max(0, slot.first().cost + slot.dispatched - now)
    return ahead // (len(worker.slots) * at_once)


def _objection(
    state: State, event: ev.Submitted, service: Service, wait: int, cost: int
) -> ev.Fault | None:
    """Refuse at once what would only fail later."""
    need, what = event.spec.base_bytes + event.spec.model_bytes, event.spec.model
    if fault := hopeless(state, service, need, what or event.spec.plugin):
        return fault
    if event.request in state.requests.get(event.client, ()):
        return ev.Fault("request_in_use", got=event.request)
    if event.job and event.leases:
        return ev.Fault("durable_with_leases")
    if event.parent and (fault := families.objection(state, event, service)):
        return fault
    if event.deadline is not None:
        left = event.deadline - state.now
        if left <= 0:
            return ev.Fault("deadline_had_passed")
        if cost and wait + cost > left:
            figures = f"{left // limits.MS} ms", f"{(wait + cost) // limits.MS} ms"
            return ev.Fault("deadline_unreachable", event.op, *figures, wait // limits.MS)
    return leases.objection(state, event, service.worker) if event.leases else None


def _no_room(state: State, event: ev.Submitted, rank: int) -> ev.Fault | None:
    """While everything is full, give up the last of the lowest class; refuse if none is lower."""
    mine = state.requests.get(event.client, {})
    has_its_most = event.client and len(mine) >= limits.TASKS_PER_CLIENT
    more, most = event.payload, limits.PAYLOAD_TOTAL
    while has_its_most or len(state.tasks) >= state.most_tasks or state.payload + more > most:
        lower = [t for t in state.tasks.values() if t.state == "queued" and t.rank > rank]
        if has_its_most or not lower:
            got = {"yours": len(mine), "all": len(state.tasks), "bytes": state.payload + more}
            allowed = {"yours": limits.TASKS_PER_CLIENT, "all": state.most_tasks, "bytes": most}
            return ev.Fault("queue_full", "", got, allowed, limits.RETRY_MS)
        victim = max(lower, key=lambda task: (task.rank, task.submitted, task.id))
        end(state, victim, "fail", ev.Fault("overloaded", event.priority, retry_ms=limits.RETRY_MS))
    return None


def submitted(state: State, event: ev.Submitted) -> None:
    """Queue a task, or refuse it with the reason."""
    if event.leases and (segment := state.memory.get(event.leases[0].segment)):
        sharer = state.workers.get(segment.worker)
        if sharer and sharer.spec.key[:2] == event.spec.key[:2]:
            # The worker that shares the memory, whatever lane the task's class would have chosen.
            event = replace(event, spec=sharer.service.spec)
    rank = RANK[event.priority] if 0 in state.rungs else 0
    service = state.service(event.spec)
    size = event.payload
    for lease in event.leases:
        size += lease.length
    key = event.op, event.spec.model, size.bit_length()  # of what costs the same
    cost, deadline = state.costs.p50(key), event.deadline or NEVER
    place, ahead = service.queue.ahead(rank)
    wait = wait_ns(state, service, ahead, state.now) if cost else 0
    fault = _objection(state, event, service, wait, cost) or _no_room(state, event, rank)
    if fault:
        refuse(state, event.client, event.request, fault)
        return
    number = state.number("task")
    task = Task(number, event, service, state.now, rank, deadline, key, cost)
    state.tasks[number] = task
    state.requests.setdefault(event.client, {})[event.request] = task
    state.payload += event.payload
    if event.parent:
        state.tasks[event.parent].children[number] = task
        state.redivide = True
    service.queue.push(task, state.now)
    service.batching.arrived(state.now)
    if deadline < NEVER:
        state.timer(deadline, "tasks", number)
    estimate = wait // limits.MS if cost else None
    accepted = wire.Accepted(
        id=event.request, task=number, position=place, estimate_ms=estimate, job=event.job
    )
    # One that came back after a restart is in the journal.
    _say(state, "accept", [task] if event.client else [], ev.Reply(event.client, accepted))


# Running.


def refresh(state: State, slot: Slot) -> None:
    """Write the control word of a slot, if it is to be another."""
    threads = slot.worker.threads
    alive = [task for task in slot.tasks.values() if task.state == "running"]
    if not alive:
        command = wire.STOP
    elif alive[0].yielding:  # only one that is alone in its slot is ever asked to
        command = wire.YIELD
    else:
        command = wire.HOLD if threads < 0 or alive[0].ahead else wire.GO
    word = command | max(0, threads) << 8
    if slot.word != word:
        slot.word = word
        state.out.append(ev.Control(slot.worker.id, slot.number, word))


def dispatch(state: State, slot: Slot, batch: list[Task]) -> None:
    """Give tasks that were taken from the queue to a free slot; more than one run as a batch."""
    worker, runs = slot.worker, []
    for task in batch:
        task.step("dispatch")
        if task.asked.leases and (fault := leases.objection(state, task.asked, worker)):
            end(state, task, "fail", fault)
            continue
        task.slot = slot
        task.attempts += 1
        task.load_ns = max(0, worker.ready_at - max(task.submitted, worker.started))
        left = max(1, (task.deadline - state.now) // limits.MS)
        runs.append((task.id, task.asked, left if task.deadline < NEVER else None))
        slot.tasks[task.id] = task
    if not runs:
        return
    slot.size, slot.dispatched = len(runs), state.now
    good = list(slot.tasks.values())
    worker.running[slot.number] = slot
    worker.rank = min([task.rank for task in good])
    state.computes(worker)
    state.look(worker, state.now + limits.PING)
    refresh(state, slot)
    _say(state, "start", good, ev.Dispatch(worker.id, slot.number, tuple(runs)))


def _let_go(state: State, slot: Slot, task: Task) -> None:
    """A worker no longer runs a task."""
    del slot.tasks[task.id]
    if task.asked.leases:
        leases.unused(state, task.asked.leases)
    worker, service = slot.worker, task.service
    state.dirty[service.key] = service
    if slot.tasks:
        return
    del worker.running[slot.number]
    if task.asked.batch > 1:
        took, waiting = state.now - slot.dispatched, len(service.queue)
        service.batching.ended(slot.size, took, waiting, task.asked.batch, state.now)
    state.computes(worker)
    worker.idle_since = state.now
    state.ledger.freed = True  # it may be evicted now
    keep = task.asked.keep_ns
    service.keep_ns = (state.idle_ns or NEVER) if keep is None else keep


def output(state: State, worker: Worker, event: ev.Output) -> None:
    """A worker's word on a task; what it may not say is a breach of the protocol."""
    task = state.tasks.get(event.task)
    if task is None or task.slot is None or task.slot.worker is not worker:
        raise BreachError(f"a message about task {event.task}, which it does not run")
    if event.kind == "yielded" and (task.streamed or not task.yielding):
        raise BreachError(f"gave task {event.task} back, which it was to finish")
    if event.kind in ("progress", "chunk"):
        if task.state == "running":
            task.streamed = task.streamed or event.kind == "chunk"
            task.untaken += event.size
            if task.ahead:
                refresh(state, task.slot)
            state.out.append(ev.Pass(task.asked.client, task.asked.request, event.body))
        return
    _let_go(state, task.slot, task)
    if event.kind == "yielded" and task.state == "running":
        requeue(state, task)
        task.attempts -= 1
        return
    worker.service.deaths.clear()
    worker.service.quarantines = 0
    if event.kind == "done":
        state.costs.learn(task.key, state.now - task.slot.dispatched)
    end(state, task, "finish" if event.kind == "done" else "fail", event.body)


def requeue(state: State, task: Task) -> None:
    """Back to the queue, at its old place."""
    _end_children(state, task)
    task.step("requeue")
    task.slot = None
    task.yielding = False
    task.service.queue.push(task, state.now)


# Ends.


def cancel_asked(state: State, event: ev.CancelAsked) -> None:
    """The owner takes a request back. One that has ended already needs no answer."""
    if task := state.requests.get(event.client, {}).get(event.request):
        stop(state, task, "cancel", ev.Fault("cancelled"))


def taken(state: State, event: ev.Taken) -> None:
    """A task may stream more."""
    task = state.requests.get(event.client, {}).get(event.request)
    if task and task.slot and task.state == "running":
        task.untaken = max(0, task.untaken - event.size)
        refresh(state, task.slot)


def client_left(state: State, event: ev.ClientLeft) -> None:
    """Nobody waits for these any more, but the durable ones."""
    for task in list(state.requests.get(event.client, {}).values()):
        if not task.asked.job:
            stop(state, task, "cancel", ev.Fault("client_left"))
    leases.client_left(state, event.client)


def stop(state: State, task: Task, happened: str, fault: ev.Fault) -> None:
    """End a task (``happened``: cancel or expire), at once or when its worker lets go of it."""
    slot = task.slot
    if task.state == "queued":
        end(state, task, happened, fault)
    elif slot and task.state == "running":  # or its end is on the way
        task.step(happened)
        task.fault, task.deadline = fault, NEVER
        if happened == "expire" or slot.worker.suspended or len(slot.tasks) > 1:
            # The owner hears it now, however long the worker takes to stop.
            _tell_end(state, task, fault)
        _end_children(state, task)
        refresh(state, slot)
        state.out.append(ev.Tell(slot.worker.id, wire.Cancel(id=task.id)))
        if slot.word & 0xFF == wire.STOP:  # a batch ends as a whole
            task.deadline = state.now + limits.CANCEL_GRACE
            state.timer(task.deadline, "tasks", task.id)


def end(state: State, task: Task, happened: str, word: Any = None) -> None:
    """The one way a task ends: out of every table, and its owner is told."""
    if task.state == "queued":
        task.service.queue.remove(task)
    task.step(happened)
    assert task.state in TASK_ENDS, f"{happened!r} does not end {task!r}"
    asked = task.asked
    del state.tasks[task.id]
    mine = state.requests[asked.client]
    del mine[asked.request]
    if not mine:
        del state.requests[asked.client]
    if parent := state.tasks.get(asked.parent):
        del parent.children[task.id]
        state.redivide = state.redivide or not parent.children
    _end_children(state, task)
    state.payload -= asked.payload
    state.counts[task.state] = state.counts.get(task.state, 0) + 1
    _tell_end(state, task, task.fault or word)


def _end_children(state: State, task: Task) -> None:
    """Nobody waits for what a task has asked for any more."""
    for child in list(task.children.values()):
        stop(state, child, "cancel", ev.Fault("orphaned"))


def _tell_end(state: State, task: Task, word: Any) -> None:
    """Tell the owner, once."""
    if task.told:
        return
    task.told = True
    asked = task.asked
    if asked.job and isinstance(word, ev.Fault) and word.key == "kernel_stopped":
        return  # one that the kernel's own end cut short goes on when it is back
    began = task.slot.dispatched if task.slot else state.now
    queued = max(0, began - task.submitted - task.load_ns)
    times = queued, task.load_ns, state.now - began
    _say(state, "end", [task], ev.Pass(asked.client, asked.request, word, times))


def _say(state: State, what: str, tasks: list[Task], told: ev.Instruction) -> None:
    """Say what happens to tasks: when that is safe in the journal, of those that are durable."""
    for task in tasks:
        if task.asked.job:
            told = ev.Record(what, task.asked, told)
    state.out.append(told)
