"""Workers: start, load within the budget, serve, stop, die, come back, or be quarantined."""

from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import grants, leases, limits, shared, tasks, weights
from clawai.kernel.queue import BATCH
from clawai.kernel.state import WORKER, BreachError, Service, State, Task, Worker, step
from clawai.sdk import wire

LOADING = ("starting", "waiting", "loading")


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
        if service.queue or service.borrows or service.revive:
            _start(state, service)
    elif worker.state == "waiting":
        _grant(state, worker)
    elif worker.spec.identity != service.spec.identity:
        # Its model was replaced in the store: nothing new goes to it.
        if not worker.running:
            stop(state, worker, "its model was replaced")
    elif worker.state == "ready" and not worker.killed:
        if service.borrows:
            leases.lend_waiting(state, service, worker, make_room)
        _fill(state, service, worker)
        if worker.retired >= limits.RETIRED and not in_use(state, worker):
            stop(state, worker, "renewed: many segments were taken back")


def _fill(state: State, service: Service, worker: Worker) -> None:
    """Dispatch to the free slots; ask a lower task to make way if there is none."""
    queue, batching = service.queue, service.batching
    full = len(worker.running) >= worker.slots
    free = [] if full else [n for n in range(worker.slots) if n not in worker.running]
    while free and queue and not worker.suspended:
        if state.now < batching.until and batching.waits(len(queue), state.now) and queue.best():
            state.timer(batching.until, "wake", service.key)
            return
        # The last slot of a model is kept for what is more urgent than bulk work.
        last = len(free) == 1 and worker.slots > 1 and service.spec.model
        first = queue.take(state.now, worst=BATCH - 1 if last else BATCH)
        if first is None:
            break
        if tasks.dispatch(state, worker, free[0], _batch(state, service, first)):
            free.pop(0)
    if queue and full and 1 in state.rungs:
        _make_way(state, worker, queue.best())


def _batch(state: State, service: Service, first: Task) -> list[Task]:
    """As many of the same operation as may run together and still meet the tightest deadline."""
    batch = [first]
    if first.asked.batch == 1:
        return batch
    most = max(1, int(first.asked.batch * state.share))
    tightest = first.deadline
    while len(batch) < most and service.queue:
        # Where nothing is known yet, a batch of any size may be tried.
        if (
            tightest is not None
            and state.now + service.batching.estimate(len(batch) + 1) > tightest
        ):
            break
        if (task := service.queue.take(state.now, first.asked.op)) is None:
            break
        batch.append(task)
        if task.deadline is not None:
            tightest = min(tightest or task.deadline, task.deadline)
    return batch


def _make_way(state: State, worker: Worker, rank: int) -> None:
    """Ask the lowest task that can run again to go back to the queue for a higher one."""
    lower = []
    for batch in worker.running.values():
        for task in batch.values():
            if task.yielding:
                return
            alone = len(batch) == 1 and task.state == "running"
            if alone and task.rank > rank and task.asked.idempotent and not task.streamed:
                lower.append(task)
            break
    if lower:
        lowest = max(lower, key=lambda task: (task.rank, task.dispatched, task.id))
        lowest.yielding = True
        tasks.refresh(state, worker, lowest.slot)


def in_use(state: State, worker: Worker) -> bool:
    """Whether somebody runs on it, waits for it, or shares memory with it."""
    return bool(
        worker.running
        or worker.service.queue
        or worker.service.borrows
        or shared.lent(state, worker.id)
    )


def _start(state: State, service: Service) -> None:
    if state.now < max(service.retry_at, service.quarantined_until):
        return
    base = service.spec.base_bytes
    if state.ledger.free < base:
        state.hungry[service.key] = service
        make_room(state, base)
        return
    state.ledger.charge(base)
    due = state.now + limits.START * _patience(service.spec)
    worker = Worker(state.number("worker"), service, state.now, service.spec, due, base)
    step(WORKER, worker, "start")
    service.worker = worker
    service.revive = False
    service.started += 1
    state.workers[worker.id] = worker
    state.timer(due, "start", worker.id)
    state.out.append(ev.Start(worker.id, service.spec))


