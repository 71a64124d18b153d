"""ZMTP 3.1 (the protocol of ZeroMQ) without I/O: bytes in, messages out.

Source: ZeroMQ RFC 37/ZMTP. Only what the kernel's UNIX sockets need is spoken: the NULL mechanism,
which is enough where the operating system names the peer, and messages and commands of bounded
size. libzmq bounds neither the parts of a message nor the bytes of all parts together, so a peer
can make it allocate without end; here a connection that passes a limit is refused at the frame
that passes it, before its bytes are stored.
"""

from collections.abc import Sequence

from clawai.sdk.errors import ClawError

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
"""64 octets: signature, version 3.1, mechanism, as-server, filler."""

MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND = 512
_ROLES = {b"DEALER": b"ROUTER", b"ROUTER": b"DEALER", b"PAIR": b"PAIR"}


def frame(payload: bytes | memoryview, flags: int) -> list[bytes | memoryview]:
    """One frame as buffers to send: its header, then the payload itself, not copied."""
    size = len(payload)
    if size < 256:
        return [bytes((flags, size)), payload]
    return [bytes((flags | LONG,)) + size.to_bytes(8, "big"), payload]


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


class Connection:
    """One peer. Feed it with ``receive``, send what ``outgoing`` and ``message`` give.

    Args:
        role: our socket type, ``ROUTER``, ``DEALER`` or ``PAIR``; the peer must have its partner.
        max_frames: most frames of one message.
        max_bytes: most bytes of all frames of one message.
    """

    def __init__(self, role: bytes, *, max_frames: int, max_bytes: int) -> None:
        self.role = role
        self.ready = False
        self.buffered = 0
        """Bytes held for messages that were not returned yet."""
        self.stalled = False
        """Whole messages may be waiting, which ``receive(b"")`` gives."""
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._greeted = False
        ready = _property(b"Socket-Type", role) + _property(b"Identity", b"")
        self._outgoing = bytearray(GREETING + b"".join(frame(b"\x05READY" + ready, COMMAND)))

    def outgoing(self) -> bytes:
        """Handshake and PONG bytes to send now, in order; empty when there are none."""
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
        self._buffer += data
        messages: list[list[bytes]] = []
        if not self._greeted and not self._greeting():
            return messages
        position = 0
        buffer = self._buffer
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

    def _greeting(self) -> bool:
        greeting = self._buffer
        if (greeting and greeting[0] != 0xFF) or (len(greeting) > 9 and not greeting[9] & 1):
            raise ClawError("bad_frame", "the peer does not speak ZMTP", got=bytes(greeting[:10]))
        if len(greeting) < 64:
            return False
        if greeting[10] < 3 or greeting[12:32].rstrip(b"\0") != b"NULL":
            raise ClawError(
                "bad_frame",
                "this socket speaks ZMTP 3 with the NULL mechanism",
                got=bytes(greeting[10:32]),
            )
        del greeting[:64]
        self._greeted = True
        return True

    def _header(self, buffer: bytearray, at: int) -> tuple[int, int, int] | None:
        """Flags, start and size of the frame at ``at``, checked against every limit."""
        have = len(buffer) - at
        if have < 1:
            return None
        flags = buffer[at]
        long = flags & LONG
        if have < (9 if long else 2):
            if flags > 7:
                raise ClawError("bad_frame", "reserved flags are set in a frame", got=flags)
            return None
        size = int.from_bytes(buffer[at + 1 : at + 9], "big") if long else buffer[at + 1]
        if flags > 7 or (flags & COMMAND and flags & MORE) or (not self.ready and flags < COMMAND):
            raise ClawError("bad_frame", "this frame is not allowed here", got=flags)
        if flags & COMMAND:
            if size > MAX_COMMAND:
                raise ClawError("too_large", "a ZMTP command", got=size, allowed=MAX_COMMAND)
        elif len(self._parts) >= self._max_frames:
            raise ClawError("too_large", "frames of one message", allowed=self._max_frames)
        elif self._parts_bytes + size > self._max_bytes:
            raise ClawError(
                "too_large",
                "bytes of one message",
                got=self._parts_bytes + size,
                allowed=self._max_bytes,
                hint="send large values as leases or as several messages",
            )
        return flags, at + (9 if long else 2), size

    def _command(self, payload: bytes) -> None:
        name = payload[1 : 1 + payload[0]] if payload else b""
        body = payload[1 + len(name) :]
        if name == b"PING" and self.ready:
            context = body[2:18]  # after the time to live, which a local socket has no use for
            self._outgoing += b"".join(frame(b"\x04PONG" + context, COMMAND))
        elif name == b"READY" and not self.ready:
            peer = self._properties(body).get(b"socket-type", b"")
            if peer != _ROLES[self.role]:
                raise ClawError(
                    "bad_frame",
                    "this socket talks to another type of ZeroMQ socket",
                    got=peer,
                    allowed=_ROLES[self.role],
                )
            self.ready = True
        elif name == b"ERROR":
            raise ClawError("bad_frame", "the peer refused the handshake", got=body[1:201])
        elif not self.ready:
            raise ClawError("bad_frame", "a READY command must come first", got=name[:32])

    @staticmethod
    def _properties(body: bytes) -> dict[bytes, bytes]:
        found, at = {}, 0
        while at < len(body):
            name_end = at + 1 + body[at]
            size = int.from_bytes(body[name_end : name_end + 4], "big")
            end = name_end + 4 + size
            if end > len(body):
                raise ClawError("bad_frame", "a property of READY is longer than the command")
            found[body[at + 1 : name_end].lower()] = body[name_end + 4 : end]
            at = end
        return found
