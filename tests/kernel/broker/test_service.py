"""A real, jailed broker: connections, refusals, limits, and workers that mean harm."""

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker_parts import (
    Steward,
    echo,
    free_port,
    reasons,
    received,
    server,
    stewards,
)
from clawai.kernel.broker import limits
from clawai.kernel.broker.dial import is_own
from clawai.sdk.context import Cancelled
from clawai.sdk.errors import ClawError
from clawai.sdk.net import Connection, Network, NetworkError
from support import descriptors, memory_kib, no_leak, wait_until

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def steward() -> Iterator[Steward]:
    """One broker for all, which has to outlive them (but for the test that kills it)."""
    with no_leak(), stewards() as made:
        yield made


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that says everything again."""
    with server(echo) as number:
        yield number


def grant(port: int) -> str:
    return f"localhost:{port}"


def fails(worker: Network, host: str, port: int, timeout: float = 30.0) -> ClawError:
    with pytest.raises(ClawError) as caught:
        worker.connect(host, port, timeout)
    return caught.value


# What it is for.


def test_bytes_go_both_ways_and_ends_are_passed_on(steward: Steward, port: int) -> None:
    number, worker = steward.numbered(grant(port))
    with worker.connect("localhost", port) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        sock.sendall(b"more")
        sock.shutdown(socket.SHUT_WR)
        assert received(sock) == b"more"
    connect = steward.record(worker=number, event="connect")
    end = steward.record(worker=number, event="end")
    assert (connect["verdict"], connect["address"]) == ("allowed", "127.0.0.1")
    assert (end["sent"], end["received"], end["reason"]) == (9, 9, "closed")


def test_megabytes_with_back_pressure(steward: Steward, port: int) -> None:
    worker = steward.worker(grant(port))
    data = os.urandom(1 << 20) * 24
    with worker.connect("localhost", port) as sock:
        sender = threading.Thread(
            target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))
        )
        sender.start()
        assert received(sock) == data
        sender.join()


def test_a_reader_that_rests_holds_back_the_sender(steward: Steward) -> None:
    sent = [0]

    def flood(sock: socket.socket) -> None:
        while True:
            sent[0] += sock.send(bytes(65536))

    with server(flood) as port:
        before = memory_kib(steward.network.pid)
        number, worker = steward.numbered(grant(port))
        sock = worker.connect("localhost", port)

        def stands() -> bool:
            was = sent[0]
            time.sleep(0.1)
            return was == sent[0] > 0

        wait_until(stands, "the sender stands")
        assert sent[0] < 32 << 20
        assert memory_kib(steward.network.pid) - before < 8 << 10
        assert len(sock.recv(1000)) == 1000
        sock.close()
        assert steward.record(worker=number, event="end")["reason"] == "closed"


def test_many_connections_and_threads_of_one_worker(steward: Steward, port: int) -> None:
    worker = steward.worker(grant(port))
    wrong: list[Any] = []

    def talk(number: int) -> None:
        try:
            for _ in range(8):
                with worker.connect("127.0.0.1", port) as sock:
                    said = f"{number}".encode() * 100
                    sock.sendall(said)
                    sock.shutdown(socket.SHUT_WR)
                    assert received(sock) == said
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tls_ends_in_the_plugin(steward: Steward) -> None:
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(HERE / "localhost.pem")
    here = ssl.create_default_context(cafile=HERE / "localhost.pem")

    def serve(sock: socket.socket) -> None:
        with there.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"secret " + tls.recv(100))

    with server(serve) as port:
        sock = steward.worker(grant(port)).connect("localhost", port)
        with here.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"word")
            assert tls.recv(100) == b"secret word"


def test_http_over_the_broker(steward: Steward) -> None:
    def serve(sock: socket.socket) -> None:
        while sock.recv(65536):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with server(serve) as port:
        number, worker = steward.numbered(grant(port))
        with contextlib.closing(worker.http) as http:
            for _ in range(3):
                assert http.get(f"http://localhost:{port}/").text == "hi"
            with pytest.raises(ClawError) as caught:
                http.get("http://example.org/")
            assert caught.value.code == "not_permitted"
        assert len(steward.records(worker=number, event="connect", verdict="allowed")) == 1


def test_https_over_the_broker(steward: Steward) -> None:
    from clawai.sdk.http import transport

    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(HERE / "localhost.pem")

    def serve(sock: socket.socket) -> None:
        with there.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsafe")

    import httpx

    with server(serve) as port:
        worker = steward.worker(grant(port))
        trust = ssl.create_default_context(cafile=HERE / "localhost.pem")
        with httpx.Client(transport=transport(worker, trust)) as http:
            assert http.get(f"https://localhost:{port}/").text == "safe"
        with httpx.Client(transport=transport(worker)) as http, pytest.raises(httpx.ConnectError):
            http.get(f"https://localhost:{port}/")


# What it refuses.


def test_a_host_that_is_not_granted_is_not_even_resolved(steward: Steward) -> None:
    number, worker = steward.numbered("api.example.org")
    steward.hosts.write_text("secret.evil.org 1.2.3.4\n")
    error = fails(worker, "secret.evil.org", 443)
    assert (error.code, error.allowed) == ("not_permitted", ["api.example.org"])
    assert '"secret.evil.org" = "why"' in error.hint
    record = steward.record(worker=number, event="connect")
    assert (record["verdict"], record["address"]) == ("denied", "")


def test_a_plugin_without_the_permission_has_no_channel_at_all() -> None:
    error = fails(Network("plug"), "example.org", 80)
    assert (error.code, error.allowed) == ("not_permitted", [])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.0.1", "the local network"),
        ("127.0.0.1", "this box"),
        ("::1", "this box"),
        ("::ffff:127.0.0.1", "this box"),
        ("64:ff9b::7f00:1", "this box"),
        ("169.254.169.254", "metadata"),
        ("100.64.0.1", "the local network"),
        ("0.0.0.0", "never allowed"),
        ("224.0.0.1", "never allowed"),
    ],
)
def test_a_name_that_leads_inside_is_refused(steward: Steward, address: str, said: str) -> None:
    worker = steward.worker("inside.example.org", "localhost:80")
    steward.hosts.write_text(f"inside.example.org {address}\n")
    error = fails(worker, "inside.example.org", 80)
    assert error.code == "not_permitted"
    assert said in error.message


def test_a_name_is_resolved_once_so_that_its_answer_cannot_change(steward: Steward) -> None:
    """DNS rebinding: each question gets the next answer, and each connection asks once."""
    answers = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    steward.hosts.write_text("".join(f"rebind.example.org {each}\n" for each in answers))
    number, worker = steward.numbered("rebind.example.org")
    for _ in answers:
        fails(worker, "rebind.example.org", 80)
    steward.record(worker=number, address=answers[-1])
    assert [each["address"] for each in steward.records(worker=number, event="connect")] == answers


def test_the_address_that_was_checked_is_the_one_that_is_connected(
    steward: Steward, port: int
) -> None:
    """Only a literal goes from the check to the system: the name would lead elsewhere."""
    steward.hosts.write_text("localhost 10.0.0.1\n127.0.0.1 10.0.0.2\n")
    number, worker = steward.numbered(grant(port))
    worker.connect("localhost", port).close()
    assert steward.record(worker=number, event="connect")["address"] == "127.0.0.1"


def test_what_is_an_address_of_this_very_box() -> None:
    """Of any class: a service that trusts the local machine listens there too."""
    assert is_own(ip_address("127.0.0.1"))
    assert is_own(ip_address("::ffff:127.0.0.1"))
    assert not is_own(ip_address("198.51.100.7"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("198.51.100.7", 9))  # sends nothing; fails on a box without a network
        assert is_own(ip_address(sock.getsockname()[0]))


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "fe80::1%lo"])
def test_other_forms_of_addresses_are_no_hosts(steward: Steward, port: int, host: str) -> None:
    """Also past the plugin's own side, which a plugin may replace."""
    number, worker = steward.numbered(grant(port), "lan")
    assert fails(worker, host, port).code == "bad_params"
    assert asked(worker, {"n": 1, "host": host, "port": port, "timeout": 1.0})["error"]["code"] == (
        "bad_params"
    )
    assert steward.record(worker=number, event="connect")["verdict"] == "denied"


