"""Bulk work for benchmarks: each operation is one call of a loop in C that nothing interrupts.

Nothing here reads the control word, so that only the system can take the processor away from it.
Each returns the microseconds of processor time that it took.
"""

import hashlib
import time
import zlib

from clawai.sdk.plugin import operation

_BUFFER = bytes(range(256)) * (1 << 14)
"""4 MiB: more than most second-level caches hold."""
_MODULUS = (1 << 1279) - 1


@operation("bulk.hash")
def hash_chain(units: int) -> int:
    """Hash so many times."""
    began = time.thread_time_ns()
    hashlib.pbkdf2_hmac("sha256", b"claw", b"bench", units)
    return (time.thread_time_ns() - began) // 1000


@operation("bulk.sum")
def checksum(units: int) -> int:
    """Read so many KiB, at least one buffer whole."""
    began = time.thread_time_ns()
    for _ in range(max(1, units * 1024 // len(_BUFFER))):
        zlib.crc32(_BUFFER)
    return (time.thread_time_ns() - began) // 1000


@operation("bulk.power")
def power(units: int) -> int:
    """Raise to a power of so many bits."""
    began = time.thread_time_ns()
    pow(3, (1 << units) - 1, _MODULUS)
    return (time.thread_time_ns() - began) // 1000
