"""The two listening sockets: who may connect, the one-time tokens, and the hand-over to the daemon.

A connection to the ZeroMQ socket goes to the daemon at once, unread. One to the lease socket gets a
token and waits here until a client says that token to the daemon.
"""

import contextlib
import errno
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass, field
from functools import partial

import msgspec

from clawai.kernel import limits
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward.log import LogFile

_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Waiting:
    """One connection to the lease socket whose token nobody has said yet."""

    sock: socket.socket
    token: bytes
    since: int


@dataclass
class Door:
    """Accepts for the daemon."""

    loop: Loop
    link: Link
    log: LogFile
    waiting: dict[bytes, Waiting] = field(default_factory=dict)
    """By token; the oldest first."""
    spare: int = field(default_factory=lambda: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    """Given up to refuse a connection when this process is out of descriptors."""

    def open(self, listeners: list[int]) -> None:
        """Accept on the ZeroMQ socket and on the lease socket."""
        for fd, accept in zip(listeners, (self._accept, self._accept_lease), strict=True):
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self.loop.watch(fd, partial(accept, sock))

    def _accepted(self, listener: socket.socket) -> tuple[socket.socket, int, int] | None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Left alone it would be offered again and again: it is told no instead.
                os.close(self.spare)
                with contextlib.suppress(OSError):
                    listener.accept()[0].close()
                self.spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            return None
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(data)
        if uid not in (os.getuid(), 0):
            sock.close()
            self.log.write("warning", f"refused a connection of uid {uid}, process {pid}")
            return None
        return sock, pid, uid

    def _accept(self, listener: socket.socket, _: int) -> None:
        if found := self._accepted(listener):
            sock, pid, uid = found
            self.link.send("client", pid, uid, fds=(sock.detach(),))

    def _accept_lease(self, listener: socket.socket, _: int) -> None:
        if len(self.waiting) >= limits.CLIENTS:
            self._close(next(iter(self.waiting.values())))
        if (found := self._accepted(listener)) is None:
            return
        sock = found[0]
        sock.setblocking(False)
        peer = Waiting(sock, secrets.token_bytes(16), time.monotonic_ns())
        self.waiting[peer.token] = peer
        # It has nothing to say there: whatever comes is the end of it.
        self.loop.watch(sock.fileno(), lambda _: self._close(peer))
        try:
            sock.send(msgspec.msgpack.encode({"token": peer.token}))
        except OSError:
            self._close(peer)

    def _close(self, peer: Waiting) -> None:
        if self.waiting.pop(peer.token, None):
            self.loop.unwatch(peer.sock.fileno())
            peer.sock.close()

    def claim(self, token: bytes) -> int | None:
        """The connection that got this token, which is used up; None if there is none."""
        peer = self.waiting.pop(token, None)
        if peer is None:
            return None
        self.loop.unwatch(peer.sock.fileno())
        return peer.sock.detach()

    def next_timer(self) -> int | None:
        """When the oldest token is too old."""
        return min((p.since + limits.TOKEN_LIFE for p in self.waiting.values()), default=None)

    def expire(self, now: int) -> None:
        """Close those whose token is too old."""
        for peer in list(self.waiting.values()):
            if now >= peer.since + limits.TOKEN_LIFE:
                self._close(peer)
