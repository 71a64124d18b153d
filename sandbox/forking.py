"""Start workers by forking them from a preloaded process: the launcher's side of ``zygote``.

    zygote = Zygote()                       # a process with the standard library only
    zygote.load(["clawai.sdk.host"])        # does not wait; watch zygote.fileno(), then
    zygote.receive()                        # -> True: it is loaded
    spawned = spawn(..., start=zygote.start)    # a few milliseconds; see launch.spawn
    zygote.close()                          # ends it; its workers live on

The forked stage is a child of the caller, as one that was executed is: ``Spawned`` is the same.
Refuses (ForkFailed) what the zygote refuses, and one that does not answer, which it kills: the
caller then starts the worker afresh.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clawai.sandbox import syscalls as sc
from clawai.sandbox.launch import ENVIRONMENT, terminal_signals_blocked

_PATIENCE_S = 5.0
_MAX_BYTES = 65_536
_PR_SET_CHILD_SUBREAPER = 36


class ForkFailed(OSError):
    """No worker came of it."""


class Forked:
    """A stage that the zygote forked for us: as much of ``subprocess.Popen`` as is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it lives, else its code."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the code.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        if timeout is not None and self.returncode is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"stage {self.pid}", timeout)
            finally:
                os.close(pidfd)
        code = self._reap(0)
        assert code is not None
        return code

    def _reap(self, flags: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Zygote:
    """One preloaded process, which is our child and dies with us.

    Args:
        patience: seconds after which one that does not answer is killed.
    """

    def __init__(self, patience: float = _PATIENCE_S) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(patience)
        command = [sys.executable, "-I", "-m", "clawai.sandbox.zygote"]
        with theirs, terminal_signals_blocked():
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                cwd="/",
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it has loaded, or has ended."""
        return self._sock.fileno()

    def load(self, modules: Sequence[str]) -> None:
        """Have it import ``modules``; ``receive`` when it has. Nothing else meanwhile.

        Raises:
            OSError: it is gone.
        """
        self._sock.send(json.dumps({"import": list(modules)}).encode())

    def receive(self) -> bool:
        """Whether it lives: True when it has done what ``load`` asked."""
        try:
            return bool(self._sock.recv(_MAX_BYTES))
        except OSError:
            return False

    def start(self, config: int, fds: Mapping[str, int], keep: Sequence[int]) -> Forked:
        """Fork a stage that reads ``config``; for ``launch.spawn``.

        Raises:
            ForkFailed: it was not; the zygote is then of no more use.
        """
        output = {name: fds.get(name) for name in ("stdout", "stderr")}
        numbers = [config, *keep, *(fd for fd in output.values() if fd is not None)]
        asked = {"config": config, "numbers": numbers, **output}
        sc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what its parent leaves alone becomes our child
        try:
            socket.send_fds(self._sock, [json.dumps(asked).encode()], numbers)
            said = self._sock.recv(_MAX_BYTES)
            answer: dict[str, Any] = {"error": "the zygote has ended"}
            if said:
                answer = json.loads(said)
        except OSError as error:
            self._process.kill()
            answer = {"error": f"the zygote does not answer: {error}"}
        finally:
            sc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        if "error" in answer:
            raise ForkFailed(answer["error"])
        try:
            os.waitid(os.P_PID, answer["pid"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            raise ForkFailed("the forked stage is not a child of its launcher") from None
        return Forked(answer["pid"])

    def close(self) -> None:
        """End it, and wait for that."""
        self._sock.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
