"""What WIRE.md allows a kernel to say, and a real one says rarely or not yet."""

from typing import Any

from clawai.sdk.conformance.client import (
    ClientProcess,
    Failed,
    require,
    require_fields,
    require_same,
)
from clawai.sdk.conformance.peer import WELCOME, Peer
from clawai.sdk.conformance.values import wide

LARGEST_ID = (1 << 62) - 1
LARGEST_SIZE = (1 << 48) - 1


def welcomed(client: ClientProcess, peer: Peer, **more: Any) -> dict[str, Any]:
    """Bring the client to the peer, as far as its ``welcome``; what it said in ``hello``."""
    client.tell("hello", folder=str(peer.folder), name="conformance")
    hello = peer.accept()
    peer.send(WELCOME | more)
    return hello | {"welcome": client.wait("welcome")}


def submitted(client: ClientProcess, peer: Peer, **more: Any) -> int:
    """A request that the peer has read; its number."""
    number = client.submit("demo.op", {}, **more)
    header = peer.expect("submit")
    require_same(header["id"], number, "submit.id")
    return number


def hello_comes_first(client: ClientProcess, peer: Peer) -> None:
    """The first message is hello, with the version and the name, and no token of its own making."""
    hello = welcomed(client, peer)
    require_same(hello.get("type"), "hello", "the first message")
    version = hello.get("version")
    if not isinstance(version, list) or len(version) != 2:
        raise Failed(f"hello.version is {version!r}")
    require_same(version[0], 1, "the major of hello.version")
    require_same(hello.get("name"), "conformance", "hello.name")
    require(hello.get("token", b"") == b"", "it made a token up")


def defaults_of_welcome(client: ClientProcess, peer: Peer) -> None:
    """What welcome leaves out has its default."""
    welcome = welcomed(client, peer)["welcome"]
    require_fields(welcome, max_message=8_388_608, max_frames=64, leases=False, principal="uid:1")
    require_fields(welcome, version=[1, 1], kernel="0.0.0", pid=1)


def a_newer_minor(client: ClientProcess, peer: Peer) -> None:
    """A kernel of a newer minor is a kernel."""
    welcome = welcomed(client, peer, version=[1, 99])["welcome"]
    require_fields(welcome, version=[1, 99])
    number = submitted(client, peer)
    peer.send({"type": "done", "id": number, "result": 1})
    require_fields(client.end(number), event="done", result=1)


def submit_as_told(client: ClientProcess, peer: Peer) -> None:
    """Every field of submit arrives as it was told, and the payload behind it."""
    welcomed(client, peer)
    told: dict[str, Any] = {
        "op": "demo.op",
        "params": {"text": "你好 ß 🦀", "n": -5, "deep": [[1, {"x": None}], True, 2.5]},
        "model": "some-model",
        "priority": "batch",
        "deadline_ms": 1500,
        "durable": True,
        "keep_alive_s": 300,
    }
    number = client.ask("submit", **told, payload=[b"\x00\xff", b"", b"third"])
    header, payload = peer.receive()
    require_same(header.get("type"), "submit", "the type")
    for name, value in (told | {"id": number}).items():
        require(name in header, f"submit lacks {name}")
        require_same(header[name], value, f"submit.{name}")
    require_same(payload, [b"\x00\xff", b"", b"third"], "the payload")
    peer.send({"type": "done", "id": number})
    client.end(number)


def nothing_is_made_up(client: ClientProcess, peer: Peer) -> None:
    """A field that was not told is left out, or has its default."""
    welcomed(client, peer)
    number = client.submit("demo.op")
    header, payload = peer.receive()
    defaults: dict[str, Any] = {
        "model": "",
        "priority": "interactive",
        "deadline_ms": None,
        "params": {},
        "leases": [],
        "durable": False,
        "keep_alive_s": None,
    }
    for name, default in defaults.items():
        require_same(header.get(name, default), default, f"submit.{name}")
    require_same(payload, [], "the payload")
    peer.send({"type": "done", "id": number})
    client.end(number)


