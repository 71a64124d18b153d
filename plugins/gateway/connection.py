"""A connection, as the system knows it: whether it is open, and who is known to have made it.

The HTTP server's word is of no use for that. It notes a hang-up with the newest request only, and
while it does not read, since another request waits, it sees none.
"""

import select
import socket

from clawai.sdk.net import Caller

_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Connection:
    """One that was accepted, and whose it was found to be.

    Args:
        sock: closed when the connection is closed here; it is only asked.
    """

    __slots__ = ("_sock", "stranger", "whose")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.stranger: Caller | None = None
        """Whose it is, if it is not the owner's; that cannot change while it is open."""
        self.whose = ""
        """In words, once somebody had to know (``keys.principal``)."""

    def is_open(self) -> bool:
        """Whether neither side has ended it, nor half of it, at this moment.

        As long as it is, nobody else can have a connection between the same two addresses.
        """
        if (number := self._sock.fileno()) < 0:
            return False
        poller = select.poll()
        poller.register(number, select.POLLRDHUP)
        return not any(mask & _ENDED for _, mask in poller.poll(0))
