"""One connection that a front has itself: the broker holds it too, counts and can end it.

No byte comes by here. The system counts them (``TCP_INFO``), and tells when both directions have
ended. A descriptor that the worker closes ends nothing while there is another one, here; so the
worker says that it has let go. One that does not keeps a connection which counts as one of its own,
until the other side leaves or it was idle for too long.

The error of a broken connection (``SO_ERROR``) is never read: whoever reads it has it alone.
"""

import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from clawai.kernel.loop import Loop

_INFO = struct.Struct("=B 119x QQ 8x I 52x QQ")
"""Of struct tcp_info (linux/tcp.h): state; bytes_acked, bytes_received, notsent_bytes, bytes_sent,
bytes_retrans."""
_CLOSED = 7
_THEY_ENDED = (6, 8, 9, 11)
"""TCP_TIME_WAIT, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING: the other side's end has come."""
_WE_ENDED = (4, 9, 11)
"""TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING: ours is said, and not confirmed."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the system says of a connection."""

    state: int
    sent: int
    """Bytes that the worker has written."""
    received: int
    """Bytes that have come in order, whether the worker has read them or not; and the end that is
    counted as one, if it has come."""
    confirmed: bool
    """The other side has seen our end."""

    @classmethod
    def of(cls, sock: socket.socket) -> "Counts":
        """Those of now."""
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        state, acked, received, waits, written, again = _INFO.unpack(data.ljust(_INFO.size, b"\0"))
        sent = written - again + waits
        if waits and state in _WE_ENDED:
            sent -= 1  # the end that is behind it
        return cls(state, sent, received, acked > sent)


class Handed:
    """Watches a connection until ``done`` is called with why it ended."""

    def __init__(self, loop: Loop, sock: socket.socket, done: Callable[[str], None]) -> None:
        self._loop, self._sock, self._done = loop, sock, done
        self._they_ended = False
        self._seen = 0
        self.open = True
        self.sent = self.received = 0
        """Bytes, as of the last look."""
        loop.watch(sock.fileno(), self._ready, select.EPOLLRDHUP)

    @property
    def carried(self) -> int:
        """Bytes of both directions."""
        self._look()
        return self.sent + self.received

    def has_moved(self) -> bool:
        """Whether a byte was carried since it was last asked."""
        before, self._seen = self._seen, self.carried
        return before != self._seen

    def _look(self) -> Counts:
        counts = Counts.of(self._sock)
        self._they_ended |= counts.state in _THEY_ENDED
        ended = self._they_ended or (counts.state == _CLOSED and counts.confirmed)
        self.sent, self.received = counts.sent, max(0, counts.received - ended)
        return counts

    def _ready(self, mask: int) -> None:
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            self.close("closed")
        else:
            self._look()
            self._loop.rewatch(self._sock.fileno(), 0)

    def close(self, why: str) -> None:
        """End it: ``closed``, ``idle``, ``limit`` or ``gone``; ``reset`` if that had happened."""
        if not self.open:
            return
        self.open = False
        counts = self._look()
        if why == "closed" and counts.state == _CLOSED and not counts.confirmed:
            why = "reset"
        self._done(why)  # first: when the worker sees the end, it has been told why
        self._loop.unwatch(self._sock.fileno())
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # the worker's, too
        except OSError:
            pass  # it has ended
        self._sock.close()
