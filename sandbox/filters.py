"""Load system call filters that the prober compiled; the programs are opaque bytes here.

The prober packs three parts, each with a four-byte length: the allow-list, a second filter that
forbids new executable memory and any further filter, and the names of the calls, for reports.

In the allow-list some rules return an errno that no call gives: a marker. At load each marker
becomes what the worker's policy says, or a denial like any other. So one program serves every
policy, and what is not asked for is denied by the same instruction as everything unknown. One more
placeholder stands for the worker's own pid.

A denial is EPERM. Loaded with ``listen`` it is a question to the outer stage, which answers EPERM
and counts (``denials``); should the stage be gone, the kernel answers ENOSYS: it stays denied.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Collection

from clawai.sandbox import syscalls as sc

BASE, NO_NEW_CODE, NAMES = 0, 1, 2
# No process has this pid (the kernel's limit is 2**22); replaced by the worker's own.
OWN_PID = 0x7E57_0001

SET_MODE_FILTER = 1
TSYNC, NEW_LISTENER, TSYNC_ESRCH = 1, 8, 16
RET_ALLOW, RET_ERRNO, RET_USER_NOTIF = 0x7FFF_0000, 0x0005_0000, 0x7FC0_0000
_DENIED = RET_ERRNO | errno.EPERM
# Marker: the feature that it belongs to, and what it becomes where the policy has that feature.
MARKERS = {
    4001: ("more", RET_ALLOW),
    4002: ("programs", RET_ALLOW),
    4003: ("accept", RET_ALLOW),
    4004: ("accept", RET_ERRNO),  # errno 0: the call is not made, and says that it has succeeded
    4005: ("devices", RET_ALLOW),
    4007: ("connections", RET_ALLOW),
}
OBSERVED = 4006
"""Marks what is allowed to everybody, and told to the stage where ``observe`` is asked for."""
_FEATURES = {name for name, _ in MARKERS.values()}
_INSTRUCTION = struct.Struct("<HBBI")
_RETURN = 0x06


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def pack(programs: list[bytes]) -> bytes:
    """One byte string that ``unpack`` takes apart again."""
    return b"".join(struct.pack("<I", len(program)) + program for program in programs)


def unpack(data: bytes) -> list[bytes]:
    """The parts in ``data``; none when it is empty (level "weaker" without libseccomp)."""
    programs, offset = [], 0
    while offset < len(data):
        (size,) = struct.unpack_from("<I", data, offset)
        program = data[offset + 4 : offset + 4 + size]
        if len(program) != size or size % _INSTRUCTION.size:
            raise ValueError(f"a filter of {size} bytes was cut short; run the prober again")
        programs.append(program)
        offset += 4 + size
    return programs


def pack_names(names: dict[int, str]) -> bytes:
    """The part that ``names`` reads."""
    text = " ".join(f"{number}={name}" for number, name in names.items()).encode()
    return text.ljust(-(-len(text) // _INSTRUCTION.size) * _INSTRUCTION.size)


def names(programs: list[bytes]) -> dict[int, str]:
    """Number to name of every system call that was known where the filters were compiled."""
    if len(programs) <= NAMES:
        return {}
    pairs = (word.split("=") for word in programs[NAMES].decode().split())
    return {int(number): name for number, name in pairs}


def load(
    programs: list[bytes],
    which: int,
    features: Collection[str] = (),
    *,
    listen: bool = False,
    observe: bool = False,
) -> int:
    """Apply one program to every thread of the process; needs no_new_privs.

    Args:
        features: of ``MARKERS``; the rules that they mark are in force.
        listen: denied calls wait for an answer on the descriptor that is returned.
        observe: so do allowed opens of files.

    Returns:
        The listening descriptor, -1 without ``listen``.

    Raises:
        OSError: the system refuses it; with ``listen`` it may do so where somebody outside listens
            already (EBUSY), and would take the same filter without.
    """
    if len(programs) <= which:
        raise ValueError("no system call filter was given; run the prober again")
    code = _with_own_pid(resolve(programs[which], features, listen=listen, observe=observe))
    program = _Program(len(code) // _INSTRUCTION.size, code)
    flags = TSYNC | (NEW_LISTENER | TSYNC_ESRCH if listen else 0)
    result = sc.syscall("seccomp", SET_MODE_FILTER, flags, program)
    return result if listen else -1


def resolve(
    program: bytes, features: Collection[str], *, listen: bool = False, observe: bool = False
) -> bytes:
    """``program`` with every marker replaced by an action."""
    if unknown := set(features) - _FEATURES:
        raise ValueError(f"unknown features {sorted(unknown)}; allowed: {sorted(_FEATURES)}")
    denied = RET_USER_NOTIF if listen else _DENIED
    actions = {
        RET_ERRNO | marker: action if name in features else denied
        for marker, (name, action) in MARKERS.items()
    }
    actions[RET_ERRNO | OBSERVED] = RET_USER_NOTIF if observe else RET_ALLOW
    actions[_DENIED] = denied
    code = bytearray(program)
    for offset in range(0, len(code), _INSTRUCTION.size):
        operation, _, _, value = _INSTRUCTION.unpack_from(code, offset)
        if operation == _RETURN and value in actions:
            struct.pack_into("<I", code, offset + 4, actions[value])
    return bytes(code)


def _with_own_pid(code: bytes) -> bytes:
    # The placeholder's bytes occur nowhere else: a test compiles and looks.
    return code.replace(struct.pack("<I", OWN_PID), struct.pack("<I", os.getpid()))
