"""A process beside the daemon, from the daemon's end: told, asked, heard, and its death seen.

The steward and the recorder are two of these. Neither is ever waited for while the daemon serves:
what has no room yet waits in the link, and what may be lost (a line of a log, a piece of the event
journal) is not added to that. When one dies, whoever asked it something is told; whether another is
started, its owner decides.
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

from clawai.kernel import events as ev
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.sdk.errors import ClawError

Then = Callable[[Any], None]
"""Takes the answer, or the ``ClawError`` that stands for it."""
ROOM = 128
"""With so many messages waiting for a child nothing is added that may be lost."""
PATIENCE_S = 5.0


@dataclass
class Child:
    """One such process, and after its death the next."""

    loop: Loop
    name: str
    """For people."""
    program: list[str]
    """Arguments of this Python; the number of its socket is added."""
    ended: Callable[[], None]
    """Called when it has died, before those who asked it something are told."""
    handlers: dict[str, Callable[..., None]] = field(default_factory=dict)
    """What it may say, besides ``answer``, ``refuse`` and ``happened``; each gets the arguments and
    the descriptors."""
    link: Link | None = None
    """None while there is no such process."""
    pid: int = 0
    started: int = 0
    heard: bool = False
    """It has said something."""
    lost: int = 0
    """Messages that it could not take."""
    _asked: dict[int, Then] = field(default_factory=dict)
    _last: int = 0

    def start(self) -> None:
        """Start it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.set_inheritable(True)
        command = [sys.executable, *self.program, str(theirs.fileno())]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        theirs.close()
        self.adopt(Link(ours), pid)

    def adopt(self, link: Link, pid: int) -> None:
        """Listen to one that is started."""
        self.link, self.pid, self.started, self.heard = link, pid, time.monotonic_ns(), False
        self.loop.watch(link.fileno(), self._ready)

    def send(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        """Tell it something; ``fds`` are closed here once they are sent."""
        assert self.link
        self.link.send(name, *arguments, fds=fds)
        self.loop.rewatch(self.link.fileno(), self.link.mask)

    def order(self, told: ev.Instruction) -> None:
        """Have it carry out an instruction of the core: a message of its name and fields."""
        self.send(type(told).__name__, *msgspec.structs.astuple(told))

    def offer(self, name: str, *arguments: Any) -> bool:
        """Tell it what may be lost; False if it is, as it is gone or far behind."""
        if self.link is None or len(self.link.outbox) > ROOM:
            self.lost += 1
            return False
        self.send(name, *arguments)
        return True

    def log(self, level: str, text: str) -> None:
        """Have the steward write a line to the log."""
        self.offer("log", level, text[:8192])

    def ask(self, name: str, *arguments: Any, then: Then) -> None:
        """Ask it something; ``then`` gets the answer, mostly in a later turn of the loop."""
        self._last += 1
        self._asked[self._last] = then
        try:
            self.send(name, self._last, *arguments)
        except OSError as error:
            del self._asked[self._last]
            then(ClawError("no_memory", f"no question could be asked: {error.strerror}"))

    def _ready(self, mask: int) -> None:
        assert self.link
        if mask & select.EPOLLOUT:
            self.link.flush()
            self.loop.rewatch(self.link.fileno(), self.link.mask)
        if mask & ~select.EPOLLOUT:
            message = self.link.receive()
            if message is None:
                self._died()
                return
            self.heard = True
            name, arguments, fds = message
            if name in ("answer", "refuse"):
                number, said = arguments
                self._asked.pop(number)(said if name == "answer" else ClawError(*said))
            elif name == "happened":
                self.loop.happen(getattr(ev, arguments[0])(*arguments[1:]))
            else:
                self.handlers[name](*arguments, *fds)

    def _died(self) -> None:
        self.close()
        asked, self._asked = self._asked, {}
        self.ended()
        text = f"the {self.name} process died; ask again"
        error = ClawError("overloaded", text, retry_after_ms=500)
        for then in asked.values():
            then(error)

    def close(self) -> None:
        """Let it read what it was told and end by itself, and wait for it; one that hangs dies."""
        if self.link is None:
            return
        self.loop.unwatch(self.link.fileno())
        self.link.sock.settimeout(PATIENCE_S)
        self.link.flush()
        self.link.close()
        self.link = None
        pidfd = os.pidfd_open(self.pid)
        if not select.select([pidfd], [], [], PATIENCE_S)[0]:
            os.kill(self.pid, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self.pid, 0)
