"""Closed-loop load for benchmarks: many connections, each with one request under way.

One process and one poller drive all connections of a side: the kernel's through what ``Client``
speaks through, the bare broker's through libzmq. A thread or a process for each client would
measure the scheduler of a small box instead.
"""

import select
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq

from clawai.sdk import paths
from clawai.sdk.channel import Channel
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


class Links(Protocol):
    """Connections by number."""

    def send(self, number: int, parts: Parts) -> None:
        """Send a message."""
        ...

    def wait(self) -> Iterable[tuple[int, list[bytes]]]:
        """Wait until something comes: messages, if they are whole, and on which connection.

        Raises:
            ClawError: nothing comes.
        """
        ...

    def close(self) -> None:
        """Disconnect all."""
        ...


class ZeroMQ:
    """DEALER sockets of libzmq (see ``Links``)."""

    def __init__(self, address: str, count: int) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._numbers: dict[Any, int] = {}
        for number in range(count):
            sock: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            sock.connect(address)
            self._poller.register(sock, zmq.POLLIN)
            self._sockets.append(sock)
            self._numbers[sock] = number

    def send(self, number: int, parts: Parts) -> None:
        """See ``Links``."""
        self._sockets[number].send_multipart(parts)

    def wait(self) -> Iterable[tuple[int, list[bytes]]]:
        """See ``Links``."""
        ready = self._poller.poll(PATIENCE_MS)
        if not ready:
            raise _silence()
        return [(self._numbers[sock], sock.recv_multipart()) for sock, _ in ready]

    def close(self) -> None:
        """See ``Links``."""
        self._context.destroy(0)


class Channels:
    """What ``Client`` speaks through (see ``Links``)."""

    def __init__(self, path: Path, count: int) -> None:
        self._channels = [Channel(path, 30.0, 30.0) for _ in range(count)]
        self._numbers = {each.fileno(): number for number, each in enumerate(self._channels)}
        self._poller = select.epoll()
        for each in self._channels:
            self._poller.register(each.fileno(), select.EPOLLIN)

    def send(self, number: int, parts: Parts) -> None:
        """See ``Links``."""
        self._channels[number].send(parts)

    def wait(self) -> Iterable[tuple[int, list[bytes]]]:
        """See ``Links``."""
        ready = self._poller.poll(PATIENCE_MS / 1000)
        if not ready:
            raise _silence()
        for fd, _ in ready:
            number = self._numbers[fd]
            try:
                heard = self._channels[number].receive(0)
            except EOFError:
                raise ClawError("no_kernel", "the kernel has closed a connection") from None
            for frames in heard:
                yield number, frames

    def close(self) -> None:
        """See ``Links``."""
        self._poller.close()
        for each in self._channels:
            each.close()


def _silence() -> ClawError:
    return ClawError("worker_hung", "no answer came", got=f"{PATIENCE_MS} ms of silence")


class Load:
    """Connections that stay open between measurements."""

    def __init__(self, links: Links, talks: Sequence[Talk]) -> None:
        self._links, self._talks = links, talks
        self.close = links.close

    @classmethod
    def of_kernel(cls, folder: Path, talks: Sequence[Greeter]) -> "Load":
        """Connections to a kernel, greeted."""
        links = Channels(folder / paths.kernel_socket().name, len(talks))
        try:
            for number, talk in enumerate(talks):
                links.send(number, talk.session.hello(b"", "bench"))
            while not all(talk.session.welcome for talk in talks):
                for number, frames in links.wait():
                    talks[number].session.receive(frames)
        except BaseException:
            links.close()
            raise
        return cls(links, talks)

    def run(
        self, seconds: float, told: Callable[[int], None] | None = None, most: int | None = None
    ) -> float:
        """Requests a second that are answered, over ``seconds``; all are answered at the end.

        Args:
            told: called with the nanoseconds that each took.
            most: only so many of the connections ask.
        """
        asking = self._talks[:most]
        began = [time.perf_counter_ns()] * len(asking)
        for number, talk in enumerate(asking):
            self._links.send(number, talk.ask())
        start = time.perf_counter()
        until, count, last = start + seconds, 0, start
        open_requests = len(asking)
        while open_requests:
            for number, frames in self._links.wait():
                if not asking[number].heard(frames):
                    continue
                now = time.perf_counter_ns()
                if told:
                    told(now - began[number])
                last = now / 1e9
                count += 1
                if last < until:
                    began[number] = now
                    self._links.send(number, asking[number].ask())
                else:
                    open_requests -= 1
        return count / (last - start)
