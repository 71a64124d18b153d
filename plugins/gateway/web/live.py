"""Server-sent events: pieces of the page that have changed, for as long as somebody looks.

The kernel is asked by one ``Watch`` for all who look at the same, and only while somebody does.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from clawai.plugins.gateway.web.site import GUARDS, Site
from clawai.sdk.errors import ClawError

SILENCE = 15.0
"""Seconds after which something is sent all the same, so that a browser that is gone is noticed."""
ROW = re.compile(r'<tr data-key="([^"]+)">.*?</tr>', re.DOTALL)
"""A row of a table that is told apart by a key; there is no table in it. An empty key is none, for
the page too: such a row is told by its place."""
CELL = re.compile(r"<(t[dh])\b[^>]*>.*?</\1>", re.DOTALL)
"""A cell of a row."""


class Watch:
    """What is looked at again and again, once for all who want to see it.

    Args:
        look: what is seen now.
        pause: seconds between two looks, after what was seen.
    """

    def __init__(
        self, site: Site, look: Callable[[], Awaitable[Any]], pause: Callable[[Any], float]
    ) -> None:
        self._site = site
        self._look = look
        self._pause = pause
        self._seen: Any = None
        self._count = 0
        self._news = asyncio.Condition()
        self._hurry = asyncio.Event()
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None

    async def now(self) -> Any:
        """One look, at once."""
        return await self._look()

    def hurry(self) -> None:
        """Look again at once: something was changed."""
        self._hurry.set()

    async def each(self) -> AsyncIterator[Any]:
        """What is seen, whenever it was looked; a ClawError where the kernel does not answer."""
        self._watchers += 1
        if self._looking is None or self._looking.done():
            self._seen = None
            self._looking = asyncio.create_task(self._run())
        count = -1
        try:
            while not self._site.closing.is_set():
                async with self._news:
                    while count == self._count or self._seen is None:
                        await self._news.wait()
                    count, seen = self._count, self._seen
                if isinstance(seen, Exception) and not isinstance(seen, ClawError):
                    raise seen
                yield seen
        finally:
            self._watchers -= 1

    async def _run(self) -> None:
        while self._watchers and not self._site.closing.is_set():
            self._hurry.clear()
            try:
                seen = await self._look()
            except Exception as error:  # told to those who look
                seen = error
            async with self._news:
                self._seen, self._count = seen, self._count + 1
                self._news.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause(seen)):
                    await self._hurry.wait()


def event(name: str, data: Any) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def stream(site: Site, request: Request, events: AsyncIterator[bytes]) -> Response:
    """A response of events that ends with the gateway."""
    headers = {**GUARDS, "cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        _until_closing(site, events), media_type="text/event-stream", headers=headers
    )


async def _until_closing(site: Site, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events, something in between now and then, and the end when the gateway ends."""
    closing = asyncio.ensure_future(site.closing.wait())
    following: asyncio.Future[bytes] | None = None
    try:
        yield b": here\n\n"
        while not site.closing.is_set():
            following = following or asyncio.ensure_future(anext(events))
            both: list[asyncio.Future[Any]] = [following, closing]
            await asyncio.wait(both, timeout=SILENCE, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = None
            else:
                yield b": still here\n\n"
    finally:
        waited: list[asyncio.Future[Any]] = [closing, *([following] if following else [])]
        for each in waited:
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, ClawError):
                await each
        if close := getattr(events, "aclose", None):
            await close()


class Pieces:
    """The pieces of a view as one who looks has them: only what differs is sent.

    Of a row that is as it was only the key is sent, and of another one the cells that are new: who
    has the page open pays for all that a browser reads and compares, and so does whoever else wants
    that processor.
    """

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}
        self._rows: dict[str, dict[str, str]] = {}

    def changed(self, pieces: Mapping[str, str]) -> dict[str, str]:
        """Those that are new, by the id of the element whose contents they are."""
        new = {key: text for key, text in pieces.items() if self._sent.get(key) != text}
        self._sent.update(new)
        return {key: self._thinned(key, text) for key, text in new.items()}

    def _thinned(self, piece: str, text: str) -> str:
        found = list(ROW.finditer(text))
        rows = {each[1]: each[0] for each in found}
        old = self._rows.pop(piece, {})
        if len(rows) < len(found):  # a key that two have tells nothing apart
            return text
        self._rows[piece] = rows

        def thin(row: re.Match[str]) -> str:
            was = old.get(row[1], "")
            same = was == row[0]
            return f'<tr data-key="{row[1]}" data-same></tr>' if same else _new_cells(was, row[0])

        return ROW.sub(thin, text)


def _new_cells(was: str, row: str) -> str:
    """A row without the contents of cells that are as they were, if it has as many."""
    if CELL.sub("<>", was) != CELL.sub("<>", row):
        return row
    cells = (each[0] for each in CELL.finditer(was))
    return CELL.sub(
        lambda cell: f"<{cell[1]} data-same></{cell[1]}>" if next(cells) == cell[0] else cell[0],
        row,
    )
