"""The outer stage's side of denied system calls: it answers each, and tells what was denied.

The filter decides; a call that it denies waits until the stage answers, and the answer is always
EPERM. What this adds is words: the name of each call once, and at the end how often. Where the
policy says ``explain``, also the arguments that a person can read; and opening a file, which the
filter allows, waits here too: it is let go on in every case, and told when the path is not one that
the policy shows. That is no decision: the kernel walks the path after this, and the private root
and Landlock answer. So a worker that swaps the path under our eyes fools the report and nothing
else. Whatever the filter denies is never let go on.

A worker gains nothing by flooding: distinct reports are few, reports a second are few, and past a
rate each answer is delayed, which holds up only the thread that asked.

Source of the layouts: seccomp_unotify(2).
"""

import errno
import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from clawai.sandbox import syscalls as sc

# id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, six arguments.
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_RECEIVE, _SEND, _STILL = 0xC050_2100, 0xC018_2101, 0x4008_2102
_CONTINUE = 1
_PATIENCE_S = 0.05
_DISTINCT, _MAX_TEXT = 64, 300
_BURST, _TOLD_A_SECOND = 20, 5.0
_ANSWERS_A_SECOND, _DELAY_S = 500, 0.001
_PAGE = 4096

# Calls whose argument of that place is a path.
_PATHS = {
    "open": 0, "openat": 1, "openat2": 1, "execve": 0, "execveat": 1, "chmod": 0, "fchmodat": 1,
    "chown": 0, "lchown": 0, "fchownat": 1, "link": 0, "linkat": 1, "symlink": 1, "symlinkat": 2,
    "mknod": 0, "mknodat": 1, "truncate": 0, "utime": 0, "utimes": 0, "utimensat": 1,
    "setxattr": 0, "lsetxattr": 0, "removexattr": 0, "mount": 1, "umount2": 0, "chroot": 0,
    "inotify_add_watch": 1, "memfd_create": 0,
}  # fmt: skip
_FAMILIES = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET"}
_FAMILIES |= {40: "AF_VSOCK"}


@dataclass(slots=True)
class Denied:
    """One distinct call."""

    error: str
    count: int = 0
    told: int = 0


