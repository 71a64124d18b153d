"""The steward's memory: segments and weights objects, made, passed, emptied, watched and sealed."""

import errno
import fcntl
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawai.kernel import limits
from clawai.kernel.steward import door as doors
from clawai.kernel.steward import limits as bounds
from clawai.kernel.steward.memory import blocks, read_only
from clawai.sdk import wire
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket
from clawai.sdk.plain import unpack
from steward_parts import WEIGHTS, Served
from support import PATIENCE, Kernel, descriptors, no_leak, wait_until


class Sides(Served):
    """With a client (1) and a worker (7), whose ends are ours."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        kernels, self.client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kernels.setblocking(False)
        self.door.clients[1] = doors.Client(os.getpid(), kernels)
        self.loop.watch(kernels.fileno(), lambda _: self.door._close_lease(1))
        self.worker = socket.socket(fileno=self.memory.pair(7))
        for sock in (self.client, self.worker):
            sock.setblocking(False)

    def tell(self, name: str, *arguments: Any) -> None:
        """Say something as the daemon."""
        self.memory.handlers()[name](*arguments, [])

    def until_said(self) -> tuple[Any, ...]:
        """What the daemon is told next; a child may have to do it first."""
        found: list[Any] = []
        wait_until(lambda: found.extend(filter(None, [self.said()])) or found, "it is said")
        return tuple(found[0])

    def close(self) -> None:
        self.door.left(1)
        self.memory.close()
        for sock in (self.client, self.worker):
            sock.close()
        super().close()


def taken(sock: socket.socket) -> tuple[dict[str, Any], int] | None:
    """A descriptor that has come, and what was said of it."""
    try:
        data, fds, _, _ = socket.recv_fds(sock, 4096, 1)
    except BlockingIOError:
        return None
    return msgspec.msgpack.decode(data), fds[0]


def fill(fd: int, size: int) -> None:
    with mmap.mmap(fd, size) as mapping:
        for page in range(0, size, mmap.PAGESIZE):
            mapping[page] = 1


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    with no_leak():
        found = Sides(tmp_path)
        yield found
        found.close()


# Segments.


def test_both_sides_have_it_before_the_daemon_hears_of_it(sides: Sides) -> None:
    sides.tell("make_segment", 5, 1, 8192, 7, 1, "r")
    for sock, header in (
        (sides.client, {"segment": 1, "bytes": 8192}),
        (sides.worker, {"segment": 1, "bytes": 8192, "rights": "r"}),
    ):
        found = taken(sock)
        assert found
        assert found[0] == header
        writable = fcntl.fcntl(found[1], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        assert writable == (sock is sides.client)
        for size in (0, 1 << 20):
            with pytest.raises(OSError, match="not permitted" if writable else "Invalid"):
                os.ftruncate(found[1], size)
        os.close(found[1])
    assert sides.said() == ("answer", 5, True)


@pytest.mark.parametrize("missing", ["client", "lease socket", "worker", "a reader"])
def test_one_that_cannot_be_passed_is_not_made(sides: Sides, missing: str) -> None:
    match missing:
        case "client":
            sides.door.left(1)
        case "lease socket":
            sides.client.close()
            assert sides.said() is None
        case "worker":
            sides.memory.worker_gone(7)
        case "a reader":
            with pytest.raises(BlockingIOError):
                while True:
                    sides.door.give(1, {}, 0)
    sides.tell("make_segment", 5, 1, 8192, 7, 1, "rw")
    said = sides.said()
    assert said
    name, question, error = said
    code = "no_lease" if missing in ("client", "lease socket") else "no_memory"
    assert (name, question, error[0]) == ("refuse", 5, code)
    assert not sides.memory.segments
    if missing != "worker":
        assert taken(sides.worker) is None
    elif found := taken(sides.client):
        os.close(found[1])
    while missing == "a reader" and (found := taken(sides.client)):
        os.close(found[1])


def test_a_large_segment_is_given_back_in_parts(sides: Sides) -> None:
    """A turn of the loop punches so much and no more; what is small goes together."""
    held = sides.memory
    sizes = {1: 2 * bounds.PUNCH + 4096, 2: 4096, 3: 8192}
    fds = {number: held.make(number, size, 9, os.getpid()) for number, size in sizes.items()}
    for number, fd in fds.items():
        fill(fd, sizes[number])
        assert blocks(fd) * 512 == sizes[number]
        sides.tell("FreeMemory", number)
    assert held.next_timer() == 0
    assert held.punch_some() == []
    assert blocks(fds[1]) * 512 == bounds.PUNCH + 4096
    held.expire(0)
    assert sides.said() is None
    held.expire(0)
    assert [sides.said() for _ in sizes] == [("happened", "MemoryGone", number) for number in sizes]
    assert held.next_timer() is None
    assert not held.segments


def test_what_is_not_there_is_free(sides: Sides) -> None:
    """A steward that was started again has nothing."""
    sides.tell("FreeMemory", 12)
    assert sides.said() == ("happened", "MemoryGone", 12)


def test_a_worker_that_writes_to_what_was_taken_back_is_told_of(sides: Sides) -> None:
    held = sides.memory
    fd = os.dup(held.make(1, 8192, 7, 0))
    sides.tell("FreeMemory", 1)
    held.expire(1)
    assert sides.said() == ("happened", "MemoryGone", 1)
    due = held.next_timer()
    assert due
    fill(fd, 8192)
    held.expire(due)
    assert sides.said() == ("happened", "WorkerBroke", 7, "it wrote to memory that was taken back")
    held.worker_gone(7)
    assert not held.retired
    os.close(fd)


def test_what_a_worker_fills_while_it_is_taken_back_waits_for_its_end(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = sides.memory
    fd = held.make(1, 8192, 7, 0)
    punch_some = held.punch_some

    def filled_again() -> list[int]:
        done = punch_some()
        fill(fd, 8192)
        return done

    sides.tell("FreeMemory", 1)
    monkeypatch.setattr(held, "punch_some", filled_again)
    held.expire(0)
    assert sides.said() == ("happened", "WorkerBroke", 7, "it wrote to memory that was taken back")
    monkeypatch.undo()
    held.expire(0)
    assert sides.said() is None, "it could fill them again"
    held.worker_gone(7)
    held.expire(0)
    assert sides.said() == ("happened", "MemoryGone", 1)


def test_a_client_that_fills_it_again_blames_nobody(sides: Sides) -> None:
    held = sides.memory
    with mmap.mmap(held.make(1, 8192, 7, os.getpid()), 8192) as mapping:
        sides.tell("FreeMemory", 1)
        held.expire(0)
        assert sides.said() == ("happened", "MemoryGone", 1)
        mapping[0] = 1
        held.expire(limits.SECOND + held.looked)
        assert sides.said() is None


def test_a_read_only_descriptor(sides: Sides) -> None:
    reading = read_only(sides.memory.make(1, 4096, 7, os.getpid()))
    with pytest.raises(PermissionError):
        mmap.mmap(reading, 4096)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(reading, b"x")
    flags = fcntl.fcntl(reading, fcntl.F_GETFL)
    fcntl.fcntl(reading, fcntl.F_SETFL, flags | os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(reading, 4096)
    os.close(reading)


# Weights objects.


def made(sides: Sides) -> int:
    """A weights object (3) as its worker got it."""
    sides.tell("MakeMemory", 3, 8192, 7, 0, "rw")
    found = taken(sides.worker)
    assert found
    assert found[0] == {"weights": 3, "bytes": 8192}
    return found[1]


def test_an_object_is_sealed_only_when_nobody_can_write_to_it(sides: Sides) -> None:
    fd = made(sides)
    with mmap.mmap(fd, 8192):
        sides.tell("seal_weights", 7)
        assert sides.until_said() == ("happened", "WorkerFilled", 7, False)
    sides.tell("seal_weights", 7)
    assert sides.said() == ("happened", "WorkerFilled", 7, False), "it is asked once"
    sides.tell("FreeMemory", 3)
    assert sides.until_said() == ("happened", "MemoryGone", 3)
    os.close(fd)
    fd = made(sides)
    sides.tell("seal_weights", 7)
    assert sides.until_said() == ("happened", "WorkerFilled", 7, True)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 8192)
    sides.tell("GiveMemory", 3, 7)
    found = taken(sides.worker)
    assert found
    sides.tell("FreeMemory", 3)
    assert sides.until_said() == ("happened", "MemoryGone", 3)
    assert not sides.memory.weights
    for each in (fd, found[1]):
        os.close(each)


def test_an_object_that_is_dropped_while_it_is_sealed_goes_after_that(sides: Sides) -> None:
    os.close(made(sides))
    sides.tell("seal_weights", 7)
    sides.tell("FreeMemory", 3)
    assert sides.until_said() == ("happened", "WorkerFilled", 7, True)
    assert sides.until_said() == ("happened", "MemoryGone", 3)


def test_an_object_that_is_not_there_is_not_sealed_and_gone(sides: Sides) -> None:
    sides.tell("seal_weights", 7)
    assert sides.until_said() == ("happened", "WorkerFilled", 7, False)
    sides.tell("FreeMemory", 3)
    assert sides.until_said() == ("happened", "MemoryGone", 3)
    sides.tell("GiveMemory", 3, 8)
    assert sides.said() is None, "a worker that died with the steward before this one"
    sides.tell("GiveMemory", 3, 7)
    said = sides.said()
    assert said
    assert said[:3] == ("happened", "WorkerBroke", 7)


def test_a_worker_of_other_code_fills_and_maps_nothing(sides: Sides) -> None:
    """Its plugin's files have changed: others would run with what it wrote, or it with theirs."""
    sides.memory.unlike.add(7)
    sides.tell("MakeMemory", 3, 8192, 7, 0, "rw")
    assert (sides.said() or ())[:3] == ("happened", "WorkerBroke", 7)
    sides.tell("seal_weights", 7)
    assert sides.said() == ("happened", "WorkerFilled", 7, False)
    sides.memory.unlike.clear()
    os.close(made(sides))
    sides.tell("seal_weights", 7)
    assert sides.until_said() == ("happened", "WorkerFilled", 7, True)
    sides.memory.unlike.add(7)
    sides.tell("GiveMemory", 3, 7)
    assert (sides.said() or ())[:3] == ("happened", "WorkerBroke", 7)
    assert taken(sides.worker) is None


