"""`/mcp` and `/operations/NAME`: operations as tools, by the Model Context Protocol or plainly.

Both of its forms: one request after the other (2026), and the older one that begins with a
handshake and keeps a session. Which operations somebody sees, the key says; who has none, where
none is needed, sees those that ``claw http --tools`` names. The hints of a tool come from the
manifest: what its plugin may not do, it does not do.

The library is loaded when somebody comes: most gateways need none of it.
"""

import asyncio
import contextlib
import importlib
import time
from collections.abc import Awaitable, Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway.answers import drop, told
from clawai.plugins.gateway.door import Said, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import ASKER, may
from clawai.plugins.gateway.openai import urgency
from clawai.sdk import schema
from clawai.sdk.aclient import AsyncTask
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front
from clawai.sdk.session import Result

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.context import ServerRequestContext

OWN = "gateway."
"""Operations that begin so serve others, and are nobody's tools."""
LATELY = 2.0
"""Seconds for which the operations are not asked for again."""
SESSIONS = 256
IDLE = 600.0
"""Seconds until a session of the older form ends that nobody uses."""
MOST = 8 << 20
"""Bytes of one tool's answer."""


class Tools:
    """The server.

    Args:
        free: patterns of operations for those who have no key.
    """

    def __init__(self, kernel: Front, free: Iterable[str]) -> None:
        self._kernel = kernel
        self._free = tuple(free)
        self._known: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._looking = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._manager: Any = None
        self._mcp: Any = None

    async def answer(self, request: Request, body: bytes) -> "Handed":
        """What answers a request.

        Raises:
            BadRequest: 501, the library is not installed.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await self._ready.wait()
        if self._manager is None:
            text = "this gateway has no MCP: pip install 'clawai[web]'"
            raise BadRequest(text, None, 501)
        if held := ASKER.get().held:
            auth = importlib.import_module("mcp.server.auth.middleware.bearer_auth")
            token = importlib.import_module("mcp.server.auth.provider").AccessToken
            # So a session serves nobody but who has begun it.
            name = f"{held.key.name}:{held.key.hash}"
            user = auth.AuthenticatedUser(token(token="", client_id=name, scopes=[]))
            request.scope["user"] = user
        return Handed(self._manager, body)

    async def call(self, request: Request, body: bytes) -> Response:
        """The same tools for those who need no MCP: parameters as a JSON object, its result.

        Raises:
            BadRequest, ClawError: it cannot be asked for, or has failed.
        """
        name = request.path_params["name"]
        row = (await self._operations()).get(schema.tool_name(name))
        if row is None or row["described"]["name"] != name:
            text = f"there is no operation {name[:80]!r} here, or not for who asks"
            raise BadRequest(text, "name", 404)
        try:
            params = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON object: {error}") from None
        model = str(params.pop("model", "")) if row["needs_model"] else ""
        priority, deadline = urgency(request, None, None)
        asked = self._kernel.submit(
            name, params, model=model, priority=priority, deadline=deadline, behalf=who(request)
        )
        chunks, result = await unless_gone(request.receive, _collected(await asked))
        left = f"{len(result.frames)} arrays are left out: ask for them over the wire"
        said = {"result": result.value} | ({"chunks": chunks} if chunks else {})
        headers = warned([left] if result.frames else [])
        return Said(said | {"timings": result.timings}, headers=headers)

    async def close(self) -> None:
        """End all sessions."""
        if self._running:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        try:
            self._mcp, server, manager, security = await asyncio.to_thread(_loaded)
        except ImportError:
            self._ready.set()
            return
        made = server.Server("clawai", on_list_tools=self._list, on_call_tool=self._call)
        checked = security.TransportSecuritySettings(enable_dns_rebinding_protection=False)
        found = manager.StreamableHTTPSessionManager(
            made,
            security_settings=checked,  # the application has looked at host and origin
            session_idle_timeout=IDLE,
            max_sessions=SESSIONS,
        )
        async with found.run():
            self._manager = found
            self._ready.set()
            await asyncio.Event().wait()

    async def _operations(self) -> dict[str, dict[str, Any]]:
        """Those that this request may see, by the name of the tool."""
        async with self._looking:  # one looks for all
            when, rows = self._known
            if time.monotonic() - when > LATELY:
                rows = (await self._kernel.query("operations"))["operations"]
                self._known = time.monotonic(), rows
        held = ASKER.get().held
        patterns = held.key.operations if held else self._free
        names = ((row, row["described"]["name"]) for row in rows)
        seen = [(row, name) for row, name in names if not name.startswith(OWN)]
        return {schema.tool_name(name): row for row, name in seen if may(patterns, name)}

    async def _list(self, ctx: "ServerRequestContext[Any]", params: Any) -> "types.ListToolsResult":
        rows = await self._operations()
        models: list[str] = []
        if any(row["needs_model"] for row in rows.values()):
            stored = (await self._kernel.query("models"))["models"]
            models = [row["name"] for row in stored if "problem" not in row]
        tools = [self._tool(name, row, models) for name, row in sorted(rows.items())]
        found: types.ListToolsResult = self._mcp.ListToolsResult(tools=tools)
        return found

    def _tool(self, name: str, row: dict[str, Any], models: list[str]) -> Any:
        described = msgspec.convert(row["described"], schema.Described)
        function = schema.tool(described)["function"]
        wanted = {"type": "object"} | function["parameters"]
        if row["needs_model"]:
            model: dict[str, Any] = {"type": "string", "description": "Which model."}
            model |= {"enum": models} if models else {}
            wanted["properties"] = {"model": model} | wanted.get("properties", {})
            wanted["required"] = ["model", *wanted.get("required", ())]
        hints = self._mcp.ToolAnnotations(
            read_only_hint=not (row["writes"] or row["connects"] or row["calls"]),
            destructive_hint=row["writes"] or row["connects"] or row["calls"],
            idempotent_hint=row["idempotent"],
            open_world_hint=row["connects"] or row["calls"],
        )
        more = "".join(f"\n\nIts plugin may {each}." for each in row["may"])
        return self._mcp.Tool(
            name=name,
            description=(function["description"] + more).strip(),
            input_schema=wanted,
            annotations=hints,
        )

    async def _call(
        self, ctx: "ServerRequestContext[Any]", params: "types.CallToolRequestParams"
    ) -> "types.CallToolResult":
        row = (await self._operations()).get(params.name)
        if row is None:
            text = f"there is no tool {params.name[:80]!r} here, or not for who asks"
            raise self._mcp.MCPError(self._mcp.INVALID_PARAMS, text)
        arguments = dict(params.arguments or {})
        model = arguments.pop("model", "") if row["needs_model"] else ""
        try:
            return await self._answered(ctx, row["described"]["name"], arguments, str(model))
        except ClawError as error:
            text = self._mcp.TextContent(type="text", text=f"{error.code}: {told(error)}")
            failed: types.CallToolResult = self._mcp.CallToolResult(content=[text], is_error=True)
            return failed

    async def _answered(
        self, ctx: "ServerRequestContext[Any]", op: str, arguments: dict[str, Any], model: str
    ) -> "types.CallToolResult":
        task = await self._kernel.submit(op, arguments, model=model)
        chunks, result = await _collected(task, ctx.session.report_progress)
        texts = [_text(chunk) for chunk in chunks]
        if result.value is not None or not texts:
            texts.append(_text(result.value))
        if result.frames:
            texts.append(f"({len(result.frames)} arrays are left out: ask for them over the wire)")
        content = [self._mcp.TextContent(type="text", text=text) for text in texts]
        plain = msgspec.json.decode(_text(result.value)) if isinstance(result.value, dict) else None
        found: types.CallToolResult = self._mcp.CallToolResult(
            content=content, structured_content=plain
        )
        return found


class Handed:
    """A response that the library makes, of a body that was read before."""

    def __init__(self, manager: Any, body: bytes) -> None:
        self._manager = manager
        self._body = body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        bodies = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def again() -> Any:
            return bodies.pop() if bodies else await receive()

        await self._manager.handle_request(scope, again, send)


def _loaded() -> tuple[ModuleType, ...]:
    """What is used of the library."""
    found = ModuleType("names")
    for place in ("mcp_types", "mcp.shared.exceptions"):
        vars(found).update(vars(importlib.import_module(place)))
    names = "lowlevel.server", "streamable_http_manager", "transport_security"
    return (found, *[importlib.import_module(f"mcp.server.{name}") for name in names])


async def _collected(
    task: AsyncTask, progress: Callable[[float, float, str | None], Awaitable[None]] | None = None
) -> tuple[list[Any], Result]:
    """What an operation streams, and its result.

    Raises:
        ClawError: its error, or that it says too much.
    """
    chunks, size = [], 0
    try:
        async for event in task:
            if event.kind == "chunk":
                chunks.append(event.data)
                size += len(_text(event.data))
                if size > MOST:
                    break
            elif progress and (event.note or event.fraction is not None):
                await progress(event.fraction or 0.0, 1.0, event.note or None)
        else:
            result = await task.result()
            size += len(_text(result.value))
            if trace := ASKER.get().trace:
                trace.answered(None, result.timings, time.time_ns())
    finally:
        drop(task)
    if size > MOST:
        raise ClawError("too_large", "bytes of an answer", size, MOST, "ask over the wire")
    return chunks, result


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
