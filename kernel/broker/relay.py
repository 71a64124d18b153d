"""One connection: bytes between the worker's socket pair and the network, both ways.

What the one side does not take is not read from the other: at most ``PIECE`` bytes a direction wait
here. The end of one direction is passed on while the other goes on. A side that is gone is no
longer watched (the poller would report it without end), but what it had sent is still delivered.
"""

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from clawai.kernel.broker import limits
from clawai.kernel.loop import Loop

_buffer = memoryview(bytearray(limits.PIECE))
"""Shared by all: the loop has one thread, and what is kept is copied."""
_GONE = select.EPOLLHUP | select.EPOLLERR


@dataclass(slots=True)
class Flow:
    """One direction."""

    source: socket.socket
    target: socket.socket
    held: bytes = b""
    count: int = 0
    """Bytes that the target has taken."""
    ended: bool = False
    """The source's end was passed on."""

    def pump(self) -> bool:
        """Carry what there is, for one turn; whether there may be more at once.

        Raises:
            OSError: one of the sides broke.
        """
        for _ in range(limits.TURN):
            if self.held and not self._send():
                return False
            if self.ended:
                return False
            try:
                size = self.source.recv_into(_buffer)
            except BlockingIOError:
                return False
            if not size:
                self.ended = True
                return False
            try:
                sent = self.target.send(_buffer[:size])
            except BlockingIOError:
                sent = 0
            self.count += sent
            if sent < size:
                self.held = bytes(_buffer[sent:size])
        return True

    def pass_on(self) -> bool:
        """Carry one short message, as most are; False: there is more to it, and ``pump`` is for it.

        Raises:
            OSError: one of the sides broke.
        """
        if self.held or self.ended:
            return False
        try:
            size = self.source.recv_into(_buffer)
        except BlockingIOError:
            return False
        if not size:
            return False  # the end is read again
        try:
            sent = self.target.send(_buffer[:size])
        except BlockingIOError:
            sent = 0
        self.count += sent
        self.held = bytes(_buffer[sent:size])
        return not self.held and size < limits.PIECE

    def _send(self) -> bool:
        """Send what is held; whether all of it went."""
        try:
            sent = self.target.send(self.held)
        except BlockingIOError:
            return False
        self.count += sent
        self.held = self.held[sent:]
        return not self.held


class Relay:
    """Both directions of a connection, until ``done`` is called with why it ended."""

    def __init__(
        self,
        loop: Loop,
        local: socket.socket,
        remote: socket.socket,
        eof: Callable[[], None],
        done: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sides = {sock.fileno(): sock for sock in (local, remote)}
        self._masks: dict[int, int] = {}
        self._gone: set[int] = set()
        self._eof, self._done = eof, done
        """``eof`` is called before the worker is told that the other host sends no more."""
        self.out, self.into = Flow(local, remote), Flow(remote, local)
        self._flows = {local.fileno(): self.out, remote.fileno(): self.into}
        self._seen = 0
        self.open = True
        for sock in (local, remote):
            sock.setblocking(False)
            loop.watch(sock.fileno(), partial(self._ready, sock.fileno()))
            self._masks[sock.fileno()] = select.EPOLLIN

    @property
    def address(self) -> tuple[str, int] | None:
        """Of the network's socket, on this box; None if it has none any more."""
        try:
            host, port = self.out.target.getsockname()[:2]
        except OSError:
            return None
        return host, port

    @property
    def sent(self) -> int:
        """Bytes that the network has taken."""
        return self.out.count

    @property
    def received(self) -> int:
        """Bytes that the worker's pair has taken."""
        return self.into.count

    @property
    def carried(self) -> int:
        """Bytes of both directions."""
        return self.sent + self.received

    def has_moved(self) -> bool:
        """Whether a byte was carried since it was last asked."""
        before, self._seen = self._seen, self.carried
        return before != self._seen

    def _ready(self, fd: int, mask: int) -> None:
        if mask == select.EPOLLIN and not self._gone:
            try:
                if self._flows[fd].pass_on() and self.carried <= limits.BYTES:
                    return
            except OSError:
                self._broken()
                return
        if mask & _GONE:
            self._loop.unwatch(fd)
            self._masks.pop(fd, None)
            self._gone.add(fd)
        self._carry()

    def _carry(self) -> None:
        try:
            more = True
            while more:
                more = self._pump(self.out, None) | self._pump(self.into, self._eof)
                if self._masks:  # else both are gone: what is left is read now or never
                    break
        except OSError:
            self._broken()
            return
        if not self.open:
            return  # ended while the worker was told something
        if self.carried > limits.BYTES:
            self.close("limit")
        elif self.out.ended and self.into.ended and not (self.out.held or self.into.held):
            self.close("closed")
        elif self._worker_left() and self.out.ended and not self.out.held:
            self.close("closed")  # nobody reads what still comes
        else:
            self._watch(more)

    def _broken(self) -> None:
        """One of the two closed its end, with something unread or while we wrote."""
        self.close("closed" if self._worker_left() else "reset")

    def _pump(self, flow: Flow, before_end: Callable[[], None] | None) -> bool:
        was_over = flow.ended and not flow.held
        more = flow.pump()
        if flow.ended and not flow.held and not was_over:
            if before_end:
                before_end()
            flow.target.shutdown(socket.SHUT_WR)
        return more

    def _worker_left(self) -> bool:
        return self.out.source.fileno() in self._gone

    def _watch(self, more: bool) -> None:
        """Ask the poller for what can bring this further."""
        for reads, writes in ((self.out, self.into), (self.into, self.out)):
            fd = reads.source.fileno()
            if fd in self._gone:
                continue
            mask = 0 if reads.held or reads.ended else select.EPOLLIN
            mask |= select.EPOLLOUT if writes.held else 0
            if mask != self._masks[fd]:
                self._loop.rewatch(fd, mask)
                self._masks[fd] = mask
        # A side that is gone is not watched, but may still have something to read.
        if more:
            self._loop.again.update(fd for fd in self._masks if fd not in self._gone)

    def close(self, why: str) -> None:
        """End it: ``closed``, ``reset``, ``idle``, ``limit`` or ``gone``."""
        if not self.open:
            return
        self.open = False
        self._done(why)  # first: when the worker sees the end, it has been told why
        for fd, sock in self._sides.items():
            if fd not in self._gone:
                self._loop.unwatch(fd)
            sock.close()