def test_without_another_process_it_is_done_all_the_same(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may have used up all that the system gives."""

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    fd = made(sides)
    with mmap.mmap(fd, 8192):
        sides.tell("seal_weights", 7)
        assert sides.said() == ("happened", "WorkerFilled", 7, False)
    sides.tell("FreeMemory", 3)
    assert sides.said() == ("happened", "MemoryGone", 3)
    os.close(fd)
    os.close(made(sides))
    sides.tell("seal_weights", 7)
    assert sides.said() == ("happened", "WorkerFilled", 7, True)


def test_a_worker_that_takes_no_descriptor_is_told_of(sides: Sides) -> None:
    sides.worker.close()
    sides.tell("MakeMemory", 3, 8192, 7, 0, "rw")
    said = sides.said()
    assert said
    assert said[:3] == ("happened", "WorkerBroke", 7)
    assert "cannot be given its weights" in said[3]
    sides.tell("MakeMemory", 4, 8192, 8, 0, "rw")
    assert sides.said() is None, "the daemon hears that this worker is gone"


# With a daemon.


def test_the_daemon_holds_no_memory_of_others(kernel: Kernel) -> None:
    client = kernel.client()
    assert client.borrow("echo.tensor", limits.SLAB + 1)
    held = [link for link in descriptors(kernel.pid).values() if "memfd:claw" in link]
    assert {link.split()[0] for link in held} == {"/memfd:claw-control"}
    assert "claw-segment" in str(descriptors(kernel.steward()).values())


def age(pid: int) -> float:
    """For how many seconds a process has been there."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def kill_steward(kernel: Kernel) -> None:
    """Kill it once it has lived for a second: the daemon takes one that dies at once for broken."""
    first = kernel.steward()
    with kernel.client() as client:  # the first one is older than the daemon's count of it
        wait_until(lambda: client.query("status")["uptime_s"] >= 1, "the daemon has lived")
    wait_until(lambda: age(first) > 1.5, "it has lived")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: kernel.steward() not in (0, first), "there is another")


