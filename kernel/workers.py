"""Workers: start, load within the budget, serve, stop, die, come back, or be quarantined."""

from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import grants, leases, limits, shared, tasks
from clawai.kernel.queue import BATCH, NEVER
from clawai.kernel.state import LEAVING, BreachError, Service, Slot, State, Task, Worker
from clawai.sdk import wire


def schedule(state: State) -> None:
    """Look at every service that something happened to: start it, grant its load, dispatch."""
    if state.stopping:
        return
    if state.ledger.freed and state.hungry:
        waiting = sorted(state.hungry.values(), key=lambda s: (s.queue.best(), s.key))
        state.dirty |= {service.key: service for service in waiting}
        state.hungry.clear()
    state.ledger.freed = False
    while state.dirty:
        _serve(state, state.dirty.pop(next(iter(state.dirty))))


def _serve(state: State, service: Service) -> None:
    worker = service.worker
    if worker is None:
        if service.waited_for:
            _start(state, service)
    elif worker.state == "waiting":
        _grant(state, worker)
    elif worker.stale and not any(task.children for task in worker.tasks()):
        # (With children it goes on: one of them may wait for a slot of this very worker.)
        if not worker.running:
            stop(state, worker, "its model or its settings were replaced")
    elif worker.state == "ready":
        if service.borrows:
            leases.lend_waiting(state, service, worker)
        _fill(state, service, worker)
        if not worker.running:
            state.look(worker, worker.idle_since + service.keep_ns)
        if worker.retired >= limits.RETIRED and not in_use(state, worker):
            stop(state, worker, "renewed: many segments were taken back")


def _fill(state: State, service: Service, worker: Worker) -> None:
    """Dispatch to the free slots; ask a lower task to make way if there is none."""
    queue, batching = service.queue, service.batching
    free = [slot for slot in worker.slots if not slot.tasks]
    if not free and 1 in state.rungs:
        _make_way(state, worker, queue.best())
    while free and queue and not worker.suspended:
        if batching.waits(len(queue), state.now) and queue.best():
            state.timer(batching.until, "services", service.key)
            return
        # The last slot of a model is kept for what is more urgent than bulk work.
        last = len(free) == 1 and len(worker.slots) > 1 and service.spec.model
        first = queue.take(state.now, worst=BATCH - 1 if last else BATCH)
        if first is None:
            break
        tasks.dispatch(state, free[0], _batch(state, service, first))
        if free[0].tasks:
            free.pop(0)


def _batch(state: State, service: Service, first: Task) -> list[Task]:
    """As many of the same operation as may run together and still meet the tightest deadline."""
    batch, tightest = [first], first.deadline
    most = first.asked.batch * state.share
    while len(batch) + 1 <= most and service.queue:
        # Where nothing is known yet, a batch of any size may be tried.
        if state.now + service.batching.estimate(len(batch) + 1) > tightest:
            break
        if (task := service.queue.take(state.now, first.asked.op)) is None:
            break
        batch.append(task)
        tightest = min(tightest, task.deadline)
    return batch


def _make_way(state: State, worker: Worker, rank: int) -> None:
    """Ask the lowest task that can run again to go back to the queue for a higher one."""
    lower = []
    for slot in worker.running.values():
        task = slot.first()
        if task.yielding:
            return
        if task.rank > rank and task.again and len(slot.tasks) == 1:
            lower.append((task.rank, slot.dispatched, task.id, slot))
    if lower:
        slot = max(lower)[-1]
        slot.first().yielding = True
        tasks.refresh(state, slot)


def in_use(state: State, worker: Worker) -> bool:
    """Whether somebody runs on it, waits for it, or shares memory with it."""
    return bool(worker.running or worker.service.waited_for or shared.lent(state, worker.id))


def _has_room(state: State, service: Service, need: int) -> bool:
    """Whether so much is free; if not, room is made, and the service waits for it."""
    if state.ledger.free >= need:
        return True
    state.hungry[service.key] = service
    make_room(state, need, service.worker)
    return False


def _start(state: State, service: Service) -> None:
    spec = service.spec
    if state.now < max(service.retry_at, service.quarantined_until):
        return
    if not _has_room(state, service, spec.base_bytes):
        return
    state.ledger.charge(spec.base_bytes)
    worker = Worker(state.number("worker"), service, state.now, spec, spec.base_bytes)
    service.worker = state.workers[worker.id] = worker
    service.revive = False
    service.started += 1
    state.look(worker, state.now + limits.START * _patience(spec))
    state.out.append(ev.Start(worker.id, spec))


def reserved(state: State, worker: Worker, event: ev.WorkerReserved) -> None:
    """A worker knows what its model needs; it loads when that is charged."""
    if worker.state == "stopping":
        return
    if worker.state != "starting":
        raise BreachError("a second reservation")
    worker.step("reserve")
    worker.wanted = event
    state.dirty[worker.service.key] = worker.service
    need = worker.spec.base_bytes + event.size + event.weights_bytes
    if fault := tasks.hopeless(state, worker.service, need, worker.service.title):
        unready(state, worker, ev.WorkerUnready(worker.id, fault))


