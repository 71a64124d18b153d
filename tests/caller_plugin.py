"""Plugins that call each other, for the tests of what an operation may ask for."""

from support import Kernel

PERMISSIONS = """
[permissions.operations]
"echo.*" = "the tests call it"
"caller.*" = "it calls itself"
"narrow.*" = "one slot"
"cycle.*" = "round and round"
[permissions.models]
"""
CALLER = """
import time
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context, Cancelled, operation

@operation("caller.say")
def say(ctx: Context, text: str) -> str:
    return ctx.call("echo.say", {"text": text})

@operation("caller.plain")
def plain(number: int) -> int:
    return number

@operation("caller.any")
def any_(
    ctx: Context, op: str, params: dict, model: str = "", priority: str | None = None
) -> object:
    return ctx.call(op, params, model=model, priority=priority)

@operation("caller.stream")
def stream(ctx: Context, upto: int):
    task = ctx.submit("echo.count", {"upto": upto})
    total = 0
    for event in task:
        if event.kind == "chunk":
            total += event.data
            yield event.data * 10
    return {"sum": total, "count": task.result().value}

@operation("caller.many")
def many(ctx: Context, count: int) -> list:
    tasks = [ctx.submit("echo.say", {"text": str(n)}) for n in range(count)]
    return [task.result().value for task in reversed(tasks)]

@operation("caller.wait")
def wait(ctx: Context, deadline: float | None = None) -> int:
    ctx.progress(None, "calls")
    return ctx.call("echo.count", {"upto": 10**6, "pause_ms": 5}, deadline=deadline)

@operation("caller.leaves")
def leaves(ctx: Context) -> str:
    task = ctx.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    next(event for event in task if event.kind == "chunk")
    return "gone"

@operation("caller.flood")
def flood(chunks: int, size: int):
    for number in range(chunks):
        yield {"number": number, "data": bytes(size)}

@operation("caller.slow")
def slow(ctx: Context, chunks: int, size: int, pause: float) -> dict:
    task = ctx.submit("caller.flood", {"chunks": chunks, "size": size})
    got = total = 0
    for event in task:
        if event.kind == "chunk":
            got += len(event.data["data"])
            total += event.data["number"]
            time.sleep(pause)
    task.result()
    return {"bytes": got, "sum": total}

@operation("caller.catches")
def catches(ctx: Context, op: str, params: dict) -> dict:
    try:
        return {"value": ctx.call(op, params)}
    except ClawError as error:
        return {"code": error.code, "message": error.message, "got": error.got,
                "allowed": error.allowed, "hint": error.hint}

@operation("caller.deaf")
def deaf(ctx: Context) -> None:
    ctx.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    while True:
        time.sleep(0.05)

@operation("caller.raw")
def raw(ctx: Context, messages: list) -> list:
    '''Say anything over the connection for child tasks.'''
    import msgspec
    from clawai.sdk import wire
    children, said = ctx.home.children, []
    class Ours(wire.Message, tag="x", frozen=True, kw_only=True):
        pass
    for number, message in enumerate(messages):
        request = children.session._new("raw")
        message["id"] = request.id
        if message.get("parent") == "me":
            message["parent"] = ctx.task
        children.send([msgspec.msgpack.encode(message)])
        seen = 0
        while request.end is None:
            ctx.checkpoint()
            seen = children.wait(seen)
        end = request.end
        said.append(end.code if isinstance(end, ClawError) else end.value)
    return said
"""
NARROW = """
from clawai.sdk.plugin import Context, operation

@operation("narrow.any")
def any_(ctx: Context, op: str, params: dict, first: float = 0) -> object:
    import time
    until = time.monotonic() + first
    while time.monotonic() < until:
        ctx.checkpoint()
        time.sleep(0.005)
    return ctx.call(op, params)

@operation("narrow.idle")
def idle(ctx: Context) -> int:
    return ctx.call("echo.count", {"upto": 10**6, "pause_ms": 5})

@operation("narrow.plain")
def plain() -> str:
    return "plain"
"""
LONELY = """
from clawai.sdk.plugin import Context, operation

@operation("lonely.call")
def call(ctx: Context) -> str:
    return ctx.call("echo.say", {"text": "x"})
"""
CYCLE = """
from clawai.sdk.plugin import Context, operation

@operation("cycle.down")
def down(ctx: Context, levels: int) -> int:
    return 1 + ctx.call("cycle.down", {"levels": levels - 1}) if levels else 0
"""


def with_callers(kernel: Kernel) -> None:
    """Drop them into a kernel."""
    names = ("say", "plain", "any", "stream", "many", "wait", "leaves", "catches", "deaf", "raw")
    names += ("slow", "flood")
    idempotent = {"say", "plain"}
    operations = {f"caller.{n}": "idempotent = true" if n in idempotent else "" for n in names}
    kernel.plugin("caller", CALLER, operations, slots=4, extra=PERMISSIONS)
    narrow = {"narrow.any": "", "narrow.plain": "", "narrow.idle": "idempotent = true"}
    kernel.plugin("narrow", NARROW, narrow, slots=1, extra=PERMISSIONS)
    kernel.plugin("lonely", LONELY, {"lonely.call": ""})
    kernel.plugin("cycle", CYCLE, {"cycle.down": ""}, slots=16, extra=PERMISSIONS)
