"""Targets of the permission tests: what can be done with what was granted, and with no more."""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inside import _say as say

Fds = Mapping[str, int]
Args = Mapping[str, Any]
_libc = ctypes.CDLL(None, use_errno=True)


def outcome(attempt: Callable[[], Any]) -> str:
    """ "ok", or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def run_programs(fds: Fds, args: Args) -> None:
    """Run each command; its output, or why it was refused."""
    found: list[Any] = []
    for command in args["commands"]:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            found.append([done.returncode, done.stdout, done.stderr])
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
    say(fds, found)


def start_and_wait(fds: Fds, args: Args) -> None:
    """Start a program that goes to the background, and stay."""
    subprocess.run(args["command"], check=True, stdout=subprocess.DEVNULL)
    os.write(fds["wire"], b"ready\n")
    while True:
        time.sleep(60)


def use_device(fds: Fds, args: Args) -> None:
    """Open devices: "ENXIO" is the driver's own answer."""
    found = {path: outcome(lambda path=path: os.open(path, os.O_RDWR)) for path in args["paths"]}
    say(fds, found)


def serve_once(fds: Fds, args: Args) -> None:
    """Accept on a listening socket that was given, as event loops do; then try to get out."""
    listener = socket.socket(fileno=fds["listener"])
    found = {"listen": outcome(lambda: listener.listen(100))}
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found["heard"] = connection.recv(64).decode()
    connection.sendall(b"hello")
    found["socket"] = outcome(socket.socket)
    address = struct.pack("=H", socket.AF_UNSPEC) + bytes(14)
    found["disconnect by sending"] = outcome(lambda: _fast_open(connection, address))
    there = struct.pack("=H", socket.AF_INET) + struct.pack(">H", args["port"])
    there += socket.inet_aton("127.0.0.1") + bytes(8)
    found["connect by sending"] = outcome(lambda: _fast_open(connection, there))
    found["bind"] = outcome(lambda: connection.bind(("127.0.0.1", 0)))
    connection.close()
    say(fds, found)


def _fast_open(connection: socket.socket, address: bytes) -> None:
    """sendmsg with MSG_FASTOPEN to an address, which connects a TCP socket."""
    name = ctypes.create_string_buffer(address)
    data = ctypes.create_string_buffer(b"out", 3)
    vector = struct.pack("=QQ", ctypes.addressof(data), 3)
    pieces = ctypes.create_string_buffer(vector)
    message = struct.pack(
        "=QIIQQQQi4x", ctypes.addressof(name), 16, 0, ctypes.addressof(pieces), 1, 0, 0, 0
    )
    result = _libc.sendmsg(connection.fileno(), message, 0x2000_0000)
    if result < 0:
        raise OSError(ctypes.get_errno(), "sendmsg")


def accept_one(fds: Fds, _: Args) -> None:
    """Try to accept."""
    listener = socket.socket(fileno=fds["listener"])
    listener.setblocking(False)
    say(fds, outcome(listener.accept))


def be_denied(fds: Fds, args: Args) -> None:
    """Calls that are denied, some of them often; then tell what they gave."""
    found = {
        "socket": outcome(socket.socket),
        "chmod": outcome(lambda: os.chmod(args["path"], 0o777)),  # noqa: PTH101
        "open": outcome(lambda: os.open(args["path"], os.O_RDONLY)),
        "write": outcome(lambda: os.open(args["library"], os.O_WRONLY)),
        "missing": outcome(lambda: os.open("/no/such/file/anywhere", os.O_RDONLY)),
    }
    for _ in range(args["times"]):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 5)
    for number in range(args.get("kinds", 0)):
        _libc.syscall(ctypes.c_long(1000 + number))
    say(fds, found)


def surroundings(fds: Fds, _: Args) -> None:
    """What a library asks of the box."""
    found = {
        "host": platform.node(),
        "processors": Path("/proc/cpuinfo").read_text().count("processor\t"),
        "memory": Path("/proc/meminfo").read_text().startswith("MemTotal:"),
        "processes": outcome(lambda: os.listdir("/proc/1")),  # noqa: PTH208
    }
    say(fds, found)


def new_code_by_any_way(fds: Fds, args: Args) -> None:
    """Every way to executable memory; errno names."""
    _libc.mmap.restype = ctypes.c_void_p
    area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area)))
    script = Path(os.environ["TMPDIR"], "code")
    script.write_bytes(b"\xc3" * 4096)

    def map_file(fd: int) -> None:
        mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()

    def protect(number: int, *more: int) -> None:
        arguments = [ctypes.c_long(each) for each in (4096, mmap.PROT_READ | mmap.PROT_EXEC, *more)]
        if _libc.syscall(ctypes.c_long(number), address, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "protect")

    with script.open("rb") as file, Path(args["library"]).open("rb") as library:
        found = {
            "anonymous": outcome(
                lambda: mmap.mmap(
                    -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_EXEC
                ).close()
            ),
            "mprotect": outcome(lambda: protect(10)),
            "pkey_mprotect": outcome(lambda: protect(329, -1)),
            "file in tmp": outcome(lambda: map_file(file.fileno())),
            "library": outcome(lambda: map_file(library.fileno())),
            "given memfd": outcome(lambda: map_file(fds["memory"])),
            "own memfd": outcome(lambda: os.memfd_create("code")),
            "personality": outcome(_personality),
        }
    say(fds, found)


def _personality() -> None:
    """READ_IMPLIES_EXEC, which makes every readable mapping executable."""
    if _libc.personality(0x0400000) < 0:
        raise OSError(ctypes.get_errno(), "personality")


def hold_memory(fds: Fds, args: Args) -> None:
    """Hold so many MiB in this process and in each of its programs, and stay."""
    code = f"import time; held = bytearray({args['mib']} << 20); time.sleep(60)"
    children = [subprocess.Popen([each, "-I", "-c", code]) for each in args.get("programs", ())]
    held = bytearray(args["own"] << 20)
    os.write(fds["wire"], b"ready\n")
    while len(held) >= 0 and len(children) >= 0:
        time.sleep(60)


def burn(fds: Fds, args: Args) -> None:
    """Use so many seconds of processor time, then say so."""
    while time.process_time() < args["seconds"]:
        pass
    say(fds, "burnt")