def reserved(state: State, event: ev.WorkerReserved) -> None:
    """A worker knows what its model needs; it loads when that is charged."""
    worker = state.workers[event.worker]
    if worker.state == "stopping":
        return
    if worker.state != "starting":
        raise BreachError("a second reservation")
    step(WORKER, worker, "reserve")
    worker.wanted = event
    state.dirty[worker.service.key] = worker.service
    need = worker.spec.base_bytes + event.size + event.weights_bytes
    if need > state.ledger.budget:
        _give_up(state, worker, tasks.never_fits(state.ledger, need, worker.service.title))


def _grant(state: State, worker: Worker) -> None:
    wish = worker.wanted
    assert wish is not None
    held = weights.find(state, worker, wish)
    need = wish.size + (wish.weights_bytes if held is None else 0)
    filling = held is not None and held.state == "filling"
    if filling or state.ledger.free < need:
        state.hungry[worker.service.key] = worker.service
        if not filling:  # else it waits until the other worker has filled it
            make_room(state, need, worker)
        return
    state.ledger.charge(wish.size)
    worker.holds += wish.size
    step(WORKER, worker, "grant")
    worker.due = state.now + limits.LOAD * _patience(worker.spec)
    state.timer(worker.due, "start", worker.id)
    weights.grant(state, worker, wish, held)


def make_room(state: State, need: int, wanting: Worker | None = None) -> int:
    """Take back what is idle until ``need`` bytes will be free: the lowest class, longest idle.

    Returns how many will be.

    What is on its way out counts as free to come; the charge is made only when it is really back.
    If only other loads stand in the way, the youngest of them starts over later.
    """
    idle = [
        worker
        for worker in state.workers.values()
        if not (worker is wanting or worker.leaving or worker.service.pinned)
        and not in_use(state, worker)
    ]
    idle.sort(key=lambda worker: (worker.rank, -worker.idle_since, -worker.id))
    while (coming := _coming(state, need)) < need and idle:
        stop(state, idle.pop(), "evicted: its memory is needed")
    busy = any(worker.running or worker.state == "loading" for worker in state.workers.values())
    waiting = [
        worker
        for worker in state.workers.values()
        if worker.state in ("starting", "waiting") and worker is not wanting
    ]
    if coming < need and wanting and waiting and not busy:
        youngest = max(waiting, key=lambda worker: worker.id)
        if youngest.id > wanting.id:
            service = youngest.service  # each time for longer, as nothing may have changed
            service.retry_at = state.now + (limits.SECOND << service.put_off)
            service.put_off = min(service.put_off + 1, 6)
            state.timer(service.retry_at, "wake", service.key)
            stop(state, youngest, "made to wait: another load came first")
    return coming


def _coming(state: State, need: int) -> int:
    """Bytes that are free, or on their way; what is idle is asked back as far as they need it."""
    leaving = sum(worker.holds for worker in state.workers.values() if worker.leaving)
    coming = state.ledger.free + leaving
    return coming + shared.reclaim(state, need - coming)


def ready(state: State, event: ev.WorkerReady) -> None:
    """A worker takes tasks from now on."""
    worker = state.workers[event.worker]
    if worker.state == "stopping":
        return
    if worker.state not in ("starting", "loading") or weights.unfilled(state, worker.id):
        raise BreachError("a second ready, or one before its memory was granted")
    step(WORKER, worker, "ready")
    worker.slots = min(event.slots, worker.spec.slots)
    service = worker.service
    service.failing = False
    service.put_off = 0
    state.dirty[service.key] = service
    took = state.now - worker.started
    state.costs.learn(("", service.title, 0), took)
    state.log("info", f"worker {worker.id} {service.title} is ready after {took // limits.MS} ms")
    worker.ready_at = worker.idle_since = state.now
    if service.held or (state.squeezed and worker.spec.lane == "bulk"):
        grants.suspend(state, worker)
    if state.idle_ns or service.keep_ns is not None:
        state.timer(state.now + (service.keep_ns or state.idle_ns), "idle", worker.id)


def unready(state: State, event: ev.WorkerUnready) -> None:
    """A worker cannot serve: those who wait for it are told its reason."""
    _give_up(state, state.workers[event.worker], event.why)


def too_slow(state: State, worker: Worker) -> None:
    """A worker that is not ready in time is killed; who waits for it is told at once."""
    why = f"it was not ready after {(state.now - worker.started) // limits.SECOND} s"
    fail_waiting(state, worker.service, ev.Fault("too_slow", worker.service.title, because=why))
    kill(state, worker, why)


