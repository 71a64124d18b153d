"""Escape attempts: each tries to do one forbidden thing, and says from outside whether it was done.

An attempt counts only when it succeeds without the sandbox, so the prober runs each both ways. The
ones here are the prober's set, small enough for every start of the daemon; the tests add the rest
(tests/escape). ``fact`` is plain data about the bait; the trying half runs in the
worker, so it may assume nothing but the standard library. ``KNOWN_GAPS`` is what each level does
not stop, by definition of the level.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN_GAPS = {
    "full": frozenset[str](),
    "no-landlock": frozenset[str](),
    "no-userns": frozenset(
        # Without a mount of its own the tmp has no bound, without a user namespace of its own the
        # threads of an ordinary user's worker have none (a group of the system may have one).
        {"stat_outside", "reopen_memfd", "dlopen_tmp", "fill_tmp", "thread_bomb"}
    ),
}
# What the prober's worker may hold: little, so that trying to hold more takes no time.
TMP_BYTES, MAX_THREADS = 1 << 20, 8
_FOLDER = "claw-bait-"
Facts = Mapping[str, Any]
Try = Callable[[Facts], Any]
Judge = Callable[["Bait", Any], bool]


@dataclass(frozen=True, slots=True)
class Attempt:
    """``run`` tries (inside) and returns evidence; ``worked`` judges it (outside)."""

    name: str
    run: Try
    worked: Judge


ATTEMPTS: dict[str, Attempt] = {}


def attempt(worked: Judge = lambda _, evidence: bool(evidence)) -> Callable[[Try], Try]:
    """Register a function as an attempt; by default truthy evidence means that it worked."""

    def register(function: Try) -> Try:
        ATTEMPTS[function.__name__] = Attempt(function.__name__, function, worked)
        return function

    return register


class Bait:
    """What the attempts reach for: a secret file, sockets, a read-only memfd; made afresh each run.

    Attributes:
        facts: what the trying half is told.
        folder: holds everything that has a name; the worker's policy does not list it.
    """

    def __init__(self) -> None:
        from clawai.sandbox import leftovers  # not at the top: see above

        self.folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        self._held = leftovers.hold(str(self.folder))
        self.secret = os.urandom(16).hex()
        self.file = self.folder / "secret"
        self.file.write_text(self.secret)
        os.utime(self.file, (1, 1))
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.bind(str(self.folder / "stream"))
        self.stream.listen()
        self.stream.setblocking(False)
        self.datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram.bind(("127.0.0.1", 0))
        self.datagram.setblocking(False)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.tcp.setblocking(False)
        self.abstract_name = f"claw-bait-{os.getpid()}-{self.secret[:8]}"
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{self.abstract_name}")
        self.abstract.listen()
        self.abstract.setblocking(False)
        writable = os.memfd_create("bait")
        os.write(writable, b"untouched")
        self.memfd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(writable)
        self.facts: dict[str, Any] = {
            "folder": str(self.folder),
            "file": str(self.file),
            "stream": str(self.folder / "stream"),
            "port": self.datagram.getsockname()[1],
            "pid": os.getpid(),
            "memfd": self.memfd,
            "tcp": self.tcp.getsockname()[1],
            "abstract": self.abstract_name,
            "tmp_bytes": TMP_BYTES,
            "max_threads": MAX_THREADS,
        }

    def close(self) -> None:
        """Remove all of it."""
        self.stream.close()
        self.datagram.close()
        self.tcp.close()
        self.abstract.close()
        os.close(self.memfd)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._held >= 0:
            os.close(self._held)

    def made(self, name: str) -> bool:
        """Whether something of that name appeared in the folder."""
        return os.path.lexists(self.folder / name)

    def reached(self, listener: socket.socket) -> bool:
        """Whether a connection or a datagram arrived at one of the bait's sockets."""
        try:
            if listener.type == socket.SOCK_DGRAM:
                return bool(listener.recv(64))
            listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def clear_stale() -> None:
    """Remove the folders of probes that were killed: nobody holds their locks any more."""
    from clawai.sandbox import leftovers

    leftovers.clear(tempfile.gettempdir(), f"{_FOLDER}[a-z0-9_]{{8}}", os.geteuid())


@contextlib.contextmanager
def bait() -> Iterator[Bait]:
    """A Bait that is removed at the end."""
    made = Bait()
    try:
        yield made
    finally:
        made.close()


