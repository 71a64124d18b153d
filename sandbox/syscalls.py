"""Thin, typed wrappers of the system calls that the standard library lacks; ctypes only.

Each wrapper raises OSError with errno and the name of the call. Constants carry the kernel's own
names. Numbers that differ by architecture are in ``_NUMBERS``; the aarch64 column is written from
the kernel's generic table and not run on hardware.
"""

import ctypes
import mmap
import os
import re
from collections.abc import Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# Numbers from 424 up are the same on every architecture.
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "capset": 126, "sched_setattr": 314, "seccomp": 317},
    "aarch64": {"pivot_root": 41, "capset": 91, "sched_setattr": 274, "seccomp": 277},
}
_SHARED = {
    "open_tree": 428,
    "move_mount": 429,
    "close_range": 436,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_CAPBSET_DROP, PR_SET_SECUREBITS = 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4


def syscall(name: str, *args: int | bytes | ctypes.Structure | None) -> int:
    """The raw call; integers are widened to 64 bit, structures are passed by address."""
    machine = os.uname().machine
    number = _SHARED.get(name) or _NUMBERS.get(machine, {}).get(name)
    if number is None:
        raise OSError(38, f"{name}: no number known for {machine}; known: {sorted(_NUMBERS)}")
    wide = [
        ctypes.c_long(a)
        if isinstance(a, int)
        else ctypes.byref(a)
        if isinstance(a, ctypes.Structure)
        else ctypes.c_char_p(a)
        for a in args
    ]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *wide))


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


class _SchedAttr(ctypes.Structure):
    """struct sched_attr, as of SCHED_ATTR_SIZE_VER0."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_KEEP_POLICY = 0x8


def takes_slices() -> bool:
    """Whether the scheduler takes notice of ``set_slice``: Linux 6.12."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 12)


def set_slice(microseconds: int) -> None:
    """Of the calling thread, and of all that it starts: the slice that the scheduler grants it.

    Whoever has a shorter one than what runs goes first when it is woken, while it has had less than
    its share of the processor (EEVDF, from Linux 6.12 on; an older one takes no notice). Its share
    is as ever.

    Args:
        microseconds: 100 to 100,000; the scheduler keeps to these bounds.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    size = ctypes.sizeof(_SchedAttr)
    attributes = _SchedAttr(size, 0, _KEEP_POLICY, nice, 0, 1000 * microseconds, 0, 0)
    syscall("sched_setattr", 0, attributes, 0)


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones."""
    _checked("unshare", _libc.unshare(ctypes.c_int(flags)))


def prctl(option: int, *args: int) -> int:
    """prctl with up to four integer arguments, the rest 0."""
    wide = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    return _checked(f"prctl({option})", _libc.prctl(ctypes.c_int(option), *wide))


def set_name(name: str) -> None:
    """The name that ps shows, 15 bytes at most."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _checked("prctl(PR_SET_NAME)", _libc.prctl(PR_SET_NAME, text, 0, 0, 0))


def set_host_name(name: str) -> None:
    """The name of the box, as this host name namespace sees it."""
    text = name.encode()
    _checked("sethostname", _libc.sethostname(text, ctypes.c_size_t(len(text))))


class _Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Up to ``size`` bytes of another process, fewer where its mapping ends (process_vm_readv)."""
    buffer = ctypes.create_string_buffer(size)
    here = _Span(ctypes.addressof(buffer), size)
    there = _Span(address, size)
    _libc.process_vm_readv.restype = ctypes.c_ssize_t
    result = _libc.process_vm_readv(
        ctypes.c_int(pid),
        ctypes.byref(here),
        ctypes.c_ulong(1),
        ctypes.byref(there),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    return buffer.raw[: _checked("process_vm_readv", result)]


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _checked(f"mount {kind or source} at {target}", result)


def umount(target: str) -> None:
    """Detach ``target`` now, free it when the last user is gone."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), MNT_DETACH))


def lock_file(fd: int, size: int) -> None:
    """Map a file for reading and keep all of it in memory, for as long as this process lives.

    Raises:
        OSError: the system does not permit it (RLIMIT_MEMLOCK).
    """
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    _libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        _checked("mmap", -1)
    _checked("mlock", _libc.mlock(address, size))


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    syscall("pivot_root", new.encode(), old.encode())


def clone_tree(path: str) -> int:
    """A detached copy of the mounts at and below ``path``, as a descriptor."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return syscall("open_tree", _AT_FDCWD, os.fsencode(path), flags)


def attach_tree(tree: int, target: str) -> None:
    """Attach what ``clone_tree`` returned at ``target``."""
    target_bytes = os.fsencode(target)
    syscall("move_mount", tree, b"", _AT_FDCWD, target_bytes, _MOVE_MOUNT_F_EMPTY_PATH)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def restrict_tree(tree: int, attributes: int) -> None:
    """Set mount attributes on a detached tree, submounts included."""
    attr = _MountAttr(attributes, 0, 0, 0)
    syscall("mount_setattr", tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attr, ctypes.sizeof(attr))


def restrict_mount(target: str, attributes: int) -> None:
    """Set mount attributes on the one mount at ``target``."""
    attr = _MountAttr(attributes, 0, 0, 0)
    size = ctypes.sizeof(attr)
    syscall("mount_setattr", _AT_FDCWD, os.fsencode(target), 0, attr, size)


def close_all_but(keep: Sequence[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    start = 0
    for fd in sorted(set(keep)):
        if fd > start:
            syscall("close_range", start, fd - 1, 0)
        start = fd + 1
    syscall("close_range", start, 0xFFFFFFFF, 0)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 6),)


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets."""
    version_3 = 0x20080522
    syscall("capset", _CapHeader(version_3, 0), _CapData())