def _give_up(state: State, worker: Worker, fault: Any) -> None:
    worker.fault = worker.service.last_why = fault
    worker.service.failing = True
    fail_waiting(state, worker.service, fault)
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
    if worker.state == "stopping":
        return
    step(WORKER, worker, "stop")
    worker.why = why
    state.log("info", f"worker {worker.id} {worker.service.title} stops: {why}")
    if worker.suspended:
        state.out.append(ev.Kill(worker.id, why))
        return
    state.out.append(ev.Tell(worker.id, wire.Stop()))
    worker.due = state.now + limits.STOP_GRACE
    state.timer(worker.due, "stop", worker.id)


def kill(state: State, worker: Worker, why: str) -> None:
    """End a worker's process now; its death is then no surprise, but counts as one."""
    worker.why = worker.why or why
    worker.killed = True
    state.out.append(ev.Kill(worker.id, why))


def broke(state: State, worker: Worker, why: str) -> None:
    """A worker said what it may not say."""
    state.log("error", f"worker {worker.id} {worker.service.title} broke the protocol: {why}")
    worker.broke, worker.fault = True, ev.Fault("bad_worker", because=why)
    kill(state, worker, f"broke the protocol: {why}")


def gone(state: State, event: ev.WorkerGone) -> None:
    """A worker's process has ended: its memory is back, its tasks are told or run again."""
    worker = state.workers.pop(event.worker)
    service = worker.service
    asked_for, served = worker.state == "stopping", worker.state == "ready"
    why = worker.why or event.why
    step(WORKER, worker, "gone")
    service.worker = None
    service.last_why = why
    state.dirty[service.key] = service
    state.ledger.release(worker.holds)
    shared.holder_gone(state, ("worker", worker.id), keep=not asked_for)
    bereft, slots = worker.tasks(), len(worker.running)
    worker.running.clear()
    if slots:
        state.computes(worker, 0 if worker.suspended else -slots)
    for task in bereft:
        _bereft(state, service, worker, task, why)
    if asked_for or state.stopping:
        return
    state.log("error", f"worker {worker.id} {service.title} died: {why}")
    service.failing = True
    service.revive = served
    if served:  # starts that fail count however long each of them takes
        since = state.now - limits.DEATH_WINDOW
        service.deaths = [when for when in service.deaths if when > since]
    # A task that has killed it twice does not count: one caller must not lock out the others.
    if not any(task.attempts > 1 for task in bereft):
        service.deaths.append(state.now)
    if len(service.deaths) >= limits.DEATHS:
        _quarantine(state, service)


def _quarantine(state: State, service: Service) -> None:
    """Not started again for a while, each time for longer."""
    pause = min(limits.QUARANTINE << service.quarantines, limits.QUARANTINE_MAX)
    service.quarantined_until = state.now + pause
    service.quarantines = min(service.quarantines + 1, 16)
    service.deaths.pop(0)  # one more without an answer is enough for the next
    state.timer(service.quarantined_until, "wake", service.key)
    state.log("error", f"{service.title} is in quarantine: it kept dying")
    fail_waiting(state, service, tasks.quarantined(state, service))


def _bereft(state: State, service: Service, worker: Worker, task: Task, why: str) -> None:
    """What becomes of a task whose worker has died under it."""
    asked = task.asked
    # A lease ends with the worker, so a task with leases cannot run on the next one.
    again = asked.idempotent and not (asked.leases or task.streamed or state.stopping)
    if again and task.attempts < limits.ATTEMPTS and task.state == "running" and not worker.fault:
        tasks.requeue(state, task)
        return
    fault = worker.fault or ev.Fault("worker_died", service.title, because=why)
    tasks.end(state, task, "fail", fault)


def watch(state: State, worker: Worker) -> None:
    """Ping a busy worker; one that stays silent is killed (rung 4 of the preemption ladder)."""
    if not worker.running:
        worker.pinged = False
        return
    patience = _patience(worker.spec)
    if worker.missed >= limits.MISSED * patience and 4 in state.rungs:
        worker.fault = ev.Fault("worker_hung", worker.service.title)
        kill(state, worker, "it stopped answering")
        return
    worker.missed += not worker.suspended
    state.redivide = True  # who is silent counts as not computing
    state.out.append(ev.Tell(worker.id, wire.Ping(seq=state.now // limits.MS)))
    state.timer(state.now + state.hung_ns // limits.MISSED, "ping", worker.id)


def _patience(spec: ev.Spec) -> int:
    return limits.BULK_PATIENCE if spec.lane == "bulk" else 1
