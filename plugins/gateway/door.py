"""A door: a path of a protocol, what it reads and what it answers."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from clawai.plugins.gateway.fields import BadRequest, Form

T = TypeVar("T")
SAID = "clawai.said"
"""Of a scope: the request's headers by their names."""
UNWATCHED = 0.02
"""Seconds that a question is asked before anybody looks whether its client is still there."""


class Door:
    """What answers a path.

    Args:
        answer: makes a response of the request and its body; its docstring says what of.
        forms: of the body, and of what is in it; none: it has no body.
        media: types of the answer.
        takes: type of the body.
        optional: whether the body may be left away.
    """

    def __init__(
        self,
        method: str,
        answer: Callable[[Request, bytes], Awaitable[Response]],
        *forms: Form[Any],
        media: Sequence[str] = ("application/json",),
        takes: str = "application/json",
        optional: bool = False,
    ) -> None:
        self.methods = [method]
        self.answer = answer
        self.forms = forms
        self.media = media
        self.takes = takes
        self.optional = optional

    async def __call__(self, request: Request) -> Response:
        """Answer, whatever the body's size; the application bounds it first."""
        return await self.answer(request, await request.body())


def header(request: Request, name: bytes) -> str | None:
    """A header of a request; of several of a name the first counts.

    They are sorted once for a request, by their bytes.
    """
    headers: dict[bytes, bytes] | None = request.scope.get(SAID)
    if headers is None:
        headers = request.scope[SAID] = dict(reversed(request.scope["headers"]))
    found = headers.get(name)
    return None if found is None else found.decode("latin-1")


def who(request: Request) -> str:
    """For whom the kernel is asked: those who send the same key are one.

    A key opens nothing here, but what is kept of a prompt then serves nobody who does not know it.
    """
    key = header(request, b"authorization")
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key else ""


def of_no_other_site(request: Request) -> None:
    """Refuse what a browser says that another site's page has asked for (``app`` looks at Origin).

    Raises:
        BadRequest: 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise BadRequest("only the page of this server may ask for this", status=403)


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T:
    """Wait for ``work``, but not for longer than the client does, whose hanging up is received.

    Raises:
        ClientDisconnect: it has hung up.
    """
    # The work stays in this task: one that has to be woken for it would cost as much again.
    task, gone = asyncio.current_task(), False
    assert task

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watching: list[asyncio.Task[None]] = []
    # Not at once: most answers that are short are there before it would be of use.
    begin = asyncio.get_running_loop().call_later(
        UNWATCHED, lambda: watching.append(asyncio.ensure_future(watch()))
    )
    try:
        return await work
    except asyncio.CancelledError:
        if not gone or task.uncancel():
            raise
        raise ClientDisconnect from None
    finally:
        begin.cancel()
        for each in watching:
            each.cancel()


class Said(JSONResponse):
    """A response that is JSON."""

    def render(self, content: Any) -> bytes:
        """Its body."""
        return msgspec.json.encode(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """What it is, and how long."""
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
            *raw(headers),
        ]


class Streamed(Response):
    """A response that comes line by line, until the client has left."""

    def __init__(self, lines: AsyncIterator[bytes], media: str, headers: dict[str, str]) -> None:
        self.status_code, self._lines = 200, lines
        media += "; charset=utf-8" if media.startswith("text/") else ""
        self.raw_headers = [(b"content-type", media.encode()), *raw(headers)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        async with contextlib.aclosing(self._lines):  # type: ignore[type-var]
            await unless_gone(receive, self._all(send))

    async def _all(self, send: Any) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start"} | head)
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def streamed(lines: AsyncIterator[bytes], media: str, warnings: list[str]) -> Response:
    """A response that comes line by line."""
    return Streamed(lines, media, {"cache-control": "no-store"} | warned(warnings))


def raw(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    """Headers as their bytes."""
    return [
        (name.lower().encode(), each.encode("latin-1")) for name, each in (headers or {}).items()
    ]


def warned(warnings: list[str]) -> dict[str, str]:
    """The header that says what was left out; a field's name may hold anything."""
    if not warnings:
        return {}
    text = "; ".join(warnings)[:1000].encode("unicode_escape").decode().strip()
    return {"x-claw-warning": text} if text else {}
