"""Connections to a plugin's port: the broker accepts them, passes them on and writes them down."""

import asyncio
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from broker_parts import Steward, free_port, received, stewards
from clawai.kernel.broker import limits
from clawai.sdk.errors import ClawError
from clawai.sdk.net import Network, NetworkError
from support import no_leak, wait_until


@pytest.fixture(scope="module")
def steward() -> Iterator[Steward]:
    """One broker for all, which has to outlive them (but for the test that kills it)."""
    with no_leak(), stewards() as made:
        yield made


def listening(steward: Steward, plugin: str = "") -> tuple[int, Network, int]:
    """A worker with a port: its number, what it has, the port."""
    port = free_port()
    number, worker = steward.numbered(listen=(str(port),), plugin=plugin)
    return number, worker, port


def visitor(port: int) -> socket.socket:
    """Somebody who connects."""
    return socket.create_connection(("127.0.0.1", port), 30)


def test_both_see_bytes_and_ends_and_the_log_sees_the_connection(steward: Steward) -> None:
    number, worker, port = listening(steward)
    with visitor(port) as outside:
        inside, peer = worker.listener(port).accept()
        assert peer == outside.getsockname() == inside.getpeername()
        outside.sendall(b"knock")
        assert inside.recv(100) == b"knock"
        inside.sendall(b"who is there")
        inside.close()
        assert received(outside) == b"who is there"
    record = steward.record(worker=number, event="accept")
    assert (record["port"], record["address"], record["peer_port"]) == (port, *peer)
    end = steward.record(worker=number, event="end", n=record["n"])
    assert (end["sent"], end["received"], end["reason"]) == (12, 5, "closed")
    assert end["seconds"] >= 0


def test_it_waits_as_long_as_a_socket_does(steward: Steward) -> None:
    _, worker, port = listening(steward)
    listener = worker.listener(port)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.settimeout(None)
    with visitor(port), listener.accept()[0] as inside:
        assert inside.gettimeout() is None


def test_a_reset_is_no_quiet_end(steward: Steward) -> None:
    _, worker, port = listening(steward)
    outside = visitor(port)
    with worker.listener(port).accept()[0] as inside:
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        outside.close()
        with pytest.raises(NetworkError) as caught:
            inside.recv(1)
        assert caught.value.reason == "lost"


def test_only_an_own_port(steward: Steward) -> None:
    _, worker, _ = listening(steward)
    _, _, port = listening(steward)
    with visitor(port), pytest.raises(ClawError) as caught:
        worker.accept(port)
    assert caught.value.code == "not_permitted"


def test_workers_of_one_plugin_share_a_port_and_who_asks_gets(steward: Steward) -> None:
    _, first, port = listening(steward, "shared")
    number, second = steward.numbered(listen=(str(port),), plugin="shared")
    with visitor(port), second.listener(port).accept()[0]:
        assert steward.record(event="accept", port=port)["worker"] == number
        steward.leave(number)
        with visitor(port), first.listener(port).accept()[0]:
            pass


def refused(port: int) -> bool:
    try:
        visitor(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_port_is_closed_with_its_last_worker(steward: Steward) -> None:
    number, worker, port = listening(steward)
    with visitor(port) as outside:
        inside, _ = worker.listener(port).accept()
        steward.leave(number)
        assert outside.recv(1) == b""
        inside.close()
    wait_until(lambda: refused(port), "its port is closed behind its connections")
    again, worker = steward.numbered(listen=(str(port),))
    with visitor(port), worker.listener(port).accept()[0]:
        assert steward.record(event="accept", port=port)["worker"] == again


def test_who_has_enough_lets_others_wait(steward: Steward, monkeypatch: pytest.MonkeyPatch) -> None:
    _, worker, port = listening(steward)
    listener = worker.listener(port)
    outside = [visitor(port) for _ in range(limits.CONNECTIONS + 1)]
    inside = [listener.accept()[0] for _ in range(limits.CONNECTIONS)]
    listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listener.accept()
    inside.pop().close()
    listener.settimeout(30)
    inside.append(listener.accept()[0])
    for sock in (*inside, *outside):
        sock.close()


def test_an_event_loop_serves_on_it(steward: Steward) -> None:
    _, worker, port = listening(steward)
    listener = worker.listener(port)
    listener.setblocking(False)

    async def serve() -> list[bytes]:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        server = await asyncio.start_server(one, sock=listener)
        async with server:
            return await asyncio.gather(*(asyncio.to_thread(ask, text) for text in (b"a", b"b")))

    def ask(text: bytes) -> bytes:
        with visitor(port) as outside:
            outside.sendall(text + b"\n")
            return received(outside)

    assert asyncio.run(serve()) == [b"A\n", b"B\n"]


def test_the_brokers_death_costs_the_connections_and_not_the_port(steward: Steward) -> None:
    _, worker, port = listening(steward)
    listener = worker.listener(port)
    with visitor(port) as outside, listener.accept()[0] as inside:
        before = steward.network.pid
        os.kill(before, signal.SIGKILL)
        assert outside.recv(1) == b""
        with pytest.raises(NetworkError, match="broker ended"):
            inside.recv(1)
    taken: list[socket.socket] = []
    waiting = threading.Thread(target=lambda: taken.append(listener.accept()[0]))
    waiting.start()
    with visitor(port) as outside:
        outside.sendall(b"still here")
        waiting.join(30)
        assert taken[0].recv(100) == b"still here"
        taken[0].close()
    wait_until(lambda: steward.network.pid not in (0, before), "another broker")


def test_asking_without_end_is_slowed(steward: Steward) -> None:
    _, worker, port = listening(steward)
    many = int(limits.TAKES_BURST) + 20
    began = time.monotonic()
    for _ in range(many):
        assert worker.accept(port) is None
    assert time.monotonic() - began >= 10 / limits.TAKES_RATE