def test_errors_are_told_apart(steward: Steward) -> None:
    closed = free_port()
    worker = steward.worker(grant(closed), "nowhere.example.org")
    error = fails(worker, "localhost", closed)
    assert isinstance(error, NetworkError)
    assert (error.code, error.reason) == ("network", "refused")
    assert str(closed) in error.message
    steward.hosts.write_text("")
    error = fails(worker, "nowhere.example.org", 80)
    assert isinstance(error, NetworkError)
    assert error.reason == "not_found"


def test_a_host_that_never_answers_is_given_up_in_time(steward: Steward) -> None:
    with full_backlog() as port:
        error = fails(steward.worker(grant(port)), "127.0.0.1", port, timeout=0.3)
    assert isinstance(error, NetworkError)
    assert error.reason == "timed_out"


def test_a_cancel_ends_the_waiting(steward: Steward) -> None:
    looks = iter(range(3))

    def look() -> None:
        if next(looks, None) is None:
            raise Cancelled

    with full_backlog() as port:
        worker = steward.worker(grant(port))
        with pytest.raises(Cancelled):
            worker.connect("127.0.0.1", port, 30, look)
        assert not worker._waiting


# Limits and malice.


def asked(worker: Network, request: Any) -> Any:
    """What the broker answers to a hand-made request."""
    assert worker._channel
    worker._channel.send(request if isinstance(request, bytes) else msgspec.msgpack.encode(request))
    worker._channel.settimeout(30)
    data = worker._channel.recv(65536)
    return msgspec.msgpack.decode(data) if data else None