@dataclass(slots=True)
class Denials:
    """Answers on one listening descriptor; see the top of this module.

    Attributes:
        tell: is called with what launch.Status carries: call, detail, error, count.
        readable: paths that the policy shows; ``writable``: those of them that may be changed.
    """

    listener: int
    names: Mapping[int, str]
    explain: bool
    readable: Sequence[str]
    writable: Sequence[str]
    tell: Callable[..., None]
    tmp: str = "/tmp"
    absent: int = errno.ENOENT
    """With what a path that is not shown is refused: it is not there, or Landlock says no."""
    _seen: dict[tuple[str, str], Denied] = field(default_factory=dict)
    _others: int = 0
    _tokens: float = _BURST
    _refilled: float = field(default_factory=time.monotonic)
    _second: int = 0
    _answers: int = 0

    def __post_init__(self) -> None:
        # Interrupts a wait and does nothing: what was received is never lost by an exception.
        signal.signal(signal.SIGALRM, lambda *_: None)

    def answer(self) -> None:
        """Receive one call and answer it; returns when there is none."""
        notice = self._receive()
        if notice is None:
            return
        identity, pid, _, number, _, _, *arguments = _NOTICE.unpack(notice)
        name = self.names.get(number, f"call {number}")
        observed = self.explain and name in ("open", "openat") and self._allowed(name, arguments)
        if observed:
            told = self._hidden(identity, pid, name, arguments)
            self._send(identity, 0, _CONTINUE)
        else:
            detail = self._detail(identity, pid, name, arguments) if self.explain else ""
            self._pace()
            self._send(identity, -errno.EPERM, 0)
            told = (detail, errno.EPERM)
        if told:
            self._count(name, *told)

    def end(self) -> None:
        """Tell how often in all, where that is more than was told."""
        for (name, detail), denied in self._seen.items():
            if denied.count > denied.told:
                self.tell(call=name, detail=detail, error=denied.error, count=denied.count)
        if self._others:
            self.tell(call="", detail="", error="", count=self._others)

    def _receive(self) -> bytes | None:
        """The next notice. One that was withdrawn since the poller saw it must not block us."""
        buffer = bytearray(_NOTICE.size)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S, _PATIENCE_S)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, buffer, True)
        except OSError:  # its thread was killed, or nothing came
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return bytes(buffer)

    def _send(self, identity: int, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(identity, 0, error, flags))
        except OSError:
            pass  # its thread was killed meanwhile

    def _pace(self) -> None:
        """Slow down who asks too often: the call waits here, and its thread with it."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._answers = second, 0
        self._answers += 1
        if self._answers > _ANSWERS_A_SECOND:
            time.sleep(_DELAY_S)

    def _count(self, name: str, detail: str, error: int) -> None:
        key = (name, detail)
        if key not in self._seen:
            if len(self._seen) >= _DISTINCT:
                self._others += 1
                return
            self._seen[key] = Denied(errno.errorcode[error])
        denied = self._seen[key]
        denied.count += 1
        if not denied.told and self._may_tell():
            denied.told = denied.count
            self.tell(call=name, detail=detail, error=denied.error, count=denied.count)

    def _may_tell(self) -> bool:
        now = time.monotonic()
        gained = (now - self._refilled) * _TOLD_A_SECOND
        self._tokens, self._refilled = min(_BURST, self._tokens + gained), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    # Words, for authors.

    @staticmethod
    def _allowed(name: str, arguments: Sequence[int]) -> bool:
        """Whether the filter allows this open: the very rule that it marks as observed."""
        return not arguments[1 if name == "open" else 2] & os.O_TRUNC

    def _hidden(
        self, identity: int, pid: int, name: str, arguments: Sequence[int]
    ) -> tuple[str, int] | None:
        """The path of an open that will fail, and with what; None for one that may succeed."""
        path = self._path(identity, pid, arguments[0 if name == "open" else 1])
        flags = arguments[1 if name == "open" else 2]
        if not path.startswith("/"):
            return None  # below its own tmp, or a folder that it has opened
        path = os.path.normpath(path)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_CREAT
        quoted = _quoted(path) + (", for writing" if writes else "")
        if _within(path, [self.tmp]):
            # The worker's own, in which the stage can look; the box has one of that name, too.
            there = os.path.dirname(path) if writes else path  # noqa: PTH120
            return None if os.path.lexists(there) else (quoted, errno.ENOENT)
        if not _within(path, self.readable):
            return quoted, self.absent
        if writes and not _within(path, self.writable):
            return quoted, errno.EACCES
        return None

    def _detail(self, identity: int, pid: int, name: str, arguments: Sequence[int]) -> str:
        if name in _PATHS:
            return _quoted(self._path(identity, pid, arguments[_PATHS[name]]))
        if name in ("socket", "socketpair"):
            return _FAMILIES.get(arguments[0], f"family {arguments[0] & 0xFFFF}")
        if name in ("ioctl", "fcntl", "prctl", "kill", "setsockopt", "getsockopt", "clone"):
            return ", ".join(hex(each & 0xFFFF_FFFF) for each in arguments[:3])
        return ""

    def _path(self, identity: int, pid: int, address: int) -> str:
        """Text in the worker's memory, up to a length; empty where there is none to be read.

        The id is asked for again afterwards: the pid may have been another's by then.
        """
        text = b""
        try:
            while len(text) < _MAX_TEXT and b"\0" not in text:
                place = address + len(text)
                text += sc.read_memory(pid, place, min(_MAX_TEXT, _PAGE - place % _PAGE))
            fcntl.ioctl(self.listener, _STILL, struct.pack("=Q", identity))
        except OSError:
            return ""
        return os.fsdecode(text.partition(b"\0")[0][:_MAX_TEXT])


def _quoted(path: str) -> str:
    return '"' + path.encode("utf-8", "replace").decode().encode("unicode_escape").decode() + '"'


def _within(path: str, places: Sequence[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in places)
