"""Writes the corpus: ``python tests/fuzz/make_corpus.py``. Its files are committed.

client-header   a frame 0 as a client may send it
client-stream   all that a client sends, greeting and handshake included
worker-header   a frame 0 as a worker may send it: TASK and INCARNATION stand for the real ones
worker-stream   what a worker sends after the handshake
endless         a client's stream after the handshake; what follows the bar goes on for ever
"""

import json
import shutil
from pathlib import Path

import msgspec

from clawai.sdk import wire
from clawai.sdk.zmtp import Connection
from clawai.sdk.zmtp_handshake import GREETING, frame

FOLDER = Path(__file__).parent / "corpus"
VECTORS = Path(wire.__file__).parent / "wire_vectors.json"
TASK, INCARNATION = 0xFFFFFFF2, 0xFFFFFFF1
"""Five bytes each in msgpack, so that the real numbers fit in their place."""
READY = b"".join(
    frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00", 4)
)
HELLO = msgspec.msgpack.encode({"type": "hello", "version": [1, 1]})


def message(*frames: bytes) -> bytes:
    """Frames of one message as they travel."""
    return b"".join(bytes(part) for part in Connection.message(frames))


def pack(**fields: object) -> bytes:
    """A header."""
    return msgspec.msgpack.encode(fields)


def vectors(sender: str) -> dict[str, bytes]:
    """What ``sender`` says in the wire's golden vectors, but nothing that would stop the kernel."""
    found = {}
    for vector in json.loads(VECTORS.read_text()):
        if vector.get("from") == sender and "header" in vector and "admin" not in vector["name"]:
            found[vector["name"]] = bytes.fromhex(vector["header"])
    return found


def client_headers() -> dict[str, bytes]:
    """Proper ones, and what has been wrong before."""
    deep = b"\x82\xa4type\xa6submit\xa6params" + b"\x91" * 2000 + b"\xc0"
    return {
        **vectors("client"),
        "echo": pack(type="submit", id=1, op="echo.say", params={"text": "x"}),
        "count": pack(type="submit", id=1, op="echo.count", params={"upto": 50}, deadline_ms=500),
        "tensor": pack(
            type="submit",
            id=1,
            op="echo.tensor",
            params={"x": {"dtype": "<f4", "shape": [16], "frame": 0}},
        ),
        "lease": pack(
            type="submit",
            id=1,
            op="echo.tensor",
            params={"x": {"dtype": "<f4", "shape": [16], "lease": 0}},
            leases=[{"segment": 1, "offset": 0, "length": 64, "generation": 1}],
        ),
        "status": pack(type="query", id=1, what="status"),
        "deep": deep,
        "deep keys": b"\x81" * 2000 + b"\xc0",
        "long text": b"\x81\xa4type\xdb\xff\xff\xff\xff",
        "long array": b"\xdd\xff\xff\xff\xff",
        "bad text": b"\x82\xa4type\xa5query\xa4what\xa2\xff\xfe",
        "not msgpack": b"\xc1\xc1\xc1",
    }


def client_streams() -> dict[str, bytes]:
    """Whole conversations."""
    start = GREETING + READY + message(HELLO)
    echo = client_headers()["echo"]
    return {
        "echo": start + message(echo),
        "ten": start + message(client_headers()["status"]) * 10,
        "frames": start + message(client_headers()["tensor"], bytes(64)),
        "long": start
        + message(pack(type="submit", id=1, op="echo.say", params={"text": "x" * 300})),
        "ping": start + b"\x04\x17\x04PING\x00\x00" + b"c" * 16 + message(echo),
        "no hello": GREETING + READY + message(echo),
        "version 2": b"\xff" + bytes(8) + b"\x7f\x01" + bytes(53),
        "curve": GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
        "publisher": GREETING + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB",
        "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "command": GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"),
        "large": start + b"\x02" + (1 << 62).to_bytes(8, "big"),
    }


def worker_headers() -> dict[str, bytes]:
    """What a worker may say of its task, and of itself."""
    me = {"incarnation": INCARNATION}
    mine = b"\xa2id\xce\xff\xff\xff\xf2\xabincarnation\xce\xff\xff\xff\xf1"
    return {
        **vectors("worker"),
        "done": pack(type="done", id=TASK, result={"a": [1, 2.5, None]}, **me),
        "done, times": pack(type="done", id=TASK, timings={"compute_us": 1 << 40}, **me),
        "error": pack(type="error", id=TASK, code="worker_failed", message="m", got=[1], **me),
        "chunk": pack(type="chunk", id=TASK, data={"text": "x"}, **me),
        "progress": pack(type="progress", id=TASK, fraction=0.5, note="n", **me),
        "yielded": pack(type="yielded", id=TASK, **me),
        "pong": pack(type="pong", seq=1, **me),
        "ready": pack(type="ready", version=[1, 1], slots=1, operations=[], **me),
        "unready": pack(type="unready", code="bad_model", message="m", **me),
        "reserve": pack(type="reserve", bytes=1 << 20, weights="a", weights_bytes=1 << 20, **me),
        "filled": pack(type="filled", **me),
        "dropped": pack(type="dropped", segment=1, **me),
        "deep": b"\x85\xa4type\xa5error" + mine + b"\xa4code\xa1x\xa3got" + b"\x91" * 500 + b"\xc0",
        "bad result": b"\x84\xa4type\xa4done" + mine + b"\xa6result\xa2\xff\xfe",
    }


def worker_streams() -> dict[str, bytes]:
    """Several messages, and frames that are none."""
    headers = worker_headers()
    return {
        "chunks": message(headers["chunk"]) * 5 + message(headers["done"]),
        "frames": message(headers["done"], b"a", b"b" * 300),
        "ping": b"\x04\x17\x04PING\x00\x00" + b"c" * 16 + message(headers["done"]),
        "ready again": READY + message(headers["done"]),
        "large": b"\x02" + (1 << 62).to_bytes(8, "big"),
        "half": b"\x02" + (8 << 20).to_bytes(8, "big") + b"x" * 100,
    }


def endless() -> dict[str, bytes]:
    """What is repeated stands after the bar."""
    hello = message(HELLO)
    return {
        "parts": hello + b"|" + b"\x01\x01x" * 20,
        "large parts": hello + b"|" + (b"\x01\xff" + b"x" * 255) * 4,
        "empty parts": hello + b"|" + b"\x01\x00" * 30,
        "pings": hello + b"|" + b"\x04\x17\x04PING\x00\x00" + b"c" * 16,
        "queries": hello + b"|" + message(pack(type="query", id=1, what="status")),
        "submits": hello + b"|" + message(pack(type="submit", id=1, op="nobody.has", params={})),
        "without hello": b"|" + message(pack(type="query", id=1, what="status")),
    }


def main() -> None:
    """Write all files anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    kinds = {
        "client-header": client_headers(),
        "client-stream": client_streams(),
        "worker-header": worker_headers(),
        "worker-stream": worker_streams(),
        "endless": endless(),
    }
    for kind, files in kinds.items():
        (FOLDER / kind).mkdir(parents=True)
        for name, data in files.items():
            plain = name.replace(" ", "_").replace(",", "")
            (FOLDER / kind / f"{plain}.bin").write_bytes(data)


if __name__ == "__main__":
    main()
