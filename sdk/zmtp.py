"""The frames of ZMTP 3.1 (the protocol of ZeroMQ) without I/O: bytes in, messages out.

Source: ZeroMQ RFC 37/ZMTP. A connection begins here where its handshake (``zmtp_handshake``) has
ended; a worker's, over a socket pair made for it, has none. Messages and commands are of bounded
size: libzmq bounds neither the parts of a message nor the bytes of all parts together, so a peer
can make it allocate without end; here a connection that passes a limit is refused at the frame
that passes it, before its bytes are stored.
"""

from collections.abc import Sequence

from clawai.sdk.errors import ClawError

MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND = 512


def frame(payload: bytes | memoryview, flags: int) -> list[bytes | memoryview]:
    """One frame as buffers to send: its header, then the payload itself, not copied."""
    size = len(payload)
    if size < 256:
        return [bytes((flags, size)), payload]
    return [bytes((flags | LONG,)) + size.to_bytes(8, "big"), payload]


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
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @staticmethod
    def message(frames: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
        """The buffers of one message, to be sent without copying the payloads."""
        last = len(frames) - 1
        out: list[bytes | memoryview] = []
        for index, payload in enumerate(frames):
            out += frame(payload, MORE if index < last else 0)
        return out

    def receive(self, data: bytes | memoryview, most: int = 1 << 30) -> list[list[bytes]]:
        """Take bytes from the peer and return the messages that are now complete, ``most`` of them.

        Raises:
            ClawError: bad_frame or too_large; the connection must then be closed.
        """
        self.buffer += data
        messages: list[list[bytes]] = []
        position = 0
        buffer = self.buffer
        self.stalled = False
        while (found := self._header(buffer, position)) is not None:
            flags, start, size = found
            if len(buffer) - start < size:
                break
            payload = bytes(memoryview(buffer)[start : start + size])
            position = start + size
            if flags & COMMAND:
                self._command(payload)
                continue
            self._parts.append(payload)
            self._parts_bytes += size
            if not flags & MORE:
                messages.append(self._parts)
                self._parts, self._parts_bytes = [], 0
                if len(messages) == most:
                    self.stalled = True
                    break
        if position:
            del buffer[:position]
        self.buffered = len(buffer) + self._parts_bytes
        return messages

    def _header(self, buffer: bytearray, at: int) -> tuple[int, int, int] | None:
        """A frame's header, checked against every limit."""
        found = header(buffer, at)
        if found is None or found[0] & COMMAND:
            return found
        size = found[2]
        if len(self._parts) >= self._max_frames:
            raise ClawError("too_large", "frames of one message", allowed=self._max_frames)
        if self._parts_bytes + size > self._max_bytes:
            raise ClawError(
                "too_large",
                "bytes of one message",
                got=self._parts_bytes + size,
                allowed=self._max_bytes,
                hint="send large values as leases or as several messages",
            )
        return found

    def _command(self, payload: bytes) -> None:
        name, body = command(payload)
        if name == b"PING":
            context = body[2:18]  # after the time to live, which a local socket has no use for
            self._outgoing += b"".join(frame(b"\x04PONG" + context, COMMAND))
