"""Many clients that ask a server over HTTP as fast as it answers: for `claw bench gateway`.

One thread serves all their connections: what it costs is the same whoever is asked.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clawai.sdk.cli.bench.sampling import percentile
from clawai.sdk.errors import ClawError

PEERS = ("fastapi", "litserve")
"""Servers in which a function answers at once: no broker, no sandbox, no scheduler before it."""
CLIENTS = 32
WARM = 0.5
"""Seconds whose requests are not counted."""
PATIENCE = 60.0
"""Seconds for a peer to start, and for any answer."""
BODY = json.dumps({"text": "x" * 64}).encode()


class _Asker:
    """One client: asks again as soon as it is answered."""

    def __init__(self, port: int, path: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        self._request = head.encode() + BODY
        self._got = b""
        self.asked = 0.0

    def ask(self) -> None:
        """Send the request."""
        self._got, self.asked = b"", time.perf_counter()
        self.sock.sendall(self._request)

    def hear(self) -> float | None:
        """Seconds that the answer took, once all of it is there.

        Raises:
            ClawError: it is none.
        """
        piece = self.sock.recv(65536)
        self._got += piece
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not piece or (end and b" 200 " not in head.split(b"\r\n")[0]):
            raise ClawError("worker_failed", "the server refused", self._got[:200].decode())
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        return time.perf_counter() - self.asked if end and len(body) >= int(length) else None


def load(port: int, path: str, seconds: float) -> dict[str, float]:
    """What so many clients get from a server that echoes.

    Raises:
        ClawError: it does not answer, or wrongly.
    """
    _answers(port, path)  # by then its workers are there
    took: list[float] = []
    with selectors.DefaultSelector() as poller:
        askers = [_Asker(port, path) for _ in range(CLIENTS)]
        try:
            for asker in askers:
                poller.register(asker.sock, selectors.EVENT_READ, asker)
                asker.ask()
            begin = time.perf_counter() + WARM
            until = begin + seconds
            while time.perf_counter() < until:
                ready = poller.select(PATIENCE)
                if not ready:
                    raise ClawError("worker_hung", "the server answers no more")
                for key, _ in ready:
                    if (one := key.data.hear()) is not None:
                        if key.data.asked >= begin:
                            took.append(1e3 * one)
                        key.data.ask()
        finally:
            for asker in askers:
                asker.sock.close()
    if not took:
        raise ClawError("worker_hung", "nobody was answered in time", seconds)
    return {
        "busy_rps": round(len(took) / seconds, 1),
        "busy_p50_ms": round(percentile(took, 50), 3),
        "busy_p99_ms": round(percentile(took, 99), 3),
    }


@contextmanager
def peer(name: str, port: int) -> Iterator[None]:
    """A peer's server, once it answers.

    Raises:
        ClawError: it does not start.
    """
    command = [sys.executable, "-m", f"clawai.sdk.cli.bench.web_{name}", str(port)]
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while not _answers(port, "/echo"):
            if running.poll() is not None or time.monotonic() > until:
                hint = "pip install 'clawai[bench]'"
                raise ClawError("unsupported_system", f"{name} does not start here", hint=hint)
            time.sleep(0.05)
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # with the workers that it has started
        running.wait()


def _answers(port: int, path: str) -> bool:
    try:
        asker = _Asker(port, path)
    except OSError:
        return False
    with asker.sock:
        asker.ask()
        try:
            while asker.hear() is None:
                pass
        except (OSError, ClawError):
            return False
    return True
