"""A daemon that dies at a chosen message of the job journal's path.

``python durable_daemon.py N WHEN PYTHON -m clawai.kernel ...`` boots the kernel, but between its
daemon and the recorder stands ``python durable_daemon.py proxy N WHEN FD``: it passes every message
on, and kills the daemon with SIGKILL before or after the N-th one (both directions counted
together). The recorder then sees its socket close, as it would without the proxy.
"""

import os
import select
import signal
import socket
import subprocess
import sys

import msgspec

from clawai.kernel.link import DESCRIPTORS, LIMIT, SPILLED

UNCOUNTED = ("hello", "ready", "begin", "events", "crash", "log", "lost")
DAEMON = """
import socket, sys
from clawai.kernel import records, server
records.PROGRAM = {program!r}
server.serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
"""


def boot(argv: list[str]) -> int:
    """Boot the kernel with the proxy in the recorder's place."""
    import clawai.kernel.__main__ as kernel

    number, when, *command = argv
    daemon = DAEMON.format(program=[__file__, "proxy", number, when])
    execute = os.execv

    def execv(program: str, arguments: list[str]) -> None:
        assert arguments[1:3] == ["-m", "clawai.kernel.server"]
        execute(program, [program, "-c", daemon, *arguments[3:]])

    os.execv = execv  # type: ignore[assignment]
    return kernel.main(command[command.index("clawai.kernel") + 1 :])


def name_of(data: bytes, fds: list[int]) -> str:
    """Of a message, which may lie in a memfd."""
    if data == SPILLED:
        data = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
    return str(msgspec.msgpack.decode(data)[0])


def proxy(argv: list[str]) -> int:
    """Pass on until the chosen message; then kill the daemon, and let the recorder end."""
    at, when, daemon = int(argv[0]), argv[1], socket.socket(fileno=int(argv[2]))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "clawai.kernel.recorder", str(theirs.fileno())]
    recorder = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    count = 0
    other = {daemon: ours, ours: daemon}
    while True:
        # What the recorder says first, so that the order is the same in every run.
        ready = select.select([ours, daemon], [], [])[0]
        data, fds, _, _ = socket.recv_fds(ready[0], LIMIT, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            break
        counts = name_of(data, fds) not in UNCOUNTED
        count += counts
        here = counts and count == at
        if not (here and when == "before"):
            socket.send_fds(other[ready[0]], [data], fds)
        for fd in fds:
            os.close(fd)
        if here:
            os.kill(os.getppid(), signal.SIGKILL)
            break
    ours.close()
    recorder.wait()
    return 0


if __name__ == "__main__":
    chosen = proxy if sys.argv[1] == "proxy" else boot
    sys.exit(chosen(sys.argv[2:] if chosen is proxy else sys.argv[1:]))
