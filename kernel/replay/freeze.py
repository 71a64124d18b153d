"""A core as a snapshot: a pickle in which what is hidden is empty; ``thaw`` reads it.

The daemon loads this only when its journal has to begin again in the middle of a run.
"""

import pickle
import sys
from typing import Any

import msgspec

from clawai.kernel.journal import FORMAT
from clawai.kernel.replay.code import ours


def snapshot(core: Any) -> bytes:
    """The whole state of a core; ``kernel/replay`` restores it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))  # a pickle goes from task to worker to task
    try:
        return pickle.dumps(core, 5)
    finally:
        sys.setrecursionlimit(limit)


def head(number: int, checksum: int, now: int) -> bytes:
    """What stands before a snapshot."""
    top = {"format": FORMAT, "number": number, "sum": checksum, "now": now}
    return msgspec.msgpack.encode(top | {"code": ours()})
