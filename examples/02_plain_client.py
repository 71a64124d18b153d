"""A client without our SDK: ZeroMQ and msgpack are all it takes (the wire is sdk/WIRE.md).

python examples/02_plain_client.py            streams numbers, then cancels a long stream
"""

import os
from pathlib import Path

import msgpack
import zmq


def runtime_folder() -> Path:
    if chosen := os.environ.get("CLAW_RUNTIME_DIR"):
        return Path(chosen)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "clawai"
    return Path(f"/tmp/clawai-{os.getuid()}")


class Plain:
    """One connection."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(f"ipc://{runtime_folder()}/kernel.sock")
        self.send({"type": "hello", "version": [1, 0]})
        self.welcome = self.receive()[0]

    def send(self, header: dict, *payload: bytes) -> None:
        self.socket.send_multipart([msgpack.packb(header), *payload])

    def receive(self) -> tuple[dict, list[bytes]]:
        if not self.socket.poll(15_000):
            raise SystemExit("no kernel answers; start one with: claw up")
        header, *payload = self.socket.recv_multipart()
        return msgpack.unpackb(header), payload

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


def main() -> None:
    client = Plain()
    print("kernel", client.welcome["pid"], "speaks", client.welcome["version"])

    client.send(
        {"type": "submit", "id": 1, "op": "echo.count", "params": {"upto": 5}, "priority": "normal"}
    )
    while True:
        header, _ = client.receive()
        if header["type"] == "chunk":
            print("chunk", header["data"])
        elif header["type"] == "done":
            print("done", header["result"], "timings", sorted(header["timings"]))
            break
        elif header["type"] == "error":
            raise SystemExit(header["message"])

    endless = {"upto": 1_000_000, "pause_ms": 1}
    client.send({"type": "submit", "id": 2, "op": "echo.count", "params": endless})
    while True:
        header, _ = client.receive()
        if header["type"] == "chunk" and header["data"] == 3:
            client.send({"type": "cancel", "id": 2})
        elif header["type"] == "error":
            print("ended:", header["code"])
            break
    client.close()


if __name__ == "__main__":
    main()
