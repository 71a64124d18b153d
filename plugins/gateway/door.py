"""A door: a path of a protocol, what it reads and what it answers."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from clawai.plugins.gateway.fields import Form

T = TypeVar("T")


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


def who(request: Request) -> str:
    """For whom the kernel is asked: those who send the same key are one.

    A key opens nothing here, but what is kept of a prompt then serves nobody who does not know it.
    """
    key = request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key else ""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for ``work``, but not for longer than the client does.

    Raises:
        ClientDisconnect: it has hung up.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaves(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for each in (working, leaving):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await working


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def streamed(lines: AsyncIterator[bytes], media: str, warnings: list[str]) -> Response:
    """A response that comes line by line."""
    headers = {"cache-control": "no-store"} | warned(warnings)
    return StreamingResponse(lines, media_type=media, headers=headers)


def warned(warnings: list[str]) -> dict[str, str]:
    """The header that says what was left out; a field's name may hold anything."""
    text = "; ".join(warnings)[:1000].encode("unicode_escape").decode().strip()
    return {"x-claw-warning": text} if text else {}
