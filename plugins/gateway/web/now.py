"""Now: what the box does at this moment, and who holds what."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clawai.plugins.gateway.answers import told
from clawai.plugins.gateway.web.live import Pieces, Watch, event, stream
from clawai.plugins.gateway.web.site import ROOT, Site
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

PIECES = ("workers",)
EVERY = 1.0
"""Seconds between two looks."""


class Now:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._watch = Watch(site, self._look, EVERY)

    async def data(self, _: Request) -> dict[str, Any]:
        """What the template needs."""
        found: dict[str, Any] = await self._watch.now()
        return found

    async def live(self, request: Request) -> Response:
        """The pieces that change."""
        return stream(self._site, request, self._pieces(request))

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        pieces = Pieces()
        async for seen in self._watch.each():
            if isinstance(seen, ClawError):
                yield event("trouble", told(seen))
                continue
            made = {n: self._site.piece(request, f"now/{n}.html", seen) for n in PIECES}
            if changed := pieces.changed(made):
                yield event("pieces", changed)

    async def _look(self) -> dict[str, Any]:
        ask = self._site.kernel.query
        status = await ask("status")
        workers = (await ask("workers"))["workers"]
        tasks = (await ask("tasks"))["tasks"]
        waiting = Counter(row["priority"] for row in tasks if row["position"] is not None)
        return {
            "status": status,
            "workers": workers,
            "waiting": {name: waiting[name] for name in wire.PRIORITIES},
        }


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Now(site)
    return [site.view("now", view.data), Route(f"{ROOT}/now/live", view.live)]
