"""Segments: memory that one client and one worker share, charged until every holder is gone."""

from clawai.kernel import limits, tasks
from clawai.kernel.events import (
    Borrowed,
    FreeSegment,
    MakeSegment,
    Reply,
    Returned,
    SegmentDropped,
    SegmentFailed,
    SegmentGone,
    Submitted,
    Tell,
)
from clawai.kernel.state import SEGMENT, Segment, Service, State, Worker, step
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

PAGE = 4096


def objection(state: State, event: Submitted, worker: Worker | None) -> ClawError | None:
    """Whether each lease is the client's, for this worker's incarnation, current and in bounds."""
    for lease in event.leases:
        segment = state.segments.get(lease.segment)
        if (
            segment is None
            or segment.state != "lent"
            or segment.client != event.client
            or worker is None
            or segment.worker != worker.id
            or segment.generation != lease.generation
            or lease.offset + lease.length > segment.size
        ):
            return ClawError(
                "no_lease",
                "the lease is not valid for this client and this worker",
                got={"segment": lease.segment, "generation": lease.generation},
                hint="borrow again: a lease ends with its client and with its worker",
            )
    return None


def lent(state: State, worker: int) -> bool:
    """Whether somebody holds a lease of memory that a worker shares."""
    return any(s.worker == worker and s.state == "lent" for s in state.segments.values())


def reclaim(state: State, need: int) -> int:
    """Have idle segments unmapped until ``need`` bytes will come back; returns those to come."""
    return 0


def borrowed(state: State, event: Borrowed) -> None:
    """Note who wants a segment; it is made when the worker of the pair is there."""
    lent = sum(s.client == event.client and s.state != "idle" for s in state.segments.values())
    service = state.services.get(event.spec.key)
    error = None
    if state.stopping:
        error = ClawError("kernel_stopped", "the kernel is stopping")
    elif event.size == 0 or event.size + event.spec.base_bytes > state.ledger.budget:
        error = tasks.never_fits(state.ledger, event.size, "the segment")
    elif lent + (len(service.borrows) if service else 0) >= limits.SEGMENTS_PER_CLIENT:
        error = _too_many(lent)
    elif service and state.now < service.quarantined_until:
        error = tasks.quarantined(state, service)
    if error:
        tasks.refuse(state, event.client, event.request, error)
        return
    service = state.service(event.spec)
    service.spec = event.spec
    service.borrows.append(event)


def _too_many(have: int) -> ClawError:
    return ClawError(
        "queue_full",
        "one client can have so many segments, those that it gave back included",
        got=have,
        allowed=limits.SEGMENTS_PER_CLIENT,
        hint="use fewer and larger ones, in a few sizes; they end with the connection",
    )


def lend_waiting(state: State, service: Service, worker: Worker) -> None:
    """Answer the wishes that wait for this worker."""
    wishes, service.borrows = service.borrows, []
    for wish in wishes:
        _lend(state, worker, wish)


def _lend(state: State, worker: Worker, wish: Borrowed) -> None:
    size = -(-wish.size // PAGE) * PAGE
    mine = [s for s in state.segments.values() if s.client == wish.client]
    full = len(mine) >= limits.SEGMENTS_PER_CLIENT or state.ledger.free < size
    idle = [s for s in mine if s.worker == worker.id and s.state == "idle" and s.size >= size]
    best = min(idle, key=lambda segment: segment.size, default=None)
    # One that is far too large is taken only when no new one can be had.
    if best and (best.size <= 2 * size or full):
        step(SEGMENT, best, "lend")
        best.generation += 1
        state.out.append(_leased(best, wish))
        return
    if len(mine) >= limits.SEGMENTS_PER_CLIENT:
        tasks.refuse(state, wish.client, wish.request, _too_many(len(mine)))
        return
    number = state.number("segment")
    if not state.ledger.charge(("segment", number), size):
        error = ClawError(
            "no_memory",
            "there is no room for the segment now",
            got=f"{size} bytes",
            allowed=f"{state.ledger.free} bytes free",
            hint="return segments, or try again later",
        )
        tasks.refuse(state, wish.client, wish.request, error)
        return
    segment = Segment(number, wish.client, worker.id, size)
    step(SEGMENT, segment, "lend")
    state.segments[number] = segment
    state.out.append(
        MakeSegment(number, wish.client, worker.id, size, reply=_leased(segment, wish))
    )


def _leased(segment: Segment, wish: Borrowed) -> Reply:
    lease = wire.Lease(
        segment=segment.id, offset=0, length=segment.size, generation=segment.generation
    )
    return Reply(wish.client, wire.Leased(id=wish.request, lease=lease))


def returned(state: State, event: Returned) -> None:
    """The client is done with a lease; the pair may use the segment again."""
    segment = state.segments.get(event.segment)
    if segment is None or segment.client != event.client or segment.generation != event.generation:
        return  # its worker or its lease has ended already; nothing is held for it
    if segment.state in ("lent", "orphan"):
        step(SEGMENT, segment, "return")
        state.ledger.freed = True  # its worker may be evicted now
        _free_if_due(state, segment)


def client_left(state: State, client: int) -> None:
    """Have the workers unmap what they shared with a client that is gone."""
    for service in state.services.values():
        service.borrows = [wish for wish in service.borrows if wish.client != client]
    for segment in list(state.segments.values()):
        if segment.client == client and segment.state in ("lent", "idle", "orphan"):
            step(SEGMENT, segment, "client_left")
            if segment.state == "dropping":
                state.out.append(Tell(segment.worker, wire.Drop(segment=segment.id)))
            _free_if_due(state, segment)


def worker_gone(state: State, worker: int) -> None:
    """A dead worker maps nothing; a client that still does keeps the charge until it lets go."""
    for segment in list(state.segments.values()):
        if segment.worker != worker:
            continue
        if segment.state in ("lent", "idle", "dropping"):
            step(SEGMENT, segment, "worker_gone")
        # One that is being freed already was held up by the worker, which wrote to it until now.
        _free_if_due(state, segment)


def dropped(state: State, event: SegmentDropped) -> None:
    """A worker says it has unmapped a segment."""
    segment = state.segments.get(event.segment)
    if segment is None or segment.worker != event.worker or segment.state != "dropping":
        raise ClawError("bad_worker", "dropped a segment that it was not told to drop")
    step(SEGMENT, segment, "dropped")
    state.workers[event.worker].retired += 1
    _free_if_due(state, segment)


def _free_if_due(state: State, segment: Segment) -> None:
    if segment.state == "freeing":
        state.out.append(FreeSegment(segment.id))


def failed(state: State, event: SegmentFailed) -> None:
    """No memory could be had for it."""
    segment = state.segments.pop(event.segment)
    step(SEGMENT, segment, "failed")
    state.ledger.release(("segment", event.segment))


def freed(state: State, event: SegmentGone) -> None:
    """The pages are back, seen by the shell in the file's block count."""
    number = event.segment
    step(SEGMENT, state.segments[number], "gone")
    del state.segments[number]
    state.ledger.release(("segment", number))
