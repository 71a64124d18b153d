"""Load system call filters that the prober compiled; the programs are opaque bytes here.

The prober packs three programs, each with a four-byte length: the allow-list, the allow-list that
lets one more filter follow, and that filter, which forbids new executable memory and any further
one. A placeholder in the allow-lists stands for the worker's own pid.
"""

import ctypes
import os
import struct

from clawai.sandbox import syscalls as sc

BASE, BASE_BEFORE_MORE, NO_NEW_CODE = 0, 1, 2
# No process has this pid (the kernel's limit is 2**22); replaced by the worker's own.
OWN_PID = 0x7E57_0001

SET_MODE_FILTER, TSYNC = 1, 1
_INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def pack(programs: list[bytes]) -> bytes:
    """One byte string that ``unpack`` takes apart again."""
    return b"".join(struct.pack("<I", len(program)) + program for program in programs)


def unpack(data: bytes) -> list[bytes]:
    """The programs in ``data``; none when it is empty (level "weaker" without libseccomp)."""
    programs, offset = [], 0
    while offset < len(data):
        (size,) = struct.unpack_from("<I", data, offset)
        program = data[offset + 4 : offset + 4 + size]
        if len(program) != size or size % _INSTRUCTION_BYTES:
            raise ValueError(f"a filter of {size} bytes was cut short; run the prober again")
        programs.append(program)
        offset += 4 + size
    return programs


def load(programs: list[bytes], which: int) -> None:
    """Apply one program to every thread of the process; needs no_new_privs."""
    if len(programs) <= which:
        raise ValueError("no system call filter was given; run the prober again")
    code = _with_own_pid(programs[which])
    program = _Program(len(code) // _INSTRUCTION_BYTES, code)
    sc.syscall("seccomp", SET_MODE_FILTER, TSYNC, program)


def _with_own_pid(code: bytes) -> bytes:
    # The placeholder's bytes occur nowhere else: a test compiles and looks.
    return code.replace(struct.pack("<I", OWN_PID), struct.pack("<I", os.getpid()))
