"""The worker's side of a weights object: memory that the kernel keeps when the worker has gone.

It is written once, through a mapping that must be gone before the kernel seals it, and from then on
mapped for reading only, by this worker and by those after it.
"""

import contextlib
import gc
import mmap
from collections.abc import Callable

from clawai.sdk.errors import ClawError


def fill_weights(fd: int, nbytes: int, fill: Callable[[memoryview], None]) -> None:
    """Let ``fill`` write a weights object, and unmap it: the kernel can seal only what nobody maps.

    Raises:
        ClawError: worker_failed, if a view of it is left.
    """
    mapping = mmap.mmap(fd, nbytes)
    _huge(mapping)
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


def map_weights(fd: int, nbytes: int) -> mmap.mmap:
    """A weights object for reading."""
    try:
        mapping = mmap.mmap(fd, nbytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except PermissionError:
        # Before Linux 6.7 a sealed memfd has no shared mapping; a private one has the same pages.
        mapping = mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    _huge(mapping)
    return mapping


def _huge(mapping: mmap.mmap) -> None:
    with contextlib.suppress(OSError):  # the system has none for files like this
        mapping.madvise(mmap.MADV_HUGEPAGE)
