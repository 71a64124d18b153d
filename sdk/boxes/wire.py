"""What agents and collectors say to each other, and every limit of it.

msgpack maps of one frame each, over a DEALER and a ROUTER with CURVE. An agent says ``Hello`` and
hears in ``Welcome`` where the collector's store ends: the agent keeps no state of its own. Then one
``Batch`` at a time, each answered by ``Taken`` or ``Refused``.

Both sides check what they hear: the types here, with their ranges, and ``problem`` for the rest.
"""

import math
from typing import Annotated, Literal

import msgspec

VERSION = 1
PORT = 7187
MESSAGE = 512 << 10
"""Bytes of one."""
LINES = 2000
"""Of a batch,"""
BATCH = 192 << 10
"""and bytes of the log that an agent puts into one."""
TEXT = 8192
"""Characters of a line; an agent cuts a longer one."""
REPORT = 2.0
"""Seconds between two batches of an agent that has nothing but figures to tell."""
SILENT = 15.0
"""Seconds after which a box counts as not heard of."""
PATIENCE = 10.0
"""Seconds that an answer may take."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Word = Annotated[str, msgspec.Meta(max_length=64)]
Level = Literal["debug", "info", "warning", "error"]


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in the log of a box, which is two files that take turns."""

    inode: Annotated[int, msgspec.Meta(ge=0)]
    head: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """Of its first line, as the number of a deleted file is given again."""
    offset: Count


class Line(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One line of the log."""

    at: Annotated[int, msgspec.Meta(ge=0, le=4_102_444_800)]
    """When the box says that it was written, in seconds of the epoch, by its own clock."""
    level: Level
    text: Annotated[str, msgspec.Meta(max_length=TEXT)]


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lines before those of a batch that nobody will ever send."""

    lines: Count = 0
    whole: bool = True
    """These are all; else there were more, which nobody has counted."""


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a box is. Without a kernel all is zero."""

    kernel: bool = False
    version: Word = ""
    uptime_s: Count = 0
    cores: Count = 0
    busy: Part | None = None
    """Part of the processors."""
    memory_bytes: Count = 0
    available_bytes: Count = 0
    budget_bytes: Count = 0
    used_bytes: Count = 0
    waiting: Count = 0
    """Tasks that wait,"""
    running: Count = 0
    """and that run."""
    workers: Count = 0
    models: Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)] = ()
    """Those in memory."""
    celsius: Annotated[float, msgspec.Meta(ge=-273, le=1000)] | None = None
    """Of the hottest sensor."""


class Hello(msgspec.Struct, frozen=True, tag="hello", forbid_unknown_fields=True):
    """An agent begins."""

    version: int = VERSION


class Batch(msgspec.Struct, frozen=True, tag="batch", forbid_unknown_fields=True):
    """What an agent has to tell."""

    session: Count
    number: Count
    """From 1, one more each; the same again if the answer did not come."""
    sent: Annotated[float, msgspec.Meta(ge=0, le=4_102_444_800)]
    """Now, by the clock of the box."""
    cursor: Cursor | None = None
    """Where its log was read to; none: it was not."""
    lines: Annotated[tuple[Line, ...], msgspec.Meta(max_length=LINES)] = ()
    gap: Gap | None = None
    figures: Figures | None = None


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """A collector answers ``Hello``."""

    session: Count
    name: Word
    """Of the agent's box, here."""
    cursor: Cursor | None = None
    """Where the store ends; none: nothing is there yet."""


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """A batch is in the store."""

    number: Count


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing of a message was taken."""

    why: Literal["busy", "stale", "session", "unknown", "version", "wrong", "disk"]
    """``busy``: too much; ``stale``: a newer agent of this box is here; ``session``: say hello;
    ``unknown``: the key may ship here no more; ``wrong``: the message; ``disk``: of the store."""
    text: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """Before it is worth another try."""


FromAgent = Hello | Batch
FromCollector = Welcome | Taken | Refused

encode = msgspec.msgpack.Encoder().encode
from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
from_collector: msgspec.msgpack.Decoder[FromCollector] = msgspec.msgpack.Decoder(FromCollector)


def problem(batch: Batch) -> str:
    """What the types do not see; empty if nothing is wrong."""
    figures = batch.figures
    floats = [batch.sent, *((figures.busy, figures.celsius) if figures else ())]
    if any(math.isnan(each) for each in floats if each is not None):
        return "a figure that is no number"  # a range of msgspec lets it pass
    if (batch.lines or batch.gap) and not batch.cursor:
        return "lines without a cursor"
    return ""
