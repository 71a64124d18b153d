"""A real broker process with the steward's end of it in this one, and servers on the loopback."""

import contextlib
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel.broker.keeper import HOSTS, Network
from clawai.kernel.loop import Loop
from clawai.kernel.steward.log import LogFile
from clawai.sdk import audit
from clawai.sdk.manifest import Permissions
from clawai.sdk.net import Network as Worker
from support import wait_until

MIB = 1 << 20


class Steward:
    """Keeps a broker as the steward does, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.write_text("")
        folder.chmod(0o755)
        self.loop = Loop(lambda _: None)
        self.log = LogFile(folder / "log", "debug", MIB, False)
        self.network = Network(self.loop, self.log)
        self.lock = threading.Lock()
        self._last = 0
        self._workers: dict[int, Worker] = {}
        self._running = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._running:
            with self.lock:
                self.loop.turn(0)
                self.network.expire(time.monotonic_ns())
            select.select([self.loop.poller], [], [], 0.005)

    def worker(self, *network: str, listen: tuple[str, ...] = ()) -> Worker:
        """What a new worker of a plugin with these permissions has."""
        return self.numbered(*network, listen=listen)[1]

    def numbered(
        self,
        *network: str,
        listen: tuple[str, ...] = (),
        plugin: str = "",
        asked: Permissions | None = None,
    ) -> tuple[int, Worker]:
        """Its number too; ``asked``: all of its permissions."""
        self._last += 1
        asked = asked or Permissions(
            network=dict.fromkeys(network, "?"), listen=dict.fromkeys(listen, "?")
        )
        with self.lock:
            # A name of its own: a plugin has only so many lines of the log.
            plugin = plugin or f"plug{self._last}"
            fds = self.network.join(self._last, plugin, asked)
        made = Worker.of_worker(fds, {"plugin": plugin, "network": network})
        self._workers[self._last] = made
        return self._last, made

    def leave(self, number: int) -> None:
        """The worker dies."""
        worker = self._workers.pop(number)
        for sock in (worker._channel, *worker._listeners.values()):
            if sock:
                sock.close()
        with self.lock:
            self.network.leave(number)

    def records(self, **wanted: Any) -> list[audit.Record]:
        """What is written down so far, with these fields."""
        return [
            each
            for each in audit.records(self.folder / "clawai")
            if all(each.get(name) == value for name, value in wanted.items())
        ]

    def record(self, **wanted: Any) -> audit.Record:
        """The one that comes."""
        found: list[audit.Record] = wait_until(lambda: self.records(**wanted), f"{wanted}")
        return found[-1]

    def close(self) -> None:
        for number in list(self._workers):
            self.leave(number)
        self._running = False
        self._thread.join()
        self.network.end()
        self.log.close()
        self.loop.poller.close()


@contextlib.contextmanager
def stewards() -> Iterator[Steward]:
    """A steward with a folder of its own, which the broker of a root daemon reaches."""
    with (
        tempfile.TemporaryDirectory(prefix="claw-", dir="/tmp") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv(HOSTS, str(folder / "hosts"))
        made = Steward(folder)
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on the loopback, a thread for each connection; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(10)


def echo(sock: socket.socket) -> None:
    """Say everything again, and end when the other side does."""
    while data := sock.recv(65536):
        sock.sendall(data)


def received(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port
