"""Connect to one of some addresses that were checked: exactly to these, nothing is resolved again.

The addresses are tried one after the other, each for its share of the time that is left.
"""

import errno
import ipaddress
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from clawai.kernel.loop import Loop
from clawai.sdk.netrules import Address

Found = Callable[[socket.socket | None, Address, int], None]
"""The connected socket, or None with the last address and its errno."""


def is_own(address: Address) -> bool:
    """Whether this box itself has an address: then its route begins where it ends.

    Connecting a datagram socket looks a route up and sends nothing.
    """
    with _socket(address, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address), 9))
            return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]) == address
        except OSError:
            return False  # no route: connecting will say so


def _socket(address: Address, kind: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.socket(family, kind)


class Dial:
    """One attempt to connect. ``then`` is called once, unless it is dropped."""

    def __init__(
        self, loop: Loop, addresses: Sequence[Address], port: int, until: float, then: Found
    ) -> None:
        self._loop = loop
        self._left = list(addresses)
        self._port = port
        self._then = then
        self._until = until
        self.due = until
        """When the address that is tried has had its time."""
        self._address = addresses[0]
        self._sock: socket.socket | None = None

    def start(self, now: float) -> None:
        """Try the next address."""
        self._address = self._left.pop(0)
        self.due = now + (self._until - now) / (len(self._left) + 1)
        try:
            self._sock = _socket(self._address, socket.SOCK_STREAM)
        except OSError as error:
            self._failed(error.errno or errno.EMFILE, now)
            return
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = self._sock.connect_ex((str(self._address), self._port))
        if failed in (0, errno.EINPROGRESS):
            self._loop.watch(self._sock.fileno(), lambda _: self._ready(), select.EPOLLOUT)
        else:
            self._failed(failed, now)

    def _ready(self) -> None:
        sock = self._sock
        assert sock
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._failed(failed, time.monotonic())
            return
        self._loop.unwatch(sock.fileno())
        self._sock = None
        self._then(sock, self._address, 0)

    def expire(self, now: float) -> None:
        """Give the address up that did not answer in time."""
        self._failed(errno.ETIMEDOUT, now)

    def _failed(self, number: int, now: float) -> None:
        self.drop()
        if self._left and now < self._until:
            self.start(now)
        else:
            self._then(None, self._address, number)

    def drop(self) -> None:
        """Give up; ``then`` is not called."""
        if self._sock:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._sock = None


def said(number: int) -> tuple[str, str]:
    """An errno as the reason that plugins match, and in words."""
    if number == errno.ECONNREFUSED:
        return "refused", "nobody listens there"
    if number == errno.ETIMEDOUT:
        return "timed_out", "no answer in time"
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        return "too_many", "the broker has no room for more connections"
    return "unreachable", os.strerror(number)
