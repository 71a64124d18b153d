"""The steward's door and memory in this process, with the daemon's end of their link."""

import os
import socket
from pathlib import Path
from typing import Any

from clawai.kernel import limits
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward.door import Door
from clawai.kernel.steward.keepers import Keepers
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.memory import Memory
from clawai.sdk.zmtp import Connection
from support import RawPeer

WEIGHTS = """
import os, signal
from clawai.sdk import operation
from clawai.sdk.hookspecs import hookimpl

class Plugin:
    @hookimpl
    def claw_start(self, worker):
        self.filled = 0
        self.view = worker.weights("layout", 4 << 20, 4096, self.fill)

    def fill(self, view):
        self.filled += 1
        view[:4] = b"once"

claw_plugin = Plugin()

@operation("w.look")
def look() -> list:
    view = claw_plugin.view
    return [claw_plugin.filled, view.readonly, bytes(view[:4])]
"""
"""A plugin whose worker has a weights object."""


def joined(*messages: list[Any]) -> bytes:
    return b"".join(bytes(part) for each in messages for part in Connection.message(each))


class Served:
    """A door and a memory, driven by hand."""

    def __init__(self, folder: Path) -> None:
        self.path, listeners = folder / "s", []
        for path, kind in ((self.path, socket.SOCK_STREAM), (folder / "l", socket.SOCK_SEQPACKET)):
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.bind(str(path))
            sock.listen(8)
            listeners.append(sock.detach())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.loop, self.daemon = Loop(lambda _: None), Link(ours)
        self.log = LogFile(folder / "log", "debug", limits.MIB, False)
        self.door = Door(self.loop, Link(theirs), self.log, daemon=77)
        self.keepers = Keepers(self.loop, self.log, on=False)
        self.memory = Memory(self.loop, self.door.link, self.log, self.door, self.keepers)
        self.door.open(listeners)
        self.listeners = listeners
        self.peers: list[RawPeer] = []

    def connect(self) -> RawPeer:
        """A connection that was accepted."""
        peer, before = RawPeer(self.path), list(self.door.newcomers)
        self.peers.append(peer)
        while list(self.door.newcomers) == before:
            self.loop.turn(1)
        return peer

    def told(self) -> tuple[list[Any], list[int]] | None:
        """What the daemon is told next, if anything."""
        for _ in range(20):
            self.loop.turn(0)
        found = self.daemon.receive()
        if found is None:
            return None
        assert found[0] == "client"
        return found[1], found[2]

    def said(self) -> tuple[Any, ...] | None:
        """What the daemon is told next without descriptors, once all that can be done now is."""
        for _ in range(20):
            self.loop.turn(0)
        found = self.daemon.receive()
        return None if found is None else (found[0], *found[1])

    def close(self) -> None:
        for new in list(self.door.newcomers.values()):
            self.door._dismiss(new)
        for peer in self.peers:
            peer.close()
        for fd in self.listeners:
            accept: Any = self.loop.callbacks[fd]
            self.loop.unwatch(fd)
            accept.args[0].close()
        os.close(self.door.spare)
        self.daemon.close()
        self.door.link.close()
        self.log.close()
        self.loop.poller.close()