def _grant(state: State, worker: Worker) -> None:
    wish = worker.wanted
    assert wish is not None
    held = shared.weights(state, worker, wish)
    need = wish.size + (wish.weights_bytes if held is None else 0)
    if held is not None and held.state == "filling":  # until the other worker has filled it
        state.hungry[worker.service.key] = worker.service
        return
    if not _has_room(state, worker.service, need):
        return
    state.ledger.charge(wish.size)
    worker.holds += wish.size
    worker.step("grant")
    state.look(worker, state.now + limits.LOAD * _patience(worker.spec))
    shared.give_weights(state, worker, wish, held)


def make_room(state: State, need: int, wanting: Worker | None = None) -> int:
    """Take back what is idle until ``need`` bytes will be free: the lowest class, longest idle.

    Returns how many will be.

    What is on its way out counts as free to come; the charge is made only when it is really back.
    """
    others = [w for w in state.workers.values() if w.state not in LEAVING and w is not wanting]
    idle = [w for w in others if not (w.service.pinned or in_use(state, w))]
    idle.sort(key=lambda worker: (worker.rank, -worker.idle_since, -worker.id))
    while (coming := _coming(state, need)) < need and idle:
        stop(state, idle.pop(), "evicted: its memory is needed")
    if coming < need and wanting:
        _put_off_others(state, wanting)
    return coming


def _coming(state: State, need: int) -> int:
    """Bytes that are free, or on their way; what is idle is asked back as far as they need it."""
    leaving = sum(worker.holds for worker in state.workers.values() if worker.state in LEAVING)
    coming = state.ledger.free + leaving
    return coming + shared.reclaim(state, need - coming)


def _put_off_others(state: State, wanting: Worker) -> None:
    """If only other loads stand in its way, the youngest starts over later: or all would wait."""
    waiting = ("starting", "waiting")
    busy = [w for w in state.workers.values() if w.running or w.state in (*waiting, "loading")]
    youngest = busy[-1]
    if youngest is wanting or not all(worker.state in waiting for worker in busy):
        return
    service = youngest.service  # each time for longer, as nothing may have changed
    service.retry_at = state.now + (limits.SECOND << service.put_off)
    service.put_off = min(service.put_off + 1, 6)
    state.timer(service.retry_at, "services", service.key)
    stop(state, youngest, "made to wait: another load came first")


def ready(state: State, worker: Worker, event: ev.WorkerReady) -> None:
    """A worker takes tasks from now on."""
    if worker.state == "stopping":
        return
    filling = worker.weights and worker.weights.state == "filling"
    if worker.state not in ("starting", "loading") or filling:
        raise BreachError("a second ready, or one before its memory was granted")
    worker.step("ready")
    count = min(event.slots, worker.spec.slots)
    worker.slots = [Slot(worker, number) for number in range(count)]
    service = worker.service
    service.last_why, service.put_off = "", 0
    state.dirty[service.key] = service
    took = state.now - worker.started
    state.costs.learn(("", service.title, 0), took)
    state.log("info", f"worker {worker.id} {service.title} is ready after {took // limits.MS} ms")
    worker.ready_at = worker.idle_since = state.now
    grants.suspend(state, worker)


# Time.


def _patience(spec: ev.Spec) -> int:
    return limits.BULK_PATIENCE if spec.lane == "bulk" else 1


def look(state: State, worker: Worker) -> None:
    """See whether a worker is late, silent or idle, and say when to look again."""
    if state.now < worker.look:
        return
    worker.look = NEVER
    if worker.state == "ready":
        (_watch if worker.running else _rest)(state, worker)
    elif worker.state == "stopping":
        kill(state, worker, worker.why)
    else:
        why = f"it was not ready after {(state.now - worker.started) // limits.SECOND} s"
        fault = ev.Fault("too_slow", worker.service.title, because=why)
        fail_waiting(state, worker.service, fault)
        kill(state, worker, why)


