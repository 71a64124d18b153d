"""Workers that ask for others: what they may, and what nobody else may."""

from typing import Any

import pytest

from clawai.sdk import wire
from support import Kernel, wait_until

FRONT = '''
import asyncio
from clawai.sdk import ClawError, Context, operation

async def _ask(ctx, asks, **options):
    async with ctx.front() as kernel:
        if asks in ("query", "admin"):
            return await getattr(kernel, asks)(**options)
        return (await kernel.call(asks, **options)).value

@operation("front.ask")
def ask(ctx: Context, what: str, options: dict) -> dict:
    """Ask, and say what came of it."""
    try:
        return {"value": asyncio.run(_ask(ctx, what, **options))}
    except ClawError as error:
        return {"code": error.code, "message": error.message}

@operation("front.leave")
def leave(ctx: Context) -> str:
    """Ask for what takes long, and end."""
    async def begin():
        async with ctx.front() as kernel:
            task = await kernel.submit("echo.count", {"upto": 1000, "pause_ms": 100})
            async for event in task:
                if event.kind == "chunk":
                    return
    asyncio.run(begin())
    return "left"
'''
WHO = '''
from clawai.sdk import Context, operation

@operation("who.am")
def am(ctx: Context) -> list:
    """Who asks, how urgently, and whether there is a deadline."""
    return [ctx.principal, ctx.priority, ctx.remaining() is not None]
'''
OPERATIONS = {"front.ask": "", "front.leave": ""}
ALLOWED = """
[permissions.operations]
"who.*" = "it is asked who asks"
"echo.*" = "it counts"
"""
BEHALF = '[permissions]\non_behalf_of = "it serves others"\n'
CHANGES = '[permissions.kernel]\npull = "it fetches models"\nremove = "it deletes them"\n'
RIGHTS = '[permissions.kernel]\nlogs = "it shows them"\npin = "it has buttons"\n'


@pytest.fixture(scope="module")
def fronted(shared_kernel: Kernel) -> Kernel:
    shared_kernel.plugin("front", FRONT, OPERATIONS, slots=2, extra=f"{BEHALF}{ALLOWED}")
    steers = FRONT.replace("front.", "steers.").replace("ctx.steers", "ctx.front")
    mine = {"steers.ask": "", "steers.leave": ""}
    shared_kernel.plugin("steers", steers, mine, extra=f"{BEHALF}{ALLOWED}{RIGHTS}")
    stores = FRONT.replace("front.", "stores.").replace("ctx.stores", "ctx.front")
    mine = {"stores.ask": "", "stores.leave": ""}
    shared_kernel.plugin("stores", stores, mine, extra=f"{BEHALF}{ALLOWED}{CHANGES}")
    plain = FRONT.replace("front.", "plain.").replace("ctx.plain", "ctx.front")
    shared_kernel.plugin("plain", plain, {"plain.ask": "", "plain.leave": ""}, extra=ALLOWED)
    shared_kernel.plugin("who", WHO, {"who.am": ""})
    return shared_kernel


def ask(kernel: Kernel, asks: str, by: str = "front", **options: object) -> dict[str, Any]:
    params = {"what": asks, "options": options}
    said: dict[str, Any] = kernel.client().call(f"{by}.ask", params, priority="batch").value
    return said


def test_each_of_those_it_serves_is_somebody_else(fronted: Kernel) -> None:
    found = ask(fronted, "who.am", behalf="alice", priority="interactive", deadline=60)
    assert found == {"value": ["front:alice", "interactive", True]}, "not its parent's class"
    assert ask(fronted, "who.am", behalf="bob") == {"value": ["front:bob", "interactive", False]}
    assert ask(fronted, "who.am") == {"value": ["front:", "interactive", False]}


def test_it_may_look_but_not_at_the_jobs_of_its_user(fronted: Kernel) -> None:
    models = ask(fronted, "query", what="models")
    assert models == {"value": {"models": []}}, models
    assert ask(fronted, "query", what="jobs")["code"] == "bad_params"


def test_it_does_to_the_kernel_what_its_manifest_names_and_nothing_else(fronted: Kernel) -> None:
    assert "starts" in ask(fronted, "query", by="steers", what="logs:")["value"]["text"]
    pinned = ask(fronted, "admin", by="steers", command="pin", name="steers")["value"]["changed"]
    assert [row["plugin"] for row in pinned] == ["steers"] * len(pinned) and pinned
    ask(fronted, "admin", by="steers", command="unpin", name="steers")
    for command in ("unload", "suspend", "shutdown", "job-rm", "nothing", "pull", "remove"):
        said = ask(fronted, "admin", by="steers", command=command, name="steers")
        assert said["code"] == "not_permitted", command
    listings = ("logs:", "timeline", "pull:1", "remove:1", "boxes", "boxes:one:-")
    refused = [("query", {"what": what}) for what in listings]
    for asks, what in (*refused, ("admin", {"command": "pin"}), ("admin", {"command": "pull"})):
        said = ask(fronted, asks, **what)
        assert said["code"] == "not_permitted" and "does not ask for this" in said["message"]
    assert "cores" in ask(fronted, "query", what="box")["value"], "which plugins cannot see"


def test_it_changes_the_store_if_its_manifest_says_so(fronted: Kernel) -> None:
    for command in ("pull", "remove"):
        said = ask(fronted, "admin", by="stores", command=command, name="nobody")
        assert said["code"] == "unknown_model"
        said = ask(fronted, "query", by="stores", what=f"{command}:1")
        assert said["code"] == "bad_params"
    said = ask(fronted, "admin", by="stores", command="unload", name="echo")
    assert said["code"] == "not_permitted"


def test_it_asks_for_nothing_that_its_manifest_does_not_name(fronted: Kernel) -> None:
    said = ask(fronted, "llm.generate", params={"prompt": "x"}, model="tiny")
    assert said["code"] == "not_permitted"


def test_its_tasks_end_when_it_lets_go(fronted: Kernel) -> None:
    client = fronted.client()
    assert client.call("front.leave").value == "left"
    wait_until(lambda: not client.query("tasks")["tasks"], "what it asked for is cancelled")
    assert ask(fronted, "who.am", behalf="x")["value"][0] == "front:x", "it can ask again"


def test_without_the_permission_there_is_no_front(fronted: Kernel) -> None:
    assert ask(fronted, "who.am", by="plain")["code"] == "not_permitted"


def test_nobody_else_asks_for_others(fronted: Kernel) -> None:
    peer = fronted.raw().hello()
    peer.send(wire.Submit(id=1, op="echo.say", params=wire.pack({"text": "x"}), behalf="alice"))
    error = peer.message()
    assert isinstance(error, wire.Error) and error.code == "not_permitted"
    assert "on_behalf_of" in error.message
    peer.sock.close()
