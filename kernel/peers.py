"""One connection, whose handshake is over: a non-blocking socket, its ZMTP state, and what waits on
both ways."""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from clawai.kernel.loop import Loop
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp import Connection

READ = 256 * 1024
MESSAGES = 8
"""Most bytes and messages taken from one peer before the others get their turn."""
SMALL = 4096
"""Shorter buffers are joined: many of them would cost several times their bytes. And so little of a
message that has not arrived whole cannot add up to anything, over all clients that there may be."""
PONGS = 64 * 1024
"""With so much in the outbox a PING gets no PONG: who does not read has no use for it."""
POST = 64 * 1024
"""Bytes that may wait for the end of a turn; more leave at once."""
_BATCH = 64
_READ_INTO = memoryview(bytearray(READ))
"""What is read lands here first: a new buffer of that size for each read costs 30 us."""


class Peer:
    """Reads whole messages and writes what it can; what it cannot waits in ``outbox``.

    Args:
        early: what was read from the socket before.
    """

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        sock.setblocking(False)
        self.sock = sock
        most, size = wire.MAX_FRAMES, wire.MAX_MESSAGE
        self.zmtp = Connection(max_frames=most, max_bytes=size, early=early)
        self.waiting = 0
        """Bytes in the outbox."""
        self.moved = 0
        """When the outbox last became shorter, or began."""
        self._outbox: deque[memoryview | bytearray] = deque()
        self.closed = False
        self.inbox: deque[list[bytes]] = deque()
        """Whole messages that were not handled yet."""
        self.paused = 0
        """While above zero nothing is read or handled, until so many ``resume``."""
        self.loop: Loop | None = None
        self._mask = select.EPOLLIN

    def attach(
        self,
        loop: Loop,
        taken: Callable[[list[bytes]], None],
        ended: Callable[[ClawError | None], None],
    ) -> None:
        """Have a loop serve it.

        Args:
            taken: gets each message.
            ended: is told what the peer did wrong, or None when it has closed.
        """
        self.loop, self._taken, self.ended = loop, taken, ended
        loop.watch(self.fileno(), self._ready)
        loop.peers.add(self)
        self._work()

    @property
    def held(self) -> int:
        """Bytes of messages that have not arrived whole, or could not be handled yet."""
        return self.zmtp.buffered + sum(sum(map(len, frames)) for frames in self.inbox)

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self.flush()
        if mask & ~select.EPOLLOUT:
            self.read()
        self._settle()

    def read(self) -> bool:
        """Take some of what has come; False at its end."""
        try:
            # What is stalled is whole already, although the socket may have nothing to read.
            size = 0 if self.zmtp.stalled else self.sock.recv_into(_READ_INTO)
        except BlockingIOError:
            return True
        except OSError:
            size = 0
        if not (size or self.zmtp.stalled):
            self.ended(None)
            return False
        try:
            self.inbox.extend(self.zmtp.receive(_READ_INTO[:size], MESSAGES))
            if (pongs := self.zmtp.outgoing()) and self.waiting < PONGS:
                self.write(pongs)
            self._work()
        except ClawError as error:
            self.ended(error)
            return False
        return True

    def _work(self) -> None:
        while self.inbox and not self.paused and not self.closed:
            self._taken(self.inbox.popleft())
        if self.loop and not self.closed:
            if self.zmtp.stalled and not self.paused:
                self.loop.again.add(self.fileno())
            if self.zmtp.buffered > SMALL or self.inbox:
                self.loop.shed()

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused -= 1
        self._work()
        self._settle()

    def _settle(self) -> None:
        """Have the loop watch for what can be done now."""
        if self._mask == select.EPOLLIN and not (self.waiting or self.paused or self.closed):
            return
        if self.loop is None or self.fileno() not in self.loop.callbacks:
            return
        full = self.waiting and self not in self.loop.posts
        mask = (0 if self.paused else select.EPOLLIN) | (select.EPOLLOUT if full else 0)
        if self.closed:
            self.ended(None)
        elif mask != self._mask:
            self._mask = mask
            self.loop.rewatch(self.fileno(), mask)

    def fileno(self) -> int:
        """For the poller."""
        return self.sock.fileno()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._queue([data])
        self.flush()

    def send(self, message: wire.Message, frames: Sequence[bytes] = ()) -> None:
        """Send with all else that this round has to say: each write wakes somebody, which costs
        more than all that led to it.
        """
        self._queue(self.zmtp.message(wire.encode(message, frames)))
        if self.loop and self.waiting <= POST:
            self.loop.posts[self] = None
        else:
            self.post()

    def post(self) -> None:
        """Write what the socket takes now, and have the loop watch for room for the rest."""
        self.flush()
        self._settle()

    def _queue(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        if self.closed:
            return
        if not self.waiting:
            self.moved = time.monotonic_ns()
        for buffer in buffers:
            last = self._outbox[-1] if self._outbox else None
            if len(buffer) >= SMALL:
                self._outbox.append(memoryview(buffer))
            elif isinstance(last, bytearray) and len(last) < READ:
                last += buffer
            elif buffer:
                self._outbox.append(bytearray(buffer))
            self.waiting += len(buffer)

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._outbox and not self.closed:
            batch = list(islice(self._outbox, _BATCH))
            try:
                sent = self.sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.closed = True
                return
            self.waiting -= sent
            self.moved = time.monotonic_ns()
            while sent:
                first = self._outbox[0]
                if sent < len(first):
                    self._outbox[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                self._outbox.popleft()

    def close(self) -> None:
        """Close the socket; what it does not take at once is lost."""
        self.flush()
        if self.loop:
            self.loop.posts.pop(self, None)
            self.loop.unwatch(self.fileno())
            self.loop.peers.discard(self)
            # Whoever they belong to holds us: megabytes would wait for the collector of cycles.
            self.loop, self._taken, self.ended = None, _nobody, _nobody
        self.closed = True
        self._outbox.clear()
        self.inbox.clear()
        self.waiting = 0
        self.sock.close()


def _nobody(_: object) -> None:
    """Nobody cares what still comes of a connection that is closed."""
