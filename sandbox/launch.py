"""Start one sandboxed worker and hand back what the daemon's poll loop needs to watch it.

    policy = Policy.load("strict")
    spawned = spawn("clawai.sdk.host:main", policy, {"wire": 7, "leases": 8, "stderr": 2},
                    bpf=bpf, level=level, args={"plugin": "echo"}, uid=65534)
    # close your copies of the worker's ends now; watch for POLLIN:
    #   spawned.status_fd     -> spawned.read_status(): a list of Status, [] when nothing is whole
    #       Status("started", pid)             every layer is on, spawned.worker_pidfd is open
    #       Status("failed", layer=, error=)   text; the import of the target is a layer too
    #       Status("running")                  the target is imported and called
    #       Status("denied", call=, detail=, error=, count=)   a system call that the filter denied,
    #                                          once for each distinct one; the last says how often
    #       Status("closed")                   the worker has ended: unregister status_fd
    #   spawned.worker_pidfd  -> the worker has ended. Signal this one (SIGSTOP, SIGCONT, SIGKILL).
    #   spawned.stage_pidfd   -> the stage has ended: exit_code(), then close()
    spawned.exit_code()       # None while it lives; the worker's code, 128 + signal, or 78 (setup)
    spawned.close()           # closes the descriptors; closing the lifeline kills the worker

``bpf`` and ``level`` are what ``python -I -m clawai.sandbox.probe`` printed. Inside, the target is
called as ``function(fds, args)``: ``fds`` has the same names (and numbers of its own), without
"stdout" and "stderr", which became 1 and 2 (/dev/null when not given). ``preload`` names modules
to import before a policy without executable memory forbids further C extensions; ``import_paths``
are folders outside the installation (a stranger's plugin): shown read-only, first on sys.path.
Call spawn from a thread that lives as long as the daemon: the worker dies with that thread. There
is no setsid here: a worker shares its launcher's session. A root daemon gives its worker ``uid``.

``start`` is how the stage comes to be: executed, or forked from a preloaded process (``forking``).

Refuses a level below the policy's minimum (SandboxRefused). Never blocks, except for the vfork.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clawai.sandbox.policy import LEVELS, Policy, SandboxRefused

NOBODY = 65534
# The worker never sees the daemon's environment, not even on its initial stack.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_MAX_STATUS_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Status:
    """One report of the stage; ``event`` is "started", "failed", "running", "denied" or
    "closed".

    ``call`` is empty for all those that were too many to be told apart.
    """

    event: str
    pid: int = 0
    layer: str = ""
    error: str = ""
    call: str = ""
    detail: str = ""
    count: int = 0


class Stage(Protocol):
    """What is needed of the process of a stage, our child."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """None while it lives, else its code."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the code."""


@dataclass(slots=True)
class Spawned:
    """A stage and, once started, the worker in it; every descriptor is owned by this record."""

    stage: Stage
    stage_pidfd: int
    status_fd: int
    lifeline: int
    worker_pid: int = 0
    worker_pidfd: int = -1
    _pending: bytes = field(default=b"", repr=False)

    @property
    def stage_pid(self) -> int:
        """The outer process: the daemon's child."""
        return self.stage.pid

    def read_status(self) -> list[Status]:
        """The whole reports that have arrived; opens ``worker_pidfd`` when one says started."""
        try:
            data = os.read(self.status_fd, _MAX_STATUS_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return [Status("closed")]
        *lines, self._pending = (self._pending + data).split(b"\n")
        reports = [Status(**json.loads(line)) for line in lines]
        for report in reports:
            if report.event == "started" and self.worker_pidfd < 0:
                # The stage keeps the worker unreaped until this byte: the pid cannot be recycled.
                self.worker_pid, self.worker_pidfd = report.pid, os.pidfd_open(report.pid)
                try:
                    os.write(self.lifeline, b"a")
                except (BrokenPipeError, BlockingIOError):
                    pass  # the stage was killed; its pidfd tells
        return reports

    def exit_code(self) -> int | None:
        """None while the stage lives, else its code; reaps it."""
        return self.stage.poll()

    def close(self) -> None:
        """Close every descriptor; a worker that still lives is killed by its stage."""
        for name in ("status_fd", "lifeline", "worker_pidfd", "stage_pidfd"):
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)


def require_level(level: str, policy: Policy, advice: Sequence[str] = ()) -> None:
    """Raise SandboxRefused when ``level`` is below what ``policy`` asks for."""
    minimum = policy.minimum_level
    if policy.needs_namespaces and LEVELS.index(minimum) > LEVELS.index("no-landlock"):
        minimum = "no-landlock"
    if LEVELS.index(level) > LEVELS.index(minimum):
        raise SandboxRefused(level, minimum, tuple(advice))


@contextlib.contextmanager
def terminal_signals_blocked() -> Iterator[None]:
    """Blocked across an exec, so that Ctrl-C cannot reach the process before it ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def execute(config: int, fds: Mapping[str, int], keep: Sequence[int]) -> Stage:
    """A stage from a fresh interpreter: a layout of its own, and nothing inherited."""
    with terminal_signals_blocked():
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "clawai.sandbox.stage", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=fds.get("stdout", subprocess.DEVNULL),
            stderr=fds.get("stderr", subprocess.DEVNULL),
            pass_fds=keep,
            env=ENVIRONMENT,
            cwd="/",
        )


def spawn(
    target: str,
    policy: Policy,
    fds: Mapping[str, int],
    *,
    bpf: bytes,
    level: str,
    args: Mapping[str, Any],
    uid: int = NOBODY,
    preload: Sequence[str] = (),
    import_paths: Sequence[str] = (),
    start: Callable[[int, Mapping[str, int], Sequence[int]], Stage] = execute,
) -> Spawned:
    """Start ``target`` ("module:function") under ``policy``; see the top of this module.

    Raises:
        SandboxRefused: the level is below the policy's minimum.
        OSError: no process or descriptor could be had.
    """
    require_level(level, policy)
    inside = {name: fd for name, fd in fds.items() if name not in ("stdout", "stderr")}
    status, status_end = os.pipe()
    lifeline_end, lifeline = os.pipe()
    config = os.memfd_create("claw-config")
    ours, theirs = (status, lifeline), (status_end, lifeline_end, config)
    record = {
        "target": target,
        "preload": list(preload),
        "import_paths": list(import_paths),
        "policy": policy.to_dict(),
        "level": level,
        "uid": uid,
        "fds": inside,
        "args": dict(args),
        "status": status_end,
        "lifeline": lifeline_end,
    }
    try:
        os.set_blocking(status, False)
        os.set_blocking(lifeline, False)
        os.write(config, json.dumps(record).encode() + b"\n" + bpf)
        os.lseek(config, 0, os.SEEK_SET)
        stage = start(config, fds, [*inside.values(), *theirs])
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return Spawned(stage, os.pidfd_open(stage.pid), status, lifeline)
