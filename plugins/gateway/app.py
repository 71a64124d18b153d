"""The ASGI application: who may ask at all, which door a path is, and errors in that door's form.

Requests of web pages that somebody else serves are refused: the host must be a name of this box
(a page may have its own name resolve to 127.0.0.1), and an Origin, which only browsers send, must
be this very server.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Route

from clawai.plugins.gateway import catalogue, ollama, openai, openapi, responses
from clawai.plugins.gateway.answers import status_of, told
from clawai.plugins.gateway.door import Door
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.metrics import TYPE, Metrics
from clawai.plugins.gateway.web import pages
from clawai.plugins.gateway.web.site import ROOT, Site
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
BODY = 8 << 20
"""Bytes of a request."""
PATIENCE = 30.0
"""Seconds for its body to come."""


class Gateway:
    """All doors."""

    def __init__(self, kernel: Front, log: Callable[[Any, str], None], page: str = "whole") -> None:
        self.kernel = kernel
        self.requests = 0
        self.metrics = Metrics(kernel)
        self.site = Site(kernel, page)
        self._log = log
        modules = openai, responses, ollama
        self._doors = [door for each in modules for door in each.doors(kernel, self.metrics)]
        self._routes = [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            *(Route(path, door, methods=door.methods) for path, door in self._doors),
            *pages.routes(self.site),
        ]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        self.requests += 1
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        request = Request(scope, receive)
        route = self._route(request)
        try:
            try:
                response = await self._answer(request, route)
            except BadRequest as error:
                response = self._refusal(request, error.status, error.message, error.param)
            except ClawError as error:
                response = self._refusal(request, status_of(error), told(error), None, error.code)
            except (ClientDisconnect, asyncio.CancelledError):
                raise
            except Exception:
                traceback.print_exc()  # goes to the kernel's log
                response = self._refusal(request, 500, "the gateway failed: `claw logs`", None)
            await response(scope, receive, watched)
        except ClientDisconnect:
            status = 499  # nginx's number for it
        finally:
            took = time.perf_counter() - started
            self.metrics.answered(route.path if route else "other", status or 499, took)
            path = scope["path"][:100].encode("ascii", "backslashreplace").decode()
            self._log("debug", f"{request.method} {path} {status or 499} {1000 * took:.1f} ms")

    def _route(self, request: Request) -> Route | None:
        """The one for a path and method; None: there is none."""
        for route in self._routes:
            match, more = route.matches(request.scope)
            if match is Match.FULL:
                request.scope.update(more)
                return route
        return None

    async def _answer(self, request: Request, route: Route | None) -> Response:
        self._permit(request)
        if request.url.path == "/" and self.site.views and pages.is_read(request):
            return pages.front_door()
        if route is None:
            paths = {r.path: sorted(r.methods or ()) for r in self._routes}
            if allowed := paths.get(request.url.path):
                raise BadRequest(f"this path takes {', '.join(allowed)}", status=405)
            raise BadRequest(f"there is nothing at {request.url.path[:100]}", status=404)
        endpoint: Any = route.endpoint
        if isinstance(endpoint, Door):
            body = await _body(request)
            response: Response = await endpoint.answer(request, body)
            return response
        found: Response = await endpoint(request)
        return found

    def _permit(self, request: Request) -> None:
        """Refuse other people's web pages.

        Raises:
            BadRequest: it is one.
        """
        host = request.headers.get("host", "")
        if _name(f"//{host}") not in HOSTS:
            text = f"the host {host[:100]!r} is none of this box: {', '.join(sorted(HOSTS))}"
            raise BadRequest(text, status=403)
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise BadRequest(f"the page of {origin[:100]!r} may not ask this server", status=403)

    def _refusal(
        self, request: Request, status: int, text: str, param: str | None, code: str = ""
    ) -> Response:
        # A deadline is the client's own: to ask for the same again is no use (OpenAI's would).
        if request.url.path.startswith(ROOT) and pages.is_read(request):
            return pages.trouble(self.site, request, status, text)
        headers = {"x-should-retry": "false"} if code.startswith("deadline_") else {}
        body: dict[str, Any] = openai.error(status, text, param, code)
        if request.url.path.startswith("/api/"):
            body = ollama.error(text)
        return JSONResponse(body, status, headers)

    async def _health(self, _: Request) -> Response:
        """Whether the kernel answers."""
        await self.kernel.query("status")
        return PlainTextResponse("ok\n")

    async def _ready(self, _: Request) -> Response:
        """Whether workers can be started: the sandbox was proved."""
        sandbox = (await self.kernel.query("status"))["sandbox"] or {}
        level = sandbox.get("level", "none")
        fine = level not in ("none", "being proved")
        return PlainTextResponse(f"sandbox: {level}\n", 200 if fine else 503)

    async def _openapi(self, _: Request) -> Response:
        """What all doors are."""
        names = [row["name"] for row in await catalogue.models(self.kernel)]
        return JSONResponse(openapi.document(self._doors, names))

    async def _metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(await self.metrics.text(), media_type=TYPE)


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _body(request: Request) -> bytes:
    """All of it, within bounds.

    Raises:
        BadRequest: it is too large, or too slow.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > BODY:
                    text = f"the body has more than {BODY >> 20} MiB"
                    raise BadRequest(text, status=413)
                parts.append(part)
    except TimeoutError:
        text = f"the body did not come within {PATIENCE:.0f} s"
        raise BadRequest(text, status=408) from None
    return b"".join(parts)
