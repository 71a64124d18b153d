"""Ollama's doors that change the store: pull and delete.

The gateway fetches and deletes nothing. It has the kernel's steward do it (its manifest says
``pull`` and ``remove``, which refuse all but names), and looks how far that is for as long as its
own client waits; a few seconds after nobody does, it is stopped.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway.answers import told
from clawai.plugins.gateway.catalogue import LATEST
from clawai.plugins.gateway.door import (
    Door,
    Said,
    of_no_other_site,
    streamed,
    unless_gone,
    warned,
)
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.ollama import LINES, error
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

LOOK = 0.2
"""Seconds between two looks at how far it is."""
MAY = {"change": ("pull", "remove"), "pull": ("pull",), "keep": ()}
"""By the plugin's setting ``models``."""
VERIFYING, DONE = "verifying the sha256", "done"
"""Steps, as `claw pull` and the steward name them."""
_SHORT = 12
"""Digits of a hash that people are shown."""


class OllamaPull(msgspec.Struct, kw_only=True):
    """``/api/pull``"""

    model: Annotated[str, msgspec.Meta(description="A name that `claw models` lists.")] = ""
    name: str = ""
    stream: bool | None = True


class OllamaDelete(msgspec.Struct, kw_only=True):
    """``/api/delete``"""

    model: str = ""
    name: str = ""


_CHECKED = "whatever comes has to be what the catalogue says, by its sha256"
_NOBODY = "the catalogue's sources ask for none"
PULL = Form(
    OllamaPull,
    {"username": _NOBODY, "password": _NOBODY},
    {"insecure": (_CHECKED, (False,))},
)
DELETE = Form(OllamaDelete)


def doors(kernel: Front, setting: str) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them.

    Args:
        setting: what their owner lets programs do; a key of ``MAY``.
    """
    here = _Store(kernel, MAY.get(setting, ()))
    yield "/api/pull", Door("POST", here.pull, PULL, media=("application/json", LINES))
    yield "/api/delete", Door("DELETE", here.delete, DELETE)


class _Store:
    def __init__(self, kernel: Front, may: tuple[str, ...]) -> None:
        self._kernel, self._may = kernel, may

    async def pull(self, request: Request, body: bytes) -> Response:
        """Fetch a model of the catalogue, unless it is stored already."""
        asked, warnings = PULL.read(body)
        begun = await self._begin(request, "pull", asked)
        lines = _told(self._news("pull", begun))
        if asked.stream is not False:
            return streamed(_packed(lines), LINES, warnings)
        await unless_gone(request.receive, _last(lines))
        return Said({"status": "success"}, headers=warned(warnings))

    async def delete(self, request: Request, body: bytes) -> Response:
        """Delete a model that is neither pinned nor in use."""
        asked, warnings = DELETE.read(body)
        begun = await self._begin(request, "remove", asked)
        await unless_gone(request.receive, _last(self._news("remove", begun)))
        return Said({"status": "success"}, headers=warned(warnings))

    async def _begin(
        self, request: Request, what: str, asked: OllamaPull | OllamaDelete
    ) -> dict[str, Any]:
        """Have it begin.

        Raises:
            BadRequest: 400, 403.
            ClawError: the kernel refuses.
        """
        of_no_other_site(request)
        if what not in self._may:
            text = f"the owner of this box lets no program {what} models"
            hint = "`claw plugin config gateway` shows what is allowed"
            raise BadRequest(f"{text}; {hint}", status=403)
        name = (asked.model or asked.name).removesuffix(LATEST)
        if not name:
            raise BadRequest("model is missing", "model")
        begun: dict[str, Any] = await self._kernel.admin(what, name)
        return begun

    async def _news(self, what: str, begun: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """How far it is, until it has ended.

        Raises:
            ClawError: it has failed.
        """
        now = begun
        yield now
        while not now["ended"]:
            await asyncio.sleep(LOOK)
            now = await self._kernel.query(f"{what}:{begun['errand']}")
            yield now
        if "error" in now:
            raise ClawError(*now["error"])


async def _told(news: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """A pull as Ollama tells of it, without saying anything twice."""
    before: dict[str, dict[str, Any]] = {}
    yield {"status": "pulling manifest"}
    async for now in news:
        for line in [] if "error" in now else _lines(now):
            if before.get(line["status"]) != line:
                before[line["status"]] = line
                yield line


def _lines(now: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that there is to say of one moment; a step that nobody has seen is said all the same."""
    step, total, digest = now["step"], now["bytes"], now["sha256"]
    whole = step in (VERIFYING, DONE)
    if whole or step == "fetching":
        named = {"status": f"pulling {digest[:_SHORT]}", "digest": f"sha256:{digest}"}
        yield named | {"total": total, "completed": total if whole else now["done"]}
    if whole and not now["already"]:
        yield {"status": "verifying sha256 digest"}
    if step == DONE:
        if not now["already"]:
            yield {"status": "writing manifest"}
        yield {"status": "success"}


async def _packed(lines: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for line in lines:
            yield msgspec.json.encode(line) + b"\n"
    except ClawError as wrong:
        yield msgspec.json.encode(error(told(wrong))) + b"\n"


async def _last(news: AsyncIterator[dict[str, Any]]) -> None:
    """Wait for the end of it."""
    async for _ in news:
        pass
