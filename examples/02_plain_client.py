"""A client of the kernel without our SDK: one ZeroMQ socket, and msgpack. See sdk/WIRE.md.

Start a kernel (`claw up`), then: python examples/02_plain_client.py
"""

import os
from pathlib import Path

import msgpack
import zmq


def runtime_dir() -> Path:
    """Where the kernel's socket is."""
    if chosen := os.environ.get("CLAW_RUNTIME_DIR"):
        return Path(chosen)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "clawai"
    return Path(f"/tmp/clawai-{os.getuid()}")


context = zmq.Context()
kernel = context.socket(zmq.DEALER)
kernel.setsockopt(zmq.LINGER, 0)
kernel.setsockopt(zmq.RECONNECT_IVL, 1 << 30)  # a new connection would know none of our requests
kernel.connect(f"ipc://{runtime_dir()}/kernel.sock")


def send(**header: object) -> None:
    kernel.send_multipart([msgpack.packb(header)])


def receive() -> dict:
    if not kernel.poll(15_000):
        raise SystemExit("no kernel answers; start one with `claw up`")
    header, *payload = kernel.recv_multipart()
    return msgpack.unpackb(header) | ({"payload": payload} if payload else {})


send(type="hello", version=[1, 0], name="plain client")
welcome = receive()
print(f"kernel {welcome['kernel']}, wire {welcome['version']}, I am {welcome['principal']}")

# A stream, from its first chunk to its end.
send(type="submit", id=1, op="echo.count", params={"upto": 3})
while True:
    message = receive()
    if message["type"] == "chunk":
        print("chunk", message["data"])
    elif message["type"] in ("done", "error"):
        print(message["type"], message.get("result", message.get("message")))
        break

# Another one, which we end in the middle.
send(
    type="submit",
    id=2,
    op="echo.count",
    params={"upto": 1_000_000, "pause_ms": 1},
    priority="batch",
)
while True:
    message = receive()
    if message["type"] == "chunk" and message["data"] == 3:
        send(type="cancel", id=2)
    elif message["type"] in ("done", "error"):
        print(message["type"], message.get("code"))
        break

# A mistake: the error says what was got, what is allowed, and what to do.
send(type="submit", id=3, op="echo.sya", params={})
error = receive()
print(error["code"], "-", error["hint"])

context.destroy(0)
