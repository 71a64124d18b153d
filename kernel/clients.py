"""The clients' side of the shell: connections, handshake, requests, leases out.

Principal is who the operating system says that the peer is (SO_PEERCRED), never what it says. A
one-time token from the lease socket ties a connection there to one here.
"""

import contextlib
import errno
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.log import LogFile
from clawai.kernel.loop import Loop
from clawai.kernel.peers import Peer
from clawai.kernel.registry import Registry
from clawai.sdk import paths, wire
from clawai.sdk.errors import ClawError

VERSION = "0.1.0"
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Client:
    """One connection to the ZeroMQ socket."""

    number: int
    peer: Peer
    uid: int
    pid: int
    since: int
    greeted: bool = False
    name: str = ""
    lease: "LeasePeer | None" = None
    mask: int = select.EPOLLIN


@dataclass(slots=True)
class LeasePeer:
    """One connection to the lease socket."""

    sock: socket.socket
    token: bytes
    since: int
    client: int = 0


@dataclass
class Clients:
    """All of them."""

    loop: Loop
    log: LogFile
    registry: Registry
    view: Callable[[str], dict[str, Any]]
    """The listing of a name."""
    stop: Callable[[], None]
    """Begins the end of the kernel."""
    by_number: dict[int, Client] = field(default_factory=dict)
    leases: dict[int, LeasePeer] = field(default_factory=dict)
    last: int = 0
    spare: int = field(default_factory=lambda: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    """Given up to refuse a connection when the daemon is out of descriptors."""
    listeners: list[tuple[socket.socket, Path]] = field(default_factory=list)

    # Connections.

    def listen(self) -> None:
        """Open both sockets in the owner-only folder."""
        doors = (
            (paths.kernel_socket(), socket.SOCK_STREAM, self._accept),
            (paths.lease_socket(), socket.SOCK_SEQPACKET, self._accept_lease),
        )
        for path, kind, accept in doors:
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, kind)
            try:
                sock.bind(str(path))
            except OSError as error:
                sock.close()
                raise ClawError(
                    "address_in_use",
                    f"cannot listen at {path}: {error.strerror or error}",
                    hint="set CLAW_RUNTIME_DIR to a short path of your own",
                ) from error
            path.chmod(0o600)
            sock.listen(4 * limits.CLIENTS)
            sock.setblocking(False)
            self.listeners.append((sock, path))
            self.loop.watch(sock.fileno(), partial(accept, sock))

    def _accepted(
        self, listener: socket.socket, full: bool
    ) -> tuple[socket.socket, int, int] | None:
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
        if full or uid not in (os.getuid(), 0):
            sock.close()
            self.log.write("warning", f"refused a connection of uid {uid}, process {pid}")
            return None
        return sock, pid, uid

    def _accept(self, listener: socket.socket, _: int) -> None:
        if len(self.by_number) >= limits.CLIENTS:
            # Who has not said hello must not keep others out.
            for idle in [c for c in self.by_number.values() if not c.greeted][:1]:
                self.leave(idle, "it never said hello")
        found = self._accepted(listener, len(self.by_number) >= limits.CLIENTS)
        if found is None:
            return
        sock, pid, uid = found
        self.last += 1
        client = Client(self.last, Peer(sock, b"ROUTER"), uid, pid, time.monotonic_ns())
        self.by_number[client.number] = client
        self.loop.watch(sock.fileno(), lambda mask: self._ready(client, mask))
        client.peer.flush_handshake()

    def _ready(self, client: Client, mask: int) -> None:
        if mask & select.EPOLLOUT:
            client.peer.flush()
        if mask & ~select.EPOLLOUT:
            try:
                messages = client.peer.receive()
            except ClawError as error:
                self._complain(client, error)
                self.leave(client, error.message)
                return
            if messages is None:
                self.leave(client, "closed")
                return
            for frames in messages:
                self._message(client, frames)
            if client.peer.zmtp.stalled and not client.peer.closed:
                self.loop.again.add(client.peer.fileno())
            self.loop.shed()
        self._settle(client)

    def _settle(self, client: Client) -> None:
        """Watch for room to write while something waits; give up on one that never reads."""
        if client.number not in self.by_number:
            return
        if client.peer.closed:
            self.leave(client, "closed")
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if client.peer.waiting else 0)
        if mask != client.mask:
            client.mask = mask
            self.loop.rewatch(client.peer.fileno(), mask)

    def holders(self) -> Iterable[tuple[Peer, Callable[[], None]]]:
        """For the bound on half-sent messages."""
        why = "it holds too much of a message"
        return [(c.peer, partial(self.leave, c, why)) for c in self.by_number.values()]

    def leave(self, client: Client, why: str) -> None:
        """Forget a client; its tasks are cancelled and its leases end."""
        if self.by_number.pop(client.number, None) is None:
            return
        self.loop.unwatch(client.peer.fileno())
        client.peer.close()
        if client.lease:
            self._close_lease(client.lease)
        if client.greeted:
            if why != "closed":
                self.log.write("warning", f"client {client.number} is disconnected: {why}")
            self.loop.happen(ev.ClientLeft(client.number))

    # The lease socket.

    def _accept_lease(self, listener: socket.socket, _: int) -> None:
        if len(self.leases) >= limits.CLIENTS:
            for idle in [p for p in self.leases.values() if not p.client][:1]:
                self._close_lease(idle)
        found = self._accepted(listener, len(self.leases) >= limits.CLIENTS)
        if found is None:
            return
        sock = found[0]
        sock.setblocking(False)
        peer = LeasePeer(sock, secrets.token_bytes(16), time.monotonic_ns())
        self.leases[sock.fileno()] = peer
        self.loop.watch(sock.fileno(), lambda _: self._close_lease(peer))
        try:
            sock.send(msgspec.msgpack.encode({"token": peer.token}))
        except OSError:
            self._close_lease(peer)

    def _close_lease(self, peer: LeasePeer) -> None:
        """The client has nothing to say there: whatever comes is the end of it."""
        if self.leases.pop(peer.sock.fileno(), None) is None:
            return
        self.loop.unwatch(peer.sock.fileno())
        peer.sock.close()
        if client := self.by_number.get(peer.client):
            client.lease = None

    def give(self, number: int, segment: int, size: int, fd: int) -> None:
        """Send a segment's descriptor to its client."""
        client = self.by_number.get(number)
        if client is None or client.lease is None:
            raise OSError(0, "the client has no lease socket")
        header = msgspec.msgpack.encode({"segment": segment, "bytes": size})
        socket.send_fds(client.lease.sock, [header], [fd])

    # Time.

    def next_timer(self) -> int | None:
        """When somebody who has not said hello, or does not read, is to go."""
        waiting = [c.since + limits.HANDSHAKE for c in self.by_number.values() if not c.greeted]
        waiting += [p.since + limits.TOKEN_LIFE for p in self.leases.values() if not p.client]
        waiting += [c.peer.moved + limits.STUCK for c in self.by_number.values() if _full(c)]
        return min(waiting, default=None)

    def expire(self, now: int) -> None:
        """Close connections that never said hello, or have stopped reading."""
        for client in list(self.by_number.values()):
            if not client.greeted and now >= client.since + limits.HANDSHAKE:
                self.leave(client, "it never said hello")
            elif _full(client) and now >= client.peer.moved + limits.STUCK:
                self.leave(client, f"it does not read, {client.peer.waiting} bytes wait for it")
        for peer in list(self.leases.values()):
            if not peer.client and now >= peer.since + limits.TOKEN_LIFE:
                self._close_lease(peer)

    # Messages.

    def reply(self, told: ev.Reply) -> None:
        """Send to a client that is still there; one that does not read is let go."""
        client = self.by_number.get(told.client)
        if client is None:
            return
        total = sum(other.peer.waiting for other in self.by_number.values())
        if total > limits.OUTBOX_TOTAL:
            worst = max(self.by_number.values(), key=lambda other: other.peer.waiting)
            self.leave(worst, f"it does not read, {worst.peer.waiting} bytes wait for it")
        client.peer.send(told.message, told.frames)
        self._settle(client)

    def fail(self, number: int, about: Any, error: ClawError) -> None:
        """Answer the request that ``about`` would have answered with an error."""
        self.reply(ev.Reply(number, wire.error_message(error, about.id)))

    def _complain(self, client: Client, error: ClawError, request: int | None = None) -> None:
        self.reply(ev.Reply(client.number, wire.error_message(error, request)))

    def _message(self, client: Client, frames: list[bytes]) -> None:
        if client.number not in self.by_number:
            return
        request = None
        try:
            message = wire.decode(frames, wire.FromClient)
            request = getattr(message, "id", None)
            if not client.greeted and not isinstance(message, wire.Hello):
                raise ClawError(
                    "bad_state", "the first message must be hello", type(message).__name__
                )
            _REQUESTS[type(message)](self, client, message, frames)
        except ClawError as error:
            self._complain(client, error, request)

    def _hello(self, client: Client, hello: wire.Hello, frames: list[bytes]) -> None:
        if hello.version[0] != wire.VERSION[0]:
            raise ClawError(
                "bad_version",
                "the client speaks another version of the wire",
                got=list(hello.version),
                allowed=list(wire.VERSION),
                hint="install the same version of clawai on both sides, then restart the kernel",
            )
        if client.greeted:
            raise ClawError("bad_state", "hello was said before")
        if hello.token:
            peers = [p for p in self.leases.values() if not p.client and p.token == hello.token]
            if not peers:
                raise ClawError("not_permitted", "the token is unknown, used or too old")
            client.lease = peers[0]
            client.lease.client = client.number
        client.greeted = True
        client.name = hello.name
        welcome = wire.Welcome(
            version=wire.VERSION,
            kernel=VERSION,
            pid=os.getpid(),
            principal=f"uid:{client.uid}",
            leases=client.lease is not None,
        )
        self.reply(ev.Reply(client.number, welcome))

    def _submit(self, client: Client, asked: wire.Submit, frames: list[bytes]) -> None:
        now = time.monotonic_ns()
        spec, entry = self.registry.spec(asked.op, asked.model)
        deadline = None
        if asked.deadline_ms is not None:
            deadline = now + max(-1, min(asked.deadline_ms, 1 << 40)) * limits.MS
        event = ev.Submitted(
            client=client.number,
            request=asked.id,
            spec=spec,
            op=asked.op,
            priority=asked.priority,
            deadline=deadline,
            idempotent=entry.idempotent,
            payload=sum(map(len, frames)),
            leases=asked.leases,
            params=wire.Raw(bytes(asked.params)),
            body=tuple(frames[1:]),
            frames=len(frames) - 1,
            principal=f"uid:{client.uid}",
            batch=entry.batch,
        )
        self.loop.happen(event)

    def _cancel(self, client: Client, asked: wire.Cancel, frames: list[bytes]) -> None:
        self.loop.happen(ev.CancelAsked(client.number, asked.id))

    def _borrow(self, client: Client, asked: wire.Borrow, frames: list[bytes]) -> None:
        if client.lease is None:
            raise ClawError(
                "no_lease",
                "this connection works without leases",
                hint="open the lease socket first and send its token in hello",
            )
        spec, _ = self.registry.spec(asked.op, asked.model)
        self.loop.happen(ev.Borrowed(client.number, asked.id, spec, asked.bytes, asked.rights))

    def _return(self, client: Client, told: wire.Return, frames: list[bytes]) -> None:
        self.loop.happen(ev.Returned(client.number, told.segment, told.generation))

    def _dropped(self, client: Client, told: wire.Dropped, frames: list[bytes]) -> None:
        self.loop.happen(ev.Unmapped(client.number, told.segment))

    def _query(self, client: Client, asked: wire.Query, frames: list[bytes]) -> None:
        data = self.view(asked.what)
        try:
            packed = wire.pack(data)
        except (TypeError, ValueError, OverflowError) as error:
            # A listing must never end the kernel, whatever stands in a manifest or a setting.
            raise ClawError("bad_config", f"the listing cannot be sent: {error}") from None
        self.reply(ev.Reply(client.number, wire.Answer(id=asked.id, data=packed)))

    def _admin(self, client: Client, asked: wire.Admin, frames: list[bytes]) -> None:
        if asked.command in ("unload", "pin", "unpin", "suspend", "resume"):
            told = ev.Commanded(client.number, asked.id, asked.command, asked.name)
            self.loop.happen(told)
        elif asked.command == "shutdown":
            data = wire.pack({"pid": os.getpid()})
            self.reply(ev.Reply(client.number, wire.Answer(id=asked.id, data=data)))
            self.stop()
        else:
            raise ClawError(
                "bad_params", "no such command", asked.command, allowed=["shutdown", "unload"]
            )

    def close(self) -> None:
        """Close every connection and remove the sockets."""
        until = time.monotonic() + 0.5
        for client in list(self.by_number.values()):
            client.peer.sock.settimeout(max(0.0, until - time.monotonic()))
            client.peer.flush()
            client.peer.close()
        for peer in list(self.leases.values()):
            peer.sock.close()
        for sock, path in self.listeners:
            sock.close()
            path.unlink(missing_ok=True)
        os.close(self.spare)


def _full(client: Client) -> bool:
    return client.peer.waiting > limits.OUTBOX


_REQUESTS: dict[type, Any] = {
    wire.Hello: Clients._hello,
    wire.Submit: Clients._submit,
    wire.Cancel: Clients._cancel,
    wire.Borrow: Clients._borrow,
    wire.Return: Clients._return,
    wire.Dropped: Clients._dropped,
    wire.Query: Clients._query,
    wire.Admin: Clients._admin,
}
