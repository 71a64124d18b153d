"""Against a real kernel and its sandboxed worker."""

import os
import signal
from typing import Any

from clawai.sdk.cli.bench.private import Private
from clawai.sdk.conformance.client import ClientProcess, require, require_fields, require_same

PLUGIN = """
import time
from typing import Any
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context, operation

@operation("conform.echo")
def echo(value: Any = None) -> Any:
    return value

@operation("conform.frames")
def frames(ctx: Context) -> int:
    ctx.reply_frames += reversed(ctx.frames)
    return len(ctx.frames)

@operation("conform.stream")
def stream(ctx: Context, upto: int):
    for number in range(upto):
        yield {"number": number}
    return upto

@operation("conform.progress")
def progress(ctx: Context) -> None:
    ctx.progress(0.25, "a quarter")
    ctx.progress(note="sans fraction ✓")

@operation("conform.fail")
def fail() -> None:
    raise ClawError("bad_model", "it failed", got={"a": [1]}, allowed=[1, "b"], hint="do not")

@operation("conform.crash")
def crash() -> None:
    raise RuntimeError("not foreseen")

@operation("conform.wait")
def wait(ctx: Context, ms: int):
    until = time.monotonic() + ms / 1000
    yield "begun"
    while time.monotonic() < until:
        ctx.checkpoint()
        time.sleep(0.002)
    return "waited"

@operation("conform.big")
def big(size: int) -> bytes:
    return bytes(size)
"""
OPERATIONS = (
    *("conform.echo", "conform.frames", "conform.progress", "conform.fail", "conform.crash"),
    *("conform.stream\nstream = true", "conform.wait\nstream = true", "conform.big"),
)
VALUES = [
    None,
    True,
    "",
    'žluťoučký kůň 你好 🦀\x00\n"',
    [0, -1, (1 << 53) + 1, (1 << 63) - 1, (1 << 64) - 1, -(1 << 63)],
    [0.5, -1e300, 1e-300],
    b"",
    bytes(range(256)),
    {"": {"nested": [[], {}, [None]]}},
    "x" * 70_000,
    list(range(20_000)),
]


def kernel() -> Private:
    """A kernel of its own with the test plugin."""
    box = Private('[preemption]\nmeans = "none"\n')
    box.write_plugin("conform", PLUGIN, *OPERATIONS, limits="memory_mib = 128\nslots = 1")
    return box


def hello_and_welcome(client: ClientProcess, box: Private) -> None:
    """The client connects, and can tell to whom."""
    client.close()
    welcome = client.hello(box.folder, name="conformance")
    require_fields(welcome, pid=box.pid, max_frames=64, max_message=8_388_608)
    require_same(welcome["version"][0], 1, "the major of welcome.version")
    require_same(welcome["principal"], f"uid:{os.getuid()}", "welcome.principal")


def another_major_is_refused(client: ClientProcess, box: Private) -> None:
    """A hello of another major is told why, and hello may be tried again."""
    client.close()
    client.tell("hello", folder=str(box.folder), version=[99, 0])
    require_fields(client.wait("error"), code="bad_version")
    client.close()
    client.hello(box.folder)


def no_kernel_there(client: ClientProcess, box: Private) -> None:
    """Where nobody listens, the client says so instead of waiting."""
    client.close()
    client.tell("hello", folder=str(box.folder / "nothing"))
    require_fields(client.wait("error"), code="no_kernel")
    client.close()
    client.hello(box.folder)


def values_come_back(client: ClientProcess, box: Private) -> None:
    """Any value goes there and back: nil, unicode, the largest integers, bytes, long ones."""
    for value in VALUES:
        end = client.end(client.submit("conform.echo", {"value": value}))
        require_same(end["event"], "done", f"the end of {value!r:.60}: {end!r:.200}")
        require_same(end["result"], value, "what came back")
        require("queue_us" in end["timings"], "done without timings")


def payload_comes_back(client: ClientProcess, box: Private) -> None:
    """Payload frames in both directions, an empty and a large one among them."""
    payload = [b"first", b"", bytes(range(256)) * 2048]
    end = client.end(client.submit("conform.frames", payload=payload))
    require_fields(end, result=3, payload=payload[::-1])


def a_stream_in_order(client: ClientProcess, box: Private) -> None:
    """Chunks come in the order in which they were made, then the end."""
    number = client.submit("conform.stream", {"upto": 500})
    require_fields(client.end(number), event="done", result=500)
    data = [chunk["data"]["number"] for chunk in client.pieces(number, "chunk")]
    require_same(data, list(range(500)), "the chunks")


def progress_is_heard(client: ClientProcess, box: Private) -> None:
    """What the operation says of itself."""
    number = client.submit("conform.progress")
    require_fields(client.end(number), event="done", result=None)
    said = [p for p in client.pieces(number, "progress") if p.get("note")]
    require_same([p["note"] for p in said], ["a quarter", "sans fraction ✓"], "the notes")
    require_same(said[0]["fraction"], 0.25, "the fraction")


def errors_of_the_plugin(client: ClientProcess, box: Private) -> None:
    """A typed error with all its parts; and what was not foreseen."""
    error = client.end(client.submit("conform.fail"))
    require_fields(error, event="error", code="bad_model", message="it failed")
    require_fields(error, got={"a": [1]}, allowed=[1, "b"], hint="do not")
    error = client.end(client.submit("conform.crash"))
    require_fields(error, event="error", code="worker_failed")
    require("not foreseen" in error["message"], f"the message is {error['message']!r}")


