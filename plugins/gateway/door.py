"""A door: a path of a protocol, what it reads and what it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

T = TypeVar("T")


class Door:
    """What answers a path; its docstring is in the OpenAPI document.

    Args:
        answer: makes a response of the request and its body.
    """

    def __init__(
        self, method: str, answer: Callable[[Request, bytes], Awaitable[Response]]
    ) -> None:
        self.methods = [method]
        self.answer = answer

    def __call__(self, request: Request) -> Any:
        raise NotImplementedError  # the application calls ``answer``


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
    """The header that says what was left out."""
    text = "; ".join(warnings)[:1000]
    return {"x-claw-warning": text.encode("ascii", "backslashreplace").decode()} if text else {}
