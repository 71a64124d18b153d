"""The life of shared memory: made, in use, idle, asked back, and given back to the system.

It is charged at its full size until everybody has unmapped it and its pages are back. What nobody
uses is kept for the next one who may have it, until the memory is needed by anybody else
(``reclaim``). A holder that does not unmap what it was asked to keeps the charge: a client until it
disconnects, a worker until it ends.

Weights are read-only memory that outlives the workers that map it. The first worker of a (model
file, plugin code, layout) fills it; when it can no longer be written by anybody, all workers of the
same key map it. Charged once, whoever maps it. It goes when its workers were stopped on purpose, or
when its memory is needed and nobody maps it.
"""

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.pool import Holder, Memory
from clawai.kernel.state import LEAVING, MEMORY, BreachError, State, Worker, step
from clawai.sdk import wire


def make(state: State, held: Memory) -> None:
    """Have an object made, for which there is room."""
    state.ledger.charge(held.size)
    state.memory[held.id] = held
    state.out.append(ev.MakeMemory(held.id, held.size, held.worker, held.client, held.rights))


def settle(state: State, held: Memory, keep: bool = False) -> None:
    """What becomes of an object when somebody has let go of it, or of pages of it.

    Args:
        keep: weights that nobody maps any more are kept for the next worker.
    """
    worker = state.workers.get(held.worker)
    running = worker.tasks() if worker and held.returned else []
    used = {(lease.segment, lease.generation) for task in running for lease in task.asked.leases}
    for generation in [each for each in held.returned if (held.id, each) not in used]:
        held.take_back(generation)
        state.ledger.freed = True  # who waits for memory of this pair is looked at again
    if held.state == "dropping" and not held.maps:
        step(MEMORY, held, "unmapped")
        state.out.append(ev.FreeMemory(held.id))
    elif held.state != "dropping" and not held.in_use:
        held.since = state.now
        again = len(held.maps) == 2 if held.client else keep and held.state == "shared"
        if not again:
            _drop(state, held)


def _drop(state: State, held: Memory) -> None:
    """Ask everybody who maps an object to unmap it."""
    step(MEMORY, held, "drop")
    held.since = state.now
    drop = wire.Drop(segment=held.id)
    for kind, number in sorted(held.maps):
        asked = ev.Reply(number, drop) if kind == "client" else ev.Tell(number, drop)
        state.out.append(asked)
    settle(state, held)


def reclaim(state: State, need: int, client: int | None = None) -> int:
    """Drop what is idle, longest idle first, until ``need`` bytes are coming; how many are.

    What was asked back long ago is not counted any more: its holder may never let go.
    """
    workers = state.workers.values()
    leaving = {("worker", worker.id) for worker in workers if worker.state in LEAVING}
    # One that is suspended cannot answer now.
    asleep = {("worker", worker.id) for worker in workers if worker.suspended}
    coming, idle, late = 0, [], state.now - limits.UNMAP
    for held in state.memory.values():
        if client not in (None, held.client):
            continue
        if held.idle:
            idle.append(held)
        elif held.maps <= leaving or (held.state == "dropping" and held.since > late):
            coming += held.size
    for held in sorted(idle, key=lambda held: (bool(held.maps & asleep), held.since, held.id)):
        if coming >= need:
            break
        coming += held.size
        _drop(state, held)
    return coming


def lent(state: State, worker: int) -> bool:
    """Whether somebody uses memory that it shares with a client."""
    segments = (held for held in state.memory.values() if held.client and held.worker == worker)
    return any(held.in_use for held in segments)


def holder_gone(state: State, who: Holder, keep: bool = False) -> None:
    """A client or worker that is gone maps nothing any more, and has returned every lease."""
    for held in [held for held in state.memory.values() if who in held.maps]:
        held.maps.remove(who)
        if who == ("client", held.client):
            held.returned |= held.leases
            held.leases.clear()
        settle(state, held, keep)


def _let_go(state: State, number: int, who: Holder) -> bool:
    """Whether ``who`` was to unmap an object, as it says it has."""
    held = state.memory.get(number)
    if held is None or held.state != "dropping" or who not in held.maps:
        return False
    held.maps.remove(who)
    settle(state, held)
    return True


def dropped(state: State, worker: Worker, event: ev.WorkerDropped) -> None:
    """A worker says it has unmapped a segment."""
    if not _let_go(state, event.memory, ("worker", worker.id)):
        raise BreachError("dropped a segment that it was not told to drop")
    worker.retired += 1


def unmapped(state: State, event: ev.Unmapped) -> None:
    """A client says it has unmapped a segment; unasked it means nothing."""
    _let_go(state, event.memory, ("client", event.client))


def gone(state: State, event: ev.MemoryGone) -> None:
    """The pages are back, or could not be had."""
    held = state.memory.pop(event.memory)
    step(MEMORY, held, "gone")
    state.ledger.release(held.size)


def spoiled(state: State, event: ev.MemorySpoiled) -> None:
    """Nobody gets these weights any more; they are freed when who maps them has ended."""
    held = state.memory.get(event.memory)
    if held and held.state == "shared":
        step(MEMORY, held, "drop")
        held.since = state.now
        settle(state, held)


# Weights.


def weights(state: State, worker: Worker, wish: ev.WorkerReserved) -> Memory | None:
    """The object that a worker wants, if there is one."""
    key, alive = _key(worker, wish), ("filling", "shared")
    return next((m for m in state.memory.values() if m.key == key and m.state in alive), None)


def _key(worker: Worker, wish: ev.WorkerReserved) -> tuple[str, ...]:
    spec = worker.spec
    return spec.plugin, spec.code, spec.model, spec.identity, wish.weights, str(wish.weights_bytes)


def give_weights(
    state: State, worker: Worker, wish: ev.WorkerReserved, held: Memory | None
) -> None:
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
        make(state, held)
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
