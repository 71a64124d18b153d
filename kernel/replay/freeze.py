"""A core as a snapshot: a pickle with the blanks of the event journal in it; ``thaw`` reads it.

The daemon loads this only when its journal has to begin again in the middle of a run.
"""

import copyreg
import io
import pickle
import sys
from operator import attrgetter
from typing import Any

import msgspec

from clawai.kernel.journal import FORMAT, fields
from clawai.kernel.replay.code import ours
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

_rebuild = wire.Ping(seq=0).__reduce__()[0]


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
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))  # a pickle goes from task to worker to task
    try:
        pickler.dump(core)
    finally:
        sys.setrecursionlimit(limit)
    return file.getvalue()


def head(number: int, checksum: int, now: int) -> bytes:
    """What stands before a snapshot."""
    top = {"format": FORMAT, "number": number, "sum": checksum, "now": now}
    return msgspec.msgpack.encode(top | {"code": ours()})