def test_leases_end_with_the_steward_and_their_memory_is_counted_down(kernel: Kernel) -> None:
    client, other = kernel.client(), kernel.client()
    loan, returned = (client.borrow("echo.tensor", limits.SLAB + 1) for _ in range(2))
    loan.array("<u1", (1,))[0] = 5
    client.give_back(returned)
    assert client.query("status")["segments"] == 2
    kill_steward(kernel)
    assert loan.array("<u1", (1,))[0] == 5, "a mapping stays what it is"
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"
    with pytest.raises(ClawError) as caught:
        client.borrow("echo.tensor", 4096)
    assert caught.value.code == "no_lease"
    assert client.call("echo.say", {"text": "x"}).value == "x"
    client.close()
    wait_until(lambda: other.query("status")["segments"] == 0, "nothing is left of them")
    with kernel.client() as fresh:
        assert fresh.borrow("echo.tensor", 4096)


def test_weights_end_with_the_steward_and_are_filled_anew(kernel: Kernel) -> None:
    kernel.plugin("w", WEIGHTS, {"w.look": "idempotent = true"})
    client = kernel.client()
    assert client.call("w.look").value == [1, True, b"once"]
    used = client.query("status")["used_bytes"]
    kill_steward(kernel)
    assert client.call("w.look").value == [1, True, b"once"]
    assert client.query("status")["used_bytes"] == used
    client.admin("unload", "w")
    wait_until(lambda: not client.query("status")["used_bytes"], "the memory is back")


