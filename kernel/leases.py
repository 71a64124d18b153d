"""Leases: who may use which pages of which segment, and how segments come and go.

A segment is charged at its full size until both holders have unmapped it and its pages are back.
One without leases stays with its pair, to be lent again without a page fault, until the memory is
needed by anybody else (``reclaim``). What a running task uses is neither lent again nor reclaimed,
even when its client has returned it. A holder that does not unmap what it was asked to keeps the
charge: a client until it disconnects, a worker until it ends.
"""

from collections.abc import Callable

from clawai.kernel import events as ev
from clawai.kernel import limits, tasks
from clawai.kernel.pool import PAGE, Segment, find
from clawai.kernel.state import SEGMENT, BreachError, Service, State, Worker, step
from clawai.sdk import wire

Room = Callable[[State, int], int]


def borrowed(state: State, event: ev.Borrowed) -> None:
    """Note who wants a lease; it is lent when the worker of the pair is there."""
    service = state.services.get(event.spec.key)
    lent = sum(len(s.leases) for s in state.segments.values() if s.client == event.client)
    lent += sum(wish.client == event.client for wish in service.borrows) if service else 0
    fault = None
    if state.stopping:
        fault = ev.Fault("kernel_stopped")
    elif event.size == 0 or event.size + event.spec.base_bytes > state.ledger.budget:
        fault = tasks.never_fits(state.ledger, event.size, "the segment")
    elif lent >= limits.LEASES_PER_CLIENT:
        fault = ev.Fault("too_many", "leases", lent, limits.LEASES_PER_CLIENT)
    elif service and state.now < service.quarantined_until:
        fault = tasks.quarantined(state, service)
    if fault:
        _refuse(state, event, fault)
    else:
        service = state.service(event.spec)
        service.borrows.append(event)


def objection(state: State, asked: ev.Submitted, worker: Worker | None) -> ev.Fault | None:
    """Whether each lease is the client's, for this worker's incarnation, current and in bounds."""
    for lease in asked.leases:
        segment = state.segments.get(lease.segment)
        lent = segment.leases.get(lease.generation) if segment else None
        if (
            segment is None
            or lent is None
            or lent.returned
            or worker is None
            or (segment.client, segment.worker) != (asked.client, worker.id)
            or lease.offset < lent.lease.offset
            or lease.offset + lease.length > lent.lease.offset + lent.lease.length
            or (lease.rights == "rw" and segment.rights == "r")
        ):
            got = {"segment": lease.segment, "generation": lease.generation}
            return ev.Fault("no_lease", got=got)
    return None


def pin(state: State, leases: tuple[wire.Lease, ...], by: int) -> None:
    """A task that names these begins to run (1) or ends (-1); meanwhile they are its own."""
    for lease in leases:
        segment = state.segments.get(lease.segment)
        if segment and (lent := segment.leases.get(lease.generation)):
            lent.pins += by
            _settle(state, segment, lease.generation)


def reclaim(state: State, need: int, client: int | None = None) -> int:
    """Ask idle segments back, longest idle first, until ``need`` bytes are coming; how many are.

    What was asked back long ago is not counted any more: its holder may never let go.
    """
    mine = [s for s in state.segments.values() if client in (None, s.client)]
    late = state.now - limits.UNMAP
    asked = [s for s in mine if s.state == "dropping" and s.since > late]
    coming = sum(s.size for s in mine if s.state == "freeing") + sum(s.size for s in asked)
    idle = [segment for segment in mine if segment.state == "idle"]
    # One that is suspended cannot answer now.
    held = {worker.id for worker in state.workers.values() if worker.suspended}
    for segment in sorted(idle, key=lambda s: (s.worker in held, s.since, s.id)):
        if coming >= need:
            break
        coming += segment.size
        _unshare(state, segment, "reclaim")
    return coming


def lent(state: State, worker: int) -> bool:
    """Whether somebody has a lease that it shares."""
    return any(s.worker == worker and s.state == "lent" for s in state.segments.values())


def lend_waiting(state: State, service: Service, worker: Worker, room: Room) -> None:
    """Answer the wishes that wait for this worker, in order; some wait on, for memory.

    ``room`` is told how many bytes are to be free, and says how many will be.
    """
    while service.borrows and _lend(state, worker, service.borrows[0], room):
        service.borrows.pop(0)
    if service.borrows:
        state.hungry[service.key] = service


