"""The wide set of escape attempts; the trying halves run inside a worker, standard library only.

Adds to the prober's set (clawai.sandbox.attempts). ``ALONE`` names those that may end or change the
worker or the sibling, and so get a worker of their own.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clawai.sandbox.attempts import Bait, Facts, attempt, run_all

MEMORY_BYTES = 192 << 20
TMP_BYTES = 4 << 20
MAX_THREADS = 8
MAX_FDS = 64
ALONE = (
    "new_user_namespace",
    "change_root",
    "filter_listener",
    "mount_tmpfs",
    "private_memory_bomb",
    "fill_tmp",
    "thread_bomb",
    "int_0x80",
    "x32_call",
    "own_sibling",
    "stop_sibling",
    "run_in_place",
)
_SIBLING = """
import ctypes, sys, signal
buffer = ctypes.create_string_buffer(sys.argv[1].encode())
print(ctypes.addressof(buffer), flush=True)
signal.pause()
"""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p


class WideBait(Bait):
    """A Bait with more sockets and a sibling process of the daemon's own user."""

    def __init__(self) -> None:
        super().__init__()
        self.sibling = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SIBLING, self.secret], stdout=subprocess.PIPE
        )
        assert self.sibling.stdout
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0claw-bait-{os.getpid()}")
        self.abstract.listen()
        self.unix_datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.unix_datagram.bind(str(self.folder / "datagram"))
        for listener in (self.tcp, self.abstract, self.unix_datagram):
            listener.setblocking(False)
        self.facts |= {
            "tcp": self.tcp.getsockname()[1],
            "abstract": f"claw-bait-{os.getpid()}",
            "datagram": str(self.folder / "datagram"),
            "sibling": self.sibling.pid,
            "address": int(self.sibling.stdout.readline()),
        }

    def close(self) -> None:
        self.sibling.kill()
        self.sibling.communicate()
        for listener in (self.tcp, self.abstract, self.unix_datagram):
            listener.close()
        super().close()

    def sibling_state(self) -> str:
        """The state letter of the sibling: S asleep, T stopped, Z dead."""
        return Path(f"/proc/{self.sibling.pid}/stat").read_text().rpartition(")")[2].split()[0]


def run(fds: Mapping[str, int], args: Mapping[str, Any]) -> None:
    """The target of the worker: importing this module has registered the wide set."""
    run_all(fds, args)


