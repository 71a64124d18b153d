"""Logs: what the kernel and its workers say, as it is said, and everything that is still kept; of
this box, and of those that ship here.

The kernel gives pieces of logs (files of bounded size) by their place; what is wanted of them is
chosen here. Those of several boxes are merged by the times that the boxes say themselves.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.web.lines import ALL, HERE, KERNEL, LEVELS, OTHERS, Line, Wanted, wanted
from clawai.plugins.gateway.web.live import event, stream
from clawai.plugins.gateway.web.site import GUARDS, ROOT, Site
from clawai.sdk.errors import ClawError

SHOWN = 300
"""Lines at a time."""
WALK = 32 << 20
"""Bytes that are searched at a time; the next older ones are a request of their own."""
PAUSE = 0.4
"""Seconds between two looks whether there is more."""
Row = dict[str, Any]
Places = dict[str, int]
"""By box."""


class Back:
    """The lines of one box, from the newest to the oldest.

    Args:
        at: the place before which they lie; None: the end.
    """

    def __init__(self, site: Site, box: str, asked: Wanted, at: int | None) -> None:
        self.box = box
        self._site, self._asked = site, asked
        self._at = at
        self._begin, self._first = 0, -1
        self.end: int | None = None
        """The place from which it went back, once that is known."""
        self.lines: list[Line] = []
        """Those that were read and not taken, the newest last."""

    @property
    def more(self) -> bool:
        """Whether there are older ones in the log."""
        return self._begin > self._first

    @property
    def place(self) -> int | None:
        """Where to go on, behind the ones that were taken; None: at the end."""
        return self.lines[-1].end if self.lines else self._at

    async def walk(self) -> int:
        """Read another piece; its bytes."""
        piece = await read(self._site, self.box, f"-{'' if self._at is None else self._at}")
        self.end = piece["end"] if self.end is None else self.end
        self._at = self._begin = piece["begin"]
        self._first = piece["first"]
        self.lines[:0] = self._asked.of(piece["text"], self.box, self._begin)
        return max(1, int(piece["end"] - piece["begin"]))


async def read(site: Site, box: str, place: str) -> Row:
    """A piece of a box's log."""
    name = f"boxes:{box}" if box else "logs"
    found: Row = await site.kernel.query(f"{name}:{place}")
    return found


