"""Connections that a front gets itself: the broker accepts, counts and can end them."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker_parts import Steward, free_port, received, stewards
from clawai.kernel.broker import limits
from clawai.kernel.broker.handed import Counts, Handed
from clawai.kernel.broker.service import Broker
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.sdk.manifest import Permissions
from clawai.sdk.net import Connection, Listener, Network, NetworkError, Taken
from support import no_leak, wait_until

HERE = Path(__file__).parent
MIB = 1 << 20


@pytest.fixture(scope="module")
def steward() -> Iterator[Steward]:
    """One broker for all, which has to outlive them (but for the test that kills it)."""
    with no_leak(), stewards() as made:
        yield made


def front(steward: Steward, behalf: str = "it serves") -> tuple[int, Network, Listener, int]:
    """A worker with a port that serves others: its number, what it has, its port."""
    port = free_port()
    asked = Permissions(listen={str(port): "?"}, on_behalf_of=behalf)
    number, worker = steward.numbered(asked=asked)
    return number, worker, worker.listener(port), port


def visitor(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30)


def ended(steward: Steward, number: int, count: int = 1) -> dict[str, Any]:
    """What is written down of the last of ``count`` ends."""

    def found() -> list[Any]:
        records = steward.records(worker=number, event="end")
        return records if len(records) == count else []

    record: dict[str, Any] = wait_until(found, f"{count} ends")[-1]
    return record


def test_it_is_the_connection_itself_and_is_written_down_as_ever(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    with visitor(port) as outside:
        inside, peer = listener.take()
        assert isinstance(inside, Taken)
        assert inside.family == socket.AF_INET
        assert peer == outside.getsockname() == inside.getpeername()
        assert inside.getsockname() == outside.getpeername()
        outside.sendall(b"knock")
        assert inside.recv(100) == b"knock"
        inside.sendall(b"who is there")
        inside.close()
        assert received(outside) == b"who is there"
    record = steward.record(worker=number, event="accept")
    assert (record["port"], record["address"], record["peer_port"]) == (port, *peer)
    end = ended(steward, number)
    assert (end["sent"], end["received"], end["reason"]) == (12, 5, "closed")
    assert (end["n"], end["seconds"] >= 0) == (record["n"], True)


def test_an_end_of_the_other_side_is_quiet_and_counts_for_nothing(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    outside = visitor(port)
    inside, _ = listener.take()
    outside.sendall(b"12345")
    outside.shutdown(socket.SHUT_WR)
    assert received(inside) == b"12345"
    inside.sendall(b"answer")
    inside.shutdown(socket.SHUT_WR)
    assert received(outside) == b"answer"
    end = ended(steward, number)
    assert (end["sent"], end["received"], end["reason"]) == (6, 5, "closed")
    inside.close()
    outside.close()


def test_the_end_of_one_may_end_others_that_were_idle_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        broker = Broker(Link(ours))
        stack.callback(os.close, broker.resolver._event)  # else it is there until the process ends
        held: list[Handed] = []
        for _ in range(3):
            stack.enter_context(visitor(server.getsockname()[1]))
            held.append(
                Handed(
                    broker.loop,
                    server.accept()[0],
                    lambda _: [each.close("gone") for each in held],
                )
            )
        broker._idle = dict.fromkeys(held, 0.0)
        broker._expire(limits.IDLE + 1)
        assert not any(each.open for each in held)


def test_an_answer_that_nobody_waits_for_lets_go_of_its_connection() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        network = Network("late", channel=ours)
        with network._state:
            network._told({"n": 7}, [os.open("/dev/null", os.O_RDONLY)], False)
        said = msgspec.msgpack.decode(theirs.recv(4096))
        assert (said["n"], said["over"]) == (7, True)


def test_megabytes_are_counted_to_the_byte(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    data = os.urandom(MIB) * 24 + b"x"
    with visitor(port) as outside, listener.take()[0] as inside:
        sending = threading.Thread(
            target=lambda: (inside.sendall(data), inside.shutdown(socket.SHUT_WR))
        )
        sending.start()
        assert received(outside) == data
        sending.join()
        outside.sendall(data[:MIB])
        outside.shutdown(socket.SHUT_WR)
        assert received(inside) == data[:MIB]
    end = ended(steward, number)
    assert (end["sent"], end["received"]) == (len(data), MIB)


def test_what_was_written_before_the_end_still_arrives(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    with visitor(port) as outside:
        inside, _ = listener.take()
        inside.setblocking(False)
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += inside.send(bytes(65536))
        inside.close()
        end = ended(steward, number)
        assert len(received(outside)) == size == end["sent"]


def test_a_reset_is_no_quiet_end_here_either(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    outside = visitor(port)
    with listener.take()[0] as inside:
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        outside.close()
        with pytest.raises(NetworkError) as caught:
            inside.recv(1)
        assert caught.value.reason == "lost"
    assert ended(steward, number)["reason"] == "reset"


def test_who_is_no_front_gets_a_pair(steward: Steward) -> None:
    _, _, listener, port = front(steward, behalf="")
    with visitor(port) as outside:
        inside, _ = listener.take()
        assert inside.family == socket.AF_UNIX
        assert not isinstance(inside, Taken)
        inside.sendall(b"x")
        inside.close()
        assert received(outside) == b"x"


def test_a_front_that_accepts_gets_a_pair_too(steward: Steward) -> None:
    _, _, listener, port = front(steward)
    with visitor(port), listener.accept()[0] as inside:
        assert inside.family == socket.AF_UNIX


def test_nobody_ends_what_it_was_not_given(steward: Steward) -> None:
    _, worker, listener, port = front(steward)
    with visitor(port) as outside, listener.accept()[0] as relayed:
        assert isinstance(relayed, Connection)
        for number in (relayed._number, 99_999):
            worker.let_go(number)
        outside.sendall(b"alive")
        assert relayed.recv(5) == b"alive"


def test_a_file_of_it_holds_it_open(steward: Steward) -> None:
    _, _, listener, port = front(steward)
    with visitor(port) as outside:
        inside, _ = listener.take()
        file = inside.makefile("rwb", buffering=0)
        inside.close()
        outside.sendall(b"1")
        assert file.read(1) == b"1"
        file.close()
        assert outside.recv(1) == b""


def test_one_that_has_let_go_has_nothing_left(steward: Steward) -> None:
    _, worker, listener, port = front(steward)
    with visitor(port) as outside, listener.take()[0] as inside:
        assert isinstance(inside, Taken)
        worker.let_go(inside._number)  # and it keeps the descriptor
        assert outside.recv(1) == b""
        wait_until(lambda: select.select([inside], [], [], 0)[0], "its end is there")
        assert inside.recv(1) == b""
        with pytest.raises(OSError):  # broken pipe or reset
            for _ in range(100):
                inside.send(b"x")


def test_the_death_of_its_worker_ends_it(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    with visitor(port) as outside:
        inside, _ = listener.take()
        steward.leave(number)
        assert outside.recv(1) == b""
        end = ended(steward, number)
        assert end["reason"] == "gone"
        inside.close()


def test_room_is_there_again_once_one_has_ended(steward: Steward) -> None:
    number, _, listener, port = front(steward)
    for count in range(1, 40):
        with visitor(port) as outside:
            inside, _ = listener.take()
            inside.close()
            assert outside.recv(1) == b""
        ended(steward, number, count)


@pytest.mark.parametrize("secured", [False, True])
def test_an_event_loop_ends_what_it_was_given(steward: Steward, secured: bool) -> None:
    number, _, listener, port = front(steward)
    listener.setblocking(False)
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(HERE / "localhost.pem")
    here = ssl.create_default_context(cafile=HERE / "localhost.pem")

    class Answers(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())
            self.transport.close()

    async def serve() -> bytes:
        loop = asyncio.get_running_loop()
        asking = asyncio.create_task(asyncio.to_thread(ask))
        ready = asyncio.Event()
        loop.add_reader(listener.fileno(), ready.set)
        await ready.wait()
        loop.remove_reader(listener.fileno())
        inside, _ = listener.take()
        inside.setblocking(False)
        await loop.connect_accepted_socket(Answers, inside, ssl=there if secured else None)
        return await asking

    def ask() -> bytes:
        with contextlib.ExitStack() as stack:
            outside = stack.enter_context(visitor(port))
            if secured:
                outside = here.wrap_socket(outside, server_hostname="localhost")
                stack.enter_context(outside)
            outside.sendall(b"a")
            return received(outside)

    assert asyncio.run(serve()) == b"A"
    assert ended(steward, number)["reason"] == "closed"


def test_it_outlives_the_broker_and_the_next_one_knows_nothing_of_it(steward: Steward) -> None:
    _, _, listener, port = front(steward)
    with visitor(port) as outside:
        inside, _ = listener.take()
        before = steward.network.pid
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: steward.network.pid not in (0, before), "another broker")
        outside.sendall(b"still")
        assert inside.recv(5) == b"still"
        inside.close()
        assert outside.recv(1) == b""
        with visitor(port) as other:
            taken, _ = listener.take()
            taken.close()
            assert other.recv(1) == b""


# Without a process: what a look at one says.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        outside = socket.create_connection(server.getsockname())
        inside, _ = server.accept()
    with outside, inside:
        yield outside, inside


def test_what_moves_is_seen_and_is_ended_when_asked(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    outside, inside = pair
    loop, told = Loop(lambda _: None), []
    handed = Handed(loop, inside.dup(), told.append)
    assert not handed.has_moved()
    outside.sendall(b"123")
    assert inside.recv(3) == b"123"
    assert (handed.has_moved(), handed.has_moved(), handed.carried) == (True, False, 3)
    handed.close("idle")
    handed.close("limit")
    assert (told, handed.sent, handed.received) == (["idle"], 0, 3)
    assert inside.recv(1) == b""
    assert outside.recv(1) == b""
    loop.poller.close()


def test_a_half_that_has_ended_does_not_keep_the_loop_awake(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    outside, inside = pair
    loop, told = Loop(lambda _: None), []
    Handed(loop, inside.dup(), told.append)
    outside.shutdown(socket.SHUT_WR)
    assert loop.poller.poll(5)
    loop.turn(0)
    assert not loop.poller.poll(0.05)
    assert not told
    inside.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: loop.turn(0) or told, "both halves have ended")
    assert told == ["closed"]
    loop.poller.close()


def test_counts_leave_out_the_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    outside, inside = pair
    inside.sendall(b"12")
    outside.sendall(b"123")
    assert outside.recv(2) == b"12"
    assert inside.recv(3) == b"123"
    assert Counts.of(inside).sent == 2
    inside.shutdown(socket.SHUT_WR)
    assert outside.recv(1) == b""
    wait_until(lambda: Counts.of(inside).confirmed, "the end is confirmed")
    assert Counts.of(inside).sent == 2
