"""Whose a connection to a plugin's port is: as the system's table says, and asked by a worker."""

import errno
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from broker_parts import Steward, free_port, stewards
from clawai.kernel.broker import callers, limits, sockdiag
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Permissions
from clawai.sdk.net import Caller, NetworkError
from clawai.sdk.net import Network as Worker
from support import no_leak

HOME = ("127.0.0.1", 8080)
ELSEWHERE = """
import encodings.idna, os, socket, sys  # before it is another user, who may not read them
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    print(sock.getsockname()[1], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def steward() -> Iterator[Steward]:
    """One broker for all."""
    with no_leak(), stewards() as made:
        yield made


def listening(steward: Steward, serves: bool = False) -> tuple[Worker, int]:
    """A worker that listens, and its port."""
    port = free_port()
    asked = Permissions(listen={str(port): "?"}, on_behalf_of="?" if serves else "")
    return steward.numbered(asked=asked)[1], port


def written(address: str, port: int) -> str:
    """As the kernel prints it (``net/ipv4/tcp_ipv4.c``, ``net/ipv6/tcp_ipv6.c``): words of this
    processor's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{each:08X}" for each in words) + f":{port:04X}"


def row(uid: int, mine: tuple[str, int], theirs: tuple[str, int], state: str = "01") -> str:
    ends = f"{written(*mine)} {written(*theirs)}"
    return f"   0: {ends} {state} 00000000:00000000 00:00000000 00000000 {uid} 0 1\n"


def test_the_table_is_read_by_both_ends() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    table = head + row(1000, ("127.0.0.1", 5000), HOME)
    table += row(1001, ("127.0.0.1", 5001), HOME, "06")
    table += row(1002, ("127.0.0.1", 5002), ("127.0.0.1", 9090))
    table += row(1003, ("::ffff:127.0.0.1", 5003), ("::ffff:127.0.0.1", 8080))
    table += row(1004, ("::1", 5004), ("::1", 8080))
    table += row(1005, ("127.0.0.1", 5005), ("127.0.0.9", 8080))
    table += row(1006, ("127.0.0.3", 5000), HOME)
    table += row(1007, ("10.0.0.1", 5007), ("10.0.0.1", 8080))

    def found(host: str, port: int, *listening: tuple[str, int]) -> int | None:
        return callers.caller((host, port), listening or [HOME], table)

    assert found("127.0.0.1", 5000) == 1000
    assert found("::ffff:127.0.0.1", 5000) == 1000, "as a listener of IPv6 says it"
    assert found("127.0.0.3", 5000) == 1006, "by its address, too"
    assert found("127.0.0.1", 5003) == 1003, "by a socket of IPv6"
    assert found("127.0.0.1", 5001) is None, "it has ended"
    assert found("127.0.0.1", 5002) is None, "it leads elsewhere"
    assert found("127.0.0.1", 5005) is None, "to somebody else at that port"
    assert found("127.0.0.1", 8080, ("127.0.0.1", 5000)) is None, "the other side of it"
    assert found("::1", 5004) is None and found("::1", 5004, ("::1", 8080)) == 1004
    for all_of_them in ("::", "0.0.0.0"):
        assert found("127.0.0.1", 5000, (all_of_them, 8080)) == 1000
    assert found("::1", 5004, ("::", 8080)) == 1004
    assert found("10.0.0.1", 5007, ("0.0.0.0", 8080)) is None, "of the loopback only"
    assert found("nobody", 5000) is None


LOCAL = ipaddress.ip_address("127.0.0.1")
ENDS = (LOCAL, 5000), (LOCAL, 8080)


def told(uid: int, ends: tuple[tuple[str, int], tuple[str, int]], state: int = 1) -> bytes:
    """As the system answers (``struct inet_diag_msg``)."""
    (here, mine), (there, theirs) = ends
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    source, target = (socket.inet_pton(family, each).ljust(16, b"\0") for each in (here, there))
    body = struct.pack("=BBBB", family, state, 0, 0)
    body += struct.pack("!HH", mine, theirs) + source + target + bytes(12)
    body += struct.pack("=IIIII", 0, 0, 0, uid, 1)
    return struct.pack("=IHHII", 16 + len(body), 20, 0, 1, 0) + body


