"""The worker's side of a weights object: memory that the kernel keeps when the worker has gone.

It is written once, through a mapping that must be gone before the kernel seals it, and from then on
mapped for reading only, by this worker and by those after it. Nothing here touches its pages but
the one who fills it.

Huge pages: a memfd gets none where ``shmem_enabled`` is "never", which is the default of Linux, and
4 KiB pages cost a language model a tenth of its speed or more. ``MADV_COLLAPSE`` (Linux 6.1) makes
them whatever that setting says. Every 2 MiB need one page to begin with, and both file offset and
address must be multiples of 2 MiB; ``mmap`` of Python chooses no address, so ``ctypes`` does.
"""

import ctypes
import errno
import fcntl
import gc
import mmap
import os
import resource
import struct
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from clawai.sdk.errors import ClawError

HUGE = 2 << 20
_MAP_FIXED, _MADV_COLLAPSE, _MADV_POPULATE_READ = 0x10, 25, 22
_READERS, _PIECE = 3, 8 << 20
PROBES = 3
_PAGEMAP_SCAN, _IS_HUGE = 0xC0606610, 1 << 6


def fill_weights(
    fd: int, nbytes: int, fill: Callable[[memoryview], None], behind: bytes = b""
) -> None:
    """Let ``fill`` write a weights object, and unmap it: the kernel can seal only what nobody maps.

    Args:
        behind: what follows the ``nbytes`` of the weights.

    Raises:
        ClawError: worker_failed, if a view of it is left.
    """
    size = nbytes + len(behind)
    _want_huge(fd, size)
    mapping = mmap.mmap(fd, size)
    whole = memoryview(mapping)[:nbytes]
    fill(whole)
    mapping[nbytes:] = behind
    for collect in (False, True):
        if collect:
            gc.collect()  # a cycle may hold the last view
        try:
            whole.release()
            mapping.close()
        except BufferError:
            continue
        return
    raise ClawError(
        "worker_failed",
        "the plugin kept a view of the weights that it was to fill",
        hint="keep no array of the memory that fill() was given",
    )


def map_weights(fd: int, nbytes: int, begin: int = 0) -> memoryview:
    """A weights object, or a file from ``begin`` on, for reading as long as the process lives."""
    try:
        address = _map(fd, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, begin)
    except PermissionError:
        # Before Linux 6.7 a sealed memfd has no shared mapping; a private one has the same pages.
        address = _map(fd, nbytes, mmap.PROT_READ, mmap.MAP_PRIVATE, begin)
    if begin:
        _read_ahead(address, nbytes)
    read_only = 0x100
    view = ctypes.pythonapi.PyMemoryView_FromMemory
    view.restype = ctypes.py_object
    view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
    whole: memoryview = view(address, nbytes, read_only)
    return whole


def huge_in_file(fd: int, begin: int, nbytes: int) -> bool:
    """Whether most of a file, from ``begin`` on, is mapped in huge pages (large folios).

    File systems have them from different versions of Linux on (XFS early, ext4 from 6.16), and
    memory may be too fragmented for some; what has none is mapped in pages of 4 KiB. Looked at in a
    few places, of which a page each is read.
    """
    whole = nbytes // HUGE
    places = {whole * part // PROBES for part in range(PROBES)} if whole else set()
    libc, addresses = _libc(), []
    try:
        for place in places:
            address = _map(fd, HUGE, mmap.PROT_READ, mmap.MAP_SHARED, begin + place * HUGE)
            addresses.append(address)
            libc.madvise(address, HUGE, mmap.MADV_HUGEPAGE)
            ctypes.string_at(address, 1)
        return 2 * _mapped_huge(addresses) > len(places)
    except OSError:
        return False
    finally:
        for address in addresses:
            libc.munmap(address, HUGE)


def _mapped_huge(addresses: list[int]) -> int:
    """How many of these, 2 MiB each, are mapped by a huge page of a file.

    Raises:
        OSError: the system does not say.
    """
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
            return sum(_scan(file.fileno(), address) for address in addresses)
    except OSError:  # before Linux 6.7: from its account of all mappings, which takes a while
        with open("/proc/self/smaps") as lines:  # noqa: PTH123
            return _told_huge(lines, addresses)


def _scan(pagemap: int, address: int) -> bool:
    """Whether all of 2 MiB is one huge page.

    Raises:
        OSError: this system cannot be asked so.
    """
    end, region = address + HUGE, (ctypes.c_uint64 * 3)()
    # struct pm_scan_arg of linux/fs.h: one region of pages that are huge, in mask and answer.
    scan = struct.pack(
        "12Q", 96, 0, address, end, 0, ctypes.addressof(region), 1, 0, 0, _IS_HUGE, 0, _IS_HUGE
    )
    found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, bytearray(scan))
    return found == 1 and tuple(region[:2]) == (address, end)


