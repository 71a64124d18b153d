"""The two listening sockets: who may connect, the one-time tokens, the handshake, the hand-over.

A connection to the lease socket gets a token and waits until a client says that token; then it
leads that client's descriptors out. One to the ZeroMQ socket is greeted here, and goes to the
daemon once it has said a proper hello; who says too much before that, or says nothing, is closed. A
client may send requests right behind its hello: what of them was read here goes along.
"""

import contextlib
import errno
import os
import resource
import secrets
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from clawai.kernel.limits import CLIENTS
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward import limits
from clawai.kernel.steward.log import LogFile
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp_handshake import Conversation

VERSION = "0.1.0"
"""Of the package."""
_READ = 16 * 1024
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Waiting:
    """One connection to the lease socket whose token nobody has said yet."""

    sock: socket.socket
    token: bytes
    since: int


@dataclass(slots=True)
class Newcomer:
    """One connection to the ZeroMQ socket that has not said hello yet."""

    sock: socket.socket
    pid: int
    uid: int
    since: int
    zmtp: Conversation
    took: int = 0
    """Bytes that were read from it."""


@dataclass(slots=True)
class Client:
    """One that the daemon serves."""

    pid: int
    """Its process; 0 if it came before this steward."""
    lease: socket.socket | None = None
    worker: bool = False
    """It is one of ours, which asks for child tasks."""


