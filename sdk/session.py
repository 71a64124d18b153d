"""The client protocol without I/O: requests out, events in. Both clients are thin shells of it."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_from, unpack

Frames = list[bytes | memoryview]
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
    end: Result | ClawError | None = None


class Session:
    """One connection's requests."""

    def __init__(self) -> None:
        self.welcome: wire.Welcome | None = None
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
    ) -> tuple[Request, Frames]:
        """A new task, and the message that asks for it.

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
        return request, out

    def query(self, what: str) -> tuple[Request, Frames]:
        """Ask for a listing."""
        request = self._new(f"query {what}")
        return request, wire.encode(wire.Query(id=request.id, what=what))

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

    def receive(self, frames: list[bytes]) -> None:
        """Take one message from the kernel and note what it says.

        Raises:
            ClawError: bad_message; or what the kernel complains of about the whole connection.
        """
        message = wire.decode(frames, wire.ToClient)
        payload = tuple(frames[1:])
        if isinstance(message, wire.Welcome):
            self.welcome = message
            return
        if isinstance(message, wire.Drop):
            self.drops.add(message.segment)
            return
        if isinstance(message, wire.Error) and message.id is None:
            raise error_from(message)
        request = self.requests.get(message.id)
        if request is None:
            return  # of a request that this side has given up
        news = _NEWS.get(type(message))
        if news is not None:
            request.events.append(news(message))
        elif isinstance(message, wire.Done):
            if (value := self._value(request, message.result)) is not _BAD:
                self._end(request, Result(value, payload, message.timings))
        elif isinstance(message, wire.Chunk):
            if (data := self._value(request, message.data)) is not _BAD:
                request.events.append(Event("chunk", data=data, frames=payload))
        elif isinstance(message, wire.Answer):
            self._end(request, Result(unpack(message.data)))
        elif isinstance(message, wire.Leased):
            self._end(request, Result(message.lease))
        else:
            self._end(request, error_from(message))

    def _value(self, request: Request, raw: wire.Raw) -> Any:
        """What a worker said, which nobody has looked at before; garbage ends its request only."""
        try:
            return unpack(raw)
        except ClawError as error:
            self._end(request, ClawError("bad_worker", f"the plugin's answer is {error.message}"))
            return _BAD

    def _end(self, request: Request, end: Result | ClawError) -> None:
        request.end = end
        del self.requests[request.id]

    def lost(self, error: ClawError) -> None:
        """The connection is gone: every request ends with ``error``."""
        for request in list(self.requests.values()):
            self._end(request, error)


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
