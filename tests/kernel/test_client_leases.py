"""Tokens and leases that are forged, used twice or too many, and clients that race."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
import pytest

from clawai.kernel import limits
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket
from support import PATIENCE, Kernel, cpu_ticks, wait_until


def token(kernel: Kernel) -> LeaseSocket:
    return LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)


def test_tokens_are_for_one_use(target: Kernel) -> None:
    door = token(target)
    try:
        with target.raw().handshake() as peer:
            peer.send(wire.Hello(version=wire.VERSION, token=b"guess"))
            assert peer.message().code == "not_permitted"
            peer.send(wire.Hello(version=wire.VERSION, token=door.token[:-1]))
            assert peer.message().code == "not_permitted"
            peer.send(wire.Hello(version=wire.VERSION, token=door.token))
            assert peer.message().leases
            with target.raw().handshake() as other:
                other.send(wire.Hello(version=wire.VERSION, token=door.token))
                assert other.message().code == "not_permitted"
    finally:
        door.close()


def test_whoever_speaks_on_the_lease_socket_is_closed(target: Kernel) -> None:
    door = token(target)
    door.sock.send(b"hello?")
    with contextlib.suppress(ConnectionResetError):
        assert door.sock.recv(100) == b""
    door.close()


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 1},
        {"segment": 99},
        {"offset": 1},
        {"offset": 1 << 47, "length": 1},
        {"length": 8193},
    ],
)
def test_forged_leases(target: Kernel, change: dict[str, int]) -> None:
    client = target.client()
    loan = client.borrow("echo.tensor", 8192)
    lease = msgspec.structs.replace(loan.lease, **change)
    loan.lease = lease
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"


def test_a_lease_of_another_client(target: Kernel) -> None:
    one, other = target.client(), target.client()
    loan = one.borrow("echo.tensor", 8192)
    with pytest.raises(ClawError) as caught:
        other.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"
    other.give_back(loan)
    assert other.query("status")["segments"] == 1
    assert one.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan]).value


LARGE = limits.SMALL + 1
"""Bytes of a lease that has a segment of its own."""


def test_many_segments(target: Kernel) -> None:
    client = target.client()
    loans = [client.borrow("echo.tensor", LARGE) for _ in range(limits.SEGMENTS_PER_CLIENT)]
    with pytest.raises(ClawError) as caught:
        client.borrow("echo.tensor", LARGE)
    assert caught.value.code == "queue_full"
    for loan in loans:
        client.give_back(loan)
    assert client.borrow("echo.tensor", LARGE).lease.generation == 1


def test_segments_until_descriptors_run_out(start_kernel: Callable[..., Kernel]) -> None:
    """With few descriptors left the daemon says no and goes on."""
    kernel = start_kernel(start=False).start(wrapper=("prlimit", "--nofile=128:128"))
    victim = kernel.client()
    clients, refused = [], 0
    for _ in range(3):
        client = kernel.client()
        clients.append(client)
        for _ in range(limits.SEGMENTS_PER_CLIENT):
            try:
                client.borrow("echo.tensor", LARGE)
            except ClawError as error:
                assert error.code == "no_memory"
                refused += 1
    assert refused
    assert victim.call("echo.say", {"text": "x"}).value == "x"
    for client in clients:
        client.close()
    wait_until(lambda: victim.query("status")["segments"] == 0, "the segments are gone")
    assert kernel.client().call("echo.say", {"text": "new"}).value == "new"


def test_connections_until_descriptors_run_out(start_kernel: Callable[..., Kernel]) -> None:
    """Who has not said hello makes room, and nobody spins on what cannot be accepted."""
    kernel = start_kernel(start=False).start(wrapper=("prlimit", "--nofile=64:64"))
    victim = kernel.client()
    assert victim.call("echo.say", {"text": "x"}).value == "x"
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(kernel.raw())
        assert victim.call("echo.say", {"text": "x"}).value == "x"
        before = [cpu_ticks(pid) for pid in kernel.exposed()]
        time.sleep(1)
        used = [cpu_ticks(pid) - then for pid, then in zip(kernel.exposed(), before, strict=True)]
        assert max(used) < 20, "daemon or steward spins"
    wait_until(lambda: victim.query("status")["clients"] == 1, "the others are gone")
    assert kernel.client().call("echo.say", {"text": "new"}).value == "new"


def test_two_clients_race_for_one_worker(target: Kernel) -> None:
    """Streams of two clients never mix."""
    first, second = target.client(), target.client()
    tasks = [c.submit("echo.count", {"upto": 300}) for c in (first, second, first, second)]
    for task in tasks:
        assert [e.data for e in task if e.kind == "chunk"] == list(range(1, 301))
        assert task.result().value == 300


def test_two_processes_race(target: Kernel) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "with Client(folder=Path(sys.argv[1]), timeout=60) as client:\n"
        "    for n in range(100):\n"
        "        assert client.call('echo.say', {'text': sys.argv[2] + str(n)}).value"
        " == sys.argv[2] + str(n)\n"
    )
    command = [sys.executable, "-c", program, str(target.folder)]
    racers = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [racer.wait(PATIENCE) for racer in racers] == [0, 0, 0]