def run_all(fds: Mapping[str, int], args: Mapping[str, Any]) -> None:
    """Inside: run ``args["names"]`` on ``args["facts"]``; one JSON line each on fd "results"."""
    with os.fdopen(fds["results"], "w") as out:
        for name in args["names"]:
            try:
                result = {"name": name, "evidence": ATTEMPTS[name].run(args["facts"])}
            except Exception as error:
                result = {"name": name, "error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), file=out, flush=True)


def clone_process() -> int:
    """A child that exits at once, by the bare system call: the parent gets its pid."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@attempt(lambda bait, evidence: evidence == bait.secret)
def read_outside(facts: Facts) -> str:
    return Path(facts["file"]).read_text()


@attempt()
def stat_outside(facts: Facts) -> bool:
    return Path(facts["file"]).stat().st_mtime == 1


@attempt(lambda bait, _: bait.made("written"))
def write_outside(facts: Facts) -> None:
    Path(facts["folder"], "written").touch()


@attempt(lambda bait, _: bait.file.stat().st_mode & 0o777 == 0o604)
def chmod_outside(facts: Facts) -> None:
    Path(facts["file"]).chmod(0o604)


@attempt(lambda bait, _: bait.reached(bait.stream))
def unix_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(facts["stream"])


@attempt(lambda bait, _: bait.reached(bait.datagram))
def udp_send(facts: Facts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"out", ("127.0.0.1", facts["port"]))


@attempt(lambda bait, _: bait.reached(bait.tcp))
def tcp_connect(facts: Facts) -> None:
    socket.create_connection(("127.0.0.1", facts["tcp"]), timeout=5).close()


@attempt()
def tcp_listen(_: Facts) -> bool:
    socket.create_server(("127.0.0.1", 0)).close()
    return True


@attempt(lambda bait, _: bait.reached(bait.abstract))
def abstract_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{facts['abstract']}")


@attempt()
def see_processes(facts: Facts) -> bool:
    return any(entry.name == str(facts["pid"]) for entry in Path("/proc").iterdir())


@attempt(lambda bait, _: os.pread(bait.memfd, 9, 0) == b"rewritten")
def reopen_memfd(facts: Facts) -> None:
    fd = os.open(f"/proc/self/fd/{facts['memfd']}", os.O_RDWR)
    os.write(fd, b"rewritten")
    os.close(fd)


@attempt()
def fork_process(_: Facts) -> int:
    return clone_process()


@attempt(lambda bait, _: bait.made("executed"))
def run_program(facts: Facts) -> None:
    touch = shutil.which("touch") or "/usr/bin/touch"
    pid = os.posix_spawn(touch, [touch, f"{facts['folder']}/executed"], {})
    os.waitpid(pid, 0)


@attempt()
def signal_outside(facts: Facts) -> bool:
    # Inside a process namespace of its own the number may name the worker itself, which is allowed.
    if facts["pid"] == os.getpid():
        raise ProcessLookupError("the pid is the worker's own here")
    os.kill(facts["pid"], 0)
    return True


@attempt()
def change_priority(_: Facts) -> bool:
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    return True


@attempt()
def create_memory_object(_: Facts) -> bool:
    fd = os.memfd_create("bomb")
    os.ftruncate(fd, 1 << 20)
    os.close(fd)
    return True


@attempt()
def dlopen_tmp(_: Facts) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library.so")
        shutil.copyfile(sys.modules["_ctypes"].__file__ or "", library)
        ctypes.CDLL(str(library))
    return True


@attempt()
def parent_environment(_: Facts) -> bool:
    # Set by whoever runs the attempts, in the environment of the process that spawns.
    seen = [os.environ.get("CLAW_BAIT")]
    with contextlib.suppress(OSError):
        seen.append(Path("/proc/self/environ").read_text())
    return any("claw-bait" in text for text in seen if text)


@attempt()
def raise_limit(_: Facts) -> bool:
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    return resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)


@attempt(lambda bait, written: bool(written) and written > 2 * TMP_BYTES)
def fill_tmp(facts: Facts) -> int:
    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR", "/tmp")) as file:
        for _ in range(4):
            file.write(bytes(facts["tmp_bytes"]))
            file.flush()
        return file.tell()


@attempt(lambda bait, started: bool(started) and started > 2 * MAX_THREADS)
def thread_bomb(facts: Facts) -> int:
    gate, threads = threading.Event(), []
    with contextlib.suppress(RuntimeError):
        for _ in range(4 * facts["max_threads"]):
            thread = threading.Thread(target=gate.wait)
            thread.start()
            threads.append(thread)
    gate.set()
    for thread in threads:
        thread.join()
    return len(threads)


@attempt()
def new_user_namespace(_: Facts) -> bool:
    # Last: without the sandbox, the process has lost its rights over the rest afterwards.
    return bool(ctypes.CDLL(None).unshare(0x10000000) == 0)
