"""The control page: how the kernel reaches a task that computes."""

import fcntl
import mmap
import os

_FUTURE_WRITE = 0x0010
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _FUTURE_WRITE | fcntl.F_SEAL_SEAL


class ControlPage:
    """One 32-bit word a slot, written by the kernel, mapped read-only by the worker.

    We map it for writing before every later writable mapping is sealed away.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("claw-control", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self.page = mmap.mmap(self.fd, mmap.PAGESIZE)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)

    def set(self, slot: int, value: int) -> None:
        """Write the word of a slot."""
        self.page[4 * slot : 4 * slot + 4] = value.to_bytes(4, "little")

    def close(self) -> None:
        """Let go of the page."""
        self.page.close()
        os.close(self.fd)
