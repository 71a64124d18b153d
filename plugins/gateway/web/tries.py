"""Try: talk to a model, and ask for any operation of any plugin by a form that its schema makes.

What is asked can be seen as a command for curl, as Python, and as the bytes of the wire; each does
the same when it is run.
"""

import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from clawai.plugins.gateway import catalogue
from clawai.plugins.gateway.answers import later, told
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.web.forms import Field, as_bytes, fields
from clawai.plugins.gateway.web.site import GUARDS, ROOT, Site
from clawai.sdk import schema, wire
from clawai.sdk.aclient import AsyncTask
from clawai.sdk.errors import ClawError

OWN = "gateway"
CHAT = "llm.generate"
WHO = "page"
"""For whom the kernel is asked."""
KNOWN = 10.0
"""Seconds for which what an operation takes is kept."""
LINES = "application/x-ndjson"


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """One request, as the page sends it."""

    op: str
    params: dict[str, Any] = {}
    model: str = ""
    priority: wire.Priority = "interactive"
    deadline_ms: int | None = None
    frames: list[bytes] = []
    """Base64: what tensors among the parameters name."""


class Shown(Asked):
    """One that is shown, not done."""

    chat: bool = False
    """curl asks for it by the path that OpenAI's clients use."""


class Try:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}

    async def data(self, request: Request) -> dict[str, Any]:
        """What the template needs."""
        plugins = (await self._site.kernel.query("plugins"))["plugins"]
        offered = {
            row["name"]: sorted(row["operations"])
            for row in sorted(plugins, key=lambda row: str(row["name"]))
            if row["operations"] and row["name"] != OWN
        }
        rows = await catalogue.models(self._site.kernel)
        op, model = (request.query_params.get(key, "")[:256] for key in ("op", "model"))
        about: dict[str, Any] | None = None
        form: list[Field] = []
        if op:
            self._ours(op)
            about = await self._about(op, model)
            form = fields(about["described"], about["example"]) if about["described"] else []
        asked = op or CHAT
        taken = next((row["formats"] for row in plugins if asked in row["operations"]), ())
        return {
            "offered": offered,
            # Only what its plugin can read: the others would be refused.
            "models": [row["name"] for row in rows if not taken or row["format"] in taken],
            "model": model,
            "priorities": wire.PRIORITIES,
            "op": op,
            "about": about,
            "fields": form,
        }

    async def run(self, request: Request, asked: Asked) -> Response:
        """Do it; each event of the task is a line of JSON."""
        self._ours(asked.op)
        about = await self._about(asked.op, asked.model)
        task = await self._site.kernel.submit(
            asked.op,
            as_bytes(asked.params, about["described"]),
            model=asked.model,
            priority=asked.priority,
            deadline=None if asked.deadline_ms is None else asked.deadline_ms / 1000,
            frames=asked.frames,
            behalf=WHO,
        )
        headers = {**GUARDS, "cache-control": "no-store"}
        return StreamingResponse(_lines(task), media_type=LINES, headers=headers)

    async def code(self, request: Request, asked: Shown) -> dict[str, str]:
        """The request in three forms."""
        self._ours(asked.op)
        about = await self._about(asked.op, asked.model)
        params = as_bytes(asked.params, about["described"])
        address = f"{request.url.scheme}://{request.headers['host']}"
        return {
            "curl": _curl(address, asked),
            "python": _python(asked, params, about["stream"]),
            "msgpack": _msgpack(asked, params),
        }

    def _ours(self, op: str) -> None:
        """Refuse to have the gateway ask itself.

        Raises:
            BadRequest: it is that.
        """
        if op.startswith(f"{OWN}."):
            raise BadRequest(f"{op[:80]} is this server itself; `claw http` starts it", "op")

    async def _about(self, op: str, model: str) -> dict[str, Any]:
        """An operation, with what it takes: as its folder keeps it, else as its worker says."""
        when, about = self._known.get((op, model), (0.0, {}))
        if time.monotonic() - when < KNOWN and about:
            return about
        about = dict(await self._site.kernel.query(f"operation:{op}"))
        kept = about["described"]
        about["described"] = msgspec.convert(kept, schema.Described) if kept else None
        if not kept and (model or not about["needs_model"]):
            about["described"] = await self._asked(op, model)
        if len(self._known) > 256:
            self._known.clear()
        self._known[op, model] = time.monotonic(), about
        return about

    async def _asked(self, op: str, model: str) -> schema.Described | None:
        """What a worker says that an operation is; None if that is no schema."""
        question = schema.QUESTION
        said = (await self._site.kernel.call(op, question, model=model, behalf=WHO)).value
        try:
            found = msgspec.convert(said | {"name": op}, schema.Described)
        except (TypeError, msgspec.ValidationError):
            return None
        return found if schema.is_sound(found) else None


