"""The event journal: what the core was told, and a running checksum over what it answered.

Written at every event, so it has to be cheap; the recorder owns the files. Headers only: what
people and plugins wrote (``HIDDEN``) is left out of the events, and of the instructions before they
are summed, so that a replay, which has the blanks from the beginning, comes to the same sums. It
begins with a snapshot of the core, and again with one when something was lost: a full disk or a
recorder that does not keep up costs the journal, never the kernel.
"""

import copyreg
import io
import os
import pickle
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
_rebuild = wire.Ping(seq=0).__reduce__()[0]  # type: ignore[index]
_shapes: dict[type, tuple[str, Callable[[Any], Any]] | None] = {}


def fields(kind: type) -> dict[str, Any]:
    """The fields of one of our data classes or messages, with what stands for the hidden ones."""
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__match_args__", ())
    blanks = HIDDEN.get
    return {name: blanks(f"{kind.__name__}.{name}", blanks(name, fields)) for name in names}


def shape(kind: type) -> tuple[str, Callable[[Any], Any]] | None:
    """Name and a getter of the fields that are not hidden; None if all can go as they are."""
    names = [name for name, hidden in fields(kind).items() if hidden is fields]
    if kind.__name__ in MIXED or len(names) < len(fields(kind)):
        get = attrgetter(*names) if len(names) > 1 else lambda thing: [getattr(thing, *names)]
        return kind.__name__, get if names else lambda _: ()
    return None


def blank(thing: Any) -> Any:
    """``thing`` as msgpack carries it: one with something hidden as {name: [its other fields]}."""
    kind = type(thing)
    if kind is tuple:
        return [each if type(each) in _ATOMS else blank(each) for each in thing]
    if kind is bytes:
        return len(thing)
    if kind is dict:
        return [thing.get(name) for name in TIMINGS]
    if kind is ClawError:
        return {"ClawError": [thing.code]}
    if kind not in _shapes:
        _shapes[kind] = shape(kind)
    if (found := _shapes[kind]) is None:
        return thing
    return {found[0]: [e if type(e) in _ATOMS else blank(e) for e in found[1](thing)]}


class _Reducers(dict[type, Any]):
    """How a snapshot is pickled: our classes with the same blanks, all others as usual."""

    def __missing__(self, kind: type) -> Any:
        found = fields(kind) if kind.__module__.startswith("clawai.") else {}
        if not found:
            raise KeyError(kind)
        get = attrgetter(*found) if len(found) > 1 else lambda thing: [getattr(thing, *found)]
        hidden = [(name, instead) for name, instead in found.items() if instead is not fields]
        frozen = hasattr(kind, "__setstate__")
        make = (copyreg.__newobj__, (kind,))  # type: ignore[attr-defined]
        struct = issubclass(kind, msgspec.Struct)

        def reduced(thing: Any) -> Any:
            values = dict(zip(found, get(thing), strict=True))
            for name, instead in hidden:
                values[name] = values[name] and instead
            if struct:
                return _rebuild, (kind, values)
            return *make, list(values.values()) if frozen else (None, values)

        return self.setdefault(kind, reduced)


def snapshot(core: Any) -> bytes:
    """The whole state of a core, blanked; ``kernel/replay`` restores it."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    pickler.dispatch_table = _Reducers({ClawError: lambda error: (ClawError, (error.code, "-"))})
    pickler.dump(core)
    return file.getvalue()


def head(number: int, checksum: int, now: int) -> bytes:
    """What stands before a snapshot."""
    return _encode({"format": 1, "number": number, "sum": checksum, "now": now})


class Journal:
    """Of one core: ``note`` every event when what came of it has been carried out."""

    def __init__(self, core: Any, records: Records, enabled: bool) -> None:
        self.core = core
        self.records = records
        self.due = 0 if enabled else 1 << 62
        """When what is buffered goes to the recorder, or when a lost journal begins again."""
        self.number = self.sum = 0
        self.buffer = bytearray()
        self.on = False

    def begin(self, now: int) -> None:
        """Begin, or begin again, with a snapshot, if it is time and takes no long time."""
        if now >= self.due and len(self.core.state.tasks) <= QUIET:
            self.on, self.due = True, now + limits.SECOND
            self._send(now, "begin", head(self.number, self.sum, now), snapshot(self.core))

    def note(self, event: ev.Event, now: int, told: list[ev.Instruction] | None) -> None:
        """One event, the time that the core was given, and its answer; None: it broke."""
        if not self.on:
            self.begin(now)
            return
        answer = None
        if told is not None:
            self.sum = zlib.crc32(_encode([blank(each) for each in told]), self.sum)
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