class Logs:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def data(self, request: Request) -> Row:
        """What the template needs."""
        plugins = (await self._site.kernel.query("plugins"))["plugins"]
        sources = [KERNEL, *sorted(row["name"] for row in plugins)]
        asked = wanted(request)
        names = await self._chosen(asked)
        known = await self._site.boxes.known()
        shown = {"wanted": asked, "sources": sources, "levels": LEVELS, "known": known}
        return shown | {"boxes": _told(known, names)} | await self._back(asked, names, {})

    async def older(self, request: Request) -> Response:
        """The lines before a place, or the last ones."""
        asked, at = wanted(request), _places(request.query_params.get("at", ""))
        found = await self._back(asked, await self._chosen(asked), at)
        markup = self._site.piece(request, "logs/lines.html", found)
        said = {key: found[key] for key in ("begin", "end", "more")}
        return JSONResponse({**said, "lines": markup}, headers={**GUARDS, **_FRESH})

    async def live(self, request: Request) -> Response:
        """The lines after a place, as they come."""
        last = request.headers.get("last-event-id") or request.query_params.get("at", "")
        asked, at = wanted(request), _places(last)
        await self._chosen(asked)
        return stream(self._site, request, self._new(request, asked, at))

    async def _chosen(self, asked: Wanted) -> list[str]:
        """The boxes whose lines are wanted.

        Raises:
            BadRequest: there is no such box.
        """
        names = [row["name"] for row in await self._site.boxes.known()]
        if asked.box not in (HERE, OTHERS, ALL, *names):  # it may have been added just now
            names = [row["name"] for row in await self._site.boxes.known(fresh=True)]
        found = {HERE: [HERE], OTHERS: names, ALL: [HERE, *names]}.get(asked.box, [asked.box])
        if any(name not in ("", *names) for name in found):
            raise BadRequest(f"no box {asked.box[:80]!r} ships here", "box")
        return found

    async def _back(self, asked: Wanted, names: list[str], at: Places) -> Row:
        """Up to ``SHOWN`` lines before places, the newest last, and where to go on."""
        logs = [Back(self._site, name, asked, at.get(name)) for name in names]
        lines: list[Line] = []
        walked = 0
        while len(lines) < SHOWN:
            for log in logs:
                while log.more and not log.lines and walked <= WALK:
                    walked += await log.walk()
            # Not without the next one of each: it could be the newest.
            full = [log for log in logs if log.lines]
            if not full or any(log.more and not log.lines for log in logs):
                break
            lines.append(max(full, key=lambda log: log.lines[-1].when).lines.pop())
        return {
            "lines": lines[::-1],
            "many": asked.box != HERE,
            "begin": _said({log.box: log.place for log in logs}),
            "end": _said({log.box: log.end for log in logs}),
            "more": any(log.more or log.lines for log in logs),
        }

    async def _new(self, request: Request, asked: Wanted, at: Places) -> AsyncIterator[bytes]:
        notes: str | None = None
        while True:
            try:
                lines, behind = await self._after(asked, at)
                known, names = await self._site.boxes.known(), await self._chosen(asked)
            except (ClawError, BadRequest) as error:
                yield event("trouble", error.message)
                await asyncio.sleep(10 * PAUSE)
                continue
            told = self._site.piece(request, "logs/boxes.html", {"boxes": _told(known, names)})
            if told != notes:
                notes = told
                yield event("boxes", told)
            if lines:
                found = {"lines": lines, "many": asked.box != HERE}
                markup = self._site.piece(request, "logs/lines.html", found)
                yield b"id: %s\n" % _said(at).encode() + event("lines", markup)
            if not behind:
                await asyncio.sleep(PAUSE)

    async def _after(self, asked: Wanted, at: Places) -> tuple[list[Line], bool]:
        """The lines behind places, which go on, and whether there are more of them."""
        ends = {row["name"]: row["end"] for row in await self._site.boxes.known()}
        lines: list[Line] = []
        behind = False
        for name in await self._chosen(asked):
            if name:
                end = ends.get(name, 0)
                if at.setdefault(name, end) == end:  # one that was not there: from now on
                    continue
            piece = await read(self._site, name, str(at.get(name, "-")))
            lines += asked.of(piece["text"], name, piece["begin"]) if name in at else []
            at[name] = piece["end"]
            behind = behind or piece["end"] < piece["last"]
        return sorted(lines, key=lambda line: line.when), behind


_FRESH = {"cache-control": "no-store"}
_PLACES = re.compile(r"([a-z0-9-]{0,32}:[0-9]{1,18}(,(?!$)|$)){0,300}")


def _places(text: str) -> Places:
    """Places in logs, ``BOX:PLACE,BOX:PLACE``; this box has no name.

    Raises:
        BadRequest: they are none.
    """
    if not _PLACES.fullmatch(text):
        raise BadRequest(f"{text[:40]!r} is no place in the log", "at")
    pairs = (each.split(":") for each in text.split(",") if each)
    return {name: int(place) for name, place in pairs}


def _said(places: Mapping[str, int | None]) -> str:
    return ",".join(f"{name}:{place}" for name, place in places.items() if place is not None)


def _told(known: list[Row], names: list[str]) -> list[Row]:
    """Of the boxes that are shown, those of which something has to be known."""
    return [
        row
        for row in known
        if row["name"] in names
        and (not row["heard"] or row["apart"] or row["lost"] or not row["lost_whole"])
    ]


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Logs(site)
    return [
        site.view("logs", view.data),
        Route(f"{ROOT}/logs/older", view.older),
        Route(f"{ROOT}/logs/live", view.live),
    ]
