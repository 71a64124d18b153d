"""Keeps a kernel saturated with bulk tasks, as a process of its own that takes orders.

    python -m clawai.sdk.cli.bench.saturate FOLDER '{"tasks": [["bulk.hash", {"units": 9}], ...]}'

    "start"   as many tasks as listed are under way from now on, each replaced when it ends
    "count"   {"done": tasks that ended well since the start, "at": seconds, "refused": ...}
    "stop"    nothing new; {"stopped": true} when the last has ended

Orders and answers are lines. The tasks have the class ``batch``. A task that the kernel refuses for
now is offered again when the kernel said to come back. It is a process so that its work is not in
the way of who measures, and one connection, so that it costs little itself.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from clawai.sdk.client import options
from clawai.sdk.errors import ClawError
from clawai.sdk.session import Request, Session

_RETRY_S = 0.05
_TEMPORARY = ("overloaded", "queue_full")


class Saturation:
    """The connection and what is under way on it."""

    def __init__(self, folder: Path, tasks: list[tuple[str, dict[str, Any]]]) -> None:
        self._session = Session()
        self._tasks = tasks
        self._open: dict[int, Request] = {}
        """Place in the list of tasks to the request that stands for it now."""
        self._again: dict[int, float] = {}
        """Place to the time at which to offer it again."""
        self.running = False
        self.done = self.refused = 0
        self.sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        options(self.sock)
        self.sock.connect(f"ipc://{folder / 'kernel.sock'}")
        self.sock.send_multipart(self._session.hello(b"", "saturate"))
        while self._session.welcome is None:
            self._session.receive(self.sock.recv_multipart())

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._open

    def start(self) -> None:
        """Offer every task."""
        self.running = True
        self.done = self.refused = 0
        for place in range(len(self._tasks)):
            self._offer(place)

    def stop(self) -> None:
        """Offer no more."""
        self.running = False
        self._again.clear()

    def _offer(self, place: int) -> None:
        op, params = self._tasks[place]
        self._open[place], out = self._session.submit(op, params, priority="batch")
        self.sock.send_multipart(out)

    def receive(self) -> None:
        """Take all that has come."""
        while self.sock.poll(0):
            self._session.receive(self.sock.recv_multipart())
        for place, request in list(self._open.items()):
            if request.end is not None:
                del self._open[place]
                self._ended(place, request.end)

    def _ended(self, place: int, end: Any) -> None:
        if isinstance(end, ClawError):
            if end.code not in _TEMPORARY:
                raise end
            self.refused += 1
            wait = (end.retry_after_ms or 0) / 1000 or _RETRY_S
            self._again[place] = time.monotonic() + wait
        else:
            self.done += 1
            if self.running:
                self._offer(place)

    def due(self) -> float | None:
        """Offer again what was refused; seconds until the next of these, None if there is none."""
        now = time.monotonic()
        for place in [place for place, when in self._again.items() if when <= now]:
            del self._again[place]
            self._offer(place)
        return min(self._again.values()) - now if self._again else None


def serve(side: Saturation) -> None:
    """Take orders until standard input ends."""
    poller = zmq.Poller()
    poller.register(side.sock, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    stopping = False
    while True:
        wait = side.due()
        ready = dict(poller.poll(None if wait is None else max(1, int(wait * 1000))))
        side.receive()
        if sys.stdin.fileno() in ready:
            orders = os.read(sys.stdin.fileno(), 4096).decode().split()
            if not orders:
                return
            for order in orders:
                stopping = _obey(side, order) or stopping
        if stopping and side.idle:
            stopping = False
            say({"stopped": True})


def _obey(side: Saturation, order: str) -> bool:
    """Carry out an order; True if the end of what is under way is to be told."""
    match order:
        case "start":
            side.start()
        case "count":
            say({"done": side.done, "at": time.monotonic(), "refused": side.refused})
        case "stop":
            side.stop()
    return order == "stop"


def say(line: dict[str, Any]) -> None:
    """Answer."""
    print(json.dumps(line), flush=True)


def main(folder: str, orders: str) -> None:
    """See the top of this module."""
    try:
        serve(Saturation(Path(folder), json.loads(orders)["tasks"]))
    except ClawError as error:
        say({"error": {"code": error.code, "message": error.message, "got": repr(error.got)}})


if __name__ == "__main__":
    main(*sys.argv[1:])
