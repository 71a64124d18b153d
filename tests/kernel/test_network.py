"""The network of real plugins: sandboxed, under a real daemon."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_parts import echo, free_port, server
from clawai.sdk import audit
from clawai.sdk.errors import ClawError
from support import Kernel, parent_of, sessions, wait_until

PLUGIN = """
import errno, os, socket, struct
from clawai.sdk import Context, operation

held = []

@operation("net.echo")
def echo(ctx: Context, port: int, host: str = "localhost") -> str:
    with ctx.connect(host, port, timeout=20) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile().read()

@operation("net.hold")
def hold(ctx: Context, port: int, count: int = 1) -> int:
    held.extend(ctx.connect("localhost", port) for _ in range(count))
    return os.getpid()

@operation("net.read")
def read(ctx: Context) -> str:
    return held[-1].recv(1).decode()

def attempt(call) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno, "failed")
    return "worked"

@operation("net.attempts")
def attempts(ctx: Context, port: int) -> dict:
    \"\"\"What a passed socket can do beyond carrying bytes.\"\"\"
    sock = ctx.connect("localhost", port)
    here = ("127.0.0.1", port)
    plain = socket.socket
    return {
        "socket": attempt(lambda: plain(socket.AF_INET, socket.SOCK_STREAM)),
        "udp": attempt(lambda: plain(socket.AF_INET, socket.SOCK_DGRAM)),
        "unix": attempt(lambda: plain(socket.AF_UNIX, socket.SOCK_STREAM)),
        "resolve": attempt(lambda: socket.getaddrinfo("example.org", 80)),
        "connect": attempt(lambda: plain.connect(sock, "/run/other")),
        "bind": attempt(lambda: plain.bind(sock, "/tmp/mine")),
        "listen": attempt(lambda: plain.listen(sock)),
        "channel": attempt(lambda: ctx.outlet.network._channel.connect("/run/other")),
        "nodelay": attempt(lambda: sock.setsockopt(socket.IPPROTO_TCP, 1, 1)),
        "send": attempt(lambda: sock.sendall(b"x")),
    }

@operation("net.garbage")
def garbage(ctx: Context) -> None:
    ctx.outlet.network._channel.send(b"garbage")
"""
HANDED = """
import ctypes, errno, socket, struct
from clawai.sdk import Context, operation

libc = ctypes.CDLL(None, use_errno=True)

def attempt(call) -> str:
    try:
        failed = call()
    except OSError as error:
        return errno.errorcode.get(error.errno, "failed")
    return errno.errorcode[ctypes.get_errno()] if failed == -1 else "worked"

@operation("handed.attempts")
def attempts(ctx: Context, port: int, own: int) -> dict:
    \"\"\"What a connection that was handed over can do beyond carrying bytes.\"\"\"
    with ctx.listener(own).take()[0] as sock:
        first = sock.recv(100)
        there = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port)
        there += socket.inet_aton("127.0.0.1") + bytes(8)
        nowhere = struct.pack("=H", socket.AF_UNSPEC) + bytes(14)
        fd, fast = sock.fileno(), 0x2000_0000
        option = lambda number: lambda: sock.setsockopt(socket.IPPROTO_TCP, number, 1)
        wait = struct.pack("ii", 1, 3600)
        found = {
            "family": sock.family,
            "nodelay": attempt(lambda: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)),
            "dissolve": attempt(lambda: libc.connect(fd, nowhere, 16)),
            "connect": attempt(lambda: libc.connect(fd, there, 16)),
            "listen": attempt(lambda: libc.listen(fd, 1)),
            "bind": attempt(lambda: sock.bind(("127.0.0.1", 0))),
            "accept": attempt(lambda: libc.accept4(fd, None, None, 0)),
            "send elsewhere": attempt(lambda: libc.sendto(fd, b"out", 3, 0, there, 16)),
            "dissolve by sending": attempt(lambda: libc.sendto(fd, b"out", 3, fast, nowhere, 16)),
            "connect by sending": attempt(lambda: libc.sendto(fd, b"out", 3, fast, there, 16)),
            "repair": attempt(option(19)),
            "connect at the first byte": attempt(option(30)),
            "another protocol on top": attempt(option(31)),
            "bind to a device": attempt(lambda: sock.setsockopt(socket.SOL_SOCKET, 25, b"lo")),
            "have who closes wait": attempt(lambda: sock.setsockopt(socket.SOL_SOCKET, 13, wait)),
            "signals": attempt(lambda: libc.ioctl(fd, 0x8901, ctypes.byref(ctypes.c_int(1)))),
            "interfaces": attempt(lambda: libc.ioctl(fd, 0x8912, ctypes.create_string_buffer(64))),
            "a new one": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        }
        sock.sendall(first)
        return found