GOOD = {"n": 1, "host": "localhost", "port": 1, "timeout": 1.0}


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00", b"garbage", b"\xc1" * 100, b"\x81" * 2000, b"x" * 60_000, b"\xdd\xff\xff\xff\xff",
        {}, [], GOOD | {"more": 1}, GOOD | {"n": -1}, GOOD | {"n": 0}, GOOD | {"n": "1"},
        GOOD | {"host": None}, GOOD | {"host": b"localhost"}, GOOD | {"port": 1.5},
        GOOD | {"port": None}, GOOD | {"timeout": "1"}, {"n": 1},
    ],
    ids=lambda each: str(each)[:30],
)  # fmt: skip
def test_what_is_no_request_cuts_that_worker_off_and_nobody_else(
    steward: Steward, port: int, request_: Any
) -> None:
    neighbour = steward.worker(grant(port))
    number, worker = steward.numbered(grant(port))
    with worker.connect("localhost", port) as sock, neighbour.connect("localhost", port) as other:
        assert asked(worker, request_) is None
        with pytest.raises(NetworkError, match="lost"):
            sock.recv(1)
        assert fails(worker, "localhost", port).code == "network"
        other.sendall(b"alive")
        assert other.recv(5) == b"alive"
    assert steward.record(worker=number, event="cut")


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("\0", 80), ("a" * 300, 80), ("localhost", 0), ("localhost", -1), ("localhost", 65536),
        ("localhost", 1 << 60), ("", 80), ("\u202e\x1b[2J", 80), ("%00", 80), ("a\nb", 80),
    ],
)  # fmt: skip
def test_hosts_and_ports_that_are_none_are_answered(steward: Steward, host: str, port: int) -> None:
    worker = steward.worker("localhost:80")
    told = asked(worker, GOOD | {"host": host, "port": port})
    assert told["error"]["code"] == "bad_params"


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -5.0, 1e300, 0.0])
def test_odd_times_to_wait(steward: Steward, port: int, timeout: float) -> None:
    told = asked(steward.worker(grant(port)), GOOD | {"port": port, "timeout": timeout})
    assert "address" in told or told["reason"] == "timed_out"


