"""Which process is the kernel of this folder when none answers, and how it is ended.

A kernel that hangs is not "no kernel": it still holds the lock of its process file, so a new one
could not start. Only a process that holds that lock, and whose folder is ours, is ever signalled.
"""

import fcntl
import os
import select
import signal
from typing import NoReturn

from clawai.sdk import paths
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

TERM_S = 5.0
KILL_S = 10.0


def holder() -> int | None:
    """The process that holds the kernel's lock, or None; looked at when no kernel answers."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(paths.pid_file(), flags)
    except OSError:
        return None
    try:
        pid = int(os.read(handle, 32))
        if pid <= 1 or os.fstat(handle).st_uid != os.getuid():
            return None
        # Without a living process nobody holds the lock, and trying it could only get in the way
        # of a kernel that starts at this very moment.
        os.kill(pid, 0)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(handle, 32, 0) or 0) or None
    except (ValueError, OSError):
        return None
    finally:
        os.close(handle)
    return None


def refuse_hung(cause: ClawError) -> None:
    """Say of a kernel that is there but does not answer what it is; without one do nothing.

    Raises:
        ClawError: no_kernel, naming the process and the command that ends it.
    """
    if (pid := holder()) is not None:
        raise ClawError(
            "no_kernel",
            f"the kernel (process {pid}) does not answer; `claw down` ends it",
            hint="claw down; claw up",
        ) from cause


def end_hung(pid: int) -> None:
    """End the process that holds the lock: politely, then by force.

    Raises:
        ClawError: not_permitted, or no_kernel if even that does not end it.
    """
    output.note(f"process {pid} holds {paths.runtime_dir()} but does not answer; ending it")
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if holder() != pid:  # it has ended by itself, and its number may be another's by now
            return
        _send(handle, signal.SIGTERM, pid)
        _send(handle, signal.SIGCONT, pid)  # one that was stopped can end in order then
        if select.select([handle], [], [], TERM_S)[0]:
            return
        output.note(f"process {pid} did not end within {TERM_S:.0f} s; killing it")
        _send(handle, signal.SIGKILL, pid)
        if not select.select([handle], [], [], KILL_S)[0]:
            _stuck(pid)
    finally:
        os.close(handle)


def _send(handle: int, number: signal.Signals, pid: int) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise ClawError(
            "not_permitted", f"process {pid} may not be ended by you", hint=f"kill {pid}"
        ) from error


def _stuck(pid: int) -> NoReturn:
    raise ClawError(
        "no_kernel",
        f"process {pid} does not end, not even by force",
        hint=f"it waits for a device or a file system; see `cat /proc/{pid}/wchan`",
    )
