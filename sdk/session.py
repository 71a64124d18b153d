"""The client protocol without I/O: requests out, events in. All clients are thin shells of it.

It also decides, by the time that it is told, what is sent again and when: after a lost connection,
and after an error that says ``retry_after_ms``. What it has to say then waits in ``outbox``.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_from, unpack

Frames = list[bytes | memoryview]
WINDOW = 2 << 20
"""Bytes of a stream that may be on their way before its reader has taken some."""
_PAUSES = 0.05, 5.0
"""Seconds before the first attempt at something again, and the longest."""
_BAD = object()


class Event(Struct, frozen=True):
    """News of a task: ``kind`` is accepted, progress or chunk."""

    kind: str
    task: int = 0
    """The kernel's number of the task (accepted)."""
    position: int | None = None
    """Tasks before it in its queue (accepted, progress)."""
    estimate_ms: int | None = None
    """Until it begins to run, if anything is known (accepted, progress)."""
    job: str = ""
    """Name of a durable task (accepted)."""
    state: str = ""
    """queued, loading, running, held or suspended (accepted, progress)"""
    fraction: float | None = None
    note: str = ""
    data: Any = None
    """What the operation yielded (chunk)."""
    frames: tuple[bytes, ...] = ()


class Result(Struct, frozen=True):
    """The end of a task that succeeded."""

    value: Any
    frames: tuple[bytes, ...] = ()
    timings: Mapping[str, int] = {}
    """Microseconds: queue_us, load_us, compute_us, plugin_us, wire_us."""


class Request(Struct, eq=False):
    """One request that the kernel has not answered to the end."""

    id: int
    op: str
    events: deque[Event] = field(default_factory=deque)
    """Appended to here; taken with ``Session.take``."""
    end: Result | ClawError | None = None
    message: Any = None
    """The query or submit, and its payload below, while it could be sent again."""
    payload: Sequence[bytes | memoryview] = ()
    deadline: float = math.inf
    """On the clock of whoever calls."""
    retries: int = 0
    """Attempts that are left after an error that says when to try again."""
    waits: bool = False
    """It was refused only for want of room, and is tried until there is."""
    attempt: int = 0
    streamed: bool = False
    why: ClawError | None = None
    """How it ends if it cannot be sent again."""
    due: float = math.inf
    """When it is sent again."""
    sizes: deque[int] = field(default_factory=deque)
    """Bytes of each of ``events``, as far as they count."""
    taken: int = 0
    """Bytes that were taken, and that the kernel was not told of."""