@dataclass
class Door:
    """Accepts for the daemon."""

    loop: Loop
    link: Link
    log: LogFile
    daemon: int
    """Its process."""
    clients: dict[int, Client] = field(default_factory=dict)
    """Those that the daemon serves, by number."""
    last: int = 0
    """The number that was given last."""
    newcomers: dict[int, Newcomer] = field(default_factory=dict)
    """By descriptor; the oldest first."""
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
        sock.setblocking(False)
        return sock, pid, uid

    # Clients.

    def _accept(self, listener: socket.socket, _: int) -> None:
        if (found := self._accepted(listener)) is None:
            return
        sock, pid, uid = found
        # Who has not said hello must not keep others out.
        if self.newcomers and (self._full() or scarce(sock.fileno())):
            self._dismiss(next(iter(self.newcomers.values())))
        if self._full():
            sock.close()
            self.log.write("warning", f"refused a connection of process {pid}: too many")
            return
        zmtp = Conversation(b"ROUTER", max_frames=wire.MAX_FRAMES, max_bytes=limits.EARLY)
        new = Newcomer(sock, pid, uid, time.monotonic_ns(), zmtp)
        self.newcomers[sock.fileno()] = new
        self.loop.watch(sock.fileno(), lambda _: self._heard(new))
        self._say(new, zmtp.outgoing())

    def _full(self) -> bool:
        return self.count + len(self.newcomers) >= CLIENTS

    @property
    def count(self) -> int:
        """Clients that came by themselves."""
        return sum(not client.worker for client in self.clients.values())

    def children(self, worker: int, front: str = "", may: Iterable[str] = ()) -> int:
        """Make a worker a client, for child tasks; its end of the connection: nobody greets.

        Args:
            front: its plugin, if that may act for others.
            may: what it may ask of the kernel itself then.
        """
        ours, theirs = socket.socketpair()
        self.last += 1
        self.clients[self.last] = Client(0, worker=True)
        told = worker, front, sorted(may), self.last, os.getuid()
        self.link.send("family", *told, self._welcome(os.getuid(), False), fds=(ours.detach(),))
        return theirs.detach()

    def _dismiss(self, new: Newcomer) -> None:
        """Close a connection that has not said hello."""
        if self.newcomers.pop(new.sock.fileno(), None):
            self.loop.unwatch(new.sock.fileno())
            new.sock.close()

    def _say(self, new: Newcomer, data: bytes) -> None:
        """Send a few bytes; who does not read even those is dismissed."""
        try:
            sent = new.sock.send(data)
        except OSError:
            sent = -1
        if sent < len(data):
            self._dismiss(new)

    def _complain(self, new: Newcomer, error: ClawError, request: int | None = None) -> None:
        self._say(new, _packed(wire.error_message(error, request)))

    def _heard(self, new: Newcomer) -> None:
        """Take what a newcomer says, one message a turn."""
        fd = new.sock.fileno()
        try:
            messages = self._messages(new)
        except ClawError as error:
            self._complain(new, error)
            messages = None
        if messages is None:
            self._dismiss(new)
            return
        for frames in messages:
            self._first(new, frames)
        if fd in self.newcomers:
            if new.zmtp.stalled:
                self.loop.again.add(fd)
            if pongs := new.zmtp.outgoing():
                self._say(new, pongs)

    def _messages(self, new: Newcomer) -> list[list[bytes]] | None:
        """The next message, if it is whole; None at the end of the connection.

        Raises:
            ClawError: it broke ZMTP or a limit.
        """
        data = b""
        if not new.zmtp.stalled:
            try:
                data = new.sock.recv(_READ)
            except BlockingIOError:
                return []
            except OSError:
                return None
            if not data:
                return None
        new.took += len(data)
        messages = new.zmtp.receive(data, 1)
        if not messages and new.took > limits.EARLY:
            raise ClawError("too_large", "bytes before hello", new.took, limits.EARLY)
        return messages

    def _first(self, new: Newcomer, frames: list[bytes]) -> None:
        """Let in who says hello; anything else is answered with an error."""
        request = None
        try:
            message = wire.decode(frames, wire.FromClient)
            request = getattr(message, "id", None)
            if not isinstance(message, wire.Hello):
                kind = type(message).__name__
                raise ClawError("bad_state", "the first message must be hello", kind)
            self._let_in(new, self._claim(message))
        except ClawError as error:
            self._complain(new, error, request)

    def _claim(self, hello: wire.Hello) -> socket.socket | None:
        """The connection whose token a hello names, which is used up."""
        if hello.version[0] != wire.VERSION[0]:
            raise ClawError(
                "bad_version",
                "the client speaks another version of the wire",
                got=list(hello.version),
                allowed=list(wire.VERSION),
                hint="install the same version of clawai on both sides, then restart the kernel",
            )
        if not hello.token:
            return None
        if (peer := self.waiting.pop(hello.token, None)) is None:
            raise ClawError("not_permitted", "the token is unknown, used or too old")
        self.loop.unwatch(peer.sock.fileno())
        return peer.sock

    def _let_in(self, new: Newcomer, lease: socket.socket | None) -> None:
        """Hand a client over; the daemon says welcome, since it must know who may speak first."""
        said = new.zmtp.outgoing() + self._welcome(new.uid, lease is not None)
        self.last += 1
        number = self.last
        self.clients[number] = Client(new.pid, lease)
        if lease:
            # It has nothing to say there: whatever comes is the end of it.
            self.loop.watch(lease.fileno(), lambda _: self._close_lease(number))
        del self.newcomers[new.sock.fileno()]
        self.loop.unwatch(new.sock.fileno())
        told = number, new.uid, lease is not None, said, new.zmtp.rest()
        self.link.send("client", *told, fds=(new.sock.detach(),))

    def _welcome(self, uid: int, leases: bool) -> bytes:
        welcome = wire.Welcome(
            version=wire.VERSION,
            kernel=VERSION,
            pid=self.daemon,
            principal=f"uid:{uid}",
            leases=leases,
        )
        return _packed(welcome)

    def left(self, number: int) -> None:
        """The daemon serves a client no more."""
        self._close_lease(number)
        self.clients.pop(number, None)

    def process(self, number: int) -> int:
        """The process of a client; 0 if that is not known."""
        return self.clients[number].pid if number in self.clients else 0

    def give(self, number: int, header: dict[str, Any], fd: int) -> None:
        """Send a descriptor to a client.

        Raises:
            ClawError: no_lease, as it has no lease socket any more.
            OSError: it does not take it.
        """
        client = self.clients.get(number)
        if client is None or client.lease is None:
            hint = "connect anew to have leases"
            raise ClawError("no_lease", "the lease socket of this client is closed", hint=hint)
        socket.send_fds(client.lease, [msgspec.msgpack.encode(header)], [fd])

    def _close_lease(self, number: int) -> None:
        client = self.clients.get(number)
        if client and client.lease:
            self.loop.unwatch(client.lease.fileno())
            client.lease.close()
            client.lease = None

    # The lease socket.

    def _accept_lease(self, listener: socket.socket, _: int) -> None:
        if len(self.waiting) >= CLIENTS:
            self._close(next(iter(self.waiting.values())))
        if (found := self._accepted(listener)) is None:
            return
        sock = found[0]
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

    # Time.

    def next_timer(self) -> int | None:
        """When the oldest token is too old, or somebody should have said hello."""
        ends = [peer.since + limits.TOKEN_LIFE for peer in self.waiting.values()]
        ends += [new.since + limits.HANDSHAKE for new in self.newcomers.values()]
        return min(ends, default=None)

    def expire(self, now: int) -> None:
        """Close those whose token is too old, and those that never said hello."""
        for peer in list(self.waiting.values()):
            if now >= peer.since + limits.TOKEN_LIFE:
                self._close(peer)
        for new in list(self.newcomers.values()):
            if now >= new.since + limits.HANDSHAKE:
                self._dismiss(new)


def _packed(message: wire.Message) -> bytes:
    """A message as it travels."""
    return b"".join(map(bytes, Conversation.message(wire.encode(message))))


def scarce(fd: int) -> bool:
    """Whether so few descriptors are left that they are kept for what matters more."""
    return fd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 7 // 8
