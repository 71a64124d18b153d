"""The worst of it through a running daemon: nobody but the plugin itself may notice."""

import contextlib
import json
import os
import select
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sandbox import seccomp
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import PATIENCE, Kernel, descriptors, memory_kib, wait_until

WORST = '''
import array, ctypes, fcntl, mmap, os, signal, socket, threading
from clawai.sdk.plugin import Context, operation

libc = ctypes.CDLL(None, use_errno=True)
PAGE, GIB = 4096, 1 << 30

def tried(*attempts):
    """How many of these were not refused."""
    done = 0
    for attempt in attempts:
        try:
            attempt()
            done += 1
        except (OSError, ValueError, MemoryError, RuntimeError):
            pass
    return done

def memory():
    return [fd for fd in range(3, 64) if tried(lambda: fcntl.fcntl(fd, fcntl.F_GET_SEALS))]

@operation("worst.fine")
def fine() -> str:
    return "fine"

@operation("worst.signals")
def signals(ctx: Context) -> int:
    kill = [lambda pid=pid: os.kill(pid, signal.SIGKILL) for pid in (0, -1, -2, 2, os.getppid())]
    return tried(*kill, lambda: os.setpriority(os.PRIO_PGRP, 0, 19), os.setsid)

@operation("worst.memory")
def memory_bombs(ctx: Context) -> int:
    kept = []
    while len(kept) < 64:  # 16 GiB
        try:
            kept.append(bytearray(256 << 20))
        except MemoryError:
            break
    return tried(
        lambda: mmap.mmap(-1, GIB),
        lambda: mmap.mmap(-1, GIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100),
        lambda: os.memfd_create("bomb"),
        lambda: os.open("/dev/zero", os.O_RDWR),
    ) + (len(kept) == 64)

@operation("worst.bombs")
def bombs(ctx: Context) -> int:
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait, daemon=True) for _ in range(5000)]
    started = tried(*(thread.start for thread in threads))
    copies = []
    tried(*(lambda: copies.append(os.dup(0)) for _ in range(5000)))
    gate.set()
    for fd in copies:
        os.close(fd)
    return tried(*[os.fork] * 100) + (started == 5000) + (len(copies) == 5000)

@operation("worst.tmp")
def tmp(ctx: Context) -> int:
    kept = []
    def fill():
        kept.append(open(f"fill-{len(kept)}", "wb", buffering=0))
        kept[-1].write(bytes(16 << 20))
    return int(tried(*[fill] * 100) == 100)

@operation("worst.pages")
def pages(ctx: Context) -> int:
    """Whatever memory was handed over: resize, seal, write, and cut holes."""
    done = 0
    for fd in memory():
        if os.fstat(fd).st_size != PAGE:
            continue
        done += tried(
            lambda: os.ftruncate(fd, 0),
            lambda: os.pwrite(fd, b"taken", 0),
            lambda: mmap.mmap(fd, PAGE),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        )
    return done

@operation("worst.rights")
def rights(ctx: Context) -> int:
    """Descriptors with every byte, on whatever socket there is."""
    sock = ctx.outlet._sock
    cargo = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 200))]
    # An empty ping of ZMTP each time. Sending is allowed; that nothing arrives is seen outside.
    tried(*[lambda: sock.sendmsg([b"\\x04\\x07\\x04PING\\x00\\x00"], cargo)] * 500)
    return 0

@operation("worst.sockets")
def sockets(ctx: Context) -> int:
    return tried(
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.socket(socket.AF_INET),
        lambda: socket.create_connection(("127.0.0.1", 22), 1),
        lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    )

@operation("worst.noise")
def noise(ctx: Context) -> int:
    for number in range(3_000):
        print("x" * 200)
    return 0

@operation("worst.garbage")
def garbage(ctx: Context) -> int:
    for fd in range(1, 64):
        try:
            os.set_blocking(fd, False)
            for _ in range(50):
                os.write(fd, os.urandom(65536))
        except OSError:
            pass
    return 0

@operation("worst.close")
def close(ctx: Context) -> int:
    os.closerange(0, 4096)
    return 0

@operation("worst.foreign")
def foreign(ctx: Context) -> int:
    """A call of another architecture, from memory that may hold code or not."""
    area = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    area.write(b"\\xb8\\x25\\x00\\x00\\x00\\xcd\\x80\\xc3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))()
    return 1
'''
NAMES = [line.split('"')[1] for line in WORST.splitlines() if line.startswith("@operation")]
ATTACKS = [name for name in NAMES if name != "worst.fine"]