def errors_of_the_caller(client: ClientProcess, box: Private) -> None:
    """No such operation, wrong parameters, no such listing."""
    error = client.end(client.submit("conform.ecko", {}))
    require_fields(error, event="error", code="unknown_operation")
    require("conform.echo" in error["hint"], f"the hint is {error['hint']!r}")
    error = client.end(client.submit("conform.stream", {"upto": "many"}))
    require_fields(error, event="error", code="bad_params")
    error = client.end(client.ask("query", what="nonsense"))
    require_same(error["event"], "error", "the end of a query for nonsense")


def cancel_what_runs(client: ClientProcess, box: Private) -> None:
    """A cancelled task ends with cancelled; a cancel of what is not open means nothing."""
    number = client.submit("conform.wait", {"ms": 60_000})
    client.wait("chunk", number)
    client.tell("cancel", id=number)
    require_fields(client.end(number), event="error", code="cancelled")
    client.tell("cancel", id=number)
    client.tell("cancel", id=4_000_000_000)
    require_fields(client.end(client.submit("conform.echo", {"value": 1})), result=1)


def deadlines(client: ClientProcess, box: Private) -> None:
    """One that is past at once, and one that passes while the task runs."""
    error = client.end(client.submit("conform.echo", {"value": 1}, deadline_ms=0))
    require(error.get("code") in ("deadline_passed", "deadline_unreachable"), f"it was {error}")
    error = client.end(client.submit("conform.wait", {"ms": 60_000}, deadline_ms=300))
    require_fields(error, event="error", code="deadline_passed")


def the_urgent_first(client: ClientProcess, box: Private) -> None:
    """While one runs, a critical task overtakes a normal one; both are told that they wait."""
    running = client.submit("conform.wait", {"ms": 60_000}, priority="critical")
    client.wait("chunk", running)
    later = client.submit("conform.echo", {"value": "normal"}, priority="normal")
    sooner = client.submit("conform.echo", {"value": "critical"}, priority="critical")
    for number in (later, sooner):
        client.wait("progress", number)
        require(client.pieces(number, "accepted"), f"{number} waits and was not accepted")
        state = client.pieces(number, "progress")[0]["state"]
        require(state in ("queued", "loading"), f"the state of one that waits is {state!r}")
    client.tell("cancel", id=running)
    client.end(running)
    require_fields(client.end(sooner), result="critical")
    require_fields(client.end(later), result="normal")
    ends = [number for number in client.order if number in (later, sooner)]
    require_same(ends, [sooner, later], "the order of the ends")


def many_at_once(client: ClientProcess, box: Private) -> None:
    """Fifty open requests, each answered with its own result."""
    asked = {client.submit("conform.echo", {"value": n}): n for n in range(50)}
    for number, value in asked.items():
        require_fields(client.end(number), result=value)


def too_large_is_not_sent(client: ClientProcess, box: Private) -> None:
    """A message beyond the limits of welcome is refused by the client; the connection lives on."""
    number = client.submit("conform.frames", zeros=9_000_000)
    require_fields(client.end(number), event="error", code="too_large")
    number = client.submit("conform.frames", payload=[b""] * 64)
    require_fields(client.end(number), event="error", code="too_large")
    error = client.end(client.submit("conform.big", {"size": 9_000_000}))
    require_fields(error, event="error", code="too_large")
    require_fields(client.end(client.submit("conform.echo", {"value": 1})), result=1)


def listings(client: ClientProcess, box: Private) -> None:
    """A query is answered with a listing."""
    answer = client.end(client.ask("query", what="workers"))
    plugins = [row["plugin"] for row in answer["data"]["workers"]]
    require("conform" in plugins, f"workers of {plugins}")


def a_durable_job(client: ClientProcess, box: Private) -> None:
    """A durable task is named when it is accepted, and outlives its client's connection."""
    number = client.submit("conform.echo", {"value": "kept"}, durable=True)
    job = client.wait("accepted", number)["job"]
    require(job, "accepted without a job")
    client.close()
    client.hello(box.folder)
    row: dict[str, Any] = {}
    while row.get("state") not in ("done", "failed", "cancelled", "error"):
        answer = client.end(client.ask("admin", command="job-wait", name=job))
        require_same(answer["event"], "answer", f"the end of job-wait: {answer}")
        row = answer["data"]
    answer = client.end(client.ask("query", what=f"job:{job}"))
    require("kept" in repr(answer["data"]), f"the job's row has no result: {answer['data']!r}")


def the_kernel_goes_away(client: ClientProcess, box: Private) -> None:
    """A kernel that stops ends every open request, and the client says that it is gone."""
    numbers = [client.submit("conform.wait", {"ms": 60_000}) for _ in range(2)]
    client.wait("chunk", numbers[0])
    os.kill(box.pid, signal.SIGTERM)
    for number in numbers:
        error = client.end(number)
        require(error.get("code") in ("kernel_stopped", "no_kernel"), f"the end was {error}")
    client.wait("gone")


CASES = [
    hello_and_welcome,
    another_major_is_refused,
    no_kernel_there,
    values_come_back,
    payload_comes_back,
    a_stream_in_order,
    progress_is_heard,
    errors_of_the_plugin,
    errors_of_the_caller,
    cancel_what_runs,
    deadlines,
    the_urgent_first,
    many_at_once,
    too_large_is_not_sent,
    listings,
    a_durable_job,
    the_kernel_goes_away,
]
"""In this order: the last one ends the kernel."""
