"""Compile the allow-list of system calls to BPF. Imported by the prober only, never by the daemon.

Default: EPERM. A foreign architecture (int 0x80, x32) kills the process. ``ENOSYS`` where a library
takes that as "old kernel" and falls back, or exits otherwise. Arguments are compared in their low
32 bits wherever the kernel reads only those: a rule on all 64 is bypassed through the high bits.
What is left out on purpose: socket, connect, bind, listen; every open of a new memory object
(memfd_create, shared anonymous maps: no rlimit counts them); chmod, chown, utime, xattr, link,
symlink (Landlock does not stop those); ptrace and the other ways into a process; keyctl, bpf,
io_uring, userfaultfd, perf, namespaces, mounts; setsid, setpriority. Sending never opens a
connection (MSG_FASTOPEN would, on any TCP socket at hand, past every rule for connect).

Rules that only some policies have return a marker (``filters.MARKERS``): processes and execve for
``programs``, accept for ``accept``, the options of passed TCP connections for ``connections``, the
ioctls of the usual device families for ``devices``.

The lists for aarch64 are the same names without the calls that only x86-64 has; not run on
hardware.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from clawai.sandbox import filters

MISSING = (
    "libseccomp.so.2 was not found, so no system call filter can be compiled; "
    "next step: apt install libseccomp2"
)
try:
    try:
        import seccomp
    except ImportError:
        import pyseccomp as seccomp
except (ImportError, OSError, RuntimeError) as error:
    raise OSError(f"{MISSING} ({error})") from error

# Reading, writing and waiting on what the worker was given, and files in its own tmp.
_FILES = """
    read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range
    dup dup3 fstat newfstatat statx faccessat faccessat2 readlinkat getdents64 getcwd chdir fchdir
    ftruncate fallocate fsync fdatasync unlinkat mkdirat renameat renameat2 umask statfs fstatfs
    pipe2 ppoll pselect6 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2
    recvmsg recvfrom recvmmsg shutdown getsockname getpeername
"""
_MEMORY = "mprotect munmap mremap madvise msync brk membarrier"
_THREADS = """
    futex set_robust_list rseq set_tid_address exit exit_group restart_syscall
    sched_yield sched_getaffinity sched_getparam sched_getscheduler
    sched_get_priority_min sched_get_priority_max
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack
"""
_QUERIES = """
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday times getcpu
    getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups
    getrusage getrlimit sysinfo uname getrandom
"""
# Older forms that x86-64 still has; C libraries and Rust crates use some of them.
_X86_64_ONLY = """
    stat lstat access readlink getdents dup2 pipe poll select epoll_create epoll_wait eventfd
    unlink rmdir mkdir rename time arch_prctl
"""
# Processes of the worker's own: started, waited for, signalled. execve is bound to the declared
# paths by Landlock, and by what the private root holds.
_PROGRAMS = """
    execve wait4 waitid getpgid getsid fadvise64 sendfile copy_file_range flock
    rt_sigsuspend setitimer getitimer
"""
_PROGRAMS_X86_64 = "fork vfork getpgrp pause alarm"
_ENOSYS = """
    clone3 openat2 fchmodat2 io_uring_setup io_uring_enter io_uring_register futex_waitv
    pidfd_open landlock_create_ruleset landlock_add_rule landlock_restrict_self
    mbind get_mempolicy set_mempolicy set_mempolicy_home_node