def test_what_the_system_says_of_one_connection_is_read_by_both_ends() -> None:
    good = told(1000, (("127.0.0.1", 5000), HOME))
    assert sockdiag.read(good, *ENDS) == 1000
    mapped = told(1000, (("::ffff:127.0.0.1", 5000), ("::ffff:127.0.0.1", 8080)))
    assert sockdiag.read(mapped, *ENDS) == 1000
    for count in range(len(good)):
        assert sockdiag.read(good[:count], *ENDS) is None, "cut short"
    for other in (
        told(1000, (("127.0.0.1", 5000), HOME), 8),
        told(1000, (("127.0.0.1", 5000), ("0.0.0.0", 0)), 10),
        told(1000, (HOME, ("127.0.0.1", 5000))),
        told(1000, (("127.0.0.3", 5000), HOME)),
        struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.ENOENT) + bytes(84),
        good[:8] + bytes(8) + good[16:],
    ):
        assert sockdiag.read(other, *ENDS) is None


def test_the_system_is_asked_for_one_connection_or_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        home = listener.getsockname()
        with socket.create_connection(home) as sock:
            peer = sock.getsockname()
            assert callers.caller(peer, [home]) == os.getuid()
            assert callers.caller(peer, [("127.0.0.1", 1)]) is None

            def missing(*_: object) -> None:
                """Of a system whose kernel has no such module."""

            monkeypatch.setattr(sockdiag, "owner", missing)
            assert callers.caller(peer, [home]) == os.getuid()
            with pytest.raises(callers.TooOften):
                callers.caller(peer, [home], may_read=lambda: False)
            monkeypatch.setattr(limits, "TABLE", 100)
            assert callers.caller(peer, [home]) is None, "what is behind the bound is nobody's"


def test_a_worker_learns_whose_a_connection_is(steward: Steward) -> None:
    made, port = listening(steward)
    with socket.create_connection(("127.0.0.1", port)) as outside:
        found = made.caller(outside.getsockname())
        assert found == Caller(os.getuid(), os.getuid()) and found.is_owner
        assert made.caller(("127.0.0.1", 1)).uid is None
        assert made.caller(("10.1.2.3", outside.getsockname()[1])).uid is None
        peer = outside.getsockname()
    gone = made.caller(peer)
    assert gone.uid is None and not gone.is_owner


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a program as another user")
def test_another_user_is_not_the_owner(steward: Steward) -> None:
    made, port = listening(steward)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin and other.stdout
        found = made.caller(("127.0.0.1", int(other.stdout.readline())))
        other.stdin.close()
    assert found == Caller(65534, 0) and not found.is_owner


def test_who_is_the_owner() -> None:
    assert Caller(1000, 1000).is_owner and Caller(0, 1000).is_owner
    assert not Caller(1001, 1000).is_owner
    assert not Caller(None, 1000).is_owner and not Caller(None, 0, "evil").is_owner


@pytest.mark.parametrize("serves", [False, True], ids=["a pair", "itself"])
def test_a_plugin_that_connects_is_not_the_user_of_the_broker(
    steward: Steward, serves: bool
) -> None:
    made, port = listening(steward, serves)
    plugin = steward.worker(f"localhost:{port}")
    listener = made.listener(port)
    listener.settimeout(10)
    with plugin.connect("localhost", port) as inside:
        taken, peer = listener.take() if serves else listener.accept()
        with taken:
            found = made.caller(peer)
            assert found.uid is None and found.plugin.startswith("plug") and not found.is_owner
            inside.sendall(b"x")
            assert taken.recv(1) == b"x"


def test_who_has_no_port_has_no_callers(steward: Steward) -> None:
    with pytest.raises(ClawError, match="nobody is connected"):
        steward.worker().caller(HOME)
    assert steward.worker("lan").caller(HOME).uid is None


def test_asking_too_often_is_refused_and_stops_nobody_else(steward: Steward) -> None:
    made, port = listening(steward)
    refused = []

    def ask() -> None:
        try:
            made.caller(("127.0.0.1", 1))
        except NetworkError as error:
            refused.append(error)

    for _ in range(limits.LOOKS_BURST * 3):
        ask()
    assert refused and refused[0].reason == "too_many" and refused[0].retry_after_ms
    taken = []
    listener = made.listener(port)
    listener.settimeout(10)
    accepting = threading.Thread(target=lambda: taken.append(listener.accept()[0]))
    accepting.start()
    with socket.create_connection(("127.0.0.1", port)):
        accepting.join(10)
    assert taken, "others are accepted all the same"
    taken[0].close()
