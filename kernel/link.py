"""Messages between the daemon, its steward and the launchers: a name, arguments, descriptors.

Both ends are ours and of one version: a message names a handler of the other side, whose signature
is its type. What a stranger wrote travels inside as plain text or bytes. The pair is SEQPACKET, so
that a message and its descriptors stay together; one larger than ``LIMIT`` travels in a memfd.
"""

import os
import select
import socket
import struct
from collections import deque
from typing import Any

import msgspec

LIMIT = 96 * 1024
"""Bytes of one message as it is; a socket takes twice as many without waiting."""
SPILLED = b"\xc0"
"""What is sent for a larger one, with the memfd as its first descriptor."""
DESCRIPTORS = 32
_number = struct.Struct("i")
_encoder = msgspec.msgpack.Encoder()


class Link:
    """One end. A blocking one waits until a message is taken, which must be taken soon then."""

    def __init__(self, sock: socket.socket, blocking: bool = False) -> None:
        sock.setblocking(blocking)
        self.sock = sock
        self.outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def fileno(self) -> int:
        """For the poller."""
        return self.sock.fileno()

    @property
    def mask(self) -> int:
        """What to poll for."""
        return select.EPOLLIN | (select.EPOLLOUT if self.outbox else 0)

    def send(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        """Send now, or when there is room; ``fds`` are closed once they are sent.

        Raises:
            OSError: a large message found no memory; ``fds`` are still open then.
        """
        data = _encoder.encode((name, *arguments))
        if len(data) > LIMIT:
            spill = os.memfd_create("claw-message", os.MFD_CLOEXEC)
            with os.fdopen(os.dup(spill), "wb") as file:
                file.write(data)
            data, fds = SPILLED, (spill, *fds)
        self.outbox.append((data, fds))
        self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        while self.outbox:
            data, fds = self.outbox[0]
            try:
                socket.send_fds(self.sock, [data], list(fds))
            except (BlockingIOError, TimeoutError):
                return
            except OSError:
                pass  # the other side is gone, which the reading tells
            self.outbox.popleft()
            for fd in fds:
                os.close(fd)

    def receive(self) -> tuple[str, list[Any], list[int]] | None:
        """The next message; None when the other side is gone."""
        # Not socket.recv_fds: it forgets its flags, and children must not inherit what comes.
        room = socket.CMSG_LEN(DESCRIPTORS * _number.size)
        try:
            data, rights, _, _ = self.sock.recvmsg(LIMIT, room, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        fds = [fd for _, _, packed in rights for (fd,) in _number.iter_unpack(packed)]
        if not data:
            return None
        if data == SPILLED:
            with os.fdopen(fds.pop(0), "rb") as file:
                file.seek(0)
                data = file.read()
        name, *arguments = msgspec.msgpack.decode(data)
        return name, arguments, fds

    def close(self) -> None:
        """Close this end and what was not sent."""
        self.sock.close()
        for _, fds in self.outbox:
            for fd in fds:
                os.close(fd)
        self.outbox.clear()
