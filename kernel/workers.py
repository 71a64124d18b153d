"""Workers: start, load within the budget, serve, stop, die, come back, or be quarantined."""

from clawai.kernel import leases, limits, tasks
from clawai.kernel.events import Kill, Start, Tell, WorkerReady, WorkerReserved, WorkerUnready
from clawai.kernel.state import TASK, WORKER, Service, State, Task, Worker, step
from clawai.sdk import wire
from clawai.sdk.errors import ClawError


def schedule(state: State) -> None:
    """Use what is free: grant waiting loads, dispatch to free slots, start what is needed."""
    if state.stopping:
        return
    for loading in list(state.workers.values()):
        if loading.state == "waiting":
            _grant(state, loading)
    for service in list(state.services.values()):
        worker = service.worker
        if worker and worker.spec.identity != service.spec.identity:
            # Its model was replaced in the store: nothing new goes to it.
            if not worker.running:
                stop(state, worker, "its model was replaced")
        elif worker and worker.state == "ready" and not worker.killed:
            leases.lend_waiting(state, service, worker)
            while len(worker.running) < worker.slots:
                task = service.queue.best(state.now)
                if task is None:
                    break
                tasks.dispatch(state, service, worker, task)
            if worker.retired >= limits.RETIRED and not in_use(state, worker):
                stop(state, worker, "renewed: many segments were taken back")
        elif worker is None and (service.queue or service.borrows or service.revive):
            _start(state, service)


def in_use(state: State, worker: Worker) -> bool:
    """Whether somebody runs on it, waits for it, or shares memory with it."""
    lent = (s.worker == worker.id and s.state == "lent" for s in state.segments.values())
    return bool(worker.running or worker.service.queue or worker.service.borrows) or any(lent)


def _start(state: State, service: Service) -> None:
    if state.now < max(service.retry_at, service.quarantined_until):
        return
    number = state.last.get("worker", 0) + 1
    if not state.ledger.charge(("worker", number), service.spec.base_bytes):
        make_room(state, service.spec.base_bytes, None)
        return
    worker = Worker(state.number("worker"), service, state.now, service.spec)
    step(WORKER, worker, "start")
    service.worker = worker
    service.revive = False
    service.started += 1
    state.workers[worker.id] = worker
    state.timer(state.now + limits.START, "start", worker.id)
    state.out.append(Start(worker.id, service.spec))


def reserved(state: State, event: WorkerReserved) -> None:
    """A worker knows what its model needs; it loads when that is charged."""
    worker = state.workers[event.worker]
    if worker.state == "stopping":
        return
    if worker.state != "starting":
        raise ClawError("bad_worker", "a second reservation")
    step(WORKER, worker, "reserve")
    worker.wanted = event.size
    need = worker.service.spec.base_bytes + event.size
    if need > state.ledger.budget:
        name = worker.service.spec.model or worker.service.spec.plugin
        _give_up(state, worker, tasks.never_fits(state.ledger, need, name))


def _grant(state: State, worker: Worker) -> None:
    if state.ledger.charge(("worker", worker.id), worker.wanted):
        step(WORKER, worker, "grant")
        state.timer(state.now + limits.LOAD, "start", worker.id)
        state.out.append(Tell(worker.id, wire.Granted()))
    else:
        make_room(state, worker.wanted, worker)


def make_room(state: State, need: int, wanting: Worker | None) -> None:
    """Stop idle workers, longest idle first, until ``need`` bytes will be free.

    What is on its way out counts as free to come; the charge is made only when it is really back.
    If only other loads stand in the way, the youngest of them starts over later.
    """
    coming = state.ledger.free + sum(
        state.ledger.holders.get(("worker", worker.id), 0)
        for worker in state.workers.values()
        if worker.state == "stopping" or worker.killed
    )
    idle = [
        worker
        for worker in state.workers.values()
        if worker.state == "ready" and not worker.killed and not in_use(state, worker)
    ]
    for worker in sorted(idle, key=lambda worker: worker.idle_since):
        if coming >= need:
            return
        coming += state.ledger.holders[("worker", worker.id)]
        stop(state, worker, "evicted: its memory is needed")
    busy = any(worker.running or worker.state == "loading" for worker in state.workers.values())
    waiting = [
        worker
        for worker in state.workers.values()
        if worker.state in ("starting", "waiting") and worker is not wanting
    ]
    if coming < need and wanting and waiting and not busy:
        youngest = max(waiting, key=lambda worker: worker.id)
        if youngest.id > wanting.id:
            youngest.service.retry_at = state.now + limits.SECOND
            state.timer(youngest.service.retry_at, "wake", 0)
            stop(state, youngest, "made to wait: another load came first")


def ready(state: State, event: WorkerReady) -> None:
    """A worker takes tasks from now on."""
    worker = state.workers[event.worker]
    if worker.state == "stopping":
        return
    if worker.state not in ("starting", "loading"):
        raise ClawError("bad_worker", "a second ready, or one before its memory was granted")
    step(WORKER, worker, "ready")
    worker.slots = min(event.slots, worker.service.spec.slots)
    worker.service.failed_starts = 0
    worker.service.failing = False
    took = (state.now - worker.started) // limits.MS
    state.log("info", f"worker {worker.id} {_title(worker.service)} is ready after {took} ms")
    worker.ready_at = worker.idle_since = worker.answered = state.now
    if state.idle_ns:
        state.timer(state.now + state.idle_ns, "idle", worker.id)


