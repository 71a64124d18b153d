"""Graph: the steps of a model as they run here, with what each takes, reads and weighs.

The engine tells the steps and the executor's own stamps (``model.profile``); where they are drawn
is computed here. A profile that was saved is compared with the one that is shown.
"""

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clawai.plugins.gateway.web.layout import layout
from clawai.plugins.gateway.web.site import Site
from clawai.sdk import graphs

HEATS = ("time", "rate", "bytes", "dtype", "change")
"""What colours can tell; each has a text ``heat.NAME``."""
FORMAT = "gguf"
"""Of the models that have a plan of ours."""
LISTED = 100
"""Steps in the table, the slowest."""


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is to be measured, and how."""

    model: Annotated[str, msgspec.Meta(max_length=64)]
    live: bool = False
    """Nothing is run: what ran last."""


class Compared(msgspec.Struct, forbid_unknown_fields=True):
    """Two profiles."""

    profile: Any
    before: Any


class Graph:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def data(self, request: Request) -> dict[str, Any]:
        """What the template needs."""
        models = (await self._site.kernel.query("models"))["models"]
        names = [row["name"] for row in models if row.get("format") == FORMAT]
        wanted = request.query_params.get("model", "")[:64]
        return {
            "models": sorted(names),
            "wanted": wanted,
            "heats": HEATS,
            "phases": graphs.PHASES,
            "listed": LISTED,
        }

    async def profile(self, request: Request, asked: Asked) -> Response:
        """Measure a model, or tell what ran last; with the places of its steps."""
        told = await self._site.kernel.call(
            "model.profile", {"live": asked.live}, model=asked.model, priority="interactive"
        )
        value = {**told.value, "model": asked.model}
        return self._site.json(request, _shown(graphs.read(value)))

    async def show(self, request: Request, asked: Compared) -> Response:
        """Place and compare profiles that the browser has, as they were saved."""
        profile = graphs.read(asked.profile)
        found = _shown(profile)
        if asked.before is not None:
            before = graphs.read(asked.before)
            found["before"] = _aligned(profile, before)
        return self._site.json(request, found)


def _shown(profile: graphs.Profile) -> dict[str, Any]:
    """A profile with all that the picture needs."""
    paths = {}
    for phase in graphs.PHASES:
        if ns := profile.times(phase):
            on, took = graphs.critical(profile.nodes, ns)
            paths[phase] = {"nodes": sorted(on), "ns": took}
    return {"profile": profile, "layout": layout(profile.nodes), "paths": paths}


def _aligned(profile: graphs.Profile, before: graphs.Profile) -> dict[str, Any]:
    """The times of another profile, by the steps of this one; None where it has none."""
    same = graphs.alike(profile, before)
    found: dict[str, Any] = {"model": before.model}
    for phase in graphs.PHASES:
        ns = before.times(phase)
        names = [None if each is None else before.nodes[each].name for each in same]
        found[phase] = [None if name is None else ns.get(name) for name in names]
        found[f"{phase}_sum"] = sum(ns.values())
    return found


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Graph(site)
    return [
        site.view("graph", view.data),
        site.act("/graph/profile", Asked, view.profile),
        site.act("/graph/show", Compared, view.show),
    ]