def cancel_query_admin_as_told(client: ClientProcess, peer: Peer) -> None:
    """The other requests arrive as they were told; cancel has no answer of its own."""
    welcomed(client, peer)
    number = submitted(client, peer)
    client.tell("cancel", id=number)
    require_same(peer.expect("cancel").get("id"), number, "cancel.id")
    peer.send({"type": "error", "id": number, "code": "cancelled", "message": "as asked"})
    require_fields(client.end(number), event="error", code="cancelled")
    asked = client.ask("query", what="workers")
    require_same(peer.expect("query").get("what"), "workers", "query.what")
    peer.send({"type": "answer", "id": asked, "data": {"workers": [{"pid": 1}]}})
    require_fields(client.end(asked), event="answer", data={"workers": [{"pid": 1}]})
    asked = client.ask("admin", command="pin", name="some-model")
    header = peer.expect("admin")
    require_same([header.get("command"), header.get("name")], ["pin", "some-model"], "admin")
    peer.send({"type": "answer", "id": asked})
    require_fields(client.end(asked), event="answer", data={})


def unknown_fields(client: ClientProcess, peer: Peer) -> None:
    """A field that the client does not know is ignored, in every message."""
    more = {"colour": "red", "nested": {"a": [1, 2]}, "zero": None}
    welcomed(client, peer, **more)
    number = submitted(client, peer)
    for message in (
        {"type": "accepted", "task": 7},
        {"type": "progress", "state": "running"},
        {"type": "chunk", "data": "piece"},
        {"type": "done", "result": "whole"},
    ):
        peer.send(message | {"id": number} | more)
    require_fields(client.end(number), event="done", result="whole")
    require_same(len(client.pieces(number, "chunk")), 1, "chunks")


def unknown_types(client: ClientProcess, peer: Peer) -> None:
    """A type that the client does not know is ignored, also one that names an open request."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "weather", "sky": "blue"})
    peer.send({"type": "weather", "id": number, "sky": "grey"}, b"with payload")
    peer.send({"type": "drop", "segment": 3})  # known, but about leases, of which it has none
    peer.send({"type": "done", "id": number, "result": 2})
    require_fields(client.end(number), event="done", result=2)


def defaults_are_filled_in(client: ClientProcess, peer: Peer) -> None:
    """What a message leaves out has its default, in what the client tells its user."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "accepted", "id": number, "task": 7})
    peer.send({"type": "progress", "id": number})
    peer.send({"type": "chunk", "id": number})
    peer.send({"type": "done", "id": number})
    end = client.end(number)
    require_fields(end, result=None, timings={}, payload=[])
    (accepted,) = client.pieces(number, "accepted")
    require_fields(accepted, task=7, position=0, estimate_ms=None, job="")
    (progress,) = client.pieces(number, "progress")
    require_fields(progress, state="", position=None, estimate_ms=None, fraction=None, note="")
    (chunk,) = client.pieces(number, "chunk")
    require_fields(chunk, data=None, payload=[])
    number = submitted(client, peer)
    peer.send({"type": "error", "id": number, "code": "worker_failed", "message": "no"})
    error = client.end(number)
    require_fields(error, got=None, allowed=None, hint="", retry_after_ms=None, timings={})


def longest_forms(client: ClientProcess, peer: Peer) -> None:
    """Every form of msgpack is read, the longest too, with the keys in any order."""
    client.tell("hello", folder=str(peer.folder))
    peer.accept()
    peer.send(WELCOME, encode=wide)
    client.wait("welcome")
    number = submitted(client, peer)
    result = {"list": [1, -1, "a", b"\x01", None, True, 0.5], "map": {"ß": {}}}
    peer.send({"type": "accepted", "id": number, "task": 1, "position": 2}, encode=wide)
    peer.send({"type": "done", "id": number, "result": result}, encode=wide)
    require_fields(client.end(number), result=result)
    require_fields(client.pieces(number, "accepted")[0], position=2)


def largest_numbers(client: ClientProcess, peer: Peer) -> None:
    """Numbers are exact up to the limits: ids to 2^62 - 1, and any integer in raw values."""
    welcomed(client, peer)
    number = submitted(client, peer, id=LARGEST_ID)
    raw = [LARGEST_ID, (1 << 64) - 1, -(1 << 63), (1 << 53) + 1, 1e300, -0.5]
    peer.send({"type": "accepted", "id": number, "task": LARGEST_ID, "position": LARGEST_SIZE})
    peer.send({"type": "done", "id": number, "result": raw, "timings": {"queue_us": LARGEST_SIZE}})
    require_fields(client.end(number), result=raw, timings={"queue_us": LARGEST_SIZE})
    (accepted,) = client.pieces(number, "accepted")
    require_fields(accepted, task=LARGEST_ID, position=LARGEST_SIZE)