def test_descriptors_that_a_worker_sends_are_dropped(steward: Steward, port: int) -> None:
    worker = steward.worker(grant(port))
    assert worker._channel
    reading, writing = os.pipe()
    for n in range(5):
        request = msgspec.msgpack.encode(GOOD | {"n": n + 1})
        socket.send_fds(worker._channel, [request], [writing] * 20)
        worker._channel.recv(65536)
    os.close(writing)
    assert os.read(reading, 1) == b"", "nobody holds the other end"
    os.close(reading)


def test_ten_thousand_connections_are_not_to_be_had(steward: Steward, port: int) -> None:
    living: set[socket.socket] = set()

    def serve(sock: socket.socket) -> None:
        living.add(sock)
        with contextlib.suppress(OSError):
            echo(sock)
        living.remove(sock)

    with server(serve) as there:
        number, worker = steward.numbered(grant(there))
        held = [worker.connect("127.0.0.1", there) for _ in range(limits.CONNECTIONS)]
        error = fails(worker, "127.0.0.1", there)
        assert isinstance(error, NetworkError)
        assert (error.reason, error.allowed) == ("too_many", limits.CONNECTIONS)
        held.pop().close()
        wait_until(lambda: steward.records(worker=number, event="end"), "one has ended")
        held.append(worker.connect("127.0.0.1", there))
        # And all of them at once, unread: it is slowed down, and others are served meanwhile.
        assert worker._channel
        worker._channel.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for n in range(1000, 11_000):
                worker._channel.send(msgspec.msgpack.encode(GOOD | {"n": n, "port": there}))
        works(steward, port)
        assert len(living) <= limits.CONNECTIONS
        steward.leave(number)
        wait_until(lambda: not living, "all of it is closed")
        for each in held:
            each.close()


def works(steward: Steward, port: int) -> None:
    """Another worker is served."""
    with steward.worker(grant(port)).connect("127.0.0.1", port) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


def test_who_connects_too_often_is_slowed_down(
    steward: Steward, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = steward.worker("localhost:1")
    seen: list[str] = []
    for _ in range(limits.BURST + 20):
        error = fails(worker, "localhost", 1)
        assert isinstance(error, NetworkError)
        seen.append(error.reason)
    assert seen[: limits.BURST] == ["refused"] * limits.BURST
    assert "too_many" in seen[limits.BURST :]


def test_a_worker_that_reads_no_answers_is_not_read_any_more(steward: Steward, port: int) -> None:
    number, worker = steward.numbered(grant(port))
    assert worker._channel
    worker._channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        for n in range(1, 100_000):
            worker._channel.send(msgspec.msgpack.encode(GOOD | {"n": n, "host": "no.example"}))
    works(steward, port)
    steward.leave(number)


def test_a_dead_workers_connections_end_at_once(steward: Steward) -> None:
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        while sock.recv(100):
            pass
        ended.set()

    with server(serve) as port:
        number, worker = steward.numbered(grant(port))
        sock = worker.connect("localhost", port)
        kept = os.dup(sock.fileno())  # what a dead worker's memory would still hold
        steward.leave(number)
        assert ended.wait(30)
        assert steward.record(worker=number, event="end")["reason"] == "gone"
        os.close(kept)
        sock.close()


def test_a_connection_that_the_other_host_breaks_is_an_error_and_no_end(steward: Steward) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"half")
        sock.recv(4)
        # On close a reset, and no proper end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(serve) as port, steward.worker(grant(port)).connect("localhost", port) as sock:
        assert sock.recv(4) == b"half"
        sock.sendall(b"more")
        with pytest.raises(NetworkError, match="the other host broke the connection"):
            sock.recv(1)


def test_both_sides_gone_at_once_leaves_nothing(steward: Steward) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(bytes(1 << 20))

    with server(serve) as port:
        number, worker = steward.numbered(grant(port))
        for _ in range(30):
            sock = worker.connect("localhost", port)
            with contextlib.suppress(OSError):
                sock.send(bytes(100_000), socket.MSG_DONTWAIT)
            sock.close()
        wait_until(lambda: len(steward.records(worker=number, event="end")) == 30, "all ended")


