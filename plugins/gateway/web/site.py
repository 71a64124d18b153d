"""What all views share: templates, texts, files, and the rules that a browser has to keep."""

import asyncio
import gzip
import hashlib
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from clawai.plugins.gateway.boxes import Boxes
from clawai.plugins.gateway.door import Door, of_no_other_site
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import require_owner
from clawai.plugins.gateway.web import texts
from clawai.plugins.gateway.web.words import FILTERS
from clawai.sdk.front import Front

HERE = Path(__file__).parent
ROOT = "/page"
VIEWS = ("now", "timeline", "graph", "logs", "try")
"""In the order of the navigation; each is a path below ``ROOT`` and a text ``nav.NAME``."""
OPEN = ("now", "timeline")
"""Those of a page that is only to be looked at."""
THEMES = ("auto", "light", "dark")
YEAR = 365 * 24 * 3600
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
GUARDS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
T = TypeVar("T", bound=msgspec.Struct)


class Site:
    """The page as a whole; the views get it.

    Args:
        level: what its owner lets it be: whole, look or none.
    """

    def __init__(self, kernel: Front, level: str = "whole") -> None:
        self.kernel = kernel
        self.boxes = Boxes(kernel)
        self.views = {"whole": VIEWS, "look": OPEN}.get(level, ())
        self.changes = level == "whole"
        """It has controls that change something."""
        self.closing = asyncio.Event()
        """Set when the gateway ends: what streams has to end, too."""
        self.texts = texts.read()
        self._files = {path.name: path.read_bytes() for path in (HERE / "static").iterdir()}
        whole = b"\0".join(self._files[name] for name in sorted(self._files))
        self.version = hashlib.sha256(whole).hexdigest()[:16]
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(
            views=self.views, languages=texts.LANGUAGES, themes=THEMES, root=ROOT
        )

    def routes(self) -> list[Route]:
        """Those of no view in particular."""
        first = Route(ROOT, self._first)
        return [first, Route(f"{ROOT}/static/{{version}}/{{name}}", self._static)]

    # What views are made of.

    def view(self, name: str, data: Callable[[Request], Awaitable[dict[str, Any]]]) -> Route:
        """A view's own path: its template, with what ``data`` finds for a request."""

        async def show(request: Request) -> Response:
            if moved := self._chosen(request):
                return moved
            return self.html(request, f"{name}.html", {"here": name, **await data(request)})

        return Route(f"{ROOT}/{name}", show)

    def act(self, path: str, kind: type[T], do: Callable[[Request, T], Awaitable[Any]]) -> Route:
        """A path below ``ROOT`` for what a person has pressed: ``do(request, body)``.

        For our page only, and for the owner of the box or a key.
        """

        async def answer(request: Request, body: bytes) -> Response:
            only_ours(request)
            if not self.changes:
                text = "the owner of this box lets this page show things only"
                raise BadRequest(text, status=403)
            await require_owner(f"{ROOT}{path}", "page")
            try:
                asked = msgspec.json.decode(body, type=kind)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise BadRequest(f"the body makes no sense: {error}") from None
            done = await do(request, asked)
            return done if isinstance(done, Response) else JSONResponse(done)

        return Route(f"{ROOT}{path}", Door("POST", answer), methods=["POST"])

    def html(
        self, request: Request, name: str, data: Mapping[str, Any], status: int = 200
    ) -> Response:
        """A template as a whole document."""
        text = self.piece(request, name, data)
        body, headers = _packed(request, text.encode())
        headers |= {**GUARDS, "cache-control": "no-store", "vary": "accept-encoding, cookie"}
        return HTMLResponse(body, status, headers)

    def json(
        self, request: Request, value: Any, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Data for a script of the page."""
        body, packing = _packed(request, msgspec.json.encode(value))
        told = {**GUARDS, "cache-control": "no-store", "vary": "accept-encoding, cookie"}
        told |= packing | dict(headers or {})
        return Response(body, media_type="application/json", headers=told)

    def piece(self, request: Request, name: str, data: Mapping[str, Any]) -> str:
        """A template as text, in the language of the request."""
        language = texts.wanted(request)
        theme = request.cookies.get("theme")
        shared = {
            "t": self.texts[language],
            "language": language,
            "theme": theme if theme in THEMES else "auto",
            "static": f"{ROOT}/static/{self.version}",
        }
        return self._templates.get_template(name).render({**data, **shared})

    def _chosen(self, request: Request) -> Response | None:
        """Keep a language or a theme that was chosen, and go on without it in the address."""
        rest = dict(request.query_params)
        chosen = {key: rest.pop(key) for key in ("lang", "theme") if key in rest}
        if not chosen:
            return None
        moved = RedirectResponse(
            f"{request.url.path}?{urlencode(rest)}".rstrip("?"), 303, GUARDS.copy()
        )
        for key, value in chosen.items():
            if value in (texts.LANGUAGES if key == "lang" else THEMES):
                moved.set_cookie(key, value, max_age=YEAR, path=ROOT, samesite="strict")
        return moved

    async def _first(self, _: Request) -> Response:
        return RedirectResponse(f"{ROOT}/{VIEWS[0]}", 303, GUARDS.copy())

    async def _static(self, request: Request) -> Response:
        """A file; its address changes with it, so that it may be kept for ever."""
        name = request.path_params["name"]
        if request.path_params["version"] != self.version or name not in self._files:
            raise BadRequest("there is no such file; load the page again", status=404)
        body, headers = _packed(request, self._files[name])
        headers |= {**GUARDS, "cache-control": f"public, max-age={YEAR}, immutable"}
        media = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(body, media_type=media, headers=headers)


def only_ours(request: Request) -> None:
    """Let nothing be changed but by our own page, or by a program that is no browser.

    A page of another site can send a request here, but not with this type of content, and its
    browser says where it comes from (``app`` looks at Origin).

    Raises:
        BadRequest: it is not ours.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        text = f"the content type {media[:80]!r} is not taken; allowed: application/json"
        raise BadRequest(text, status=415)
    of_no_other_site(request)


def _packed(request: Request, body: bytes) -> tuple[bytes, dict[str, str]]:
    """A body as it is sent: packed, if that is understood."""
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return body, {}
    return gzip.compress(body, 6, mtime=0), {"content-encoding": "gzip"}