def payload_frames(client: ClientProcess, peer: Peer) -> None:
    """Payload belongs to its chunk or result; an empty frame is a frame."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "chunk", "id": number, "data": 1}, b"one")
    peer.send({"type": "chunk", "id": number, "data": 2}, b"", bytes(range(256)))
    many = [bytes([n]) * n for n in range(63)]
    peer.send({"type": "done", "id": number}, *many)
    end = client.end(number)
    chunks = client.pieces(number, "chunk")
    require_same([c["payload"] for c in chunks], [[b"one"], [b"", bytes(range(256))]], "payloads")
    require_same(end["payload"], many, "63 frames behind one header")


def requests_are_told_apart(client: ClientProcess, peer: Peer) -> None:
    """Messages of several requests come in any order; each goes to its request."""
    welcomed(client, peer)
    numbers = [submitted(client, peer) for _ in range(3)]
    for step in range(4):
        for number in numbers if step % 2 else reversed(numbers):
            peer.send({"type": "chunk", "id": number, "data": [number, step]})
    for number in (numbers[1], numbers[2], numbers[0]):
        peer.send({"type": "done", "id": number, "result": number})
    for number in numbers:
        require_fields(client.end(number), result=number)
        chunks = [chunk["data"] for chunk in client.pieces(number, "chunk")]
        require_same(chunks, [[number, step] for step in range(4)], "the chunks in order")


def an_end_without_accepted(client: ClientProcess, peer: Peer) -> None:
    """A task that ends at once may have its end only."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "done", "id": number, "result": "at once"})
    require_fields(client.end(number), result="at once")


def a_task_that_is_given_back(client: ClientProcess, peer: Peer) -> None:
    """States come in any order, unknown ones too; only an end is an end."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "accepted", "id": number, "task": 1})
    states = ["queued", "loading", "running", "queued", "running", "held", "pondering", "suspended"]
    for state in states:
        peer.send({"type": "progress", "id": number, "state": state, "position": None})
    peer.send({"type": "done", "id": number})
    client.end(number)
    require_same([p["state"] for p in client.pieces(number, "progress")], states, "states")


def errors_say_everything(client: ClientProcess, peer: Peer) -> None:
    """Code, message, got, allowed, hint and when to try again; a code may be unknown."""
    welcomed(client, peer)
    told = {
        "code": "flavour_unknown",
        "message": "no such flavour",
        "got": {"flavour": "blue"},
        "allowed": ["sweet", 3, None],
        "hint": "say sweet",
        "retry_after_ms": 250,
        "timings": {"queue_us": 10},
    }
    number = submitted(client, peer)
    peer.send({"type": "error", "id": number} | told)
    require_fields(client.end(number), **told)


def a_complaint_without_an_id(client: ClientProcess, peer: Peer) -> None:
    """An error without id is about the connection, and ends no request."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "error", "code": "bad_message", "message": "something you said"})
    require_fields(client.wait("error"), code="bad_message", message="something you said")
    peer.send({"type": "done", "id": number, "result": 3})
    require_fields(client.end(number), event="done", result=3)


def a_kernel_that_dies(client: ClientProcess, peer: Peer) -> None:
    """When the connection ends, what came is heard, and each open request ends with no_kernel."""
    welcomed(client, peer)
    one, two, three = (submitted(client, peer) for _ in range(3))
    peer.send({"type": "chunk", "id": one, "data": "last words"})
    peer.send({"type": "done", "id": two, "result": "just in time"})
    peer.hang_up()
    require_fields(client.end(one), event="error", code="no_kernel")
    require_fields(client.end(two), event="done", result="just in time")
    require_fields(client.end(three), event="error", code="no_kernel")
    require_same([c["data"] for c in client.pieces(one, "chunk")], ["last words"], "the last chunk")


def a_new_connection(client: ClientProcess, peer: Peer) -> None:
    """After the end of a connection the client can be told to connect anew."""
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.hang_up()
    client.end(number)
    client.wait("gone")
    client.tell("close")
    client.wait("closed")
    welcomed(client, peer)
    number = submitted(client, peer)
    peer.send({"type": "done", "id": number, "result": "again"})
    require_fields(client.end(number), result="again")


CASES = [
    hello_comes_first,
    defaults_of_welcome,
    a_newer_minor,
    submit_as_told,
    nothing_is_made_up,
    cancel_query_admin_as_told,
    unknown_fields,
    unknown_types,
    defaults_are_filled_in,
    longest_forms,
    largest_numbers,
    payload_frames,
    requests_are_told_apart,
    an_end_without_accepted,
    a_task_that_is_given_back,
    errors_say_everything,
    a_complaint_without_an_id,
    a_kernel_that_dies,
    a_new_connection,
]
