"""Weights: read-only memory owned by the kernel, which outlives the workers that map it.

The first worker of a (model file, plugin code, layout) fills it; when it can no longer be written
by anybody, all workers of the same key map it. Charged once, whoever maps it. It goes when its
workers were stopped on purpose, or when its memory is needed and nobody maps it.
"""

from clawai.kernel import events as ev
from clawai.kernel import shared
from clawai.kernel.pool import Memory
from clawai.kernel.state import MEMORY, BreachError, State, Worker, step
from clawai.sdk import wire


def find(state: State, worker: Worker, wish: ev.WorkerReserved) -> Memory | None:
    """The object that a worker wants, if there is one."""
    key, alive = _key(worker, wish), ("filling", "shared")
    return next((m for m in state.memory.values() if m.key == key and m.state in alive), None)


def _key(worker: Worker, wish: ev.WorkerReserved) -> tuple[str, ...]:
    spec = worker.spec
    return spec.plugin, spec.code, spec.model, spec.identity, wish.weights, str(wish.weights_bytes)


def grant(state: State, worker: Worker, wish: ev.WorkerReserved, held: Memory | None) -> None:
    """Tell a worker that its private memory is charged, and give it its object."""
    granted = wire.Granted()
    if held:
        granted = wire.Granted(weights="map")
        held.maps.add(("worker", worker.id))
        state.out.append(ev.GiveMemory(held.id, worker.id))
    elif wish.weights and wish.weights_bytes:
        granted = wire.Granted(weights="fill")
        number, key = state.number("memory"), _key(worker, wish)
        held = Memory(number, wish.weights_bytes, worker.id, key=key, state="filling")
        shared.make(state, held)
    worker.weights = held
    state.out.append(ev.Tell(worker.id, granted))


def filled(state: State, worker: Worker, event: ev.WorkerFilled) -> None:
    """A worker has written its object, and nobody can change it any more; or it cannot go on."""
    held = worker.weights
    if held is None or held.state != "filling" or not event.sealed:
        raise BreachError("its weights could still be written, or it had none to fill")
    step(MEMORY, held, "share")
    state.ledger.freed = True  # who waits for the same is looked at again
    state.out.append(ev.Tell(worker.id, wire.Sealed()))
