"""Logs: what the kernel and its workers say, as it is said, and everything that is still kept.

The kernel gives pieces of its log (two files of bounded size) by their place; what is wanted of
them is chosen here.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.web.live import event, stream
from clawai.plugins.gateway.web.site import GUARDS, ROOT, Site
from clawai.sdk.errors import ClawError

LEVELS = ("debug", "info", "warning", "error")
KERNEL = "kernel"
"""The source of lines that no worker has said."""
SHOWN = 300
"""Lines at a time."""
WALK = 32 << 20
"""Bytes that are searched at a time; the next older ones are a request of their own."""
PAUSE = 0.4
"""Seconds between two looks whether there is more."""
_LINE = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (debug|info|warning|error) (.*)")
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


def parsed(text: str) -> Line:
    """A line of the log; one that is cut is text alone."""
    found = _LINE.fullmatch(text)
    if not found:
        return Line("", "", "info", KERNEL, "", "", text)
    day, time, level, rest = found.groups()
    if said := _SAID.fullmatch(rest):
        source, worker, task, rest = said.groups()
        return Line(day, time, level, source, worker, task or "", rest)
    return Line(day, time, level, KERNEL, "", "", rest)


class Wanted(msgspec.Struct, frozen=True):
    """Which lines."""

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

    def of(self, text: str) -> list[Line]:
        """Those of a piece of the log."""
        return [line for each in text.splitlines() if self.has(line := parsed(each))]


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


_KEYS = ("source", "task", "level", "text")


class Logs:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def data(self, request: Request) -> dict[str, Any]:
        """What the template needs."""
        plugins = (await self._site.kernel.query("plugins"))["plugins"]
        sources = [KERNEL, *sorted(row["name"] for row in plugins)]
        asked = wanted(request)
        return {"wanted": asked, "sources": sources, "levels": LEVELS} | await self._back(asked)

    async def older(self, request: Request) -> Response:
        """The lines before a place, or the last ones."""
        found = await self._back(wanted(request), _place(request.query_params.get("at", "")))
        markup = self._site.piece(request, "logs/lines.html", found)
        said = {key: found[key] for key in ("begin", "end", "first")}
        return JSONResponse({**said, "lines": markup}, headers={**GUARDS, **_FRESH})

    async def live(self, request: Request) -> Response:
        """The lines after a place, as they come."""
        last = request.headers.get("last-event-id") or request.query_params.get("at", "")
        return stream(self._site, request, self._new(request, wanted(request), _place(last)))

    async def _back(self, asked: Wanted, at: str = "") -> dict[str, Any]:
        """Up to ``SHOWN`` lines before a place, the newest last, and where to go on."""
        lines: list[Line] = []
        piece = await self._read(f"-{at}")
        end = begin = piece["end"]
        while True:
            lines[:0] = asked.of(piece["text"])
            begin = piece["begin"]
            if len(lines) >= SHOWN or begin <= piece["first"] or end - begin > WALK:
                return {"lines": lines, "begin": begin, "end": end, "first": piece["first"]}
            piece = await self._read(f"-{begin}")

    async def _new(self, request: Request, asked: Wanted, at: str) -> AsyncIterator[bytes]:
        while True:
            try:
                piece = await self._read(at)
            except ClawError as error:
                yield event("trouble", error.message)
                await asyncio.sleep(10 * PAUSE)
                continue
            lines, at = asked.of(piece["text"]), str(piece["end"])
            if lines:
                markup = self._site.piece(request, "logs/lines.html", {"lines": lines})
                yield b"id: %s\n" % at.encode() + event("lines", markup)
            if piece["end"] >= piece["last"]:
                await asyncio.sleep(PAUSE)

    async def _read(self, place: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._site.kernel.query(f"logs:{place}")
        return found


_FRESH = {"cache-control": "no-store"}


def _place(text: str) -> str:
    """A place in the log.

    Raises:
        BadRequest: it is none.
    """
    if not re.fullmatch(r"[0-9]{0,18}", text):
        raise BadRequest(f"{text[:40]!r} is no place in the log", "at")
    return text


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Logs(site)
    return [
        site.view("logs", view.data),
        Route(f"{ROOT}/logs/older", view.older),
        Route(f"{ROOT}/logs/live", view.live),
    ]
