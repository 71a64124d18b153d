"""The frames of ZMTP 3.1 (the protocol of ZeroMQ) without I/O: bytes in, messages out.

Source: ZeroMQ RFC 37/ZMTP. A connection begins here where its handshake (``zmtp_handshake``) has
ended; a worker's, over a socket pair made for it, has none. Messages and commands are of bounded
size: libzmq bounds neither the parts of a message nor the bytes of all parts together, so a peer
can make it allocate without end; here a connection that passes a limit is refused at the frame
that passes it, before its bytes are stored.
"""

from collections.abc import Sequence
from typing import NoReturn

from clawai.sdk.errors import ClawError

MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND = 512
_COPIED = 4096
_SHORT = [[bytes((flags, size)) for size in range(256)] for flags in (0, MORE)]
"""The headers of short frames."""


def header(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """Flags, start and size of the frame at ``at``; None while its head is not whole.

    Raises:
        ClawError: bad_frame or too_large.
    """
    have = len(buffer) - at
    if have < 1:
        return None
    flags = buffer[at]
    if flags > 7 or (flags & COMMAND and flags & MORE):
        raise ClawError("bad_frame", "this frame is not allowed here", got=flags)
    length = 8 if flags & LONG else 1
    if have < 1 + length:
        return None
    start = at + 1 + length
    size = int.from_bytes(buffer[at + 1 : start], "big")
    if flags & COMMAND and size > MAX_COMMAND:
        raise ClawError("too_large", "a ZMTP command", got=size, allowed=MAX_COMMAND)
    return flags, start, size


def command(payload: bytes) -> tuple[bytes, bytes]:
    """Name and body of a command.

    Raises:
        ClawError: bad_frame, the peer says ERROR.
    """
    name = payload[1 : 1 + payload[0]] if payload else b""
    body = payload[1 + len(name) :]
    if name == b"ERROR":
        raise ClawError("bad_frame", "the peer refused the connection", got=body[1:201])
    return name, body


class Connection:
    """One peer. Feed it with ``receive``, send what ``outgoing`` and ``message`` give.

    Args:
        max_frames: most frames of one message.
        max_bytes: most bytes of all frames of one message.
        early: bytes of the peer that were read before.
    """

    def __init__(self, *, max_frames: int, max_bytes: int, early: bytes = b"") -> None:
        self.buffered = 0
        """Bytes held for messages that were not returned yet."""
        self.stalled = bool(early)
        """Whole messages may be waiting, which ``receive(b"")`` gives."""
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self.buffer = bytearray(early)
        """Bytes that were not taken apart yet."""
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._outgoing = bytearray()

    def outgoing(self) -> bytes:
        """PONG bytes to send now; empty when there are none."""
        if not self._outgoing:
            return b""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @staticmethod
    def message(frames: Sequence[bytes | memoryview]) -> list[bytes | bytearray | memoryview]:
        """The buffers of one message: short frames in one, the payload of long ones not copied."""
        short = bytearray()
        out: list[bytes | bytearray | memoryview] = [short]
        left = len(frames)
        for payload in frames:
            left -= 1
            size, more = len(payload), MORE if left else 0
            if size < 256:
                short += _SHORT[more][size]
                short += payload
            else:
                short += bytes((more | LONG,)) + size.to_bytes(8, "big")
                short = bytearray()
                out += (payload, short)
        return out

    def receive(self, data: bytes | memoryview, most: int = 1 << 30) -> list[list[bytes]]:
        """Take bytes from the peer and return the messages that are now complete, ``most`` of them.

        Raises:
            ClawError: bad_frame or too_large; the connection must then be closed.
        """
        buffer = self.buffer
        buffer += data
        messages: list[list[bytes]] = []
        parts = self._parts
        position, end = 0, len(buffer)
        self.stalled = False
        while position < end:
            flags = buffer[position]
            if flags <= MORE and position + 1 < end:  # as nearly all are
                start, size = position + 2, buffer[position + 1]
            elif (found := header(buffer, position)) is not None:
                flags, start, size = found
            else:
                break
            much = self._parts_bytes + size > self._max_bytes
            if (much or len(parts) >= self._max_frames) and not flags & COMMAND:
                self._refuse(len(parts), size)
            if end - start < size:
                break
            position = start + size
            # Of a short frame a second copy costs less than a view.
            payload = bytes((buffer if size < _COPIED else memoryview(buffer))[start:position])
            if flags & COMMAND:
                self._command(payload)
                continue
            parts.append(payload)
            if flags & MORE:
                self._parts_bytes += size
                continue
            messages.append(parts)
            parts = self._parts = []
            self._parts_bytes = 0
            if len(messages) == most:
                self.stalled = True
                break
        del buffer[:position]
        self.buffered = len(buffer) + self._parts_bytes
        return messages

    def _refuse(self, parts: int, size: int) -> NoReturn:
        """Refuse a frame of a message that passes a limit, before its bytes are stored."""
        if parts >= self._max_frames:
            raise ClawError("too_large", "frames of one message", allowed=self._max_frames)
        got, hint = self._parts_bytes + size, "send large values as leases or as several messages"
        raise ClawError("too_large", "bytes of one message", got, self._max_bytes, hint)

    def _command(self, payload: bytes) -> None:
        name, body = command(payload)
        if name == b"PING":
            context = body[2:18]  # after the time to live, which a local socket has no use for
            self._outgoing += bytes((COMMAND, 5 + len(context))) + b"\x04PONG" + context