def _call(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# Files. Landlock alone misses the attributes.


@attempt(lambda bait, _: bait.file.stat().st_mtime != 1)
def set_times(facts: Facts) -> None:
    os.utime(facts["file"])


@attempt(lambda bait, _: os.listxattr(bait.file) == ["user.claw"])
def set_xattr(facts: Facts) -> None:
    os.setxattr(facts["file"], "user.claw", b"1")


@attempt(lambda bait, _: bait.file.stat().st_size == 0)
def truncate_outside(facts: Facts) -> None:
    os.truncate(facts["file"], 0)


@attempt(lambda bait, _: bait.file.stat().st_size == 0)
def open_to_truncate(facts: Facts) -> None:
    os.close(os.open(facts["file"], os.O_RDONLY | os.O_TRUNC))


@attempt(lambda bait, _: bait.made("hard"))
def hard_link(facts: Facts) -> None:
    os.link(facts["file"], f"{facts['folder']}/hard")


@attempt(lambda bait, _: bait.made("soft"))
def soft_link(facts: Facts) -> None:
    Path(facts["folder"], "soft").symlink_to("secret")


@attempt(lambda bait, _: bait.made("fifo"))
def make_fifo(facts: Facts) -> None:
    os.mkfifo(f"{facts['folder']}/fifo")


@attempt(lambda bait, _: bait.made("folder"))
def make_folder(facts: Facts) -> None:
    Path(facts["folder"], "folder").mkdir()


@attempt()
def list_folder(facts: Facts) -> list[str]:
    return sorted(entry.name for entry in Path(facts["folder"]).iterdir())


@attempt()
def read_shadow(_: Facts) -> bool:
    return bool(Path("/etc/shadow").read_bytes())


@attempt()
def see_processes(facts: Facts) -> bool:
    return any(entry.name == str(facts["sibling"]) for entry in Path("/proc").iterdir())


@attempt()
def read_kernel_log(_: Facts) -> bool:
    return os.open("/dev/kmsg", os.O_RDONLY) > 0


@attempt()
def shared_memory_file(_: Facts) -> bool:
    file = Path(f"/dev/shm/claw-{os.getpid()}")
    file.touch()
    file.unlink()
    return True


@attempt()
def change_root(_: Facts) -> bool:
    os.chroot("/usr")
    return True


# Sockets. Landlock misses UDP and named UNIX sockets, namespaces miss vsock and netlink.


@attempt(lambda bait, _: bait.reached(bait.tcp))
def tcp_connect(facts: Facts) -> None:
    socket.create_connection(("127.0.0.1", facts["tcp"]), timeout=5).close()


@attempt()
def tcp_listen(_: Facts) -> bool:
    socket.create_server(("127.0.0.1", 0)).close()
    return True


@attempt(lambda bait, _: bait.reached(bait.abstract))
def abstract_connect(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{facts['abstract']}")


@attempt(lambda bait, _: bait.reached(bait.unix_datagram))
def send_from_pair(facts: Facts) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.sendto(b"out", facts["datagram"])


@attempt()
def vsock(_: Facts) -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return True


@attempt()
def netlink(_: Facts) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.sendto(struct.pack("=LHHLLB3x", 20, 18, 0x301, 1, 0, 0), (0, 0))  # RTM_GETLINK
        return len(link.recv(65536)) > 20


# Memory and other bounded things.


@attempt()
def shared_memory_bomb(_: Facts) -> bool:
    with mmap.mmap(-1, MEMORY_BYTES + (64 << 20)) as area:
        area[0 :: 1 << 20] = b"x" * len(range(0, len(area), 1 << 20))
    return True


@attempt()
def private_memory_bomb(_: Facts) -> bool:
    return len(bytearray(MEMORY_BYTES + (64 << 20))) > MEMORY_BYTES


@attempt(lambda _, written: written is not None and written > 2 * TMP_BYTES)
def fill_tmp(_: Facts) -> int:
    written = 0
    for number in range(4):
        name = Path(os.environ.get("TMPDIR", "/tmp"), f"fill-{os.getpid()}-{number}")
        try:
            written += name.write_bytes(bytes(TMP_BYTES))
        finally:
            if "TMPDIR" not in os.environ:
                name.unlink()
    return written


@attempt(lambda _, started: started is not None and started > 2 * MAX_THREADS)
def thread_bomb(_: Facts) -> int:
    gate, started = threading.Event(), 0
    threads = [threading.Thread(target=gate.wait) for _ in range(4 * MAX_THREADS)]
    try:
        for thread in threads:
            thread.start()
            started += 1
    except RuntimeError:
        pass
    finally:
        gate.set()
    for thread in threads[:started]:
        thread.join()
    return started


@attempt()
def descriptor_bomb(_: Facts) -> bool:
    copies = []
    try:
        copies = [os.dup(0) for _ in range(2 * MAX_FDS)]
    finally:
        for fd in copies:
            os.close(fd)
    return True


@attempt()
def system_v_memory(_: Facts) -> bool:
    identity = _call(29, 0, 4096, 0o1600)
    _call(31, identity, 0, None)
    return True


@attempt()
def pin_memory(_: Facts) -> bool:
    return _call(151, 1) == 0  # mlockall


# Code and system calls.


@attempt()
def dlopen_memory_object(_: Facts) -> bool:
    fd = os.memfd_create("code")
    os.write(fd, Path(sys.modules["_ctypes"].__file__ or "").read_bytes())
    ctypes.CDLL(f"/proc/self/fd/{fd}")
    return True


@attempt()
def int_0x80(_: Facts) -> bool:
    # mov eax, 20 (getpid of 32-bit x86); int 0x80; ret
    return _run_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3") == os.getpid()


def _run_code(code: bytes) -> int:
    area = mmap.mmap(
        -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | 4
    )
    area.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


@attempt()
def x32_call(_: Facts) -> bool:
    return _call(0x4000_0000 + 39) == os.getpid()


@attempt()
def filter_listener(_: Facts) -> bool:
    _libc.prctl(38, 1, 0, 0, 0)
    allow = ctypes.create_string_buffer(struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = struct.pack("<HxxxxxxQ", 1, ctypes.addressof(allow))
    return _call(317, 1, 8, ctypes.c_char_p(program)) >= 0


@attempt()
def io_uring(_: Facts) -> bool:
    return _call(425, 1, ctypes.create_string_buffer(120)) > 0


@attempt()
def bpf_map(_: Facts) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("<IIII", 2, 4, 4, 1), 120)
    return _call(321, 0, attributes, 120) > 0


@attempt()
def user_fault_fd(_: Facts) -> bool:
    return _call(323, 1) > 0


@attempt()
def add_key(_: Facts) -> bool:
    keyring_of_process = -2
    return _call(248, b"user", b"claw", b"secret", 6, keyring_of_process) > 0


@attempt()
def perf_event(_: Facts) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("<IIQ", 1, 128, 1), 128)
    return _call(298, attributes, 0, -1, -1, 0) > 0


@attempt()
def mount_tmpfs(_: Facts) -> bool:
    _libc.unshare(0x20000)
    return bool(_libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0)


@attempt(lambda bait, _: bait.made("in-place"))
def run_in_place(facts: Facts) -> None:
    touch = shutil.which("touch") or "/usr/bin/touch"
    os.execve(touch, [touch, f"{facts['folder']}/in-place"], {})


# Other processes.


@attempt(lambda bait, _: bait.sibling_state() == "Z")
def own_sibling(facts: Facts) -> None:
    left, right = socket.socketpair()
    with left, right:
        fcntl.fcntl(left, fcntl.F_SETOWN, facts["sibling"])
        fcntl.fcntl(left, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        right.send(b"wake")
        select.select([], [], [], 0.05)


@attempt(lambda bait, _: bait.sibling_state() == "T")
def stop_sibling(facts: Facts) -> None:
    os.kill(facts["sibling"], signal.SIGSTOP)


@attempt()
def trace_sibling(facts: Facts) -> bool:
    _call(101, 0x4206, facts["sibling"], None, None)  # PTRACE_SEIZE
    return True


@attempt(lambda bait, evidence: evidence == bait.secret)
def read_sibling(facts: Facts) -> str:
    text = ctypes.create_string_buffer(32)
    here = struct.pack("<QQ", ctypes.addressof(text), 32)
    there = struct.pack("<QQ", facts["address"], 32)
    _call(310, facts["sibling"], here, 1, there, 1, 0)
    return text.raw.decode()


@attempt()
def take_descriptor(facts: Facts) -> bool:
    pidfd = _call(434, facts["sibling"], 0)
    return _call(438, pidfd, 1, 0) > 0


@attempt()
def sibling_environment(facts: Facts) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "claw-bait" in Path(f"/proc/{facts['sibling']}/environ").read_text()
    return False


@attempt()
def slow_sibling(facts: Facts) -> bool:
    os.setpriority(os.PRIO_PROCESS, facts["sibling"], 7)
    return os.getpriority(os.PRIO_PROCESS, facts["sibling"]) == 7


@attempt()
def leave_session(_: Facts) -> bool:
    try:
        os.setpgid(0, 0)
    except PermissionError:
        os.setsid()
    return True
