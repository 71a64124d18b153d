"""The daemon's end of its steward: its log, and its restart.

The steward is the process beside the daemon that reads files, makes listings, writes the log and
starts workers (``clawai.kernel.steward``, which the daemon never imports). If it dies, all workers
die with it, whoever waits for an answer is told, and a new one is started.
"""

import os
import time
from typing import Any

from clawai.kernel import limits
from clawai.kernel.child import Child
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop


class Steward:
    """The one steward of this daemon.

    Args:
        link: leads to the one that the boot has started.
        pid: its process.
        settings: what a new one is told, and ``listeners``, the sockets that it accepts on.
    """

    def __init__(
        self, loop: Loop, link: Link, pid: int, settings: Any, listeners: list[int]
    ) -> None:
        program = ["-P", "-m", "clawai.kernel.steward"]
        self.child = Child(loop, "steward", program, self._ended)
        self.child.adopt(link, pid)
        self.ask, self.send, self.close = self.child.ask, self.child.send, self.child.close
        self.settings = settings
        self.listeners = listeners
        self.handlers = self.child.handlers
        """What it may tell us; also ``lost``, called when it has died, and ``clients``, which gives
        the last number of a client, and the numbers of those that are here."""
        self.lost = 0
        """Lines of the log that it could not take."""

    def log(self, level: str, text: str) -> None:
        """Write a line to the log."""
        self.lost += not self.child.offer("log", level, text[:8192])

    def _ended(self) -> None:
        if time.monotonic_ns() < self.child.started + limits.SECOND:
            raise RuntimeError("the steward process dies as soon as it is started")
        self.child.start()
        clients = self.handlers["clients"]()
        self.send("serve", self.settings, *clients, fds=tuple(map(os.dup, self.listeners)))
        self.log("error", "the steward process died and is started again; so are its workers")
        self.handlers["lost"]()
