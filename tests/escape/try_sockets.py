"""Sockets. Landlock misses UDP and named UNIX sockets, namespaces miss vsock and netlink."""

import ctypes
import os
import socket
import struct

from registry import Facts, Sighting, attempt, is_open, is_secret, tell

_libc = ctypes.CDLL(None, use_errno=True)


def _show(facts: Facts, sock: socket.socket) -> None:
    with sock:
        tell(facts, fds=(sock.fileno(),))


def _family(seen: Sighting) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(seen.fds[0])) as sock:
        return sock.family, sock.type


def _listens(_: object, seen: Sighting) -> bool:
    with socket.socket(fileno=os.dup(seen.fds[0])) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@attempt(lambda bait, _: bait.reached(bait.tcp))
def tcp_connect(facts: Facts) -> None:
    socket.create_connection(("127.0.0.1", facts["tcp"]), timeout=5).close()


@attempt(lambda bait, _: bait.reached(bait.multipath))
def multipath_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", facts["multipath"]))


@attempt(look=_listens)
def tcp_listen(facts: Facts) -> None:
    _show(facts, socket.create_server(("127.0.0.1", 0)))


def _dissolve(sock: socket.socket) -> None:
    """Have a connection end in a way that leaves its socket as if it were new."""
    nowhere = struct.pack("=H", socket.AF_UNSPEC) + bytes(14)
    if _libc.connect(sock.fileno(), nowhere, len(nowhere)):
        raise OSError(ctypes.get_errno(), "connect")


@attempt(lambda bait, _: bait.reached(bait.elsewhere))
def dissolve_and_connect(facts: Facts) -> None:
    with socket.socket(fileno=os.dup(facts["handed"])) as sock:
        _dissolve(sock)
        sock.connect(("127.0.0.1", facts["elsewhere"]))


@attempt(look=_listens)
def dissolve_and_listen(facts: Facts) -> None:
    sock = socket.socket(fileno=os.dup(facts["handed_too"]))
    _dissolve(sock)
    sock.listen()
    _show(facts, sock)


@attempt(lambda bait, _: bait.reached(bait.udp))
def udp_send(facts: Facts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"out", ("127.0.0.1", facts["udp"]))


@attempt(look=is_open("socket:"))
def udp_bind(facts: Facts) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    _show(facts, sock)


@attempt(lambda bait, _: bait.reached(bait.stream))
def unix_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(facts["stream"])


@attempt(lambda bait, _: bait.reached(bait.abstract))
def abstract_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{facts['abstract']}")


@attempt(lambda bait, _: bait.reached(bait.unix_datagram))
def datagram_from_pair(facts: Facts) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.sendto(b"out", facts["datagram"])


@attempt(lambda bait, _: bait.made("bound"))
def unix_bind(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{facts['folder']}/bound")


@attempt(look=lambda _, seen: _family(seen) == (socket.AF_INET, socket.SOCK_RAW))
def raw_socket(facts: Facts) -> None:
    _show(facts, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


@attempt(look=lambda _, seen: _family(seen)[0] == socket.AF_PACKET)
def packet_socket(facts: Facts) -> None:
    _show(facts, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))


@attempt(look=lambda _, seen: _family(seen)[0] == socket.AF_VSOCK)
def vsock(facts: Facts) -> None:
    _show(facts, socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))


@attempt(look=lambda _, seen: _family(seen)[0] == socket.AF_NETLINK)
def netlink(facts: Facts) -> None:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.sendto(struct.pack("=LHHLLB3x", 20, 18, 0x301, 1, 0, 0), (0, 0))  # RTM_GETLINK
    link.recv(65536)
    _show(facts, link)


@attempt(look=lambda _, seen: _family(seen)[0] == socket.AF_NETLINK)
def kernel_events(facts: Facts) -> None:
    _show(facts, socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15))  # KOBJECT_UEVENT


@attempt(lambda _, evidence: evidence == os.uname().nodename)
def learn_host_name(_: Facts) -> str:
    return os.uname().nodename


@attempt(is_secret)
def environment_of_parent(_: Facts) -> str | None:
    # Set by whoever runs the attempts, in the environment of the process that spawns.
    return os.environ.get("CLAW_BAIT")
