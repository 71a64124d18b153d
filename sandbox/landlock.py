"""Landlock: the file and network rules that hold even where no private root could be made.

Everything that the running kernel's ABI can handle is denied, then the listed paths get back what
they need. An older ABI handles less: ``abi`` tells, the prober prints it, and the expected table of
the tests says what that costs. Landlock applies to one thread and its children, so it must come
before numpy starts any. Source: the kernel's Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import stat
from collections.abc import Iterable

from clawai.sandbox import paths
from clawai.sandbox import syscalls as sc
from clawai.sandbox.policy import Policy
from clawai.sandbox.programs import Programs

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
# What came with each ABI after the first; without it other layers stop the same, but for one less.
_LATER = {
    2: "moving files between folders",
    3: "truncating",
    4: "TCP",
    5: "device ioctls",
    6: "abstract sockets and signals",
}
# The number of file rights that each ABI version handles; the last known one serves newer ABIs.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_RIGHTS = 0b11  # bind and connect TCP, from ABI 4
_SCOPES = 0b11  # abstract UNIX sockets and signals, from ABI 6
_READ = _READ_FILE | _READ_DIR
# No sockets, fifos, links or devices; no renames across folders (REFER).
_WRITE = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_PATH_BENEATH = 1
_CREATE_RULESET_VERSION = 1


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The version that the running kernel offers; 0 where Landlock is missing or switched off."""
    try:
        return sc.syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def missing(version: int) -> tuple[str, ...]:
    """What Landlock of this version does not handle, in words; the other layers still stop it."""
    return tuple(what for since, what in _LATER.items() if version < since)


def restrict(
    policy: Policy,
    visible: Iterable[str],
    tmp: str,
    programs: Programs | None = None,
    version: int | None = None,
) -> None:
    """Allow ``visible`` and the policy's paths, the devices and ``tmp``; deny the rest for good.

    Needs no_new_privs, and a process with one thread. ``version`` asks for an older ABI than the
    kernel's.

    Raises:
        OSError: the kernel offers no Landlock, or a path of the policy is not there.
    """
    version = abi() if version is None else version
    if version == 0:
        raise OSError(95, "Landlock is not offered by this kernel (needs lsm=landlock, Linux 5.13)")
    programs = programs or Programs()
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ruleset = _Ruleset(
        rights,
        _NETWORK_RIGHTS if version >= 4 else 0,
        _SCOPES if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    handle = sc.syscall("landlock_create_ruleset", ruleset, size, 0)
    try:
        for path in (*visible, *paths.STATIC_COPIES):
            _allow(handle, path, _READ & rights)
        for path in paths.DEVICES:
            _allow(handle, path, (_READ_FILE | _WRITE_FILE) & rights)
        for path in policy.read_paths:
            _allow(handle, path, _READ & rights, needed=True)
        _allow(handle, tmp, _WRITE & rights)
        for path in policy.write_paths:
            _allow(handle, path, _WRITE & rights, needed=True)
        for path in policy.devices:
            wanted = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
            _allow(handle, path, wanted & rights, needed=True)
        for path in programs.executable:
            _allow(handle, path, (_READ_FILE | _EXECUTE) & rights, needed=True)
        sc.syscall("landlock_restrict_self", handle, 0)
    finally:
        os.close(handle)


def _allow(handle: int, path: str, rights: int, needed: bool = False) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if needed:
            raise OSError(error.errno, f"cannot show {path} to the worker: not there") from error
        return  # a library folder or device that this system does not have
    except PermissionError as error:
        raise OSError(
            error.errno,
            f"uid {os.getuid()} cannot reach {path}: install where every user may read, or let the "
            "daemon make namespaces",
        ) from error
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_ONLY
        sc.syscall("landlock_add_rule", handle, _PATH_BENEATH, _PathBeneath(rights, fd), 0)
    finally:
        os.close(fd)


def only_read(visible: Iterable[str]) -> None:
    """For a process of our own: it may read ``visible`` and write nothing; the network stays open.

    Needs no_new_privs. Paths that do not exist or cannot be reached are left out. Raises OSError
    where the kernel offers no Landlock.
    """
    version = abi()
    if version == 0:
        raise OSError(95, "Landlock is not offered by this kernel (needs lsm=landlock, Linux 5.13)")
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ruleset = _Ruleset(rights, 0, _SCOPES if version >= 6 else 0)
    handle = sc.syscall("landlock_create_ruleset", ruleset, 24 if version >= 6 else 8, 0)
    try:
        for path in visible:
            if os.access(path, os.R_OK):
                _allow(handle, path, _READ & rights)
        sc.syscall("landlock_restrict_self", handle, 0)
    finally:
        os.close(handle)
