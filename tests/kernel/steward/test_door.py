"""The steward's door: who is let in, after how much, and what the daemon is told of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.kernel import limits
from clawai.kernel.steward.door import Client
from clawai.kernel.steward.limits import EARLY
from clawai.sdk import wire
from clawai.sdk.plain import unpack
from clawai.sdk.zmtp_handshake import GREETING
from steward_parts import Served, joined
from support import Kernel, RawPeer, memory_kib, no_leak, wait_until

HELLO = wire.encode(wire.Hello(version=wire.VERSION))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with no_leak():
        found = Served(tmp_path)
        yield found
        found.close()


def test_a_client_is_handed_over_with_what_it_said_behind_its_hello(served: Served) -> None:
    peer = served.connect()
    behind = joined([b"second", b"frame"], [b"third"])[:-2]
    peer.sock.sendall(peer.zmtp.outgoing() + joined(HELLO) + behind)
    told = served.told()
    assert told
    (number, uid, leases, welcome, early), fds = told
    assert (number, uid, early) == (1, os.getuid(), behind)
    assert served.door.process(1) == os.getpid()
    assert not leases
    assert served.door.clients.keys() == {1}
    assert not served.door.newcomers
    os.write(fds[0], welcome)
    said = peer.message()
    assert (said.pid, said.leases, said.principal) == (77, False, f"uid:{os.getuid()}")
    os.close(fds[0])
    served.door.left(1)
    assert not served.door.clients


def test_a_hello_in_single_bytes(served: Served) -> None:
    peer = served.connect()
    for byte in peer.zmtp.outgoing() + joined(HELLO):
        assert not served.door.clients
        peer.sock.sendall(bytes((byte,)))
        served.loop.turn(1)
    told = served.told()
    assert told
    assert told[0][4] == b""
    os.close(told[1][0])


def test_who_says_nothing_is_closed_in_time(served: Served) -> None:
    peer = served.connect()
    due = served.door.next_timer()
    assert due
    served.door.expire(due - 1)
    assert served.door.newcomers
    served.door.expire(due)
    assert not served.door.newcomers
    assert served.door.next_timer() is None
    assert peer.closed()


@pytest.mark.parametrize(
    "endless",
    [
        joined(wire.encode(wire.Query(id=1, what="status"))),
        joined([b"\xc1"]),
        b"\x01\x01x",
        b"\x04\x17\x04PING\x00\x00" + b"c" * 16,
        b"\x04\x04\x03FOO",
    ],
)
def test_who_says_too_much_before_hello_is_closed(served: Served, endless: bytes) -> None:
    peer = served.connect()
    peer.sock.sendall(peer.zmtp.outgoing())
    peer.sock.setblocking(False)
    data, sent = endless * (2 * EARLY // len(endless)), 0
    for _ in range(100_000):
        if not served.door.newcomers:
            break
        try:
            sent += peer.sock.send(data[sent % len(endless) :][:4096])
        except (BlockingIOError, BrokenPipeError):
            pass
        served.loop.turn(0)
        for new in served.door.newcomers.values():
            assert new.took <= EARLY + 2**14
    assert not served.door.newcomers
    assert not served.door.clients


def test_a_first_message_that_is_too_large_is_refused_by_its_length(served: Served) -> None:
    peer = served.connect()
    peer.sock.sendall(peer.zmtp.outgoing() + b"\x02" + (EARLY + 1).to_bytes(8, "big"))
    assert served.told() is None
    error = peer.message()
    assert (error.code, unpack(error.allowed)) == ("too_large", EARLY)
    assert peer.closed()


def test_the_oldest_newcomer_makes_room_and_clients_do_not(served: Served) -> None:
    served.door.clients = {n: Client(0) for n in range(limits.CLIENTS - 2)}
    peers = [served.connect() for _ in range(3)]
    assert peers[0].closed()
    assert len(served.door.newcomers) == 2
    served.door.clients = {n: Client(0) for n in range(limits.CLIENTS)}
    for new in list(served.door.newcomers.values()):
        served.door._dismiss(new)
    peer = RawPeer(served.path)
    served.peers.append(peer)
    served.loop.turn(1)
    assert peer.closed()
    assert "too many" in served.log.path.read_text()


def test_a_new_steward_counts_the_clients_that_are_there(kernel: Kernel) -> None:
    """Its numbers go on where those of the old one ended: two clients are never taken for one."""
    clients = [kernel.client() for _ in range(3)]
    clients[1].close()
    first = kernel.steward()
    wait_until(lambda: clients[0].query("status")["uptime_s"] >= 1, "it did not die at once")
    os.kill(first, 9)
    wait_until(lambda: kernel.steward() not in (0, first), "there is another")
    tasks = [client.submit("echo.count", {"upto": 50}) for client in (clients[0], kernel.client())]
    assert [task.result().value for task in tasks] == [50, 50]
    assert clients[0].query("status")["clients"] == 3
    clients[2].close()
    wait_until(lambda: clients[0].query("status")["clients"] == 2, "one has left")


def test_the_steward_stays_small_under_newcomers(kernel: Kernel) -> None:
    """As many as may wait, each with as much as it may say before hello."""
    before, steward = memory_kib(kernel.steward()), kernel.steward()
    piece = b"\x02" + EARLY.to_bytes(8, "big") + b"x" * (EARLY - 1024)
    peers = [kernel.raw() for _ in range(limits.CLIENTS + 20)]
    for peer in peers:
        try:
            peer.sock.sendall(peer.zmtp.outgoing() + piece)
        except BrokenPipeError:
            pass  # it had to make room
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
    assert kernel.steward() == steward
    assert memory_kib(steward, "VmHWM") - before <= 64 * 1024
    for peer in peers:
        peer.close()


def test_garbage_is_told_so(served: Served) -> None:
    peer = served.connect()
    peer.sock.sendall(GREETING + b"\x00\x01x")
    assert served.told() is None
    peer.zmtp.outgoing()
    assert peer.message().code == "bad_frame"
    assert peer.closed()
