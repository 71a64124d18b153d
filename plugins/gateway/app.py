"""The ASGI application: who may ask at all, which door a path is, and errors in that door's form.

Requests of web pages that somebody else serves are refused: the host must be a name of this box
(a page may have its own name resolve to 127.0.0.1), and an Origin, which only browsers send, must
be this very server.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Route

from clawai.plugins.gateway import (
    catalogue,
    choices,
    embeddings,
    grpc,
    kserve,
    ollama,
    openai,
    openapi,
    responses,
    store,
    tfserving,
    transcripts,
)
from clawai.plugins.gateway.answers import Answer, status_of, told
from clawai.plugins.gateway.door import Door, header, warned
from clawai.plugins.gateway.exchange import EXCHANGE, Exchange
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import ASKER, Asker, Keys, Look, require
from clawai.plugins.gateway.metrics import TYPE, Metrics
from clawai.plugins.gateway.regions import Regions
from clawai.plugins.gateway.tensors import Models
from clawai.plugins.gateway.tools import Tools
from clawai.plugins.gateway.web import pages
from clawai.plugins.gateway.web.site import ROOT, Site
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

if TYPE_CHECKING:
    from clawai.plugins.gateway.traces import Traces

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
FREE = frozenset({"/health", "/ready"})
"""Paths that need no key: they tell whether there is a server, and nothing of it."""
HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
SEEN = 64
"""Of which so many are kept: a port is part of them, and anybody may say one."""
LINES = 100
"""Answers between two looks that the log tells of."""
BODY = 8 << 20
"""Bytes of a request."""
PATIENCE = 30.0
"""Seconds for its body to come."""


class Gateway:
    """All doors."""

    def __init__(
        self,
        kernel: Front,
        log: Callable[[Any, str], None],
        keys: Keys,
        regions: Regions,
        look: Look,
        page: str = "whole",
        changes: str = "change",
    ) -> None:
        self.kernel = kernel
        self.keys = keys
        self.look = look
        """Says whose a connection is."""
        self.traces: Traces | None = None
        """Set by who wants them."""
        self.requests = 0
        self.metrics = Metrics(kernel)
        self.site = Site(kernel, page)
        self._log = log
        self._lines: list[str] = []
        self._hosts: set[str] = set()
        """Hosts that clients have said, which are names of this box."""
        modules = openai, responses, ollama, embeddings, transcripts
        self._doors = [door for each in modules for door in each.doors(kernel, self)]
        self._doors += store.doors(kernel, changes)
        models = Models(kernel)
        self.grpc = grpc.Doors(kernel, models, self.metrics, regions, keys, look)
        self._doors += [*tfserving.doors(models), *kserve.doors(kernel, models, regions)]
        self.tools = Tools(kernel, keys.tools)
        self._routes = [
            Route("/mcp", self._tools, methods=["GET", "POST", "DELETE"]),
            Route("/operations/{name}", self._operation, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            *(Route(path, door, methods=door.methods) for path, door in self._doors),
            *pages.routes(self.site),
        ]

        self._exact = {
            (method, route.path): route
            for route in self._routes
            for method in route.methods or ()
            if "{" not in route.path
        }
        """What is found at once; the others by their patterns."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        self.requests += 1
        started, status, begun = time.perf_counter(), 0, False
        request = Request(scope, receive)
        exchange: Exchange | None = scope.get(EXCHANGE)
        connection = exchange.connection if exchange else None
        asker = Asker(scope["client"], self.look, connection)
        ASKER.set(asker)

        async def watched(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status = message["status"]
                if asker.held or asker.warnings:
                    message["headers"] = [*message["headers"], *_said_of(asker)]
                await send(message)
                return
            await send(message)
            if exchange and not (begun and message.get("more_body")):
                begun = True
                exchange.flush()  # the head left with it

        route = self._route(request)
        if self.traces:
            path = route.path if route else ""
            asker.trace = self.traces.begin(request.method, path, request.headers, scope["scheme"])
        try:
            try:
                self._permit(request, asker)
                response = await self._answer(request, route)
            except BadRequest as error:
                what = error.status, error.message, error.param, error.code
                response = self._refusal(request, *what)
                response.headers.update(error.headers)
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
            if asker.held:
                asker.held.leave()
            if asker.trace:
                asker.trace.end(status or 499, asker.held.key.name if asker.held else "")
            scope.pop(EXCHANGE, None)  # a circle, which would stay until it is looked for
            took = time.perf_counter() - started
            soon(self._answered, request, route, status or 499, took)

    def _answered(self, request: Request, route: Route | None, status: int, took: float) -> None:
        """Count a request that is over, and note its line for the log."""
        self.metrics.answered(route.path if route else "other", status, took)
        path = request.scope["path"][:100].encode("ascii", "backslashreplace").decode()
        if len(self._lines) < LINES:
            self._lines.append(f"{request.method} {path} {status} {1000 * took:.1f} ms")

    def tell(self) -> None:
        """Write to the log what was answered: later, as each line wakes another process."""
        lines, self._lines = self._lines, []
        for line in lines:
            self._log("debug", line)

    def _route(self, request: Request) -> Route | None:
        """The one for a path and method; None: there is none."""
        if (exact := self._exact.get((request.method, request.scope["path"]))) is not None:
            return exact
        for route in self._routes:
            match, more = route.matches(request.scope)
            if match is Match.FULL:
                request.scope.update(more)
                return route
        return None

    async def _answer(self, request: Request, route: Route | None) -> Response:
        path = request.scope["path"]
        if path == "/" and self.site.views and pages.is_read(request):
            return pages.front_door()
        if route is None:
            paths = {r.path: sorted(r.methods or ()) for r in self._routes}
            if allowed := paths.get(path):
                raise BadRequest(f"this path takes {', '.join(allowed)}", status=405)
            raise BadRequest(f"there is nothing at {path[:100]}", status=404)
        endpoint: Any = route.endpoint
        if isinstance(endpoint, Door):
            body = await _body(request)
            response: Response = await endpoint.answer(request, body)
            return response
        found: Response = await endpoint(request)
        return found

    def _permit(self, request: Request, asker: Asker) -> None:
        """Refuse other people's web pages, and who has no key where one is needed.

        Args:
            asker: learns whose the key is.

        Raises:
            BadRequest: 401, 403, 429.
        """
        path = request.scope["path"]
        host = header(request, b"host") or ""
        # A page that has come under a name of its own knows no key, so any name will do with one.
        if not (self.keys.required or host in self._hosts):
            if _name(f"//{host}") not in HOSTS:
                text = f"the host {host[:100]!r} is none of this box: {', '.join(sorted(HOSTS))}"
                raise BadRequest(text, status=403)
            if len(self._hosts) < SEEN:
                self._hosts.add(host)
        origin = header(request, b"origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise BadRequest(f"the page of {origin[:100]!r} may not ask this server", status=403)
        said = header(request, b"authorization") or "", header(request, b"x-api-key") or ""
        if path not in FREE and (held := self.keys.find_in(*said)):
            held.enter()
            asker.held = held
            if path == "/metrics":
                require(held.key, "operations", "metrics")
            if path.startswith(ROOT):
                require(held.key, "operations", "page")

    def began(self, model: str, seconds: float) -> None:
        """The first piece of an answer is there."""
        soon(self.metrics.began, model, seconds)

    def ended(self, model: str, answer: Answer) -> None:
        """An answer is complete."""
        soon(self.metrics.ended, model, answer)
        asker = ASKER.get()
        if asker.trace:
            asker.trace.answered(answer.ended, answer.timings, time.time_ns())
        if held := asker.held:
            held.tokens.take(answer.usage["prompt_tokens"] + answer.usage["completion_tokens"])

    def _refusal(
        self, request: Request, status: int, text: str, param: str | None, code: str = ""
    ) -> Response:
        # A deadline is the client's own: to ask for the same again is no use (OpenAI's would).
        if request.url.path.startswith(ROOT) and pages.is_read(request):
            return pages.trouble(self.site, request, status, text)
        headers = {"x-should-retry": "false"} if code.startswith("deadline_") else {}
        body: dict[str, Any] = choices.error(status, text, param, code)
        if request.url.path.startswith("/api/"):
            body = ollama.error(text)
        elif tfserving.owns(request.url.path) or kserve.owns(request.url.path):
            body = {"error": text}
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

    async def _tools(self, request: Request) -> Response:
        """Operations as tools."""
        handed: Any = await self.tools.answer(request, await _body(request))
        return cast(Response, handed)

    async def _operation(self, request: Request) -> Response:
        """One of them."""
        return await self.tools.call(request, await _body(request))

    async def _openapi(self, _: Request) -> Response:
        """What all doors are."""
        names = [row["name"] for row in await catalogue.models(self.kernel)]
        return JSONResponse(openapi.document(self._doors, names))

    async def _metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(await self.metrics.text(), media_type=TYPE)


def _said_of(asker: Asker) -> list[tuple[bytes, bytes]]:
    """Headers about who asks: what the key has left, and what was not done as asked."""
    found = asker.held.told() if asker.held else {}
    found |= warned(asker.warnings)
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in found.items()]


def soon(act: Callable[..., None], *arguments: Any) -> None:
    """Do something behind what is written now: nobody has to wait for it."""
    asyncio.get_running_loop().call_soon(act, *arguments)


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
    exchange: Exchange | None = request.scope.get(EXCHANGE)
    if exchange and (whole := exchange.body(BODY)) is not None:
        return whole  # as nearly always: nobody has to watch the time
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(PATIENCE):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size > BODY:
                    text = f"the body has more than {BODY >> 20} MiB"
                    raise BadRequest(text, status=413)
                parts.append(part)
    except TimeoutError:
        text = f"the body did not come within {PATIENCE:.0f} s"
        raise BadRequest(text, status=408) from None
    return b"".join(parts)
