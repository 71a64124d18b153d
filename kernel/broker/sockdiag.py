"""One connection of this box, asked of the system by both of its ends (``sock_diag(7)``).

It costs some 20 microseconds however many connections there are, and needs no right. The message
is that of ``linux/inet_diag.h``; the kernel's module for it is not everywhere.
"""

import ipaddress
import socket
import struct

from clawai.sdk.netrules import Address

Place = tuple[Address, int]
_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_NO_COOKIE = 0xFFFFFFFF
_ESTABLISHED = 1
_HEAD = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port (``nlmsghdr``)."""
_ASKED = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH16s16s")
_WHERE = struct.Struct("=III")
"""Interface, and a cookie in two words."""
_TOLD = struct.Struct("=BBBB48sIIIII")
"""Family, state, timer, retransmissions, the ends, and then: expires, two queues, uid, inode."""


def owner(mine: Place, theirs: Place) -> int | None:
    """The user who has made the socket of TCP at ``mine`` that is connected with ``theirs``.

    None: there is none, it is not open on both sides, or the system cannot be asked so.
    """
    family = socket.AF_INET if mine[0].version == 4 else socket.AF_INET6
    ends = _ENDS.pack(mine[1], theirs[1], _padded(mine[0]), _padded(theirs[0]))
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _ESTABLISHED)
    asked += ends + _WHERE.pack(_loopback(), _NO_COOKIE, _NO_COOKIE)
    head = _HEAD.pack(_HEAD.size + len(asked), _BY_FAMILY, _REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as sock:
            sock.sendto(head + asked, (0, 0))
            # The answer is there by now: the system makes it while the question is sent.
            told, (port, _) = sock.recvfrom(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    return read(told, mine, theirs) if port == 0 else None


def read(told: bytes, mine: Place, theirs: Place) -> int | None:
    """What an answer says of this connection; None if it is of another, an error, or cut short."""
    if len(told) < _HEAD.size + _TOLD.size:
        return None
    length, kind, _, number, _ = _HEAD.unpack_from(told)
    if kind != _BY_FAMILY or number != 1 or not _HEAD.size + _TOLD.size <= length <= len(told):
        return None
    family, state, _, _, ends, _, _, _, uid, _ = _TOLD.unpack_from(told, _HEAD.size)
    here, there, source, target = _ENDS.unpack_from(ends)
    found = (_address(family, source), here), (_address(family, target), there)
    # Where no such connection is, a listening socket may be found in its place.
    return int(uid) if state == _ESTABLISHED and found == (mine, theirs) else None


def _loopback() -> int:
    """Through which all goes that stays on the box: a socket may be bound to it (SO_BINDTODEVICE),
    and is found by its number only; one that is not bound is found by any."""
    try:
        return socket.if_nametoindex("lo")
    except OSError:
        return 0


def _padded(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _address(family: int, packed: bytes) -> Address | None:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(packed[:4])
    if family != socket.AF_INET6:
        return None
    found = ipaddress.IPv6Address(packed)
    return found.ipv4_mapped or found
