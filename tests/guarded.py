"""Arrays whose memory ends (or starts) exactly at a page that may not be touched.

An op that reads or writes one byte too far kills the test process instead of passing; bytes on the
other side of the array hold a pattern that ``close`` checks.
"""

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = mmap.PAGESIZE
PATTERN = 0xA5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """A set of guarded arrays; a context manager that unmaps them at the end."""

    def __init__(self, side: str) -> None:
        assert side in ("start", "end")
        self.side = side
        self._maps: list[tuple[int, int]] = []
        self._slack: list[npt.NDArray[np.uint8]] = []

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(self, *exc: Any) -> None:
        try:
            if exc[0] is None:
                self.check()
        finally:
            self._slack.clear()
            for address, size in self._maps:
                _libc.munmap(address, size)

    def check(self) -> None:
        """Fail if a byte beside an array was written."""
        for slack in self._slack:
            assert (slack == PATTERN).all(), "an op wrote outside of its array"

    def place(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of ``values`` flush with a forbidden page."""
        values = np.ascontiguousarray(values)
        body = -(-max(values.nbytes, 1) // PAGE) * PAGE
        size = body + 2 * PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert address and address != ctypes.c_void_p(-1).value, "mmap failed"
        self._maps.append((address, size))
        for guard in (address, address + PAGE + body):
            assert _libc.mprotect(guard, PAGE, 0) == 0, "mprotect failed"
        space = np.frombuffer((ctypes.c_uint8 * body).from_address(address + PAGE), np.uint8)
        space[:] = PATTERN
        start = 0 if self.side == "start" else body - values.nbytes
        self._slack += [space[:start], space[start + values.nbytes :]]
        array = space[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array
