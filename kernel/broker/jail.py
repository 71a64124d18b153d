"""Take from the broker's process what it does not need, before the first byte of a stranger's.

It keeps what resolving and connecting take: sockets of the internet, threads, the libraries and
``/etc``. It loses root (a uid of its own), capabilities, writing, programs, UNIX sockets, and new
processes. Where the system lacks a layer the others hold; what was reached goes to the log.
"""

import errno
import os
import resource
import signal
import socket
from collections.abc import Sequence
from typing import Any

from clawai.kernel.broker import limits
from clawai.sandbox import landlock, paths, privileges
from clawai.sandbox import syscalls as sc

_RESOLVING = ("/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf")
_SYSTEM_CALLS = """
    read write readv writev pread64 lseek close fstat newfstatat stat lstat statx access faccessat
    faccessat2 readlink readlinkat getdents64 getcwd fcntl ioctl dup
    mmap munmap mremap mprotect madvise brk futex set_robust_list rseq exit exit_group
    restart_syscall sched_yield sched_getaffinity rt_sigaction rt_sigprocmask rt_sigreturn
    sigaltstack clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    getpid gettid getppid getuid geteuid getgid getegid getrandom uname sysinfo
    poll ppoll select pselect6 epoll_wait epoll_pwait epoll_ctl epoll_create1 eventfd2
    accept accept4 connect sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown
    getsockname getpeername getsockopt setsockopt tgkill
"""
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""No AF_UNIX: a name service there is not needed, and others listen there too."""
_THREAD = 0x0001_0100
"""CLONE_THREAD | CLONE_VM"""


def raise_descriptors(wanted: int) -> int:
    """Have room for ``wanted`` descriptors, or for as many as the system permits."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def enter(uid: int, more: Sequence[str] = ()) -> list[str]:
    """Lose everything that is not needed; ``more`` are further paths to read.

    Returns:
        The layers that hold.
    """
    rules = _compile()  # by a library, which may start a program while it is loaded
    held = []
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_DATA, limits.MEMORY),
    ):
        hard = resource.getrlimit(limit)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        privileges.drop_root(uid)
        held.append("uid")
    privileges.drop_capabilities()
    held.append("capabilities")
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of identity has cleared it
    try:
        landlock.only_read([*_RESOLVING, *more, *paths.runtime_paths([]), *paths.DEVICES])
        held.append("landlock")
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            raise
    if rules:
        rules.load()
        held.append("seccomp")
    return held


def _compile() -> Any:
    """The system call filter; None where its library is missing."""
    try:
        import clawai.sandbox.seccomp as library
    except OSError:
        return None
    seccomp: Any = vars(library)["seccomp"]
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    known = [name for name in _SYSTEM_CALLS.split() if _exists(seccomp, name)]
    for name in known:
        rules.add_rule(seccomp.ALLOW, name)
    masked = seccomp.MASKED_EQ
    low = 0xFFFF_FFFF
    for family in _FAMILIES:
        rules.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, masked, low, family))
    rules.add_rule(seccomp.ALLOW, "socketpair", seccomp.Arg(0, masked, low, socket.AF_UNIX))
    # Files for reading only, where no Landlock says so.
    writing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    for call, flags in (("openat", 2), ("open", 1)):
        if _exists(seccomp, call):
            rules.add_rule(seccomp.ALLOW, call, seccomp.Arg(flags, masked, writing, os.O_RDONLY))
    # Threads, never processes; clone3 hides its flags, and a C library falls back from ENOSYS.
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, masked, _THREAD, _THREAD))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    return rules


def _exists(seccomp: Any, name: str) -> bool:
    """Whether this processor family has a call of this name."""
    return bool(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0)