"""

_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS FIONREAD FIONBIO FIONCLEX FIOCLEX
# Duplicate, flags, locks, seals; not F_SETOWN, F_SETSIG, F_NOTIFY, F_SETPIPE_SZ.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1033, 1034)
_PRCTLS = (3, 15, 16)  # GET_DUMPABLE SET_NAME GET_NAME
_SOL_SOCKET = 1
# TYPE ERROR SNDBUF RCVBUF LINGER PEERCRED RCVTIMEO SNDTIMEO ACCEPTCONN PROTOCOL DOMAIN;
# not PEERPIDFD, which would hand out the daemon.
_GETSOCKOPTS = (3, 4, 7, 8, 13, 17, 20, 21, 30, 38, 39)
# LINGER is only read: who closes last would wait, and the broker does of what it has handed over.
_SETSOCKOPTS = (7, 8, 20, 21)
# Of accepted TCP connections: NODELAY CORK KEEPIDLE KEEPINTVL KEEPCNT QUICKACK USER_TIMEOUT; and
# KEEPALIVE of the socket level. Not FASTOPEN_CONNECT, not ULP, not REPAIR.
_IPPROTO_TCP, _TCP_OPTIONS, _KEEPALIVE = 6, (1, 3, 4, 5, 6, 12, 18), 9
_MSG_FASTOPEN = 0x2000_0000
# The second byte of an ioctl names a family: DRM and accel, KFD, NVIDIA, video, sound, media.
# Not terminals (T), file systems (f, X), block devices (0x12) and sockets (0x89).
_DEVICE_FAMILIES = b"dKFVAU|"
_CLONE_NAMESPACES = 0x7E02_0000
_CLONE_THREAD = 0x0001_0100  # CLONE_THREAD | CLONE_VM
_CLONE_CHECKED = _CLONE_THREAD | _CLONE_NAMESPACES | 0x0000_4000  # and CLONE_VFORK
# A process: no thread, no namespace, no CLONE_PARENT (a sibling), no CLONE_PTRACE.
_CLONE_PROCESS = 0x0001_0000 | _CLONE_NAMESPACES | 0x0000_A000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_LOW = 0xFFFF_FFFF
_ARCHITECTURES = {"x86_64": seccomp.Arch.X86_64, "aarch64": seccomp.Arch.AARCH64}
_LAST_CALL = 512
_MAP_GROWSDOWN = 0x100
_SCHED_OTHER = 0


def compile_filters(machine: str) -> bytes:
    """The two programs for ``machine`` ("x86_64" or "aarch64") and the names of its calls, packed.

    See ``filters`` for the parts.
    """
    programs = (_base(machine), _no_new_code(machine))
    return filters.pack([*map(_export, programs), filters.pack_names(_names(machine))])


def _names(machine: str) -> dict[int, str]:
    """Number to name, as far as this libseccomp knows them."""
    found = {}
    for number in range(_LAST_CALL):
        try:
            name = seccomp.resolve_syscall(_ARCHITECTURES[machine], number)
        except (ValueError, RuntimeError):
            continue  # a gap in the numbers, or a call newer than this libseccomp
        if name:
            found[number] = name.decode() if isinstance(name, bytes) else str(name)
    return found


def _marked(feature: str, action: int = filters.RET_ALLOW) -> int:
    """The action of a rule that only holds with ``feature``."""
    marker = next(n for n, each in filters.MARKERS.items() if each == (feature, action))
    return int(seccomp.ERRNO(marker))


def _start(default: int, machine: str) -> Any:
    rules = seccomp.SyscallFilter(default)
    arch = _ARCHITECTURES.get(machine)
    if arch is None:
        raise OSError(f"no system call list for {machine}; known: x86_64, aarch64")
    if not rules.exist_arch(arch):
        rules.add_arch(arch)
        rules.remove_arch(seccomp.Arch.NATIVE)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    return rules


def _base(machine: str) -> Any:
    rules = _start(seccomp.ERRNO(errno.EPERM), machine)
    names = f"{_FILES} {_MEMORY} {_THREADS} {_QUERIES}"
    if machine == "x86_64":
        names += _X86_64_ONLY
    for name in names.split():
        _add(rules, seccomp.ALLOW, name)
    for name in _ENOSYS.split():
        _add(rules, seccomp.ERRNO(errno.ENOSYS), name)
    _add_argument_rules(rules)
    _add_open_rules(rules, machine)
    _add_program_rules(rules, machine)
    _add_other_marked_rules(rules)
    return rules


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    try:
        rules.add_rule(action, name, *arguments)
    except (OSError, ValueError, RuntimeError) as error:
        # A call newer than this libseccomp is not allowed by it either: the default holds.
        if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) != -1:
            raise OSError(f"libseccomp refused a rule for {name}: {error}") from error


def _low_is(argument: int, value: int) -> Any:
    return seccomp.Arg(argument, seccomp.MASKED_EQ, _LOW, value)


def _one_of(rules: Any, name: str, argument: int, values: Iterable[int], *more: Any) -> None:
    for value in values:
        _add(rules, seccomp.ALLOW, name, _low_is(argument, value), *more)


def _add_argument_rules(rules: Any) -> None:
    # Exactly this flag: with others a filter can hand its caller's system calls to a listener.
    _add(
        rules,
        _marked("more"),
        "seccomp",
        _low_is(0, filters.SET_MODE_FILTER),
        _low_is(1, filters.TSYNC),
    )
    masked, equal = seccomp.MASKED_EQ, seccomp.EQ
    _one_of(rules, "ioctl", 1, _IOCTLS)
    _one_of(rules, "fcntl", 1, _FCNTLS)
    _one_of(rules, "prctl", 0, _PRCTLS)
    _one_of(rules, "getsockopt", 2, _GETSOCKOPTS, _low_is(1, _SOL_SOCKET))
    _one_of(rules, "setsockopt", 2, _SETSOCKOPTS, _low_is(1, _SOL_SOCKET))
    # Threads, never processes and never namespaces.
    _add(rules, seccomp.ALLOW, "clone", seccomp.Arg(0, masked, _CLONE_CHECKED, _CLONE_THREAD))
    # No datagram pair: one could send to any socket path.
    _add(
        rules,
        seccomp.ALLOW,
        "socketpair",
        _low_is(0, _AF_UNIX),
        seccomp.Arg(1, masked, _SOCK_TYPE, _SOCK_STREAM),
    )
    for name, flags in (("sendmsg", 2), ("sendmmsg", 3)):
        _add(rules, seccomp.ALLOW, name, seccomp.Arg(flags, masked, _MSG_FASTOPEN, 0))
    plain = seccomp.Arg(3, masked, _MSG_FASTOPEN, 0)
    _add(rules, seccomp.ALLOW, "sendto", plain, seccomp.Arg(4, equal, 0))
    _add(rules, seccomp.ALLOW, "prlimit64", _low_is(0, 0), seccomp.Arg(2, equal, 0))
    _one_of(rules, "kill", 0, (filters.OWN_PID,))
    _one_of(rules, "tgkill", 0, (filters.OWN_PID,))
    # libzmq aborts when it may not set the ordinary policy on its own threads. They have it, and
    # the number could be anybody's: the call is not made, and says that it has succeeded.
    _add(rules, seccomp.ERRNO(0), "sched_setscheduler", _low_is(1, _SCHED_OTHER))
    _one_of(rules, "sched_setaffinity", 0, (0,))
    # Private memory is counted by RLIMIT_DATA, a mapped descriptor by whoever made it; shared
    # anonymous memory by nobody, nor what grows downwards: it counts as a stack.
    checked = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_GROWSDOWN
    for kind in (0, mmap.MAP_SHARED, mmap.MAP_ANONYMOUS):
        _add(rules, seccomp.ALLOW, "mmap", seccomp.Arg(3, masked, checked, kind))


def _add_open_rules(rules: Any, machine: str) -> None:
    # Opened for reading with O_TRUNC, a file is emptied past the older Landlock versions.
    truncating = os.O_TRUNC | os.O_ACCMODE
    forms = {"openat": 2} | ({"open": 1} if machine == "x86_64" else {})
    for name, flags in forms.items():
        told = int(seccomp.ERRNO(filters.OBSERVED))
        _add(rules, told, name, seccomp.Arg(flags, seccomp.MASKED_EQ, os.O_TRUNC, 0))
        for mode in (os.O_WRONLY, os.O_RDWR):
            value = os.O_TRUNC | mode
            _add(
                rules,
                seccomp.ALLOW,
                name,
                seccomp.Arg(flags, seccomp.MASKED_EQ, truncating, value),
            )


def _add_program_rules(rules: Any, machine: str) -> None:
    action = _marked("programs")
    names = _PROGRAMS + (_PROGRAMS_X86_64 if machine == "x86_64" else "")
    for name in names.split():
        _add(rules, action, name)
    _add(rules, action, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_PROCESS, 0))
    # Everything in reach is its own: programs are started only in a process namespace.
    for name in ("kill", "tgkill"):
        _add(rules, action, name, seccomp.Arg(0, seccomp.NE, filters.OWN_PID))


def _add_other_marked_rules(rules: Any) -> None:
    # Only a listening socket can be accepted from, and only what was passed listens. Listening
    # again is what event loops do first; done for real, it would make a listener, on a port of the
    # host, of an accepted connection whose other side has left. So it only looks done.
    for name in ("accept", "accept4"):
        _add(rules, _marked("accept"), name)
    _add(rules, _marked("accept", filters.RET_ERRNO), "listen")
    for option in _TCP_OPTIONS:
        for name in ("getsockopt", "setsockopt"):
            values = _low_is(1, _IPPROTO_TCP), _low_is(2, option)
            _add(rules, _marked("connections"), name, *values)
    for name in ("getsockopt", "setsockopt"):
        values = _low_is(1, _SOL_SOCKET), _low_is(2, _KEEPALIVE)
        _add(rules, _marked("connections"), name, *values)
    for family in _DEVICE_FAMILIES:
        kind = seccomp.Arg(1, seccomp.MASKED_EQ, 0xFF00, family << 8)
        _add(rules, _marked("devices"), "ioctl", kind)


def _no_new_code(machine: str) -> Any:
    rules = _start(seccomp.ALLOW, machine)
    executable = seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC)
    for name in ("mmap", "mprotect", "pkey_mprotect"):
        _add(rules, seccomp.ERRNO(errno.EPERM), name, executable)
    _add(rules, seccomp.ERRNO(errno.EPERM), "seccomp")
    return rules


def _export(rules: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