"""
OPERATIONS = dict.fromkeys(
    ("net.echo", "net.hold", "net.read", "net.attempts", "net.garbage"), ""
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server(echo) as number:
        yield number


@pytest.fixture
def net(shared_kernel: Kernel, port: int) -> Iterator[Kernel]:
    """One daemon for all, with the plugin that may connect to the server."""
    if not (shared_kernel.plugins_dir / "net").exists():
        asked = f'[permissions.network]\n"localhost:{port}" = "to test"\n'
        shared_kernel.plugin("net", PLUGIN, OPERATIONS, extra=asked)
    yield shared_kernel
    shared_kernel.close_clients()


def broker(kernel: Kernel) -> int:
    """The broker's process; 0 if there is none."""
    steward = kernel.steward()
    for pid in sessions().get(kernel.process.pid, {}) if kernel.process else {}:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text()
            if parent_of(pid) == steward and name == "claw-broker\n":
                return pid
    return 0


def records(kernel: Kernel) -> list[audit.Record]:
    return list(audit.records(kernel.log_file.parent))


def test_a_sandboxed_plugin_connects_through_the_broker(net: Kernel, port: int) -> None:
    with net.client() as client:
        assert client.call("net.echo", {"port": port}).value == "hello"
    last = wait_until(
        lambda: [r for r in records(net) if r["event"] == "end"], "the end is written down"
    )[-1]
    assert (last["plugin"], last["sent"], last["received"]) == ("net", 5, 5)
    assert audit.verify(net.log_file.parent).ok


def test_a_refusal_reaches_the_client_whole(net: Kernel, port: int) -> None:
    with net.client() as client:
        with pytest.raises(ClawError) as caught:
            client.call("net.echo", {"host": "example.org", "port": 443})
        error = caught.value
        assert (error.code, error.got) == ("not_permitted", "example.org:443")
        assert error.allowed == [f"localhost:{port}"]
        assert '[permissions.network]: "example.org" = "why"' in error.hint


def test_a_plugin_that_asks_for_nothing_reaches_nothing(net: Kernel, port: int) -> None:
    net.plugin("mute", PLUGIN.replace('"net.', '"mute.'), {"mute.echo": "", "mute.hold": "",
        "mute.read": "", "mute.attempts": "", "mute.garbage": ""})  # fmt: skip
    with net.client() as client:
        with pytest.raises(ClawError) as caught:
            client.call("mute.echo", {"port": port})
        assert (caught.value.code, caught.value.allowed) == ("not_permitted", [])


def test_a_passed_socket_carries_bytes_and_no_more(net: Kernel, port: int) -> None:
    with net.client() as client:
        found = client.call("net.attempts", {"port": port}).value
    assert found.pop("send") == "worked"
    assert found.pop("resolve") != "worked"
    assert set(found.values()) == {"EPERM"}, found


def test_a_front_is_handed_a_connection_that_leads_nowhere_else(net: Kernel) -> None:
    number = free_port()
    extra = f'[permissions]\non_behalf_of = "to test"\n[permissions.listen]\n{number} = "to test"\n'
    net.plugin("handed", HANDED, {"handed.attempts": ""}, extra=extra)
    with socket.create_server(("127.0.0.1", 0)) as other, net.client() as client:
        task = client.submit("handed.attempts", {"port": other.getsockname()[1], "own": number})
        wait_until(lambda: net.worker_pid("handed"), "it listens")
        with wait_until(lambda: connected(number), "it is connected") as outside:
            outside.sendall(b"x")
            found = task.result().value
            assert outside.recv(100) == b"x", "and it has borne all of it"
            assert outside.recv(1) == b""
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert found.pop("family") == socket.AF_INET
    assert found.pop("nodelay") == "worked"
    assert set(found.values()) == {"EPERM"}, found


def connected(number: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", number), 30)
    except ConnectionRefusedError:
        return None


def test_a_dead_workers_connections_end(net: Kernel) -> None:
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        while sock.recv(10):
            pass
        ended.set()

    with server(serve) as here:
        asked = f'[permissions.network]\n"localhost:{here}" = "to test"\n'
        net.plugin("dying", PLUGIN.replace('"net.', '"dying.'), {f"dying.{op.partition('.')[2]}":
            "" for op in OPERATIONS}, extra=asked)  # fmt: skip
        with net.client() as client:
            client.call("dying.hold", {"port": here})
            os.kill(net.worker_pid("dying"), signal.SIGKILL)
            assert ended.wait(30)


def test_the_brokers_death_is_an_error_and_then_forgotten(net: Kernel, port: int) -> None:
    with net.client() as client:
        client.call("net.hold", {"port": port})
        first, worker = broker(net), net.worker_pid("net")
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ClawError) as caught:
            client.call("net.read")
        assert (caught.value.code, "broker ended" in caught.value.message) == ("network", True)
        assert client.call("net.echo", {"port": port}).value == "hello"
        assert broker(net) not in (0, first)
        assert net.worker_pid("net") == worker, "no worker noticed"