async def _lines(task: AsyncTask) -> AsyncIterator[bytes]:
    """What becomes of a task, a line each; it ends with whoever reads them."""
    try:
        async for event in task:
            if event.kind == "chunk":
                yield _line({"chunk": event.data} | _framed(event.frames))
            else:
                state = {"state": event.state or event.kind, "position": event.position}
                yield _line(state | {"fraction": event.fraction, "note": event.note})
        result = await task.result()
        ended = {"result": result.value, "timings": dict(result.timings)}
        yield _line(ended | _framed(result.frames))
    except ClawError as error:
        yield _line({"error": {"code": error.code, "message": told(error)}})
    finally:
        if not task.done:
            later(task.cancel())


def _framed(frames: Any) -> dict[str, Any]:
    return {"frames": [bytes(each) for each in frames]} if frames else {}


def _line(data: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(data) + b"\n"
    except (TypeError, ValueError, msgspec.MsgspecError):
        return (
            msgspec.json.encode({"error": {"code": "", "message": "no JSON can say this"}}) + b"\n"
        )


# The same request in other words.


def _curl(address: str, asked: Shown) -> str:
    if asked.chat:
        path = "/v1/chat/completions"
        body = {"model": asked.model, **asked.params, "stream": True, "priority": asked.priority}
    else:
        path = f"{ROOT}/try/run"
        body = _shortest(asked)
    text = json.dumps(body, ensure_ascii=False)
    return (
        f"curl -N {address}{path} -H 'content-type: application/json' --data-binary @- <<'END'\n"
        f"{text}\nEND\n"
    )


def _shortest(asked: Shown) -> dict[str, Any]:
    body: dict[str, Any] = {"op": asked.op, "params": asked.params}
    if asked.model:
        body["model"] = asked.model
    if asked.priority != "interactive":
        body["priority"] = asked.priority
    if asked.deadline_ms is not None:
        body["deadline_ms"] = asked.deadline_ms
    if asked.frames:
        body["frames"] = [b64encode(each).decode() for each in asked.frames]
    return body


def _python(asked: Shown, params: dict[str, Any], streams: bool) -> str:
    words = [repr(asked.op), repr(params)]
    if asked.model:
        words.append(f"model={asked.model!r}")
    words.append(f"priority={asked.priority!r}")
    if asked.deadline_ms is not None:
        words.append(f"deadline={asked.deadline_ms / 1000!r}")
    if asked.frames:
        frames = ", ".join(f'b64decode("{b64encode(each).decode()}")' for each in asked.frames)
        words.append(f"frames=[{frames}]")
    lines = ["from base64 import b64decode", ""] if asked.frames else []
    lines += ["from clawai.sdk.client import Client", "", "with Client() as client:"]
    lines += ["    task = client.submit(", *(f"        {word}," for word in words), "    )"]
    if streams:
        lines += ["    for event in task:", '        if event.kind == "chunk":']
        lines += ["            print(event.data)"]
    return "\n".join([*lines, "    print(task.result().value)", ""])


def _msgpack(asked: Shown, params: dict[str, Any]) -> str:
    """Each frame of the message in hexadecimal, a line each."""
    message = wire.Submit(
        id=1,
        op=asked.op,
        model=asked.model,
        priority=asked.priority,
        deadline_ms=asked.deadline_ms,
        params=wire.pack(params),
    )
    return "".join(f"{bytes(frame).hex()}\n" for frame in wire.encode(message, asked.frames))


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Try(site)
    return [
        site.view("try", view.data),
        site.act("/try/run", Asked, view.run),
        site.act("/try/code", Shown, view.code),
    ]
