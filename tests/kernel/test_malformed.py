"""Messages and bytes that are wrong: a typed error, or the end of the connection."""

import contextlib
from typing import Any

import msgpack
import pytest
import zmq

from clawai.sdk import wire
from clawai.sdk.plain import unpack
from clawai.sdk.zmtp_handshake import GREETING
from support import PATIENCE, Kernel

MALFORMED: dict[str, list[bytes]] = {
    "empty header": [b""],
    "not msgpack": [b"\xc1\xc1\xc1"],
    "garbage": [bytes(range(256))],
    "an array": [b"\x93\x01\x02\x03"],
    "no type": [msgpack.packb({"id": 1})],
    "unknown type": [msgpack.packb({"type": "explode", "id": 1})],
    "a type of the kernel's": [msgpack.packb({"type": "welcome"})],
    "type is a number": [msgpack.packb({"type": 7})],
    "id is a string": [msgpack.packb({"type": "cancel", "id": "x"})],
    "id is negative": [msgpack.packb({"type": "cancel", "id": -1})],
    "id is too large": [msgpack.packb({"type": "cancel", "id": 1 << 63})],
    "op is too long": [msgpack.packb({"type": "submit", "id": 1, "op": "x" * 300})],
    "no op": [msgpack.packb({"type": "submit", "id": 1})],
    "unknown priority": [
        msgpack.packb({"type": "submit", "id": 1, "op": "echo.say", "priority": "urgent"})
    ],
    "leases of a wrong type": [
        msgpack.packb({"type": "submit", "id": 1, "op": "echo.say", "leases": [1]})
    ],
    "deep nesting": [b"\x82\xa4type\xa6submit\xa6params" + b"\x91" * 100_000 + b"\xc0"],
    "deep nesting of keys": [b"\x81" * 100_000 + b"\xc0"],
    "truncated": [msgpack.packb({"type": "cancel", "id": 1})[:-1]],
    "trailing bytes": [msgpack.packb({"type": "cancel", "id": 1}) + b"\x00"],
    "a declared length of 4 GiB": [b"\x81\xa4type\xdb\xff\xff\xff\xff"],
    "a declared array of 4 G": [b"\xdd\xff\xff\xff\xff"],
    "bad UTF-8": [b"\x82\xa4type\xa5query\xa4what\xa2\xff\xfe"],
    "text in a byte field": [msgpack.packb({"type": "hello", "version": [1, 0], "token": 5})],
    "many frames": [b"x"] * wire.MAX_FRAMES,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(target: Kernel, name: str) -> None:
    with target.raw().hello() as peer:
        peer.send_raw(MALFORMED[name])
        error = peer.message()
        assert isinstance(error, wire.Error)
        assert error.code == "bad_message"
        assert error.message
        peer.send_map(type="query", id=5, what="status")
        assert isinstance(peer.answer(5), wire.Answer)


def test_unknown_fields_are_ignored(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.send_map(type="query", id=5, what="status", colour="red", nested={"a": [1]})
        assert isinstance(peer.answer(5), wire.Answer)


def test_the_first_message_must_be_hello(target: Kernel) -> None:
    with target.raw().handshake() as peer:
        peer.send_map(type="query", id=1, what="status")
        assert peer.message().code == "bad_state"
        peer.send_map(type="hello", version=[2, 0])
        assert peer.message().code == "bad_version"
        peer.send_map(type="hello", version=[1, 7], later=True)
        assert isinstance(peer.message(), wire.Welcome)
        peer.send_map(type="hello", version=[1, 0])
        assert peer.message().code == "bad_state"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "query", "what": "secrets"}, "bad_params"),
        ({"type": "admin", "command": "format"}, "bad_params"),
        ({"type": "submit", "op": "echo.sayy"}, "unknown_operation"),
        ({"type": "submit", "op": "../../etc/passwd"}, "unknown_operation"),
        ({"type": "submit", "op": "echo.say", "model": "x"}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "deadline_ms": 0}, "deadline_passed"),
        ({"type": "submit", "op": "echo.say", "deadline_ms": -(1 << 62)}, "deadline_passed"),
        ({"type": "submit", "op": "echo.say", "params": [1]}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": 7}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": {"text": b"\xff"}}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": {"text": {"a": 1}}}, "bad_params"),
        ({"type": "submit", "op": "llm.generate", "model": "../x"}, "unknown_model"),
        ({"type": "submit", "op": "llm.generate"}, "bad_params"),
        ({"type": "borrow", "op": "echo.tensor", "bytes": 4096}, "no_lease"),
    ],
)
def test_wrong_requests(target: Kernel, fields: dict[str, Any], code: str) -> None:
    with target.raw().hello() as peer:
        peer.send_map(id=3, **fields)
        assert peer.answer(3).code == code
        peer.send_map(type="submit", id=4, op="echo.say", params={"text": "fine"})
        assert unpack(peer.answer(4).result) == "fine"


def test_a_far_deadline(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.send_map(
            type="submit", id=1, op="echo.say", params={"text": "x"}, deadline_ms=(1 << 63) - 1
        )
        assert isinstance(peer.answer(1), wire.Done)


GARBAGE: dict[str, bytes] = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(200),
    "ZMTP 1": b"\x01\x00",
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01" + bytes(53),
    "another mechanism": GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
    "a message before READY": GREETING + b"\x00\x01x",
    "an endless command": GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"),
    "a wrong socket type": GREETING + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB",
    "reserved flags": GREETING + b"\xf0\x01x",
    "an oversize frame": GREETING
    + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    + b"\x02"
    + (1 << 62).to_bytes(8, "big"),
    "too many frames": GREETING
    + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    + b"\x01\x01x" * (wire.MAX_FRAMES + 1),
    "property beyond the command": GREETING + b"\x04\x0a\x05READY\x0bSoc",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_the_connection(target: Kernel, name: str) -> None:
    with target.raw() as peer:
        with contextlib.suppress(BrokenPipeError):
            peer.sock.sendall(GARBAGE[name])
        assert peer.closed()
    with target.raw().hello():
        pass


def test_the_complaint_says_which_limit(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.sock.sendall(b"\x02" + (wire.MAX_MESSAGE + 1).to_bytes(8, "big"))
        error = peer.message()
        assert (error.code, error.id) == ("too_large", None)
        details = unpack(error.got), unpack(error.allowed)
        assert details == (wire.MAX_MESSAGE + 1, wire.MAX_MESSAGE)
        assert peer.closed()


def test_libzmq_learns_that_it_broke_a_limit(target: Kernel) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RECONNECT_IVL, 1 << 30)
    try:
        sock.connect(f"ipc://{target.folder}/kernel.sock")
        sock.send(msgpack.packb({"type": "hello", "version": [1, 0]}))
        assert msgpack.unpackb(sock.recv())["type"] == "welcome"
        sock.send_multipart([b"x"] * 100)
        assert sock.poll(PATIENCE * 1000)
        assert msgpack.unpackb(sock.recv())["code"] == "too_large"
    finally:
        context.destroy(0)
