"""The golden vectors of the wire: ``python tests/wire_vectors.py > sdk/wire_vectors.json``.

They are written once for each version of the wire; a difference afterwards is a break of it. Those
of 1.0 stand unchanged, since a peer of that version must still be understood.
"""

import json
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.plugin import OperationInfo
from clawai.sdk.zmtp import COMMAND, MORE
from clawai.sdk.zmtp_handshake import Conversation, frame

LEASE = wire.Lease(segment=3, offset=4096, length=65536, generation=2)
MESSAGES: list[tuple[str, str, str, wire.Message]] = [
    ("hello", "client", "kernel", wire.Hello(version=(1, 0), token=b"\x00" * 16, name="me")),
    ("hello without leases", "client", "kernel", wire.Hello(version=(1, 0))),
    (
        "submit",
        "client",
        "kernel",
        wire.Submit(
            id=1,
            op="llm.generate",
            model="smollm2",
            priority="batch",
            deadline_ms=1500,
            params=wire.pack({"prompt": "你好", "max_tokens": 64}),
            leases=(LEASE,),
        ),
    ),
    ("submit, all defaults", "client", "kernel", wire.Submit(id=2, op="echo.say")),
    ("cancel", "client", "kernel", wire.Cancel(id=1)),
    ("query", "client", "kernel", wire.Query(id=3, what="status")),
    ("admin", "client", "kernel", wire.Admin(id=4, command="unload", name="smollm2")),
    (
        "borrow",
        "client",
        "kernel",
        wire.Borrow(id=5, op="echo.tensor", model="", bytes=1 << 20),
    ),
    ("return", "client", "kernel", wire.Return(segment=3, generation=2)),
    (
        "welcome",
        "kernel",
        "client",
        wire.Welcome(version=(1, 0), kernel="0.1.0", pid=4711, principal="uid:1000", leases=True),
    ),
    ("accepted", "kernel", "client", wire.Accepted(id=1, task=9, position=2)),
    ("answer", "kernel", "client", wire.Answer(id=3, data=wire.pack({"tasks": []}))),
    ("leased", "kernel", "client", wire.Leased(id=5, lease=LEASE)),
    ("progress", "kernel", "client", wire.Progress(id=1, state="queued", position=2)),
    ("progress, running", "kernel", "client", wire.Progress(id=1, fraction=0.25, note="half")),
    ("chunk", "kernel", "client", wire.Chunk(id=1, data=wire.pack({"text": " world"}))),
    (
        "done",
        "kernel",
        "client",
        wire.Done(id=1, result=wire.pack(5), timings={"queue_us": 10, "compute_us": 1 << 33}),
    ),
    (
        "error",
        "kernel",
        "client",
        wire.Error(
            id=1,
            code="bad_params",
            message="no",
            got=wire.pack(-3),
            allowed=wire.pack([1, 2.5, None, True]),
            hint="say yes",
        ),
    ),
    (
        "error of the connection",
        "kernel",
        "client",
        wire.Error(
            code="too_large",
            message="bytes",
            got=wire.pack(9_000_000),
            allowed=wire.pack(8_388_608),
        ),
    ),
    (
        "run",
        "kernel",
        "worker",
        wire.Run(id=9, op="echo.say", params=wire.pack({"text": "x"}), slot=1, remaining_ms=900),
    ),
    ("cancel of a task", "kernel", "worker", wire.Cancel(id=9)),
    ("granted", "kernel", "worker", wire.Granted()),
    ("drop", "kernel", "worker", wire.Drop(segment=3)),
    ("ping", "kernel", "worker", wire.Ping(seq=77)),
    ("stop", "kernel", "worker", wire.Stop()),
    ("reserve", "worker", "kernel", wire.Reserve(bytes=(1 << 48) - 1, incarnation=6)),
    (
        "ready",
        "worker",
        "kernel",
        wire.Ready(
            version=(1, 0),
            incarnation=6,
            slots=4,
            operations=wire.pack([OperationInfo(name="echo.say", summary="Say it back.")]),
        ),
    ),
    (
        "unready",
        "worker",
        "kernel",
        wire.Unready(
            incarnation=6, code="bad_model", message="not a GGUF file", got=wire.pack("PK")
        ),
    ),
    ("dropped", "worker", "kernel", wire.Dropped(segment=3, incarnation=6)),
    ("pong", "worker", "kernel", wire.Pong(seq=(1 << 62) - 1, incarnation=6)),
    (
        "chunk of a worker",
        "worker",
        "kernel",
        wire.Chunk(id=9, data=wire.pack(b"\xff"), incarnation=6),
    ),
]
NEW: list[tuple[str, str, str, wire.Message]] = [
    ("hello, 1.1", "client", "kernel", wire.Hello(version=(1, 1), name="me")),
    (
        "submit, durable",
        "client",
        "kernel",
        wire.Submit(id=6, op="echo.say", durable=True, keep_alive_s=300),
    ),
    ("admin, pin", "client", "kernel", wire.Admin(id=7, command="pin", name="smollm2")),
    (
        "borrow for batch tasks",
        "client",
        "kernel",
        wire.Borrow(id=8, op="echo.tensor", bytes=4096, priority="batch"),
    ),
    (
        "borrow for reading",
        "client",
        "kernel",
        wire.Borrow(id=9, op="echo.tensor", bytes=4096, rights="r"),
    ),
    ("dropped by a client", "client", "kernel", wire.Dropped(segment=3)),
    ("drop to a client", "kernel", "client", wire.Drop(segment=3)),
    (
        "accepted, with an estimate and a job",
        "kernel",
        "client",
        wire.Accepted(id=6, task=12, position=1, estimate_ms=840, job="j-12"),
    ),
    (
        "progress, with an estimate",
        "kernel",
        "client",
        wire.Progress(id=6, state="queued", position=1, estimate_ms=420),
    ),
    (
        "error, try again",
        "kernel",
        "client",
        wire.Error(id=6, code="overloaded", message="too much", retry_after_ms=2500),
    ),
    (
        "batch",
        "kernel",
        "worker",
        wire.Batch(
            op="demo.classify",
            slot=0,
            items=(
                wire.BatchItem(id=20, params=wire.pack({"x": 1}), frames=1, remaining_ms=50),
                wire.BatchItem(
                    id=21, params=wire.pack({"x": 2}), priority="batch", leases=(LEASE,)
                ),
            ),
        ),
    ),
    ("granted, fill the weights", "kernel", "worker", wire.Granted(weights="fill")),
    ("granted, map the weights", "kernel", "worker", wire.Granted(weights="map")),
    ("sealed", "kernel", "worker", wire.Sealed()),
    (
        "reserve, with weights",
        "worker",
        "kernel",
        wire.Reserve(bytes=1 << 20, weights="avx2-q4-1", weights_bytes=98_000_000, incarnation=6),
    ),
    ("filled", "worker", "kernel", wire.Filled(incarnation=6)),
    ("yielded", "worker", "kernel", wire.Yielded(id=9, incarnation=6)),
    (
        "submit, with a window",
        "client",
        "kernel",
        wire.Submit(id=7, op="echo.count", params=wire.pack({"upto": 9}), window=2 << 20),
    ),
    ("submit, of a child task", "client", "kernel", wire.Submit(id=1, op="echo.say", parent=9)),
    ("submit, of a front", "client", "kernel", wire.Submit(id=1, op="echo.say", behalf="key-anna")),
    ("more", "client", "kernel", wire.More(id=7, bytes=1 << 20)),
    (
        "welcome, with max_open",
        "kernel",
        "client",
        wire.Welcome(
            version=(1, 2), kernel="0.1.0", pid=4242, principal="uid:1000", leases=True, max_open=64
        ),
    ),
    (
        "run, with its principal",
        "kernel",
        "worker",
        wire.Run(id=9, op="echo.say", params=wire.pack({}), slot=1, principal="uid:1000"),
    ),
]
"""Of versions 1.1 to 1.3."""
KINDS = {
    ("client", "kernel"): wire.FromClient,
    ("kernel", "client"): wire.ToClient,
    ("kernel", "worker"): wire.ToWorker,
    ("worker", "kernel"): wire.FromWorker,
}