def _watch(state: State, worker: Worker) -> None:
    """Ping a busy worker; one that stays silent is killed (rung 4 of the preemption ladder)."""
    if worker.missed >= limits.MISSED * _patience(worker.spec) and 4 in state.rungs:
        fault = ev.Fault("worker_hung", worker.service.title)
        kill(state, worker, "it stopped answering", fault)
        return
    if not worker.suspended:
        worker.missed += 1
        state.out.append(ev.Tell(worker.id, wire.Ping(seq=state.now // limits.MS)))
    grants.age(worker, state.now)
    state.redivide = True  # who is silent counts as not computing
    state.look(worker, state.now + limits.PING)


def _rest(state: State, worker: Worker) -> None:
    """Stop a worker that has been idle for as long as it may be."""
    worker.missed = 0
    due = worker.idle_since + worker.service.keep_ns
    if state.now < due:
        state.look(worker, due)
    elif worker.service.pinned or worker.suspended or in_use(state, worker):
        state.look(worker, state.now + limits.SECOND)
    else:
        stop(state, worker, "idle")


def answered(state: State, worker: Worker, event: ev.WorkerAnswered) -> None:
    """It lives."""
    worker.missed = 0


def waited(state: State, worker: Worker, event: ev.WorkerWaited) -> None:
    """It stood back for so long: what was asked of it meanwhile it may do so much later."""
    if worker.state in ("starting", "loading"):
        due, worker.look = worker.look + event.span, NEVER
        state.look(worker, due)
    worker.missed = max(0, worker.missed - event.span // limits.PING)


# The end.


def unready(state: State, worker: Worker, event: ev.WorkerUnready) -> None:
    """A worker cannot serve: those who wait for it are told its reason."""
    worker.fault = worker.service.last_why = event.why
    fail_waiting(state, worker.service, event.why)
    stop(state, worker, "it cannot serve")


def fail_waiting(state: State, service: Service, fault: Any) -> None:
    """End all that waits for a service."""
    for task in service.queue.ordered():
        tasks.end(state, task, "fail", fault)
    for borrow in service.borrows:
        tasks.refuse(state, borrow.client, borrow.request, fault)
    service.borrows.clear()
    service.revive = False


def stop(state: State, worker: Worker, why: str) -> None:
    """Ask a worker to exit; it is killed when it takes too long, or cannot hear."""
    if worker.state in ("stopping", "stopped"):
        return
    worker.step("stop")
    worker.why = why
    state.log("info", f"worker {worker.id} {worker.service.title} stops: {why}")
    if worker.suspended:
        kill(state, worker, why)
    elif worker.state == "stopping":
        state.out.append(ev.Tell(worker.id, wire.Stop()))
        state.look(worker, state.now + limits.STOP_GRACE)


def kill(state: State, worker: Worker, why: str, fault: Any = None) -> None:
    """End a worker's process now; nothing that it says counts any more.

    Its death is then no surprise, but counts as one, unless it was to stop.
    """
    worker.step("kill")
    worker.why = worker.why or why
    worker.fault = worker.fault or fault
    state.out.append(ev.Kill(worker.id, why))


def broke(state: State, worker: Worker, event: ev.WorkerBroke) -> None:
    """A worker said or did what it may not."""
    why = f"broke the protocol: {event.why}"
    state.log("error", f"worker {worker.id} {worker.service.title} {why}")
    kill(state, worker, why, ev.Fault("bad_worker", because=event.why))


def gone(state: State, event: ev.WorkerGone) -> None:
    """A worker's process has ended: its memory is back, its tasks are told or run again."""
    worker = state.workers.pop(event.worker)
    service, bereft = worker.service, worker.tasks()
    surprise = worker.state not in ("stopping", "stopped")
    worker.why = worker.why or event.why
    worker.step("gone")
    service.worker = None
    state.dirty[service.key] = service
    state.ledger.release(worker.holds)
    shared.holder_gone(state, ("worker", worker.id), keep=surprise)
    worker.running.clear()
    state.computes(worker)
    for task in bereft:
        # A lease ends with the worker, so a task with leases cannot run on the next one.
        lost = task.asked.leases or worker.fault or state.stopping
        if task.again and task.attempts < limits.ATTEMPTS and not lost:
            tasks.requeue(state, task)
        else:
            died = ev.Fault("worker_died", service.title, because=worker.why)
            tasks.end(state, task, "fail", worker.fault or died)
    if surprise and not state.stopping:
        # A task that has killed it twice does not count: one caller must not lock out the others.
        _died(state, worker, counts=not any(task.attempts > 1 for task in bereft))


def _died(state: State, worker: Worker, counts: bool) -> None:
    """Nobody had asked for its end: its service comes back, or after too many is put aside."""
    service = worker.service
    state.log("error", f"worker {worker.id} {service.title} died: {worker.why}")
    service.last_why = worker.why
    service.revive = worker.ready_at > 0
    if service.revive:  # starts that fail count however long each of them takes
        since = state.now - limits.DEATH_WINDOW
        service.deaths = [when for when in service.deaths if when > since]
    service.deaths += [state.now] * counts
    if len(service.deaths) < limits.DEATHS:
        return
    pause = min(limits.QUARANTINE << service.quarantines, limits.QUARANTINE_MAX)
    service.quarantined_until = state.now + pause
    service.quarantines = min(service.quarantines + 1, 16)
    service.deaths.pop(0)  # one more without an answer is enough for the next
    state.timer(service.quarantined_until, "services", service.key)
    state.log("error", f"{service.title} is in quarantine: it kept dying")
    fail_waiting(state, service, tasks.quarantined(state, service))


# What others on the box do.


def pressure(state: State, event: ev.Pressure) -> None:
    """Others use the box, or have stopped to: divide what is left."""
    state.share = min(1.0, event.cores / state.cores)
    state.ledger.limit = min(state.ledger.budget, event.memory)
    state.ledger.freed = state.redivide = True
    for worker in state.workers.values():
        grants.suspend(state, worker)
    make_room(state, 0)
