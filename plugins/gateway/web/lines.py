"""Lines of logs, of this box and of others: how they are written, and which are wanted.

A line of another box has before it when it arrived here; its own time is by the clock of that box.
"""

import re
from datetime import datetime

import msgspec
from starlette.requests import Request

from clawai.plugins.gateway.fields import BadRequest

LEVELS = ("debug", "info", "warning", "error")
KERNEL = "kernel"
"""The source of lines that no worker has said."""
HERE, OTHERS, ALL = "", "-", "*"
"""Boxes: this one, those that ship here, all; else the name of one."""
LATE = 60.0
"""Seconds between the time of a line and its arrival, from which on the latter is shown."""
_LINE = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (debug|info|warning|error) (.*)")
_CAME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d) (.*)")
_SAID = re.compile(r"([a-z][a-z0-9_-]*)\[(\d+)\](?: task (\d+))? (.*)")


class Line(msgspec.Struct, frozen=True):
    """One line."""

    day: str
    time: str
    level: str
    source: str
    """A plugin, or ``KERNEL``."""
    worker: str
    task: str
    text: str
    box: str = HERE
    came: str = ""
    """When it arrived here, if it is another box's."""
    late: bool = False
    """That is worth to be shown."""
    end: int = 0
    """The place behind it."""

    @property
    def when(self) -> tuple[str, str]:
        """What lines are sorted by."""
        return self.day, self.time


def parsed(text: str, box: str = HERE, end: int = 0) -> Line:
    """A line of the log; one that is cut is text alone."""
    came = ""
    if box and (found := _CAME.fullmatch(text)):
        day, time, text = found.groups()
        came = f"{day} {time}"
    found = _LINE.fullmatch(text)
    if not found:
        return Line("", "", "info", KERNEL, "", "", text, box, came, False, end)
    day, time, level, rest = found.groups()
    late = bool(came) and _apart(came, f"{day} {time}") >= LATE
    if said := _SAID.fullmatch(rest):
        source, worker, task, rest = said.groups()
        return Line(day, time, level, source, worker, task or "", rest, box, came, late, end)
    return Line(day, time, level, KERNEL, "", "", rest, box, came, late, end)


def _apart(one: str, other: str) -> float:
    if one[:16] == other[:16]:
        return 0.0  # the same minute
    try:
        between = datetime.fromisoformat(one) - datetime.fromisoformat(other)
    except ValueError:
        return 0.0
    return abs(between.total_seconds())


class Wanted(msgspec.Struct, frozen=True):
    """Which lines."""

    box: str = HERE
    source: str = ""
    task: str = ""
    level: str = "debug"
    text: str = ""

    def has(self, line: Line) -> bool:
        """Whether a line is one of them."""
        return (
            LEVELS.index(line.level) >= LEVELS.index(self.level)
            and self.source in ("", line.source)
            and self.task in ("", line.task)
            and self.text.casefold() in line.text.casefold()
        )

    def of(self, text: str, box: str, begin: int) -> list[Line]:
        """Those of a piece of a log that begins at a place."""
        found = []
        for each in text.split("\n")[:-1]:
            begin += len(each.encode()) + 1
            if box and each.startswith("= "):
                continue  # a mark of the store
            if self.has(line := parsed(each, box, begin)):
                found.append(line)
        return found


def wanted(request: Request) -> Wanted:
    """What an address asks for.

    Raises:
        BadRequest: it makes no sense.
    """
    asked = {key: request.query_params.get(key, "").strip()[:200] for key in _KEYS}
    asked["level"] = asked["level"] or LEVELS[0]
    if asked["level"] not in LEVELS:
        text = f"there is no level {asked['level'][:80]!r}; allowed: {', '.join(LEVELS)}"
        raise BadRequest(text, "level")
    if asked["task"] and not asked["task"].isdecimal():
        raise BadRequest(f"a task is a number, not {asked['task'][:80]!r}", "task")
    return Wanted(**asked)


_KEYS = ("box", "source", "task", "level", "text")
