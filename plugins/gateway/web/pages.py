"""All views of the page, and what a person sees in place of one that cannot be shown."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clawai.plugins.gateway.web import graph, logs, now, timeline, tries
from clawai.plugins.gateway.web.site import GUARDS, ROOT, Site

MODULES = {"now": now, "timeline": timeline, "graph": graph, "logs": logs, "try": tries}


def routes(site: Site) -> list[Route]:
    """Every path of the page."""
    if not site.views:
        return []
    shown = [each for name, each in MODULES.items() if name in site.views]
    return [*site.routes(), *(route for each in shown for route in each.routes(site))]


def is_read(request: Request) -> bool:
    """A person asks with a browser; programs that ask do not want a document."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def front_door() -> Response:
    """Of a browser that was given the bare address."""
    return RedirectResponse(ROOT, 303, {**GUARDS, "vary": "accept"})


def trouble(site: Site, request: Request, status: int, message: str) -> Response:
    """The page that says why there is none."""
    return site.html(request, "trouble.html", {"here": "", "message": message}, status)
