"""The recorder as a program: ``python -m clawai.kernel.recorder FD``; the daemon starts it.

It lives as long as the daemon's end of the socket FD is open, writes all that came through it, and
ends. Two daemons of one state folder would overwrite each other's journals: the second one's
recorder says so and keeps nothing.
"""

import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

from clawai.kernel.recorder.service import Service
from clawai.sdk import paths
from clawai.sdk.errors import ClawError

LOCK_S = 10.0
"""The recorder of a daemon that was killed may still be writing for so long."""


def lock(path: Path) -> int:
    """Be the only recorder of this folder, as long as the process lives.

    Raises:
        ClawError: address_in_use.
        OSError: the folder cannot be used.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                hint = "give each kernel an XDG_STATE_HOME of its own"
                raise ClawError(
                    "address_in_use",
                    f"another kernel keeps its journals in {path.parent}",
                    hint=hint,
                ) from None
            time.sleep(0.01)


def run_name() -> str:
    """Names the daemon that started us: its process id and when that process began."""
    parent = os.getppid()
    stat = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
    return f"{parent}.{stat[19]}"


def main(argv: list[str]) -> int:
    """Serve the daemon at the other end of a socket."""
    os.umask(0o077)
    # The daemon's signals are not ours: we end when it has, with all that it said.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    service = Service(socket.socket(fileno=int(argv[0])), run_name())
    try:
        lock(paths.state_dir() / "recorder.lock")
    except (ClawError, OSError) as error:
        service.refuse(error)
    service.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
