"""Leases: who may use which pages of which segment.

A segment without leases stays with its pair, to be lent again without a page fault. What a running
task uses is neither lent again nor reclaimed, even when its client has returned it.
"""

from clawai.kernel import events as ev
from clawai.kernel import limits, shared, tasks, workers
from clawai.kernel.pool import PAGE, Memory
from clawai.kernel.state import Service, State, Worker
from clawai.sdk import wire


def borrowed(state: State, event: ev.Borrowed) -> None:
    """Note who wants a lease; it is lent when the worker of the pair is there."""
    service = state.service(event.spec)
    lent = sum(len(held.leases) for held in state.memory.values() if held.client == event.client)
    lent += sum(wish.client == event.client for wish in service.borrows)
    fault = tasks.hopeless(state, service, event.size + event.spec.base_bytes, "the segment")
    if event.size == 0:
        fault = tasks.never_fits(state.ledger, 0, "the segment")
    elif not fault and lent >= limits.LEASES_PER_CLIENT:
        fault = ev.Fault("too_many", "leases", lent, limits.LEASES_PER_CLIENT)
    if fault:
        tasks.refuse(state, event.client, event.request, fault)
    else:
        service.borrows.append(event)


def objection(state: State, asked: ev.Submitted, worker: Worker | None) -> ev.Fault | None:
    """Whether it may use each lease on this worker."""
    for lease in asked.leases:
        held = state.memory.get(lease.segment)
        if not (held and worker and held.allows(lease, asked.client, worker.id)):
            got = {"segment": lease.segment, "generation": lease.generation}
            return ev.Fault("no_lease", got=got)
    return None


def returned(state: State, event: ev.Returned) -> None:
    """The client is done with a lease."""
    held = state.memory.get(event.segment)
    if held and held.client == event.client and event.generation in held.leases:
        held.returned[event.generation] = held.leases.pop(event.generation)
        shared.settle(state, held)


def unused(state: State, leases: tuple[wire.Lease, ...]) -> None:
    """A task that used these runs no more."""
    for lease in leases:
        held = state.memory.get(lease.segment)
        if held and lease.generation in held.returned:
            shared.settle(state, held)


def client_left(state: State, client: int) -> None:
    """What a client shared goes; what it waited for, nobody wants."""
    for service in state.services.values():
        service.borrows = [wish for wish in service.borrows if wish.client != client]
    shared.holder_gone(state, ("client", client))


def lend_waiting(state: State, service: Service, worker: Worker) -> None:
    """Answer the wishes that wait for this worker, in order; some wait on, for memory."""
    while service.borrows and _lend(state, worker, service.borrows[0]):
        service.borrows.pop(0)
    if service.borrows:
        # Looked at again when memory has come back, or else when it should have.
        state.hungry[service.key] = service
        state.timer(state.now + limits.UNMAP, "services", service.key)


def _lend(state: State, worker: Worker, wish: ev.Borrowed) -> bool:
    """Whether the wish was answered; if not, memory is on its way."""
    pages = -(-wish.size // PAGE)
    mine = [held for held in state.memory.values() if held.client == wish.client]
    like = worker.id, wish.rights, "shared"
    pair = [held for held in mine if (held.worker, held.rights, held.state) == like]
    pair.sort(key=lambda held: (held.idle, held.size, held.id))
    full = len(mine) >= limits.SEGMENTS_PER_CLIENT
    lease = next((lease for held in pair if (lease := held.lend(pages))), None)
    if lease is None and not full:
        slabs = sum(held.size for held in pair if held.size <= limits.SLAB)
        lease = _lend_anew(state, worker, wish, slabs)
    if lease:
        state.out.append(ev.Reply(wish.client, wire.Leased(id=wish.request, lease=lease)))
        return True
    if full:
        fault = ev.Fault("too_many", "segments", len(mine), limits.SEGMENTS_PER_CLIENT)
        coming = shared.reclaim(state, 1, wish.client) > 0
    else:
        coming = workers.make_room(state, pages * PAGE) >= pages * PAGE
        got, free = f"{pages * PAGE} bytes", f"{state.ledger.free} bytes free"
        fault = ev.Fault("no_memory", "", got, free)
    if not coming:
        tasks.refuse(state, wish.client, wish.request, fault)
    return not coming


def _lend_anew(state: State, worker: Worker, wish: ev.Borrowed, slabs: int) -> wire.Lease | None:
    """A lease of a new segment, if there is room: a small one leaves place for more of its kind."""
    pages = -(-wish.size // PAGE)
    size = pages * PAGE
    slab = min(max(4 * size, slabs, limits.SLAB // 16), limits.SLAB)
    if size <= limits.SMALL and slab <= state.ledger.free:
        size = slab
    if size > state.ledger.free:
        return None
    made = Memory(state.number("memory"), size, worker.id, wish.client, wish.rights)
    shared.make(state, made)
    return made.lend(pages)