class Session:
    """One client's requests.

    Args:
        keep: requests outlive a lost connection, as far as they can be made again.
        jitter: a number from 0 to 1, so that many clients do not all come back at once.
    """

    def __init__(self, keep: bool = False, jitter: Callable[[], float] = random.random) -> None:
        self.welcome: wire.Welcome | None = None
        self.keep = keep
        self.outbox: list[Frames] = []
        """What is to be sent besides what the methods return."""
        self._jitter = jitter
        self._again: dict[int, Request] = {}
        """Requests that are to be sent again, by number."""
        self._idempotent: frozenset[str] | None = None
        """Operations that can be asked for twice; None: not known."""
        self._asking: Request | None = None
        """The query that will tell."""
        self.requests: dict[int, Request] = {}
        self.drops: set[int] = set()
        """Segments that the kernel asks back; ``dropped`` is said when one is unmapped."""
        self._last = 0

    def hello(self, token: bytes, name: str) -> Frames:
        """The first message."""
        return wire.encode(wire.Hello(version=wire.VERSION, token=token, name=name))

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | wire.Raw | None,
        *,
        model: str = "",
        priority: str = "interactive",
        deadline: float | None = None,
        frames: Sequence[bytes | memoryview] = (),
        leases: Sequence[wire.Lease] = (),
        durable: bool = False,
        keep_alive: float | None = None,
        retries: int = 0,
        wait: bool = False,
        parent: int | None = None,
        behalf: str = "",
        now: float = 0.0,
    ) -> tuple[Request, Frames]:
        """A new task, and the message that asks for it.

        Args:
            retries, wait: see ``Client.submit``.
            parent: the task that asks for it, of a worker.
            behalf: for whom a front's worker asks.
            now: the time from which ``deadline`` counts.

        Raises:
            ClawError: bad_params, too_large.
        """
        if priority not in wire.PRIORITIES:
            raise ClawError("bad_params", "priority", got=priority, allowed=list(wire.PRIORITIES))
        if durable and leases:
            raise ClawError(
                "bad_params",
                "a durable task outlives its client, and leases do not",
                hint="send its arrays as frames",
            )
        keep_alive_s = _seconds(keep_alive)
        request = self._new(op)
        try:
            message = wire.Submit(
                id=request.id,
                op=op,
                model=model,
                priority=priority,
                deadline_ms=None if deadline is None else round(deadline * 1000),
                params=params if isinstance(params, wire.Raw) else wire.pack(dict(params or {})),
                leases=tuple(leases),
                durable=durable,
                keep_alive_s=keep_alive_s,
                parent=parent,
                behalf=behalf,
                window=0 if durable else WINDOW,
            )
            out = wire.encode(message, frames)
        except (TypeError, ValueError, OverflowError) as error:
            del self.requests[request.id]
            raise ClawError("bad_params", f"msgpack cannot carry these: {error}") from error
        size = sum(map(len, out))
        if size > wire.MAX_MESSAGE or len(out[0]) > wire.MAX_HEADER or len(out) > wire.MAX_FRAMES:
            del self.requests[request.id]
            raise ClawError(
                "too_large",
                "the request does not fit one message",
                got={"bytes": size, "header": len(out[0]), "frames": len(out)},
                allowed={
                    "bytes": wire.MAX_MESSAGE,
                    "header": wire.MAX_HEADER,
                    "frames": wire.MAX_FRAMES,
                },
                hint="send arrays in a lease (Client.borrow)",
            )
        request.deadline = math.inf if deadline is None else now + deadline
        request.retries, request.waits = retries, wait
        if (retries or wait or self.keep) and not (leases or durable):
            request.message, request.payload = message, tuple(frames)
        return request, out

    def query(self, what: str) -> tuple[Request, Frames]:
        """Ask for a listing."""
        request = self._new(f"query {what}")
        request.message = wire.Query(id=request.id, what=what)
        return request, wire.encode(request.message)

    def admin(self, command: str, name: str) -> tuple[Request, Frames]:
        """Ask for a change."""
        request = self._new(f"admin {command}")
        return request, wire.encode(wire.Admin(id=request.id, command=command, name=name))

    def borrow(
        self,
        op: str,
        model: str,
        size: int,
        *,
        priority: str = "interactive",
        rights: wire.Rights = "rw",
    ) -> tuple[Request, Frames]:
        """Ask for a lease.

        Raises:
            ClawError: bad_params.
        """
        if priority not in wire.PRIORITIES:
            raise ClawError("bad_params", "priority", got=priority, allowed=list(wire.PRIORITIES))
        if rights not in ("r", "rw"):
            raise ClawError("bad_params", "rights", got=rights, allowed=["r", "rw"])
        request = self._new(f"borrow for {op}")
        message = wire.Borrow(
            id=request.id, op=op, model=model, bytes=size, priority=priority, rights=rights
        )
        return request, wire.encode(message)

    @staticmethod
    def cancel(request: Request) -> Frames:
        """Take a request back."""
        return wire.encode(wire.Cancel(id=request.id))

    def withdraw(self, request: Request) -> bool:
        """Take a request back that the kernel does not know, as it is to be sent again; if so."""
        if request.id not in self._again:
            return False
        self._end(request, ClawError("cancelled", "the task was cancelled by its owner"))
        return True

    @staticmethod
    def give_back(lease: wire.Lease) -> Frames:
        """Return a lease."""
        return wire.encode(wire.Return(segment=lease.segment, generation=lease.generation))

    @staticmethod
    def dropped(segment: int) -> Frames:
        """A segment that the kernel asked back is unmapped."""
        return wire.encode(wire.Dropped(segment=segment))

    def _new(self, op: str) -> Request:
        self._last += 1
        request = self.requests[self._last] = Request(self._last, op)
        return request

    def receive(self, frames: list[bytes], now: float = 0.0) -> None:
        """Take one message from the kernel and note what it says; then see to ``outbox``.

        Raises:
            ClawError: bad_message; or what the kernel complains of about the whole connection.
        """
        message = wire.decode(frames, wire.ToClient)
        kind = type(message)
        if kind is wire.Welcome:
            self.welcome = message
            return
        if kind is wire.Drop:
            self.drops.add(message.segment)
            return
        request = self.requests.get(message.id)
        if request is None:
            if message.id is None:
                raise error_from(message)
            return  # of a request that this side has given up
        if kind is wire.Chunk:
            if (data := self._value(request, message.data)) is not _BAD:
                request.streamed = True
                size = len(message.data) + sum(map(len, frames[1:]))
                self._note(request, Event("chunk", data=data, frames=tuple(frames[1:])), size)
        elif kind is wire.Done:
            if (value := self._value(request, message.result)) is not _BAD:
                self._end(request, Result(value, tuple(frames[1:]), message.timings))
        elif (news := _NEWS.get(kind)) is not None:
            self._note(request, news(message))
        elif isinstance(message, wire.Answer):
            self._end(request, Result(unpack(message.data)))
        elif isinstance(message, wire.Leased):
            self._end(request, Result(message.lease))
        else:
            self._failed(request, error_from(message), now)
        if self._again:
            self.resend(now)

    def _note(self, request: Request, event: Event, size: int = 0) -> None:
        request.events.append(event)
        request.sizes.append(size)

    def take(self, request: Request) -> Event | None:
        """The next event of a request; None if there is none. Then see to ``outbox``."""
        if not request.events:
            return None
        request.taken += request.sizes.popleft()
        if request.taken >= WINDOW // 2 and request.end is None:
            self.outbox.append(wire.encode(wire.More(id=request.id, bytes=request.taken)))
            request.taken = 0
        return request.events.popleft()

    def drop(self, request: Request) -> None:
        """Take all events of a request, and look at none."""
        while request.events:
            self.take(request)

    def forget(self, request: Request) -> None:
        """Nobody wants to hear of a request any more."""
        self.requests.pop(request.id, None)
        self._again.pop(request.id, None)

    # What is sent again.

    def pause(self, attempt: int, least: float = 0.0) -> float:
        """Seconds to wait before an attempt, ``least`` or more: exponential, with jitter."""
        first, longest = _PAUSES
        backoff = min(longest, first * 2.0 ** min(attempt, 16)) * (0.5 + self._jitter() / 2)
        return max(backoff, least * (1 + self._jitter() / 4))

    @property
    def due(self) -> float:
        """When ``resend`` has something to do; infinity: never."""
        if not self._again:
            return math.inf
        known = self._idempotent is not None
        waiting = self._again.values()
        due: float = min([math.inf, *[each.due for each in waiting if known or _sure(each)]])
        return due

    def _failed(self, request: Request, error: ClawError, now: float) -> None:
        """A request ended with an error: with this one, or it is sent again."""
        for_room = request.waits and error.code == "queue_full"
        asked = request.retries > 0 and error.retry_after_ms is not None
        if request.message is None or request.streamed or not (for_room or asked):
            self._end(request, error)
            return
        request.due = now + self.pause(request.attempt, (error.retry_after_ms or 0) / 1000)
        if request.due >= request.deadline:
            self._end(request, error)
            return
        request.attempt += 1
        request.retries -= not for_room
        request.why = error
        self._again[request.id] = request
        if not for_room:
            self._ask()

    def cut(self, error: ClawError, now: float) -> None:
        """The connection is lost and another one is coming; what cannot be made again ends.

        What is open may have been done. So a task is asked for again only if it has streamed
        nothing and its operation can be asked for twice, which the next kernel will say.
        """
        self.welcome, self.outbox, self._asking, self._idempotent = None, [], None, None
        self.drops.clear()
        for request in list(self.requests.values()):
            why = ClawError("connection_lost", f"{request.op}: {error.message}", hint=error.hint)
            if request.message is None or request.streamed:
                self._end(request, why)
            elif request.id not in self._again:
                request.why, request.due = why, now
                self._again[request.id] = request

    def resume(self, now: float) -> None:
        """The new connection has said welcome."""
        if self._again:
            self._ask()
        self.resend(now)

    def _ask(self) -> None:
        """Find out which operations can be asked for twice."""
        if self._asking is None and self._idempotent is None:
            self._asking, out = self.query("plugins")
            self._asking.message = None
            self.outbox.append(out)

    def resend(self, now: float) -> None:
        """Send again what is due, and end what cannot be."""
        for request in list(self._again.values()):
            message = request.message
            if not _sure(request) and request.op not in (self._idempotent or ()):
                if self._idempotent is not None:
                    assert request.why
                    self._end(request, request.why)
                continue
            if now < request.due:
                continue
            if now >= request.deadline:
                text = "the deadline passed before the task could be asked for again"
                self._end(request, ClawError("deadline_passed", text))
                continue
            if request.deadline < math.inf:
                left = max(1, round((request.deadline - now) * 1000))
                message = msgspec.structs.replace(message, deadline_ms=left)
            del self._again[request.id]
            request.why, request.due = None, math.inf
            self.outbox.append(wire.encode(message, request.payload))

    def _learned(self, listing: Any) -> None:
        """What the kernel says of its plugins."""
        rows = listing.get("plugins", ()) if isinstance(listing, dict) else ()
        self._idempotent = frozenset(op for row in rows for op in row.get("idempotent", ()))

    def _value(self, request: Request, raw: wire.Raw) -> Any:
        """What a worker said, which nobody has looked at before; garbage ends its request only."""
        try:
            return unpack(raw)
        except ClawError as error:
            self._end(request, ClawError("bad_worker", f"the plugin's answer is {error.message}"))
            return _BAD

    def _end(self, request: Request, end: Result | ClawError) -> None:
        request.end = end
        request.message, request.payload = None, ()
        del self.requests[request.id]
        self._again.pop(request.id, None)
        if request is self._asking:
            self._asking = None
            self._learned(end.value if isinstance(end, Result) else {})

    def lost(self, error: ClawError) -> None:
        """The connection is gone: every request ends with ``error``."""
        for request in list(self.requests.values()):
            self._end(request, error)


def _sure(request: Request) -> bool:
    """Whether it can be sent again whatever its operation is: it only asks, or was never queued."""
    full = request.why is not None and request.why.code == "queue_full"
    return full or isinstance(request.message, wire.Query)


def _accepted(message: wire.Accepted) -> Event:
    place, estimate = message.position, message.estimate_ms
    return Event("accepted", message.task, place, estimate, message.job, "queued")


def _progress(message: wire.Progress) -> Event:
    return Event(
        "progress",
        state=message.state,
        position=message.position,
        estimate_ms=message.estimate_ms,
        fraction=message.fraction,
        note=message.note,
    )


_NEWS: dict[type, Any] = {wire.Accepted: _accepted, wire.Progress: _progress}


def _seconds(keep_alive: float | None) -> int | None:
    """Whole seconds for the wire, rounded up: 0 is "not at all"."""
    if keep_alive is None:
        return None
    if not 0 <= keep_alive < 1 << 31:
        raise ClawError("bad_params", "keep_alive", got=keep_alive, allowed="0 seconds or more")
    return math.ceil(keep_alive)