def test_who_sends_garbage_is_cut_off_until_it_is_started_again(net: Kernel, port: int) -> None:
    with net.client() as client:
        before = broker(net)
        client.call("net.garbage")
        with pytest.raises(ClawError, match="closed this worker's channel"):
            client.call("net.echo", {"port": port})
        wait_until(lambda: "was cut off from the network" in net.log(), "the log says so")
        client.admin("unload", "net")
        wait_until(lambda: not net.worker_pid("net"), "it has ended")
        assert client.call("net.echo", {"port": port}).value == "hello"
        assert broker(net) == before


def test_a_port_in_use_is_shown(net: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        asked = f'[permissions.listen]\n{number} = "to test"\n'
        net.plugin("late", extra=asked, operations={"greet.hello": ""})
        with net.client() as client:
            with pytest.raises(ClawError) as caught:
                client.call("greet.hello")
            assert caught.value.code == "address_in_use"
            (row,) = [p for p in client.query("plugins")["plugins"] if p["name"] == "late"]
            assert str(number) in row["problem"]


def test_the_broker_runs_from_the_first_need_to_the_end_of_its_daemon(
    start_kernel: Callable[..., Kernel],
) -> None:
    with server(echo) as here:
        kernel = start_kernel(start=False)
        asked = f'[permissions.network]\n"localhost:{here}" = "to test"\n'
        kernel.plugin("net", PLUGIN, OPERATIONS, extra=asked)
        kernel.start()
        client = kernel.client()
        client.call("echo.say", {"text": "x"})
        assert broker(kernel) == 0
        assert not audit.log_path(kernel.log_file.parent).exists()
        client.call("net.hold", {"port": here})
        pid = broker(kernel)
        assert pid
        kernel.stop(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the broker has ended")


DOOR = """
import errno, socket
from clawai.sdk import Context, operation

@operation("visited.open")
def open(ctx: Context) -> int:
    return ctx.listener(PORT).getsockname()[1]

@operation("visited.take")
def take(ctx: Context) -> str:
    connection, _ = ctx.listener(PORT).accept()
    with connection, connection.makefile() as said:
        return said.read()

@operation("visited.past")
def past(ctx: Context) -> str:
    \"\"\"Accept past the broker.\"\"\"
    ctx.listener(PORT).settimeout(0)
    try:
        socket.socket.accept(ctx.listener(PORT))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "worked"
"""


def test_who_connects_is_written_down_with_whose_task_it_was(net: Kernel, port: int) -> None:
    number = free_port()
    asked = f'[permissions.listen]\n{number} = "to test"\n'
    ops = dict.fromkeys(("visited.open", "visited.take", "visited.past"), "")
    net.plugin("visited", DOOR.replace("PORT", str(number)), ops, extra=asked)
    me = f"uid:{os.getuid()}"
    with net.client() as client:
        assert client.call("visited.open").value == number
        task = client.submit("visited.take")
        with socket.create_connection(("127.0.0.1", number)) as sock:
            sock.sendall(b"knock")
            there = sock.getsockname()
        assert task.result().value == "knock"
        (end,) = wait_until(
            lambda: [
                r for r in records(net) if (r["event"], r.get("plugin")) == ("end", "visited")
            ],
            "its end is written down",
        )
        accepted = [r for r in records(net) if r["event"] == "accept"]
        (taken,) = [r for r in accepted if r["plugin"] == "visited"]
        assert (taken["address"], taken["peer_port"], taken["port"]) == (*there, number)
        assert (taken["principal"], len(taken["tasks"]), end["received"]) == (me, 1, 5)
        with socket.create_connection(("127.0.0.1", number)):
            assert client.call("visited.past").value == "EPERM", "the broker alone accepts"
        client.call("net.echo", {"port": port})
        client.admin("unload", "visited")
    made = [r for r in records(net) if r["event"] == "connect" and r.get("plugin") == "net"]
    assert (made[-1]["principal"], len(made[-1]["tasks"])) == (me, 1)
    assert audit.verify(net.log_file.parent).ok


def test_a_listening_plugin_has_its_port_while_its_worker_lives(net: Kernel) -> None:
    number = free_port()
    code = """
    from clawai.sdk import Context, operation

    @operation("door.open")
    def open(ctx: Context) -> int:
        return ctx.listener(PORT).getsockname()[1]

    @operation("door.take")
    def take(ctx: Context) -> str:
        connection, _ = ctx.listener(PORT).accept()
        with connection, connection.makefile() as said:
            return said.read()
    """.replace("PORT", str(number))
    asked = f'[permissions.listen]\n{number} = "to test"\n'
    net.plugin("door", code, {"door.open": "", "door.take": ""}, extra=asked)
    with net.client() as client:
        assert client.call("door.open").value == number
        task = client.submit("door.take")
        with socket.create_connection(("127.0.0.1", number)) as sock:
            sock.sendall(b"knock")
        assert task.result().value == "knock"
        client.admin("unload", "door")
        wait_until(lambda: not net.worker_pid("door"), "it has ended")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number))
