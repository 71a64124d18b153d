"""The event journal: what the core was told, and a running checksum over what it answered.

Written at every event, so it has to be cheap; the recorder owns the files. Headers only: what
people and plugins wrote (``HIDDEN``) is left out of the events, and of the instructions before they
are summed, so that a replay, which has the blanks from the beginning, comes to the same sums. It
begins with what the core was made of, and again with a snapshot when something was lost: a full
disk or a recorder that does not keep up costs the journal, never the kernel.
"""

import os
import time
import zlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.records import Records
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

BATCH = 48 * 1024
"""Bytes that go to the recorder together."""
QUIET = 128
"""With more tasks than that a snapshot would hold the loop up for milliseconds."""
FORMAT = 1
RETRY = 10 * limits.SECOND
TIMINGS = ("queue_us", "load_us", "compute_us", "plugin_us", "wire_us")
HIDDEN: dict[str, Any] = dict.fromkeys(("body", "got", "allowed", "out")) | {
    **dict.fromkeys(("why", "last_why", "text", "note", "hint", "Error.message"), "-"),
    **dict.fromkeys(("data", "result", "info"), wire.NIL),
    "params": wire.EMPTY_MAP,
    "Progress.state": "-",
}
"""Fields, of anything or of one class, and what a replay has in their place."""
MIXED = frozenset(
    ("Submitted", "Output", "WorkerUnready", "Reply", "Tell", "Record", "MakeSegment", "Batch")
)
"""Classes with fields whose type does not say whether something in them is hidden."""
_ATOMS = frozenset((int, str, bool, float, type(None)))
_encode = msgspec.msgpack.Encoder().encode


def fields(kind: type) -> dict[str, Any]:
    """The fields of one of our data classes or messages, with what stands for the hidden ones."""
    names: Any = getattr(kind, "__struct_fields__", ()) or getattr(kind, "__match_args__", ())
    blanks = HIDDEN.get
    return {name: blanks(f"{kind.__name__}.{name}", blanks(name, fields)) for name in names}


def whole(kind: type) -> bool:
    """Whether nothing in it has to be hidden."""
    return kind.__name__ not in MIXED and all(each is fields for each in fields(kind).values())


class _Blanks(dict[type, Callable[[Any], Any]]):
    """How each type is blanked; what is one of ours is added when it is first met."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        name = kind.__name__
        kept = [field for field, hidden in fields(kind).items() if hidden is fields]
        many = attrgetter(*kept) if len(kept) > 1 else None
        get = many or (lambda thing: [getattr(thing, field) for field in kept])

        def named(thing: Any) -> Any:
            return {name: [e if type(e) in _ATOMS else self[type(e)](e) for e in get(thing)]}

        self[kind] = (lambda thing: thing) if whole(kind) else named
        return self[kind]


_blanks = _Blanks()
_blanks[tuple] = lambda thing: [each if type(each) in _ATOMS else blank(each) for each in thing]
_blanks[bytes] = len
_blanks[dict] = lambda thing: [thing.get(name) for name in TIMINGS]
_blanks[ClawError] = lambda thing: {"ClawError": [thing.code]}


def blank(thing: Any) -> Any:
    """``thing`` as msgpack carries it: one with something hidden as {name: [its other fields]}."""
    return _blanks[type(thing)](thing)


class Journal:
    """Of one core: ``note`` every event when what came of it has been carried out."""

    def __init__(self, core: Any, made_of: tuple[Any, ...], records: Records, on: bool) -> None:
        self.core = core
        self.made_of = made_of
        self.records = records
        self.due = 0 if on else 1 << 62
        """When what is buffered goes to the recorder, or when a lost journal begins again."""
        self.number = self.sum = 0
        self.buffer = bytearray()
        self.on = False

    def begin(self, now: int, state: bytes = b"") -> None:
        """Begin with ``state``, or with what the core was made of if nothing has happened yet."""
        if now >= self.due:
            self.on, self.due = True, now + limits.SECOND
            top = {"format": FORMAT, "number": self.number, "sum": self.sum, "now": now}
            made_of = None if state else self.made_of
            self._send(now, "begin", _encode(top | {"core": made_of}), state)

    def note(self, event: ev.Event, now: int, told: list[ev.Instruction] | None) -> None:
        """One event, the time that the core was given, and its answer; None: it broke."""
        if not self.on:
            if now >= self.due and len(self.core.state.tasks) <= QUIET:
                from clawai.kernel.replay.freeze import snapshot  # seldom needed

                self.begin(now, snapshot(self.core))
            return
        answer = None
        if told is not None:
            self.sum = zlib.crc32(_encode([_blanks[type(e)](e) for e in told]), self.sum)
            answer = [self.sum, [type(each).__name__ for each in told]]
        entry = _encode((now, answer, type(event).__name__, blank(event)))
        self.number += 1
        self.buffer += len(entry).to_bytes(4, "little") + entry
        if now >= self.due or len(self.buffer) > BATCH:
            self.flush(now)

    def flush(self, now: int) -> None:
        """Pass on what is buffered."""
        self.due = now + limits.SECOND
        if self.on and self.buffer:
            data, self.buffer = bytes(self.buffer), bytearray()
            self._send(now, "events", data)

    def _send(self, now: int, name: str, *data: bytes) -> None:
        if not self.records.send(name, *data):
            self.lose(now)

    def lose(self, now: int) -> None:
        """Something of it is missing: what follows could not be replayed."""
        self.on, self.due = False, now + RETRY
        self.buffer.clear()

    def crash(self, event: ev.Event, now: int) -> str:
        """Keep what led to a broken invariant; the name of the file."""
        self.note(event, now, None)
        self.flush(now)
        name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.journal"
        self.records.send("crash", name)
        return name
