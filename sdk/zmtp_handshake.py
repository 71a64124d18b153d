"""The handshake of ZMTP 3.1 without I/O: the greeting and READY, both ways, then frames.

Source: ZeroMQ RFC 37/ZMTP. Only what the kernel's UNIX sockets need is spoken: the NULL mechanism,
which is enough where the operating system names the peer. Refuses older versions, other mechanisms
and socket types that are no partner. The kernel's daemon does not load this: the steward's door
greets for it.
"""

from collections.abc import Sequence

from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp import COMMAND, LONG, Connection, command, header

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
"""64 octets: signature, version 3.1, mechanism, as-server, filler."""

_PARTNERS = {b"DEALER": b"ROUTER", b"ROUTER": b"DEALER"}


def frame(payload: bytes | memoryview, flags: int) -> list[bytes | memoryview]:
    """One frame as buffers to send: its header, then the payload itself, not copied."""
    size = len(payload)
    if size < 256:
        return [bytes((flags, size)), payload]
    return [bytes((flags | LONG,)) + size.to_bytes(8, "big"), payload]


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


class Conversation:
    """A connection from its first byte on. It is used like the ``Connection`` that it becomes.

    Args:
        role: our socket type, ``ROUTER`` or ``DEALER``; the peer must have its partner.
        max_frames: most frames of one message.
        max_bytes: most bytes of all frames of one message.
    """

    def __init__(self, role: bytes, *, max_frames: int, max_bytes: int) -> None:
        self.role = role
        self.ready = False
        """Both sides have said READY."""
        self._frames = Connection(max_frames=max_frames, max_bytes=max_bytes)
        self._buffer = bytearray()
        """What came before we are ready."""
        self._greeted = False
        ready = _property(b"Socket-Type", role) + _property(b"Identity", b"")
        self._hello = GREETING + b"".join(frame(b"\x05READY" + ready, COMMAND))

    @property
    def buffered(self) -> int:
        """Bytes held for messages that were not returned yet."""
        return len(self._buffer) + self._frames.buffered

    @property
    def stalled(self) -> bool:
        """Whole messages may be waiting, which ``receive(b"")`` gives."""
        return self._frames.stalled

    def outgoing(self) -> bytes:
        """Handshake and PONG bytes to send now, in order; empty when there are none."""
        hello, self._hello = self._hello, b""
        return hello + self._frames.outgoing()

    @staticmethod
    def message(frames: Sequence[bytes | memoryview]) -> list[bytes | bytearray | memoryview]:
        """The buffers of one message, to be sent without copying the payloads."""
        return Connection.message(frames)

    def receive(self, data: bytes | memoryview, most: int = 1 << 30) -> list[list[bytes]]:
        """Take bytes from the peer and return the messages that are now complete, ``most`` of them.

        Raises:
            ClawError: bad_frame or too_large; the connection must then be closed.
        """
        if not self.ready:
            self._buffer += data
            if not (self._greeting() and self._ready()):
                return []
            self.ready = True
            data, self._buffer = bytes(self._buffer), bytearray()
        return self._frames.receive(data, most)

    def rest(self) -> bytes:
        """What has come behind the messages that were returned."""
        return bytes(self._frames.buffer)

    def _greeting(self) -> bool:
        """Whether the peer's greeting has come."""
        greeting = self._buffer
        if self._greeted:
            return True
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

    def _ready(self) -> bool:
        """Whether the peer's READY has come, which says what type of socket it is."""
        found = header(self._buffer, 0)
        if found is None:
            return False
        flags, start, size = found
        if not flags & COMMAND:
            raise ClawError("bad_frame", "this frame is not allowed here", got=flags)
        if len(self._buffer) < start + size:
            return False
        name, body = command(bytes(self._buffer[start : start + size]))
        if name != b"READY":
            raise ClawError("bad_frame", "a READY command must come first", got=name[:32])
        partner = _PARTNERS[self.role]
        peer = _properties(body).get(b"socket-type", b"")
        if peer != partner:
            raise ClawError(
                "bad_frame",
                "this socket talks to another type of ZeroMQ socket",
                got=peer,
                allowed=partner,
            )
        del self._buffer[: start + size]
        return True


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
