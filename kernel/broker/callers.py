"""Whose a connection on the loopback is, as the system says.

What the other end says of itself is of no use here, and an address of the loopback is everybody's.
The system names the user who has made the socket at the other end: it is asked for that one
(``sockdiag``), and where it knows no such question, all of its table is read. It tells of one
moment: who acts on it looks afterwards whether the connection is still open, since another user may
have the same address a moment later.
"""

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clawai.kernel.broker import limits, sockdiag
from clawai.sdk.netrules import Address, address_of

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
_MAPPED = "0000000000000000FFFF0000"
"""What stands before an address of IPv4 that a socket of IPv6 has."""
Place = tuple[str, int]
"""An address and a port."""


class TooOften(Exception):
    """The table is not read again so soon."""


def caller(
    peer: Place,
    listening: Iterable[Place],
    table: str = "",
    may_read: Callable[[], bool] = lambda: True,
) -> int | None:
    """The user whose connection from ``peer`` leads to one of ``listening``; None if none does.

    Args:
        peer: on the loopback; nobody is found elsewhere.
        listening: addresses of listening sockets; one for all of them (0.0.0.0, ::) is reached at
            the first of the loopback.
        table: what the system says of its connections; else it is asked.
        may_read: whether the table may be read, if it has to be.

    Raises:
        TooOften: it would have to, and may not.
    """
    if (home := plain(peer[0])) is None or not home.is_loopback:
        return None
    reached = list(_reached(home, listening))
    if not table:
        for there in reached:
            if (uid := sockdiag.owner((home, peer[1]), there)) is not None:
                return uid
        if reached and not may_read():
            raise TooOften
    mine = _written(home, peer[1])
    theirs = {_written(there, port) for there, port in reached}
    for text in [table] if table else _tables():
        for line in text.splitlines():
            fields = line.split()
            ends = [each.removeprefix(_MAPPED) for each in fields[1:3]]
            if ends[0] == mine and ends[1] in theirs and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None


def _tables() -> Iterator[str]:
    """One after the other: the system needs some milliseconds for each, however short it is."""
    for each in TABLES:
        if each.exists():
            with each.open(encoding="ascii") as file:
                text = file.read(limits.TABLE)
            yield text[: text.rfind("\n") + 1]  # what is behind the bound is nobody's


def plain(said: str) -> Address | None:
    """An address as a socket says it; one of IPv4 in one of IPv6 is that of IPv4."""
    found = address_of(said)
    return getattr(found, "ipv4_mapped", None) or found


def _reached(home: Address, listening: Iterable[Place]) -> Iterator[tuple[Address, int]]:
    """Where a program at ``home`` is connected that has called one of these."""
    first = ipaddress.ip_address("127.0.0.1" if home.version == 4 else "::1")
    for said, port in listening:
        if there := plain(said):
            yield first if there.is_unspecified else there, port


def _written(address: Address, port: int) -> str:
    """As the table has it: words of 32 bits, each a number in the processor's own order."""
    words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    return f"{''.join(f'{each:08X}' for each in words)}:{port:04X}"
