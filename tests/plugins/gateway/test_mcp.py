"""`/mcp` with the official client, in both forms of the protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from broker_parts import free_port
from clawai.sdk.httpkeys import hashed
from support import Kernel, no_leak, wait_until

NOTES = '''
from clawai.sdk import ClawError, Context, operation

@operation("notes.find")
def find(ctx: Context, word: str, most: int = 3) -> dict[str, list[str]]:
    """Find notes.

    Args:
        word: What is looked for.
    """
    if not word:
        raise ClawError("bad_params", "an empty word is in every note", hint="say one")
    ctx.progress(0.5, "halfway")
    return {"found": [f"{word} {n}" for n in range(most)]}

@operation("notes.whose")
def whose(ctx: Context) -> str:
    """Say who asks."""
    return ctx.principal
'''
MODES = ["legacy", "2026-07-28"]


@dataclass
class Served:
    port: int
    kernel: Kernel

    @contextlib.asynccontextmanager
    async def client(self, mode: str, key: str = "") -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            url = f"http://127.0.0.1:{self.port}/mcp"
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A gateway whose tools for who has no key are those of notes and echo.count."""
    port = free_port()
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    kernel.plugin("notes", NOTES, {"notes.find": "idempotent = true", "notes.whose": ""})
    key = {"name": "lena", "hash": hashed("claw-lena"), "operations": ["echo.say", "notes.whose"]}
    asked = {"tools": ["notes.*", "echo.count", "gateway.*"], "keys": [key]}
    try:
        with no_leak():
            client = kernel.start().client()
            task = client.submit("gateway.serve", asked)
            assert any(event.note.startswith("http://") for event in task)
            yield Served(port, kernel)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


@pytest.mark.parametrize("mode", MODES)
def test_operations_are_tools(served: Served, mode: str) -> None:
    async def main() -> None:
        async with served.client(mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"notes-find", "notes-whose", "echo-count"}
            count = tools["echo-count"]
            assert count.input_schema["required"] == ["upto"]
            assert count.input_schema["properties"]["upto"]["type"] == "integer"
            assert count.annotations and not count.annotations.idempotent_hint
            found = tools["notes-find"].annotations
            assert found and found.read_only_hint and found.idempotent_hint
            assert not (found.destructive_hint or found.open_world_hint)
            heard: list[Any] = []

            async def progress(*said: Any) -> None:
                heard.append(said)

            said = await client.call_tool(
                "notes-find", {"word": "tea", "most": 2}, progress_callback=progress
            )
            assert said.structured_content == {"found": ["tea 0", "tea 1"]} and not said.is_error
            assert heard == [(0.5, 1.0, "halfway")]
            counted = await client.call_tool("echo-count", {"upto": 3})
            assert [part.text for part in counted.content] == ["1", "2", "3", "3"]
            wrong = await client.call_tool("notes-find", {"word": ""})
            assert wrong.is_error and "say one" in wrong.content[0].text
            wrong = await client.call_tool("notes-find", {"sort": 1})
            assert wrong.is_error and wrong.content[0].text.startswith("bad_params")
            for name in ("echo-say", "gateway-keys", "nothing"):
                with pytest.raises(MCPError, match="there is no tool"):
                    await client.call_tool(name, {})

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_is_cancelled_ends(served: Served, mode: str) -> None:
    def running() -> list[str]:
        with served.kernel.client() as wire:  # in a thread of its own
            return [row["op"] for row in wire.query("tasks")["tasks"] if "count" in row["op"]]

    async def main() -> None:
        async with served.client(mode) as client:
            call = client.call_tool("echo-count", {"upto": 100_000, "pause_ms": 10})
            asked = asyncio.create_task(call)
            await asyncio.to_thread(wait_until, running, "the call")
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
            await asyncio.to_thread(wait_until, lambda: not running(), "its end")

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_a_key_says_which_tools_there_are(served: Served, mode: str) -> None:
    async def main() -> None:
        async with served.client(mode, "claw-lena") as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["echo-say", "notes-whose"]
            said = await client.call_tool("notes-whose", {})
            assert said.content[0].text == "gateway:key:lena"
            with pytest.raises(MCPError, match="there is no tool"):
                await client.call_tool("notes-find", {"word": "a"})

    asyncio.run(main())


def test_operations_are_called_without_mcp_too(served: Served) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60) as http:
        found = http.post("/operations/notes.find", json={"word": "tea", "most": 1}).json()
        assert found["result"] == {"found": ["tea 0"]} and found["timings"]["queue_us"] >= 0
        counted = http.post("/operations/echo.count", json={"upto": 2}).json()
        assert (counted["chunks"], counted["result"]) == ([1, 2], 2)
        for name in ("echo.say", "notes-find", "gateway.keys"):
            assert http.post(f"/operations/{name}", json={}).status_code == 404
        assert http.post("/operations/notes.find", json={"sort": 1}).status_code == 400
        assert http.post("/operations/notes.find", json=[1]).status_code == 400
        key = {"x-api-key": "claw-lena"}
        said = http.post("/operations/echo.say", json={"text": "a"}, headers=key)
        assert said.json()["result"] == "a"


def test_a_session_serves_nobody_but_who_began_it(served: Served) -> None:
    about = {"name": "test", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": about}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    accept = {"accept": "application/json, text/event-stream"}
    key = {"authorization": "Bearer claw-lena"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60) as http:
        begun = http.post("/mcp", json=hello, headers=accept | key)
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        mine = http.post("/mcp", json=asked, headers=accept | key | session)
        assert mine.status_code == 200 and "echo-say" in mine.text
        assert http.post("/mcp", json=asked, headers=accept | session).status_code == 404
        page = http.post("/mcp", json=hello, headers=accept | {"origin": "http://evil.example"})
        assert page.status_code == 403
        assert http.post("/mcp", content=b"{", headers=accept).status_code == 400
