"""A client for the conformance runner, of zmq and msgpack; with MISTAKE set a bad one.

Follows docs/clients.md. Each mistake is one that authors make, and the runner has to find it.
"""

import json
import os
import sys
from typing import Any

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

MISTAKE = os.environ.get("MISTAKE", "")
DEFAULTS: dict[str, dict[str, Any]] = {
    "welcome": {"max_message": 8_388_608, "max_frames": 64},
    "accepted": {"position": 0, "estimate_ms": None, "job": ""},
    "progress": {"state": "", "position": None, "estimate_ms": None, "fraction": None, "note": ""},
    "chunk": {"data": None},
    "done": {"result": None, "timings": {}},
    "answer": {"data": {}},
    "error": {
        "id": None,
        "got": None,
        "allowed": None,
        "hint": "",
        "retry_after_ms": None,
        "timings": {},
    },
}
ENDS = ("done", "error", "answer")
GONE = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED


def to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if type(value) is int and abs(value) >= 1 << 53 and MISTAKE != "imprecise":
        return {"int": str(value)}
    if type(value) is int and MISTAKE == "imprecise":
        return int(float(value))
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    return [to_json(each) for each in value] if isinstance(value, list) else value


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        if value.keys() == {"int"}:
            return int(value["int"])
        return {key: from_json(each) for key, each in value.items()}
    return [from_json(each) for each in value] if isinstance(value, list) else value


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event} | to_json(fields)), flush=True)


class Client:
    """The kernel's connection, if there is one."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket: Any = None
        self.open: set[int] = set()

    def connect(self, folder: str) -> None:
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 1 << 30)
        self.monitor = self.socket.get_monitor_socket(GONE)
        self.socket.connect(f"ipc://{folder}/kernel.sock")
        self.limits = 8_388_608, 64

    def close(self) -> None:
        if self.socket:
            self.socket.disable_monitor()
            self.monitor.close()
            self.socket.close()
        self.socket = None
        self.open.clear()

    def send(self, header: dict[str, Any], payload: list[bytes]) -> None:
        frames = [msgpack.packb(header), *payload]
        number = header.get("id")
        if header["type"] in ("submit", "query", "admin"):
            self.open.add(number)
            most, count = self.limits
            if MISTAKE != "limits" and (sum(map(len, frames)) > most or len(frames) > count):
                self.open.discard(number)
                self.error(number, "too_large", "the message exceeds what the kernel takes")
                return
        self.socket.send_multipart(frames)

    def error(self, number: int | None, code: str, text: str) -> None:
        say("error", **(DEFAULTS["error"] | {"id": number, "code": code, "message": text}))

    def heard(self, frames: list[bytes]) -> None:
        header = msgpack.unpackb(frames[0], strict_map_key=False)
        kind = header.pop("type")
        if kind not in DEFAULTS:
            if MISTAKE == "strict":
                raise SystemExit(f"unknown type {kind}")
            return
        if kind == "welcome":
            self.limits = header.get("max_message", 8_388_608), header.get("max_frames", 64)
        elif MISTAKE == "strict_fields" and "colour" in header:
            raise SystemExit("unknown field colour")
        number = header.get("id")
        if kind in ENDS and number is not None:
            self.open.discard(number)
        more = {} if kind not in ("chunk", "done") else {"payload": frames[1:]}
        if MISTAKE == "payload":
            more = {"payload": [frame for frame in frames[1:] if frame]}
        filled = {} if MISTAKE == "defaults" else DEFAULTS[kind]
        if MISTAKE == "deaf" and kind == "chunk":
            return
        say(kind, **(filled | header | more))
        if MISTAKE == "twice" and kind == "done":
            say(kind, **(filled | header | more))

    def gone(self) -> None:
        while self.socket.poll(0):
            self.heard(self.socket.recv_multipart())
        for number in () if MISTAKE == "forgets" else sorted(self.open):
            self.error(number, "no_kernel", "the connection ended")
        self.open.clear()
        self.close()
        self.error(None, "no_kernel", "no kernel is there")
        say("gone")


def obey(client: Client, order: dict[str, Any]) -> None:
    what = order.pop("do")
    if what == "decode":
        say("decoded", value=msgpack.unpackb(order["header"]))
    elif what == "encode":
        say("encoded", header=msgpack.packb(order["value"]))
    elif what == "close":
        client.close()
        say("closed")
    elif what == "hello":
        client.connect(order.pop("folder"))
        client.send({"type": "hello", "version": [1, 1]} | order, [])
    else:
        payload = order.pop("payload", [])
        payload += [bytes(order.pop("zeros"))] if "zeros" in order else []
        if MISTAKE == "priority":
            order.pop("priority", None)
        client.send({"type": what} | order, payload)


def main() -> None:
    client = Client()
    pending = b""
    while True:
        waiting = [0]
        if client.socket:
            waiting += [client.socket, client.monitor]
        readable, _, ended = zmq.select(waiting, [], [0])  # the end of a pipe is an error to zmq
        ready = readable + ended
        if client.socket and client.socket in ready:
            while client.socket.poll(0):
                client.heard(client.socket.recv_multipart())
        if client.socket and client.monitor in ready:
            recv_monitor_message(client.monitor)
            client.gone()
        if 0 in ready:
            data = os.read(0, 1 << 20)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                obey(client, from_json(json.loads(line)))
    client.close()
    client.context.destroy(0)
    if MISTAKE == "code":
        sys.exit(3)


if __name__ == "__main__":
    main()
