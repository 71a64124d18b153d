"""The kernel as a program: ``python -m clawai.kernel [--foreground] [--ready-fd N] [--port KEY]``.

The boot, in order: look at the system, read the settings, be the only kernel of the folder, listen,
fork the steward, and become the daemon (``clawai.kernel.server``), which loads none of this.
"""

import fcntl
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from clawai.kernel.link import Link
from clawai.kernel.steward.container import available_cores
from clawai.sdk import config as configuration
from clawai.sdk import device, paths
from clawai.sdk.errors import ClawError

BACKLOG = 1024
"""Connections that may wait to be accepted."""


def check_system() -> None:
    """Refuse a system that lacks what the kernel stands on.

    Raises:
        ClawError: unsupported_system, naming what is missing.
    """
    missing = [
        what
        for what, there in (
            ("Linux", sys.platform == "linux"),
            ("Python 3.11 or later", sys.version_info >= (3, 11)),
            ("memfd_create", hasattr(os, "memfd_create")),
            ("pidfd_open", hasattr(os, "pidfd_open")),
            ("a 64-bit processor", sys.maxsize > 1 << 32),
        )
        if not there
    ]
    if missing:
        raise ClawError(
            "unsupported_system",
            f"the kernel needs {', '.join(missing)}",
            got=f"{sys.platform}, Python {sys.version.split()[0]}",
            allowed="Linux 5.13 or later on x86-64 or aarch64, Python 3.11 or later",
        )


def lock(folder: Path) -> int:
    """Be the only kernel of this folder; the descriptor holds the lock until the process ends.

    Raises:
        ClawError: address_in_use, naming the process that serves.
    """
    fd = os.open(paths.pid_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise ClawError(
            "address_in_use",
            f"another kernel (process {pid}) serves {folder}",
            hint="use it as it is, or stop it with `claw down`, or set CLAW_RUNTIME_DIR",
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def listen(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A listening socket that only its owner may connect to.

    Raises:
        ClawError: address_in_use.
    """
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ClawError(
            "address_in_use",
            f"cannot listen at {path}: {error.strerror or error}",
            hint="set CLAW_RUNTIME_DIR to a short path of your own",
        ) from error
    path.chmod(0o600)
    sock.listen(BACKLOG)
    return sock


def boot(foreground: bool, ready_fd: int, port: str = "") -> NoReturn:
    """Prepare everything and become the daemon.

    Raises:
        ClawError: something of it cannot be had.
    """
    # Room for every client twice, workers and segments; select() reaches no higher.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    config = configuration.load()
    folder = paths.make_private(paths.runtime_dir())
    held = lock(folder)
    doors = {
        paths.kernel_socket(): socket.SOCK_STREAM,
        paths.lease_socket(): socket.SOCK_SEQPACKET,
    }
    listeners = [listen(path, kind).detach() for path, kind in doors.items()]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told = {
        "config": configuration.as_dict(config),
        "echo": foreground,
        "port": port,
        "started": time.monotonic_ns(),
        "processors": available_cores(),
    }
    cores = device.choose(config.device).cores(len(os.sched_getaffinity(0)))
    idle_ns, rungs = int(config.workers.idle_minutes * 60e9), config.preemption.rungs
    made_of = configuration.budget_bytes(config), idle_ns, cores, rungs
    ready = (ready_fd,) if ready_fd >= 0 else ()
    # Each side finds its first message waiting, with its descriptors.
    first = (*map(os.dup, listeners), *ready)
    Link(ours, blocking=True).send("serve", told, 0, [], fds=first)
    Link(theirs, blocking=True).send("settings", told, made_of, fds=(held, *listeners))
    daemon = os.getpid()
    steward = os.fork()
    if steward == 0:
        from clawai.kernel.steward.main import become

        become(theirs, daemon)
    ours.set_inheritable(True)
    program = [sys.executable, "-m", "clawai.kernel.server"]
    os.execv(sys.executable, [*program, str(ours.fileno()), str(steward)])


def main(argv: list[str]) -> int:
    """Serve; 0 after a proper stop, 1 after an error that is told on standard error."""
    ready_fd = int(argv[argv.index("--ready-fd") + 1]) if "--ready-fd" in argv else -1
    port = argv[argv.index("--port") + 1] if "--port" in argv else ""
    try:
        check_system()
        boot("--foreground" in argv, ready_fd, port)
    except (ClawError, OSError) as error:
        print(f"claw: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