def _lend(state: State, worker: Worker, wish: ev.Borrowed, room: Room) -> bool:
    """Whether the wish was answered; if not, memory is on its way."""
    pages = -(-wish.size // PAGE)
    mine = [s for s in state.segments.values() if s.client == wish.client]
    pair = [s for s in mine if s.worker == worker.id and s.rights == wish.rights]
    pair = [s for s in pair if s.state in ("lent", "idle")]
    # One that is being made now may fail; the next turn of the loop knows.
    made = [told.segment for told in state.out if isinstance(told, ev.MakeSegment)]
    for segment in sorted(pair, key=lambda s: (s.state == "idle", s.size, s.id)):
        # A small lease must not hold a large segment.
        left_over = segment.size - pages * PAGE
        roomy = segment.size <= limits.SLAB or left_over <= segment.size * limits.LEFT_OVER
        if roomy and (first := find(segment.free, pages)) >= 0:
            if segment.id in made:
                return _wait(state, worker, 0)
            if segment.state == "idle":
                step(SEGMENT, segment, "lend")
            leased = wire.Leased(id=wish.request, lease=segment.lend(first, pages))
            state.out.append(ev.Reply(wish.client, leased))
            return True
    if len(mine) >= limits.SEGMENTS_PER_CLIENT:
        if reclaim(state, 1, wish.client):
            return _wait(state, worker)
        fault = ev.Fault("too_many", "segments", len(mine), limits.SEGMENTS_PER_CLIENT)
        return _refuse(state, wish, fault)
    slabs = sum(s.size for s in pair if s.size <= limits.SLAB)
    slab = min(max(4 * pages * PAGE, slabs, limits.SLAB // 16), limits.SLAB)
    for size in (slab, pages * PAGE) if pages * PAGE <= limits.SMALL else (pages * PAGE,):
        if state.ledger.free >= size:
            _make(state, worker, wish, size)
            return True
    if room(state, pages * PAGE) >= pages * PAGE:
        return _wait(state, worker)
    got, free = f"{pages * PAGE} bytes", f"{state.ledger.free} bytes free"
    return _refuse(state, wish, ev.Fault("no_memory", "", got, free))


def _refuse(state: State, wish: ev.Borrowed, fault: ev.Fault) -> bool:
    tasks.refuse(state, wish.client, wish.request, fault)
    return True


def _wait(state: State, worker: Worker, span: int = limits.UNMAP) -> bool:
    """Look again when memory has come back, or else when it should have."""
    state.timer(state.now + span, "services", worker.service.key)
    return False


def _make(state: State, worker: Worker, wish: ev.Borrowed, size: int) -> None:
    segment = Segment(state.number("segment"), wish.client, worker.id, size, wish.rights)
    state.ledger.charge(("segment", segment.id), size)
    state.segments[segment.id] = segment
    step(SEGMENT, segment, "lend")
    leased = wire.Leased(id=wish.request, lease=segment.lend(0, -(-wish.size // PAGE)))
    reply = ev.Reply(wish.client, leased)
    state.out.append(
        ev.MakeSegment(segment.id, wish.client, worker.id, size, reply=reply, rights=wish.rights)
    )


def returned(state: State, event: ev.Returned) -> None:
    """The client is done with a lease."""
    segment = state.segments.get(event.segment)
    lent = segment.leases.get(event.generation) if segment else None
    if segment and lent and segment.client == event.client:
        lent.returned = True
        _settle(state, segment, event.generation)


def _settle(state: State, segment: Segment, generation: int) -> None:
    lent = segment.leases[generation]
    if not lent.returned or (lent.pins and segment.worker_maps):
        return
    segment.take_back(generation)
    state.ledger.freed = True  # who waits for memory of this pair is looked at again
    if not segment.leases:
        step(SEGMENT, segment, "return")
        segment.since = state.now
        if not segment.worker_maps:
            _unshare(state, segment, "reclaim")


def _unshare(state: State, segment: Segment, why: str) -> None:
    """Ask everybody who maps a segment to unmap it."""
    step(SEGMENT, segment, why)
    segment.leases.clear()
    segment.since = state.now
    if segment.worker_maps:
        state.out.append(ev.Tell(segment.worker, wire.Drop(segment=segment.id)))
    if segment.client_maps:
        state.out.append(ev.Reply(segment.client, wire.Drop(segment=segment.id)))
    _free_if_due(state, segment)


def _free_if_due(state: State, segment: Segment) -> None:
    if segment.state == "dropping" and not (segment.client_maps or segment.worker_maps):
        step(SEGMENT, segment, "unmapped")
        state.out.append(ev.FreeSegment(segment.id))


def client_left(state: State, client: int) -> None:
    """Have the workers unmap what they shared with a client that is gone."""
    for service in state.services.values():
        service.borrows = [wish for wish in service.borrows if wish.client != client]
    for segment in list(state.segments.values()):
        if segment.client == client:
            segment.client_maps = False
            if segment.state in ("lent", "idle"):
                _unshare(state, segment, "client_left")
            _free_if_due(state, segment)


def worker_gone(state: State, worker: int) -> None:
    """A dead worker maps nothing; a client that still does keeps the charge until it lets go."""
    for segment in list(state.segments.values()):
        if segment.worker != worker:
            continue
        segment.worker_maps = False
        for generation in list(segment.leases):
            _settle(state, segment, generation)  # what ran there runs no more
        if segment.state == "idle":
            _unshare(state, segment, "reclaim")
        elif segment.state == "freeing":
            # It was held up by the worker, which wrote to it until now.
            state.out.append(ev.FreeSegment(segment.id))
        _free_if_due(state, segment)


def dropped(state: State, worker: Worker, event: ev.SegmentDropped) -> None:
    """A worker says it has unmapped a segment."""
    segment = state.segments.get(event.segment)
    told = segment and segment.state == "dropping" and segment.worker_maps
    if segment is None or not told or segment.worker != worker.id:
        raise BreachError("dropped a segment that it was not told to drop")
    segment.worker_maps = False
    worker.retired += 1
    _free_if_due(state, segment)


def unmapped(state: State, event: ev.Unmapped) -> None:
    """A client says it has unmapped a segment; unasked it means nothing."""
    segment = state.segments.get(event.segment)
    if segment and segment.client == event.client and segment.state == "dropping":
        segment.client_maps = False
        _free_if_due(state, segment)


def freed(state: State, event: ev.SegmentGone) -> None:
    """The pages are back, seen by the shell in the file's block count."""
    _forget(state, event.segment, "gone")


def failed(state: State, event: ev.SegmentFailed) -> None:
    """The system had no memory for a segment."""
    _forget(state, event.segment, "failed")


def _forget(state: State, number: int, why: str) -> None:
    step(SEGMENT, state.segments.pop(number), why)
    state.ledger.release(("segment", number))
