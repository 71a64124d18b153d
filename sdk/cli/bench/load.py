"""Closed-loop load for benchmarks: many connections, each with one request under way.

One process drives all connections of a side through libzmq and one poller, whoever answers, so that
two sides differ only in what answers and in what a message must carry. A thread or a process for
each client would measure the scheduler of a small box instead.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq

from clawai.sdk.client import options
from clawai.sdk.errors import ClawError
from clawai.sdk.session import Request, Session

PATIENCE_MS = 60_000
Parts = list[bytes | memoryview]


class Talk(Protocol):
    """What one connection says and understands."""

    def ask(self) -> Parts:
        """The next request."""
        ...

    def heard(self, frames: list[bytes]) -> bool:
        """Take a message; whether it ends the request."""
        ...


class Greeter(Talk, Protocol):
    """One that must say hello first."""

    @property
    def session(self) -> Session:
        """Where the kernel's welcome is noted."""
        ...


class Plain:
    """A payload that comes back as it is."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def ask(self) -> Parts:
        """See ``Talk``."""
        return [self._payload]

    def heard(self, frames: list[bytes]) -> bool:
        """See ``Talk``."""
        if frames != [self._payload]:
            raise ClawError("bad_worker", "the broker did not return what was sent", got=frames)
        return True


class Ours:
    """One operation of a kernel, asked for by the client's own protocol code."""

    def __init__(self, op: str, params: dict[str, Any], payload: Sequence[bytes] = ()) -> None:
        self.session = Session()
        self._op, self.params, self._payload = op, params, payload
        self._request: Request | None = None
        self.value: Any = None
        """Of the last answer."""

    def ask(self) -> Parts:
        """See ``Talk``."""
        self._request, out = self.session.submit(self._op, self.params, frames=self._payload)
        return out

    def heard(self, frames: list[bytes]) -> bool:
        """See ``Talk``."""
        self.session.receive(frames)
        request = self._request
        if request is None or request.end is None:
            return False
        if isinstance(request.end, ClawError):
            raise request.end
        self.value = request.end.value
        return True


class Load:
    """Connections that stay open between measurements."""

    def __init__(self, address: str, talks: Sequence[Talk]) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._talks: dict[Any, Talk] = {}
        for talk in talks:
            sock: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            options(sock)
            sock.connect(address)
            self._poller.register(sock, zmq.POLLIN)
            self._talks[sock] = talk

    @classmethod
    def of_kernel(cls, folder: Path, talks: Sequence[Greeter]) -> "Load":
        """Connections to a kernel, greeted."""
        load = cls(f"ipc://{folder / 'kernel.sock'}", talks)
        for sock, talk in zip(load._talks, talks, strict=True):
            sock.send_multipart(talk.session.hello(b"", "bench"))
            while talk.session.welcome is None:
                if not sock.poll(PATIENCE_MS):
                    load.close()
                    raise ClawError("no_kernel", "the kernel does not answer a hello", len(talks))
                talk.session.receive(sock.recv_multipart())
        return load

    def run(
        self, seconds: float, told: Callable[[int], None] | None = None, most: int | None = None
    ) -> float:
        """Requests a second that are answered, over ``seconds``; all are answered at the end.

        Args:
            told: called with the nanoseconds that each took.
            most: only so many of the connections ask.
        """
        asking = list(self._talks.items())[:most]
        began = {sock: time.perf_counter_ns() for sock, _ in asking}
        for sock, talk in asking:
            sock.send_multipart(talk.ask())
        start = time.perf_counter()
        until, count, last = start + seconds, 0, start
        open_requests = len(began)
        while open_requests:
            ready = self._poller.poll(PATIENCE_MS)
            if not ready:
                raise ClawError("worker_hung", "no answer came", got=f"{PATIENCE_MS} ms of silence")
            for sock, _ in ready:
                talk = self._talks[sock]
                if not talk.heard(sock.recv_multipart()):
                    continue
                now = time.perf_counter_ns()
                if told:
                    told(now - began[sock])
                last = now / 1e9
                count += 1
                if last < until:
                    began[sock] = now
                    sock.send_multipart(talk.ask())
                else:
                    open_requests -= 1
        return count / (last - start)

    def close(self) -> None:
        """Disconnect."""
        self._context.destroy(0)