def unready(state: State, event: WorkerUnready) -> None:
    """A worker cannot serve: those who wait for it are told its reason."""
    _give_up(state, state.workers[event.worker], event.error)


def too_slow(state: State, worker: Worker, limit: int) -> None:
    """A worker that is not ready in time is killed; who waits for it is told at once."""
    why = f"it was not ready after {limit // limits.SECOND} s"
    error = ClawError("worker_hung", f"{_title(worker.service)} does not start: {why}")
    fail_waiting(state, worker.service, error)
    kill(state, worker, why)


def _give_up(state: State, worker: Worker, error: ClawError) -> None:
    worker.error = error
    worker.service.last_why = error.message
    worker.service.failing = True
    fail_waiting(state, worker.service, error)
    stop(state, worker, error.message)


def fail_waiting(state: State, service: Service, error: ClawError) -> None:
    """End all that waits for a service."""
    for task in service.queue.ordered(state.now):
        service.queue.remove(task)
        tasks.end(state, task, "fail", wire.error_message(error))
    for borrow in service.borrows:
        tasks.refuse(state, borrow.client, borrow.request, error)
    service.borrows.clear()
    service.revive = False


def stop(state: State, worker: Worker, why: str) -> None:
    """Ask a worker to exit; it is killed when it takes too long."""
    if worker.state == "stopping":
        return
    step(WORKER, worker, "stop")
    worker.why = why
    state.log("info", f"worker {worker.id} {_title(worker.service)} stops: {why}")
    state.out.append(Tell(worker.id, wire.Stop()))
    state.timer(state.now + limits.STOP_GRACE, "stop", worker.id)


def kill(state: State, worker: Worker, why: str) -> None:
    """End a worker's process now; its death is then no surprise, but counts as one."""
    worker.why = worker.why or why
    worker.killed = True
    state.out.append(Kill(worker.id, why))


def broke(state: State, worker: Worker, why: str) -> None:
    """A worker said what it may not say."""
    state.log("error", f"worker {worker.id} {_title(worker.service)} broke the protocol: {why}")
    worker.error = ClawError("bad_worker", f"the plugin broke the wire protocol: {why}")
    kill(state, worker, f"broke the protocol: {why}")


def gone(state: State, number: int, why: str) -> None:
    """A worker's process has ended: its memory is back, its tasks are told or run again."""
    worker = state.workers.pop(number)
    service = worker.service
    asked_for = worker.state == "stopping"
    served = worker.state == "ready"
    why = worker.why or why
    step(WORKER, worker, "gone")
    service.worker = None
    service.last_why = why
    state.ledger.release(("worker", number))
    leases.worker_gone(state, number)
    again = any(task.attempts > 1 for task in worker.running.values())
    for task in list(worker.running.values()):
        _bereft(state, service, worker, task, why)
    worker.running.clear()
    if asked_for or state.stopping:
        return
    state.log("error", f"worker {number} {_title(service)} died: {why}")
    service.failing = True
    service.revive = served
    service.failed_starts = 0 if served else service.failed_starts + 1
    service.deaths = [when for when in service.deaths if state.now - when < limits.DEATH_WINDOW]
    if not again:  # else the same task has killed it twice: one caller must not lock out the others
        service.deaths.append(state.now)
    too_many = len(service.deaths) >= limits.DEATHS
    if too_many or service.failed_starts >= limits.FAILED_STARTS:
        _quarantine(state, service)
        return
    pause = limits.BACKOFF << (2 * max(0, len(service.deaths) - 1))
    service.retry_at = state.now + min(pause, limits.BACKOFF_MAX)
    state.timer(service.retry_at, "wake", 0)


def _quarantine(state: State, service: Service) -> None:
    service.quarantined_until = state.now + limits.QUARANTINE
    service.deaths.clear()
    service.failed_starts = 0
    state.log("error", f"{_title(service)} is in quarantine: it kept dying ({service.last_why})")
    fail_waiting(state, service, tasks.quarantined(state, service))


def _bereft(state: State, service: Service, worker: Worker, task: Task, why: str) -> None:
    """What becomes of a task whose worker has died under it."""
    asked = task.asked
    # A lease ends with the worker, so a task with leases cannot run on the next one.
    again = asked.idempotent and not (asked.leases or task.streamed or state.stopping)
    if again and task.attempts < limits.ATTEMPTS and task.state == "running" and not worker.error:
        step(TASK, task, "requeue")
        task.worker = 0
        service.queue.push(task)
        return
    error = worker.error or ClawError(
        "worker_died",
        f"the worker of {_title(service)} ended while it ran the task: {why}",
        hint="it is started again by itself; send the request again",
    )
    tasks.end(state, task, "fail", wire.error_message(error))


def watch(state: State, worker: Worker) -> None:
    """Ping a busy worker; one that stays silent is killed (rung 4 of the preemption ladder)."""
    if not worker.running:
        worker.pinged = False
        return
    if worker.answered and state.now - worker.answered > limits.HUNG:
        worker.error = ClawError("worker_hung", f"{_title(worker.service)} stopped answering")
        kill(state, worker, "it stopped answering")
        return
    state.out.append(Tell(worker.id, wire.Ping(seq=state.now // limits.MS)))
    state.timer(state.now + limits.PING, "ping", worker.id)


def _title(service: Service) -> str:
    return " ".join(filter(None, service.spec.key[:2]))