class Neighbour:
    """A client that asks without a pause, and counts."""

    def __init__(self, kernel: Kernel) -> None:
        self.folder = kernel.folder
        self.served, self.looked, self.lost = 0, 0, list[str]()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with Client(folder=self.folder, timeout=PATIENCE) as client:
            while not self.over.is_set() and not self.lost:
                text = f"number {self.served}"
                try:
                    if client.call("echo.say", {"text": text}).value != text:
                        self.lost.append(f"{text}: another answer")
                except ClawError as error:
                    self.lost.append(f"{text}: {error}")
                self.served += 1

    def wait_for_more(self, what: str) -> None:
        """Until it was served once more than at the last look."""
        wait_until(lambda: self.served > self.looked, what)
        self.looked = self.served

    def __enter__(self) -> "Neighbour":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(PATIENCE)


def test_the_worst_attempts_of_a_plugin_cost_a_neighbour_no_request(kernel: Kernel) -> None:
    kernel.plugin("worst", WORST, dict.fromkeys(NAMES, ""), memory_mib=256)
    client = kernel.client()
    assert client.call("worst.fine").value == "fine"
    assert client.call("echo.say", {"text": "x"}).value == "x"
    echo, launchers = kernel.worker_pid("echo"), kernel.launchers()
    before = {pid: len(descriptors(pid)) for pid in (*kernel.exposed(), *launchers.values())}
    said = {}
    with Neighbour(kernel) as neighbour:
        for attack in ATTACKS:
            try:
                said[attack] = client.call(attack).value
            except ClawError as error:
                said[attack] = error.code
            assert client.call("worst.fine").value == "fine", "its worker is back"
            neighbour.wait_for_more(f"the neighbour is served in {attack}")
    assert not neighbour.lost
    assert neighbour.served > len(ATTACKS)
    # What was refused was refused each time, and what ends a worker ended this one.
    for attack, got in said.items():
        assert got in (0, "worker_died", "bad_worker"), (attack, said)
    assert said["worst.foreign"] == said["worst.close"] == "worker_died"
    assert kernel.worker_pid("echo") == echo
    assert kernel.launchers() == launchers
    for pid, count in before.items():
        assert len(descriptors(pid)) <= count + 4, "descriptors of the plugin arrived"
    assert memory_kib(kernel.pid) < 200 << 10


IMPORTED = """
import os
for fd in range(3, 64):
    try:
        os.set_blocking(fd, False)
        for _ in range(40):
            os.write(fd, b'started\\n{"event": "started", "pid": 1}\\n' + b"\\xff" * 4000)
    except OSError:
        pass

def run(fds, args):
    pass
"""


@pytest.fixture
def liar() -> Iterator[Spawned]:
    """A worker whose module writes to every descriptor that it has, as soon as it is imported."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        Path(folder, "claw_liar.py").write_text(IMPORTED)
        spawned = spawn(
            "claw_liar:run",
            Policy.load("strict"),
            {},
            bpf=seccomp.compile_filters(os.uname().machine),
            level="full",
            args={},
            import_paths=[folder],
        )
        stack.callback(spawned.stage.wait)
        stack.callback(spawned.close)
        yield spawned


def test_lies_on_the_report_pipe_are_one_report_of_bounded_length(liar: Spawned) -> None:
    reports = []
    while not reports or reports[-1].event != "closed":
        assert select.select([liar.status_fd], [], [], PATIENCE)[0]
        reports += liar.read_status()
    assert [report.event for report in reports][:1] == ["started"]
    assert len(reports) <= 3
    assert reports[0].pid == liar.worker_pid > 1
    assert len(json.dumps([report.error for report in reports])) < 30_000
