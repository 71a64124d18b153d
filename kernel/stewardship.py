"""The daemon's end of its steward: what is asked of it, what it tells, and its restart.

The steward is the process beside the daemon that reads files, makes listings, writes the log and
starts workers (``clawai.kernel.steward``, which the daemon never imports). If it dies, all workers
die with it, whoever waits for an answer is told, and a new one is started.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawai.kernel import limits
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

Then = Callable[[Any], None]
"""Takes the answer, or the ``ClawError`` that stands for it."""
LOG_ROOM = 256
"""With so many messages waiting for the steward a line of the log is lost instead."""


@dataclass
class Steward:
    """The one steward of this daemon."""

    loop: Loop
    link: Link
    pid: int
    settings: Any
    """What a new one is told, and the sockets that it accepts on."""
    listeners: list[int]
    handlers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """What it may tell us; also ``lost``, called when it has died, and ``clients``, which gives the
    last number of a client, and the numbers of those that are here."""
    lost: int = 0
    """Lines of the log that it could not take."""
    _asked: dict[int, Then] = field(default_factory=dict)
    _last: int = 0
    _started: int = field(default_factory=time.monotonic_ns)

    def watch(self) -> None:
        """Listen to it."""
        self.loop.watch(self.link.fileno(), self._ready)

    def send(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        """Tell it something; ``fds`` are closed here once they are sent."""
        self.link.send(name, *arguments, fds=fds)
        self.loop.rewatch(self.link.fileno(), self.link.mask)

    def log(self, level: str, text: str) -> None:
        """Write a line to the log."""
        if len(self.link.outbox) < LOG_ROOM:
            self.send("log", level, text[:8192])
        else:
            self.lost += 1

    def ask(self, name: str, *arguments: Any, then: Then) -> None:
        """Ask it something; ``then`` gets the answer, in a later turn of the loop."""
        self._last += 1
        self._asked[self._last] = then
        self.send(name, self._last, *arguments)

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self.link.flush()
            self.loop.rewatch(self.link.fileno(), self.link.mask)
        if mask & ~select.EPOLLOUT:
            message = self.link.receive()
            if message is None:
                self._ended()
                return
            name, arguments, fds = message
            if name == "answer":
                self._asked.pop(arguments[0])(arguments[1])
            elif name == "refuse":
                error = wire.error_from(msgspec.convert(arguments[1], wire.Error))
                self._asked.pop(arguments[0])(error)
            else:
                self.handlers[name](*arguments, *fds)

    def _ended(self) -> None:
        self.close()
        if time.monotonic_ns() < self._started + limits.SECOND:
            raise RuntimeError("the steward process dies as soon as it is started")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.set_inheritable(True)
        command = [sys.executable, "-m", "clawai.kernel.steward", str(theirs.fileno())]
        self.pid = os.posix_spawn(sys.executable, command, os.environ)
        theirs.close()
        self.link, self._started = Link(ours), time.monotonic_ns()
        self.watch()
        clients = self.handlers["clients"]()
        self.send("serve", self.settings, *clients, fds=tuple(map(os.dup, self.listeners)))
        self.log("error", "the steward process died and is started again; so are its workers")
        asked, self._asked = self._asked, {}
        error = ClawError("overloaded", "the steward process died; ask again", retry_after_ms=500)
        self.handlers["lost"]()
        for then in asked.values():
            then(error)

    def close(self) -> None:
        """Let it end, which takes its launchers and their workers along, and wait for that."""
        self.loop.unwatch(self.link.fileno())
        self.link.close()
        # It writes what it was told and ends by itself; one that hangs does not.
        pidfd = os.pidfd_open(self.pid)
        if not select.select([pidfd], [], [], 5)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self.pid, 0)