def _told_huge(lines: Iterable[str], addresses: list[int]) -> int:
    found, wanted = 0, False
    for line in lines:
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            begin, _, end = first.partition("-")
            wanted = any(int(begin, 16) <= each < int(end, 16) for each in addresses)
        elif wanted and first == "FilePmdMapped:":
            found += int(rest.split()[0]) * 1024 // HUGE
    return found


def _read_ahead(address: int, nbytes: int) -> None:
    """Have the pages of a file come, several at a time, while others already use the first ones.

    What lies in memory is mapped at once: to start a thread takes longer. A fault brings a huge
    page where there can be one; the usual ways to ask for pages ahead bring small ones, which stay
    small.
    """
    libc, waits = _libc(), _waits()
    libc.madvise(address, nbytes, mmap.MADV_HUGEPAGE)
    begin, piece = 0, HUGE
    while begin < nbytes and _waits() == waits:
        libc.madvise(address + begin, min(piece, nbytes - begin), _MADV_POPULATE_READ)
        begin, piece = begin + piece, min(2 * piece, _PIECE)

    def read(first: int) -> None:
        for at in range(begin + first * _PIECE, nbytes, _READERS * _PIECE):
            libc.madvise(address + at, min(_PIECE, nbytes - at), _MADV_POPULATE_READ)

    for first in range(_READERS if begin < nbytes else 0):
        threading.Thread(target=read, args=(first,), daemon=True).start()


def _waits() -> int:
    """How often this thread had to wait for a page from the disk. A clock would count, too, when
    others had the processor."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


def _want_huge(fd: int, nbytes: int) -> None:
    """Ask for huge pages before anything is written; without them it works all the same."""
    if nbytes < HUGE:
        return
    address = _map(fd, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
    for at in range(0, nbytes - HUGE + 1, HUGE):
        ctypes.memset(address + at, 0, 1)  # a write() would meet the sandbox's limit of file sizes
    libc = _libc()
    libc.madvise(address, nbytes // HUGE * HUGE, _MADV_COLLAPSE)
    libc.munmap(address, nbytes)


def _map(fd: int, nbytes: int, protection: int, flags: int, begin: int = 0) -> int:
    """Map a file where huge pages can be mapped; returns the address.

    Raises:
        OSError: the system refuses.
    """
    libc = _libc()
    nowhere = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start: int = libc.mmap(None, nbytes + HUGE, 0, nowhere, -1, 0)
    _check(start)
    address = -(-start // HUGE) * HUGE
    found: int = libc.mmap(address, nbytes, protection, flags | _MAP_FIXED, fd, begin)
    end = -(-(address + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    failure = ctypes.get_errno() if found != address else 0
    for first, last in ((start, address), (end, start + nbytes + HUGE)):
        if last > first:
            libc.munmap(first, last - first)
    if failure:
        libc.munmap(address, nbytes)
        raise OSError(failure, os.strerror(failure))
    return address


def _check(address: int) -> None:
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno() or errno.ENOMEM
        raise OSError(number, os.strerror(number))


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc
