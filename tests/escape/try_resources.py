"""More than its share: memory, files, threads, descriptors, limits."""

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

from registry import (
    FILE_BYTES,
    MAX_FDS,
    MAX_THREADS,
    MEMORY_BYTES,
    TMP_BYTES,
    Facts,
    Sighting,
    attempt,
    tell,
)

_NODES = 5000


def _tmp(facts: Facts, name: str) -> Path:
    return Path(os.environ.get("TMPDIR", facts["folder"]), f"{name}-{facts['key']}")


def _held_kib(key: str, more_than: int) -> Any:
    return lambda _, seen: int(seen.status(key)[0]) << 10 > more_than


@attempt(look=_held_kib("VmRSS", MEMORY_BYTES), alone=True)
def private_memory_bomb(facts: Facts) -> None:
    size = MEMORY_BYTES + (16 << 20)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags) as area:
        _touch(area, size)
        tell(facts)


@attempt(look=_held_kib("RssShmem", MEMORY_BYTES), alone=True)
def shared_memory_bomb(facts: Facts) -> None:
    size = MEMORY_BYTES + (16 << 20)
    with mmap.mmap(-1, size) as area:
        _touch(area, size)
        tell(facts)


def _touch(area: mmap.mmap, size: int) -> None:
    area.madvise(14)  # MADV_HUGEPAGE: a fault for 2 MiB is much cheaper, where it is on
    area[0 :: mmap.PAGESIZE] = b"x" * (size // mmap.PAGESIZE)


def _blocks(_: Any, seen: Sighting) -> bool:
    return sum(os.fstat(fd).st_blocks for fd in seen.fds) * 512 > 2 * TMP_BYTES


@attempt(look=_blocks)
def fill_tmp(facts: Facts) -> None:
    fds = []
    try:
        for number in range(4):
            path = _tmp(facts, f"fill-{number}")
            fds.append(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.unlink()
            with contextlib.suppress(OSError):
                os.write(fds[-1], bytes(TMP_BYTES))
        tell(facts, fds=tuple(fds))
    finally:
        for fd in fds:
            os.close(fd)


@attempt(look=lambda _, seen: len(os.listdir(seen.fds[0])) == _NODES)  # noqa: PTH208
def fill_tmp_with_names(facts: Facts) -> None:
    folder = _tmp(facts, "names")
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    made = 0
    try:
        for made in range(_NODES):
            os.close(os.open(str(made), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        tell(facts, fds=(fd,))
    finally:
        for number in range(made + 1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(str(number), dir_fd=fd)
        os.close(fd)
        folder.rmdir()


@attempt(look=lambda _, seen: os.fstat(seen.fds[0]).st_size > FILE_BYTES, alone=True)
def large_file(facts: Facts) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = _tmp(facts, "large")
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        path.unlink()
        os.ftruncate(fd, 4 * FILE_BYTES)
        tell(facts, fds=(fd,))
    finally:
        os.close(fd)


@attempt(look=lambda _, seen: int(seen.status("Threads")[0]) > 2 * MAX_THREADS, alone=True)
def thread_bomb(facts: Facts) -> None:
    gate = threading.Event()
    threads = []
    threading.stack_size(1 << 16)  # what bounds memory must not hide what bounds threads
    try:
        with contextlib.suppress(RuntimeError):
            for _ in range(4 * MAX_THREADS):
                threads.append(threading.Thread(target=gate.wait))
                threads[-1].start()
        tell(facts)
    finally:
        gate.set()


@attempt(look=lambda _, seen: int(seen.status("FDSize")[0]) > 2 * MAX_FDS, alone=True)
def descriptor_bomb(facts: Facts) -> None:
    copies = []
    with contextlib.suppress(OSError):
        for _ in range(3 * MAX_FDS):
            copies.append(os.dup(0))
    if len(copies) < 3 * MAX_FDS:
        for fd in copies:
            os.close(fd)
    tell(facts)


@attempt(look=lambda bait, seen: bait.bombs("fork_bomb") > 4, alone=True)
def fork_bomb(facts: Facts) -> None:
    children: list[int] = []
    told, told_end = os.pipe()
    try:
        for _ in range(4 * MAX_THREADS):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    tell(facts, wait=False)
                    os.write(told_end, b".")
                    signal.pause()
                os._exit(0)
            children.append(pid)
    finally:
        for _ in children:
            os.read(told, 1)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(told)
        os.close(told_end)


def _limit(name: str, value: int) -> Any:
    def look(_: Any, seen: Sighting) -> bool:
        lines = Path(f"/proc/{seen.pid}/limits").read_text().splitlines()
        return any(line.startswith(name) and line.split()[-3] == str(value) for line in lines)

    return look


@attempt(look=_limit("Max core file size", 1), alone=True)
def raise_core_limit(facts: Facts) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    tell(facts)


@attempt(look=_limit("Max open files", 2 * MAX_FDS), alone=True)
def raise_descriptor_limit(facts: Facts) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * MAX_FDS, 2 * MAX_FDS))
    tell(facts)


@attempt(lambda bait, _: bait.dumped(), alone=True, ends=True)
def core_dump_elsewhere(facts: Facts) -> None:
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    with contextlib.suppress(OSError):
        os.chdir(facts["folder"])
    # Small on the disk: nothing of the heap goes into it.
    with contextlib.suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0")
    ctypes.CDLL(None).abort()


@attempt(lambda bait, _: os.path.exists(f"/dev/shm/claw-{bait.facts['key']}"))  # noqa: PTH110
def shared_memory_file(facts: Facts) -> None:
    Path(f"/dev/shm/claw-{facts['key']}").touch()


@attempt(lambda bait, _: os.path.exists(f"/dev/shm/sem.claw-{bait.facts['key']}"))  # noqa: PTH110
def named_semaphore(facts: Facts) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sem_open.restype = ctypes.c_void_p
    libc.sem_open(f"/claw-{facts['key']}".encode(), os.O_CREAT, 0o600, 0)