def test_clients_that_leave_while_their_segments_are_made(kernel: Kernel) -> None:
    victim = kernel.client()
    assert victim.call("echo.say", {"text": "x"}).value == "x"
    for _ in range(50):
        door = LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)
        with kernel.raw().hello(door.token) as peer:
            for number in range(4):
                peer.send_map(type="borrow", id=number, op="echo.tensor", bytes=limits.SMALL)
            peer.send_map(type="return", segment=1, generation=1)
        door.close()
    wait_until(lambda: victim.query("status")["segments"] == 0, "nothing is left of them")
    wait_until(lambda: victim.query("status")["clients"] == 1, "they have left")
    assert victim.borrow("echo.tensor", 4096)


@pytest.mark.parametrize("started", [True, False])
def test_leases_of_a_segment_that_is_being_made_come_after_it(
    kernel: Kernel, started: bool
) -> None:
    """Small ones share it, whether they are asked for one by one or wait together for a worker."""
    if started:
        assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
    door = LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)
    with kernel.raw().hello(door.token) as peer:
        for number in range(1, 9):
            peer.send_map(type="borrow", id=number, op="echo.tensor", bytes=4096)
        peer.send_map(type="query", id=9, what="status")
        heard = [peer.message() for _ in range(9)]
        if started:
            assert isinstance(heard[-1], wire.Answer), "what is sent behind them comes behind them"
        leased = [message for message in heard if isinstance(message, wire.Leased)]
        assert [each.id for each in leased] == list(range(1, 9))
        assert len({each.lease.segment for each in leased}) == 1
        assert len({each.lease.offset for each in leased}) == 8
        found = taken(door.sock)
        assert found
        os.close(found[1])
    door.close()


def test_a_client_that_closes_its_lease_socket_has_no_leases(kernel: Kernel) -> None:
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
    door = LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)
    with kernel.raw().hello(door.token) as peer:
        peer.send_map(type="borrow", id=1, op="echo.tensor", bytes=4096)
        assert isinstance(peer.message(), wire.Leased)
        found = taken(door.sock)
        assert found
        os.close(found[1])
        door.close()

        def refused() -> str:
            peer.send_map(type="borrow", id=2, op="echo.tensor", bytes=limits.SLAB + 1)
            code: str = peer.answer(2).code
            return code

        wait_until(lambda: refused() == "no_lease", "the daemon has heard of it")
        peer.send_map(type="submit", id=3, op="echo.say", params={"text": "x"})
        assert unpack(peer.answer(3).result) == "x"


def test_a_client_leaves_while_its_segment_is_made(kernel: Kernel) -> None:
    """What was begun for it is done, and taken back, before the core hears that it has left."""
    watcher = kernel.client()
    watcher.call("echo.say", {"text": "x"})
    used = watcher.query("status")["used_bytes"]
    door = LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)
    with kernel.raw().hello(door.token) as peer:
        peer.send_map(type="submit", id=1, op="echo.count", params={"upto": 10**6, "pause_ms": 5})
        assert isinstance(peer.message(), wire.Accepted)
        os.kill(kernel.steward(), signal.SIGSTOP)
        try:
            for request in (2, 3):
                peer.send_map(type="borrow", id=request, op="echo.tensor", bytes=4096)
        finally:
            peer.close()
            door.close()
            os.kill(kernel.steward(), signal.SIGCONT)
    wait_until(lambda: watcher.query("status")["clients"] == 1, "it has left")
    wait_until(lambda: watcher.query("status")["tasks"] == 0, "its task is cancelled")
    wait_until(lambda: watcher.query("status")["segments"] == 0, "its segment is gone")
    assert watcher.query("status")["used_bytes"] == used


def test_the_steward_dies_whatever_goes_on(kernel: Kernel) -> None:
    """Segments and weights objects are made, passed and dropped while it is killed."""
    kernel.plugin("w", WEIGHTS, {"w.look": "idempotent = true"})
    bystander = kernel.client()
    over = threading.Event()
    said: list[Exception] = []

    def borrow() -> None:
        while not over.is_set():
            try:
                with Client(folder=kernel.folder, timeout=PATIENCE) as client:
                    client.borrow("echo.tensor", limits.SLAB + 1)
                    client.call("w.look")
                    client.admin("unload", "w")
            except ClawError:
                pass  # typed, whichever it is
            except Exception as error:
                said.append(error)
                return

    threads = [threading.Thread(target=borrow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        kill_steward(kernel)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not said
    wait_until(lambda: not bystander.query("status")["segments"], "their memory is back")
    bystander.admin("unload", "w")
    bystander.admin("unload", "echo")
    wait_until(lambda: not bystander.query("status")["used_bytes"], "and all the rest")
    with kernel.client() as client:
        assert client.borrow("echo.tensor", 4096)
        assert client.call("w.look").value == [1, True, b"once"]
