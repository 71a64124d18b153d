"""What the attempts reach for, and the outside's view of it. Loaded by the judging half only."""

import ctypes
import errno
import mmap
import os
import pty
import random
import select
import shutil
import signal
import socket
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry import ATTEMPTS, WAIT, Sighting

from clawai.kernel.control import ControlPage
from clawai.kernel.steward.memory import create
from clawai.sandbox import syscalls as sc

_CANCEL_ON_SET = 3  # TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
_libc = ctypes.CDLL(None, use_errno=True)
GROUP_SIGNAL = signal.SIGRTMIN + 20
UNTOUCHED = b"untouched"


class Bait:
    """Made afresh for each run.

    Attributes:
        facts: what the trying half is told. named: the descriptors that a worker is given.
        folder: holds everything that has a name; the worker's policy does not list it.
        sealed: whether what is shared is sealed as the daemon does it, which is a layer.
    """

    def __init__(self, names: Iterable[str], *, sealed: bool) -> None:
        self.sealed, self.names = sealed, list(names)
        self.stage_stopped = False
        self.folder = Path(tempfile.mkdtemp(prefix="claw-escape-"))
        self.secret = os.urandom(8).hex()
        self.looked: dict[str, list[bool]] = {}
        self.sights: dict[str, list[Sighting]] = {}
        self.file = self.folder / "secret"
        self.file.write_text(self.secret)
        os.utime(self.file, (1, 1))
        for name in self.names:
            self.victim(name).write_text(self.secret)
            os.utime(self.victim(name), (1, 1))
        (self.folder / "mount").mkdir()
        (self.folder / "link").symlink_to(self.secret)
        self._open_sockets()
        self._open_memory()
        self.outer, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outer.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.terminal, self.terminal_end = pty.openpty()
        # Open here, but not on the list of what a worker is given.
        self.leaked = os.open(self.file, os.O_RDONLY)
        self.pipe, self.leaked_pipe = os.pipe()
        os.set_blocking(self.pipe, False)
        self.memory = ctypes.create_string_buffer(self.secret.encode())
        self.held = os.open(self.file, os.O_RDONLY)
        self.sibling = self._fork_sibling()
        # Another one, of a scheduling class that was given to it.
        self.demoted = self._fork_sibling()
        os.sched_setscheduler(self.demoted, os.SCHED_BATCH, os.sched_param(0))
        os.close(self.held)
        self.clock = _clock_watch()
        self.aio = _number("/proc/sys/fs/aio-nr")
        self._log_secret()
        self.restart_keys = _number("/proc/sys/kernel/ctrl-alt-del")
        self.named = {
            "post": self.inner.fileno(),
            "memfd": self.memfd,
            "control": self.control_fd,
            "segment": self.segment,
            "terminal": self.terminal_end,
            "handed": self.handed[0].fileno(),
            "handed_too": self.handed[1].fileno(),
        }
        self.facts = self._facts()

    def _log_secret(self) -> None:
        """A line in the kernel's log, where we may write one."""
        if "kernel_log" in self.names and os.access("/dev/kmsg", os.W_OK):
            Path("/dev/kmsg").write_text(f"claw: kernel_log {self.secret}\n")

    def _open_sockets(self) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.bind(str(self.folder / "stream"))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0claw-bait-{self.secret}")
        self.unix_datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.unix_datagram.bind(str(self.folder / "datagram"))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.fast = socket.socket()
        self.fast.bind(("127.0.0.1", 0))
        self.multipath = socket.socket()
        self.multipath.bind(("127.0.0.1", 0))
        self.sockets = (self.stream, self.abstract, self.tcp, self.fast, self.multipath)
        for listener in self.sockets:
            listener.listen()
        self.sockets += (self.unix_datagram, self.udp)
        # As a front is handed them, one for each attempt that changes what it has: accepted ones.
        self.elsewhere = socket.create_server(("127.0.0.1", 0))
        self.visitors, self.handed = [], []
        for _ in range(2):
            # Not create_connection: it loads the codec of names, on which one attempt founders.
            self.visitors.append(socket.socket())
            self.visitors[-1].connect(self.elsewhere.getsockname())
            self.handed.append(self.elsewhere.accept()[0])
        self.sockets += (self.elsewhere,)
        for listener in self.sockets:
            listener.setblocking(False)

    def _open_memory(self) -> None:
        # Open for reading only, and not sealed: what the daemon never hands out.
        writable = os.memfd_create("bait")
        os.write(writable, UNTOUCHED)
        self.memfd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY)
        os.close(writable)
        self.control = None
        if self.sealed:
            self.control = ControlPage()
            self.control.set(64, 7)
            self.control_fd, self.segment = self.control.fd, create("claw-bait", mmap.PAGESIZE)
        else:
            self.control_fd, self.segment = (os.memfd_create("open") for _ in range(2))
            for fd in (self.control_fd, self.segment):
                os.ftruncate(fd, mmap.PAGESIZE)
            os.pwrite(self.control_fd, b"\7", 256)
        for fd in (self.control_fd, self.segment):
            os.set_inheritable(fd, True)

    def _fork_sibling(self) -> int:
        """A process of the daemon's own user that sleeps, holds the secret, and keeps signals."""
        pid = os.fork()
        if pid == 0:
            sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            sc.close_all_but([self.held])
            while True:
                signal.pause()
        return pid

    def _facts(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "file": str(self.file),
            "stream": str(self.folder / "stream"),
            "datagram": str(self.folder / "datagram"),
            "abstract": f"claw-bait-{self.secret}",
            "udp": self.udp.getsockname()[1],
            "tcp": self.tcp.getsockname()[1],
            "fast": self.fast.getsockname()[1],
            "multipath": self.multipath.getsockname()[1],
            "elsewhere": self.elsewhere.getsockname()[1],
            "sibling": self.sibling,
            "demoted": self.demoted,
            "held": self.held,
            "address": ctypes.addressof(self.memory),
            "leaked": self.leaked,
            "leaked_pipe": self.leaked_pipe,
            "restart_keys": self.restart_keys,
            "key": random.getrandbits(30) | 1,
            **self.named,
        }

    def close(self) -> None:
        """Remove all of it."""
        for pid in (self.sibling, self.demoted):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for sock in (*self.sockets, *self.visitors, *self.handed, self.outer, self.inner):
            sock.close()
        mine = [self.memfd, self.segment, self.terminal, self.terminal_end, self.leaked]
        for fd in (*mine, self.pipe, self.leaked_pipe, self.clock):
            os.close(fd)
        if self.control:
            self.control.close()
        else:
            os.close(self.control_fd)
        self._tidy()

    def _tidy(self) -> None:
        """What an attempt without the sandbox has left on the box."""
        for name in (f"claw-{self.facts['key']}", f"sem.claw-{self.facts['key']}"):
            Path("/dev/shm", name).unlink(missing_ok=True)
        for call, size in (("shmget", 0), ("semget", 0), ("msgget", None)):
            key = self.facts["key"]
            number = getattr(_libc, call)(key, *([] if size is None else [size]), 0)
            control = getattr(_libc, call.replace("get", "ctl"))
            if number >= 0:
                control(number, *([0] if call == "semget" else []), 0)  # IPC_RMID
        if (self.folder / "mount").is_mount():
            sc.umount(str(self.folder / "mount"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, stage: int, workers: set[int]) -> None:
        """The attempts run now: as those processes, below that one."""
        self.stage, self.workers = stage, workers

    def judge(self, name: str, evidence: Any) -> bool:
        """Whether the effect of an attempt was seen."""
        worked = ATTEMPTS[name].worked
        return bool(worked and worked(self, evidence)) or any(self.looked.get(name, ()))

    def release(self) -> None:
        """Nobody waits for a look any more; a stage that was stopped goes on."""
        self.outer.close()
        flags = os.WEXITED | os.WSTOPPED | os.WNOWAIT
        ended = os.waitid(os.P_PID, self.stage, flags)
        self.stage_stopped = ended is not None and ended.si_code == os.CLD_STOPPED
        os.kill(self.stage, signal.SIGCONT)

    # What the judges ask.

    def bombs(self, name: str) -> int:
        """How many processes have spoken for that attempt."""
        return len({seen.pid for seen in self.sights[name]})

    def queues_grew(self) -> bool:
        """Whether the box holds more requests of asynchronous input than before."""
        return _number("/proc/sys/fs/aio-nr") > self.aio

    def victim(self, name: str) -> Path:
        """The file that belongs to one attempt."""
        return self.folder / f"{name}.victim"

    def made(self, name: str) -> bool:
        """Whether something of that name appeared in the folder."""
        return os.path.lexists(self.folder / name)

    def changed(self, name: str) -> bool:
        """Whether the file of that attempt holds something else now."""
        return self.victim(name).read_text() != self.secret

    def reached(self, listener: socket.socket) -> bool:
        """Whether a connection or a datagram arrived."""
        try:
            if listener.type == socket.SOCK_DGRAM:
                return bool(listener.recv(64))
            listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def dumped(self) -> bool:
        """Whether a core file lies in the folder, with whatever name the box gives those."""
        return any("victim" not in path.name for path in self.folder.glob("*core*"))

    def pending(self, number: int) -> bool:
        """Whether the sibling has been sent that signal."""
        masks = (self._sibling_status(key) for key in ("SigPnd", "ShdPnd"))
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

    def traced(self) -> bool:
        """Whether somebody traces the sibling."""
        return self._sibling_status("TracerPid") != "0"

    def _sibling_status(self, key: str) -> str:
        lines = Path(f"/proc/{self.sibling}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))

    def sibling_holds(self) -> str:
        """What the sibling's memory holds where the secret was."""
        with Path(f"/proc/{self.sibling}/mem").open("rb", buffering=0) as memory:
            memory.seek(ctypes.addressof(self.memory))
            return memory.read(16).decode(errors="replace")

    def sibling_environment(self) -> str:
        """What /proc shows of it."""
        return Path(f"/proc/{self.sibling}/environ").read_text()

    def clock_was_set(self) -> bool:
        """Whether somebody has set the box's clock since the last look."""
        try:
            os.read(self.clock, 8)
        except OSError as error:
            return error.errno == errno.ECANCELED
        return False

    # What the attempts tell.

    def answer(self) -> bool:
        """Take one message, look, let the sender go on; False when nobody is left."""
        fds: list[int] = []
        try:
            data, ancillary, _, _ = self.outer.recvmsg(4096, socket.CMSG_SPACE(256))
        except ConnectionResetError:
            return False
        pid = uid = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f"{len(value) // 4}i", value)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, uid, _ = struct.unpack("3i", value)
        if not data:
            return False
        name, _, text = data[1:].decode(errors="replace").partition("\0")
        seen = Sighting(name, text, pid, uid, tuple(fds))
        try:
            look = ATTEMPTS[name].look
            self.sights.setdefault(name, []).append(seen)
            self.looked.setdefault(name, []).append(bool(look and look(self, seen)))
        finally:
            for fd in fds:
                os.close(fd)
            if data[:1] == WAIT:
                self.outer.send(b".")
        return True

    def answers(self, until: int) -> bytes:
        """Answer every message until ``until`` has said all; what it said."""
        said = b""
        while True:
            # The post first: what was told there comes before the end.
            ready = select.select([self.outer, until], [], [])[0]
            if self.outer in ready and self.answer():
                continue
            if until in ready:
                data = os.read(until, 65536)
                if not data:
                    break
                said += data
        while select.select([self.outer], [], [], 0)[0] and self.answer():
            pass
        return said


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


def _clock_watch() -> int:
    """A timer far ahead, which the kernel cancels when the clock is set."""
    fd = _libc.timerfd_create(0, os.O_NONBLOCK | os.O_CLOEXEC)
    spec = _TimerSpec()
    spec.value[0] = 1 << 40
    if _libc.timerfd_settime(fd, _CANCEL_ON_SET, ctypes.byref(spec), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    return int(fd)


def _number(path: str) -> int:
    return int(Path(path).read_text())