# The process.


def test_it_holds_nothing_that_it_does_not_need(steward: Steward, port: int) -> None:
    steward.worker(grant(port)).connect("localhost", port).close()
    status = Path(f"/proc/{steward.network.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert set(fields["Uid"].split()) != {"0"}
    if os.geteuid():  # who is no dumpable process shows its descriptors to root only
        return
    links = descriptors(steward.network.pid).values()
    assert not [link for link in links if "audit" in link or str(steward.folder) in link]
    assert "jailed by" in (steward.folder / "log").read_text()


def test_its_death_is_an_error_for_connections_and_nothing_else(port: int) -> None:
    with stewards() as steward:
        number, worker = steward.numbered(grant(port))
        sock = worker.connect("localhost", port)
        first = steward.network.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(NetworkError, match="the network broker ended"):
            sock.recv(1)
        sock.close()
        with worker.connect("localhost", port) as again:  # by the next one, over the same channel
            again.sendall(b"x")
            assert again.recv(1) == b"x"
        assert steward.network.pid not in (0, first)
        assert steward.records(event="broker")
        assert reasons(steward.records(worker=number, event="connect")) == ["allowed"] * 2


def test_what_waits_when_it_dies_is_told() -> None:
    with full_backlog() as port, stewards() as steward:
        worker = steward.worker(grant(port))
        caught: list[ClawError] = []
        before = connecting(port)
        thread = threading.Thread(target=lambda: caught.append(fails(worker, "127.0.0.1", port)))
        thread.start()
        wait_until(lambda: connecting(port) > before, "the broker connects")
        os.kill(steward.network.pid, signal.SIGKILL)
        thread.join()
    assert isinstance(caught[0], NetworkError)
    assert caught[0].reason == "lost"


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port of the loopback at which the system drops whoever would connect."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port


def connecting(port: int) -> int:
    """How many sockets of this box try to connect to a port of the loopback."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2] == f"0100007F:{port:04X}" and row[3] == "02" for row in rows)


# Listening.


def test_a_listener_accepts(steward: Steward) -> None:
    port = free_port()
    number, worker = steward.numbered(listen=(str(port),))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        connection, _ = worker.listener(port).accept()
        with connection:
            sock.sendall(b"x")
            assert connection.recv(1) == b"x"
    assert worker.listener(port).getsockname()[0] == "127.0.0.1"
    with pytest.raises(ClawError) as caught:
        worker.listener(port + 1)
    assert caught.value.code == "not_permitted"
    assert steward.record(worker=number, event="grant")["listen"] == str(port)


def test_two_workers_of_a_plugin_share_its_port_and_the_last_gives_it_back(
    steward: Steward,
) -> None:
    port = free_port()
    first, one = steward.numbered(listen=(str(port),), plugin="shared")
    second, other = steward.numbered(listen=(str(port),), plugin="shared")
    assert one.listener(port).getsockname() == other.listener(port).getsockname()
    steward.leave(first)
    with socket.create_connection(("127.0.0.1", port)):
        other.listener(port).accept()[0].close()
    steward.leave(second)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_all_interfaces_when_it_is_asked_for(steward: Steward) -> None:
    port = free_port()
    worker = steward.worker(listen=(f"lan:{port}",))
    assert worker.listener(port).getsockname()[0] in ("::", "0.0.0.0")
    with socket.create_connection(("127.0.0.1", port)):
        worker.listener(port).accept()[0].close()


def test_a_port_in_use_is_a_typed_error(steward: Steward) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClawError) as caught:
            steward.worker("localhost:1", listen=(str(port),))
    assert caught.value.code == "address_in_use"
    assert str(port) in caught.value.message


def test_a_connection_is_a_socket_of_the_standard_library(steward: Steward) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"one\ntwo\n")

    with server(serve) as port, steward.worker(grant(port)).connect("localhost", port) as sock:
        assert isinstance(sock, Connection)
        with sock.makefile() as file:
            assert file.read() == "one\ntwo\n"