def as_json(value: Any) -> Any:
    """Plain JSON; bytes as ``{"hex": ...}``."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return value


def vectors() -> list[dict[str, Any]]:
    """All of them, as the code writes them now."""
    made: list[dict[str, Any]] = []
    for name, sender, receiver, message in MESSAGES + NEW:
        header = bytes(wire.encode(message)[0])
        value = as_json(msgspec.msgpack.decode(header))
        made.append(
            {"name": name, "from": sender, "to": receiver, "header": header.hex(), "value": value}
        )
    streams = {
        "greeting and READY of a client": Conversation(
            b"DEALER", max_frames=64, max_bytes=1
        ).outgoing(),
        "greeting and READY of the kernel": Conversation(
            b"ROUTER", max_frames=64, max_bytes=1
        ).outgoing(),
        "a frame of 3 bytes, and more": b"".join(map(bytes, frame(b"abc", MORE))),
        "an empty last frame": b"".join(map(bytes, frame(b"", 0))),
        "a frame of 255 bytes": b"".join(map(bytes, frame(b"\x01" * 255, 0))),
        "a frame of 256 bytes": b"".join(map(bytes, frame(b"\x01" * 256, 0))),
        "PING": b"".join(map(bytes, frame(b"\x04PING\x00\x00context", COMMAND))),
        "PONG": b"".join(map(bytes, frame(b"\x04PONGcontext", COMMAND))),
    }
    return made + [{"name": name, "zmtp": data.hex()} for name, data in streams.items()]


if __name__ == "__main__":
    print("[")
    print(",\n".join(json.dumps(each, ensure_ascii=False) for each in vectors()))
    print("]")
