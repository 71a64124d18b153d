"""Weights objects: read-only memory owned by the kernel, which outlives the workers that map it.

The first worker of a (model file, plugin code, layout) fills one; when it can no longer be written
by anybody, all workers of the same key map it. Charged once, whoever maps it. It goes when its
workers were stopped on purpose, or when its memory is needed and nobody maps it.
"""

from clawai.kernel import events as ev
from clawai.kernel.state import LEAVING, WEIGHTS, BreachError, State, Weights, Worker, step
from clawai.sdk import wire


def find(state: State, worker: Worker, wish: ev.WorkerReserved) -> Weights | None:
    """The object that a worker wants, if there is one."""
    key = _key(worker, wish)
    alive = (w for w in state.weights.values() if w.key == key and w.state != "dropping")
    return next(alive, None) if wish.weights else None


def _key(worker: Worker, wish: ev.WorkerReserved) -> tuple[str, ...]:
    spec = worker.spec
    return spec.plugin, spec.code, spec.model, spec.identity, wish.weights, str(wish.weights_bytes)


def grant(state: State, worker: Worker, wish: ev.WorkerReserved, held: Weights | None) -> None:
    """Tell a worker that its private memory is charged, and give it its object."""
    how = ""
    if held:
        how = "map"
        state.out.append(ev.GiveWeights(held.id, worker.id))
    elif wish.weights and wish.weights_bytes:
        how = "fill"
        key, size = _key(worker, wish), wish.weights_bytes
        held = Weights(state.number("weights"), key, size, worker.id)
        step(WEIGHTS, held, "make")
        state.ledger.charge(("weights", held.id), size)
        state.weights[held.id] = held
        state.out.append(ev.MakeWeights(held.id, worker.id, size))
    if held:
        worker.weights = held
        held.users[worker.id] = worker
    state.out.append(ev.Tell(worker.id, wire.Granted(weights=how)))  # type: ignore[arg-type]


def filling(worker: Worker) -> bool:
    """Whether a worker has an object that is not sealed yet."""
    return worker.weights is not None and worker.weights.state != "ready"


def filled(state: State, worker: Worker, event: ev.WorkerFilled) -> None:
    """A worker says that it has written its object."""
    held = worker.weights
    if held is None or held.state != "filling":
        raise BreachError("filled no weights object of its own")
    step(WEIGHTS, held, "filled")
    state.out.append(ev.SealWeights(held.id, worker.id))


def sealed(state: State, worker: Worker, event: ev.WeightsSealed) -> None:
    """The object is whole and nobody can change it; or its worker cannot go on."""
    held = state.weights[event.weights]
    if held.state == "dropping":
        return
    if not event.success:
        raise BreachError("its weights object could still be written, or was not made")
    step(WEIGHTS, held, "sealed")
    state.out.append(ev.Tell(worker.id, wire.Sealed()))
    _wake(state, held)


def _wake(state: State, held: Weights) -> None:
    """Have those looked at who may wait for the same object."""
    for service in state.services.values():
        if service.worker and service.worker.state == "waiting":
            state.dirty[service.key] = service


def worker_gone(state: State, worker: Worker, keep: bool) -> None:
    """A dead worker maps nothing; what it leaves behind is kept for the next one, or goes."""
    if (held := worker.weights) is None:
        return
    del held.users[worker.id]
    held.idle_since = state.now
    if held.state != "ready" or not (held.users or keep):
        _drop(state, held)


def _drop(state: State, held: Weights) -> None:
    step(WEIGHTS, held, "lose")
    state.out.append(ev.DropWeights(held.id))
    _wake(state, held)


def drop_unused(state: State, need: int) -> int:
    """Drop objects that nobody maps, longest unused first; returns the bytes to come."""
    coming = 0
    for held in sorted(state.weights.values(), key=lambda held: (held.idle_since, held.id)):
        if coming < need and held.state == "ready" and not held.users:
            _drop(state, held)
            coming += held.size
    return coming


def coming(state: State) -> int:
    """Bytes of objects on their way out, with workers or without."""
    total = 0
    for held in state.weights.values():
        leaving = (w.state in LEAVING for w in held.users.values())
        if held.state == "dropping" or (held.users and all(leaving)):
            total += held.size
    return total


def alone(worker: Worker) -> int:
    """Bytes of the object that goes with a worker."""
    held = worker.weights
    return held.size if held and len(held.users) == 1 else 0


def freed(state: State, event: ev.WeightsGone) -> None:
    """The pages are back."""
    step(WEIGHTS, state.weights[event.weights], "gone")
    del state.weights[event.weights]
    state.ledger.release(("weights", event.weights))
