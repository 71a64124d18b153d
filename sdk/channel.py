"""A client's end of the kernel's socket: ZMTP over a UNIX socket, in the thread that uses it.

libzmq speaks the same, but through a thread of its own: every message would wait for two more
wake-ups, which is longer than the kernel needs for it. What the kernel said last is always heard
before the end of the connection is.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from clawai.sdk import wire
from clawai.sdk.session import Frames
from clawai.sdk.zmtp_handshake import Conversation

_READ = 256 * 1024
_JOIN = 16 * 1024
_TAKE = 1 << 20
"""Bytes that are read before anybody looks at them, or a fast stream would never let go."""


def connect(path: Path, timeout: float) -> socket.socket:
    """A blocking socket that is connected to the kernel.

    Raises:
        OSError: nobody listens there, or accepts in time.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout(): a full backlog would be an error at once instead of being waited for.
        limit = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock


def connection() -> Conversation:
    """A client's half of ZMTP."""
    return Conversation(b"DEALER", max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)


class Channel:
    """A connection that one thread uses.

    Args:
        path: of the kernel's socket.
        timeout: seconds until the kernel must have accepted.
        silence: seconds after which a kernel that neither takes nor says anything is gone.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, path: Path, timeout: float, silence: float) -> None:
        self._sock = connect(path, timeout)
        self._sock.setblocking(False)
        self._silence = silence
        self._poller = select.poll()
        self._mask = 0
        self._zmtp = connection()
        self._buffer = memoryview(bytearray(_READ))
        self._inbox: list[list[bytes]] = []
        self._ended = False
        self._write([self._zmtp.outgoing()])

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._sock.fileno() < 0

    def fileno(self) -> int:
        """For whoever waits for several."""
        return self._sock.fileno()

    def send(self, frames: Frames) -> None:
        """Send a message. If the kernel is gone, ``receive`` says so when all is read.

        Raises:
            TimeoutError: it takes nothing.
        """
        self._write(self._zmtp.message(frames))

    def receive(self, seconds: float) -> list[list[bytes]]:
        """What has come; none if nothing does within ``seconds``.

        Raises:
            EOFError: the connection has ended, and everything was given.
            ClawError: the peer broke ZMTP or a limit.
        """
        if not seconds:
            self._fill()  # who asks so has mostly been told that something is there
            if not self._inbox and not self._ended:
                return []
        until = time.monotonic() + seconds
        while not self._inbox and not self._ended:
            if not self._wait(select.POLLIN, max(0.0, until - time.monotonic())):
                return []
            self._fill()
        if not self._inbox:
            raise EOFError
        messages, self._inbox = self._inbox, []
        return messages

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()

    def _wait(self, mask: int, seconds: float) -> int:
        """Wait for something of ``mask``; what it is, 0 if nothing came."""
        if mask != self._mask:
            self._mask = mask
            self._poller.register(self._sock, mask)
        return sum(ready for _, ready in self._poller.poll(seconds * 1000))

    def _fill(self) -> None:
        """Read what is there."""
        count = 0
        try:
            for _ in range(_TAKE // _READ):
                count = self._sock.recv_into(self._buffer)
                self._inbox += self._zmtp.receive(self._buffer[:count])
                if count < len(self._buffer):
                    break
        except BlockingIOError:
            return
        except OSError:
            count = 0
        self._ended = not count
        if due := self._zmtp.outgoing():
            self._write([due])

    def _write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        if sum(map(len, buffers)) <= _JOIN:
            buffers = [b"".join(buffers)]
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while left:
            try:
                sent = self._sock.sendmsg(left[:256])
            except BlockingIOError:
                # It may wait for us to read before it reads.
                ready = self._wait(select.POLLIN | select.POLLOUT, self._silence)
                if not ready:
                    raise TimeoutError("the kernel takes nothing") from None
                if ready & ~select.POLLOUT:
                    self._fill()
                if self._ended:
                    return
                continue
            except OSError:
                return  # the end, or first what the kernel said before it, comes with the next read
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]
