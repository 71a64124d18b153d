"""Memfds of the pool: segments that a client and a worker share, and the control pages.

Every memfd is sealed against resizing, so that no holder can truncate it under another. After its
pages were given back a descriptor is kept for a while, to see from its block count whether a worker
that had mapped it fills it again.
"""

import errno
import fcntl
import mmap
import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

from clawai.kernel import limits

F_SEAL_FUTURE_WRITE = 0x0010
_FIXED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def create(name: str, size: int) -> int:
    """A memfd of ``size`` bytes that nobody can resize."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | fcntl.F_SEAL_SEAL)
    return fd


def blocks(fd: int) -> int:
    """How many 512-byte blocks hold data."""
    return os.fstat(fd).st_blocks


@dataclass(slots=True)
class ControlPage:
    """One 32-bit word a slot, written by the kernel, mapped read-only by the worker."""

    fd: int
    page: mmap.mmap

    @classmethod
    def create(cls) -> "ControlPage":
        """A page that we map for writing before every later writable mapping is sealed away."""
        fd = os.memfd_create("claw-control", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, mmap.PAGESIZE)
        page = mmap.mmap(fd, mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
        return cls(fd, page)

    def set(self, slot: int, value: int) -> None:
        """Write the word of a slot."""
        self.page[4 * slot : 4 * slot + 4] = value.to_bytes(4, "little")

    def close(self) -> None:
        """Let go of the page."""
        self.page.close()
        os.close(self.fd)


def punch(fd: int, begin: int, length: int) -> int:
    """Give some pages back; where the next ones begin, at the end the size."""
    size = os.fstat(fd).st_size
    length = min(length, size - begin)
    with mmap.mmap(fd, size) as mapping:
        mapping.madvise(mmap.MADV_REMOVE, begin, length)
    return begin + length


def read_only(fd: int) -> int:
    """A second descriptor of the same memory that cannot be mapped for writing.

    A worker cannot make a better one of it: its sandbox has no /proc to open it by another way.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


@dataclass
class Segments:
    """The descriptors behind the core's segment numbers."""

    fds: dict[int, int] = field(default_factory=dict)
    freeing: dict[int, int] = field(default_factory=dict)
    """Segments whose pages are being given back, and how far that is."""
    owners: dict[int, int] = field(default_factory=dict)
    """Segment to the process of its client."""
    retired: dict[int, dict[int, int]] = field(default_factory=dict)
    """Worker to segments whose pages it gave back, and their descriptors."""
    fresh: bool = False
    """Pages were given back since the last look at ``violators``."""

    def make(self, number: int, size: int, owner: int) -> int:
        """Create a segment for a client's process."""
        fd = create(f"claw-segment-{number}", size)
        if fd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 7 // 8:
            os.close(fd)  # the rest is kept for clients and workers
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.fds[number], self.owners[number] = fd, owner
        return fd

    def punch_some(self) -> list[int]:
        """Give so many pages back as one turn of the loop has time for; segments that are done."""
        left, done = limits.PUNCH, []
        while self.freeing and left > 0:
            number, begin = next(iter(self.freeing.items()))
            fd = self.fds[number]
            reached = punch(fd, begin, left)
            left -= reached - begin
            self.freeing[number] = reached
            if reached == os.fstat(fd).st_size:
                del self.freeing[number]
                done.append(number)
        return done

    def retire(self, number: int, worker: int, alive: bool) -> bool:
        """Let go of a segment whose pages were given back; False if its worker fills them again.

        What the client fills is its own, as if it had made the file itself: nobody else is to
        blame for it.
        """
        fd = self.fds[number]
        if blocks(fd) and alive and not self._owner_maps(number):
            return False
        del self.fds[number]
        if alive:
            held = self.retired.setdefault(worker, {})
            held[number] = fd
            self.fresh = True
            if len(held) > limits.WATCHED:  # one that is never idle is never renewed
                oldest = next(iter(held))
                self._close(oldest, held.pop(oldest))
        else:
            self._close(number, fd)
        return True

    def _owner_maps(self, number: int) -> bool:
        """Whether the client's process could be who writes to a segment."""
        try:
            maps = Path(f"/proc/{self.owners[number]}/maps").read_text()
        except OSError:
            return False
        return f"/memfd:claw-segment-{number} " in maps

    def _close(self, number: int, fd: int) -> None:
        os.close(fd)
        self.owners.pop(number, None)

    def drop(self, number: int) -> None:
        """Forget a segment that reached nobody."""
        if (fd := self.fds.pop(number, None)) is not None:
            self._close(number, fd)

    def violators(self) -> list[int]:
        """Workers that wrote to pages after they had given them back."""
        self.fresh = False
        return [
            worker
            for worker, held in self.retired.items()
            if any(blocks(fd) and not self._owner_maps(number) for number, fd in held.items())
        ]

    def worker_gone(self, worker: int) -> None:
        """A dead worker fills nothing."""
        for number, fd in self.retired.pop(worker, {}).items():
            self._close(number, fd)

    def close(self) -> None:
        """Close everything."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()
        for worker in list(self.retired):
            self.worker_gone(worker)
