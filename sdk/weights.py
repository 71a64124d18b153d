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
import gc
import mmap
import os
from collections.abc import Callable
from typing import Any

from clawai.sdk.errors import ClawError

HUGE = 2 << 20
_MAP_FIXED, _MADV_COLLAPSE = 0x10, 25


def fill_weights(fd: int, nbytes: int, fill: Callable[[memoryview], None]) -> None:
    """Let ``fill`` write a weights object, and unmap it: the kernel can seal only what nobody maps.

    Raises:
        ClawError: worker_failed, if a view of it is left.
    """
    _want_huge(fd, nbytes)
    mapping = mmap.mmap(fd, nbytes)
    whole = memoryview(mapping)
    fill(whole)
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


def map_weights(fd: int, nbytes: int) -> memoryview:
    """A weights object for reading, for as long as the process lives."""
    try:
        address = _map(fd, nbytes, mmap.PROT_READ, mmap.MAP_SHARED)
    except PermissionError:
        # Before Linux 6.7 a sealed memfd has no shared mapping; a private one has the same pages.
        address = _map(fd, nbytes, mmap.PROT_READ, mmap.MAP_PRIVATE)
    read_only = 0x100
    view = ctypes.pythonapi.PyMemoryView_FromMemory
    view.restype = ctypes.py_object
    view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
    whole: memoryview = view(address, nbytes, read_only)
    return whole


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


def _map(fd: int, nbytes: int, protection: int, flags: int) -> int:
    """Map a file where huge pages can be mapped; returns the address.

    Raises:
        OSError: the system refuses.
    """
    libc = _libc()
    nowhere = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start: int = libc.mmap(None, nbytes + HUGE, 0, nowhere, -1, 0)
    _check(start)
    address = -(-start // HUGE) * HUGE
    found: int = libc.mmap(address, nbytes, protection, flags | _MAP_FIXED, fd, 0)
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
