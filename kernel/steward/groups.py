"""A weight group, as the steward sees it: its launcher, and the workers that this has started.

A worker's weight group is fixed at birth, because a process cannot join another session later. So
each lane has a launcher of its own, which is forked here while this process has one thread. One
that dies takes its workers along; the next launch forks another.
"""

import contextlib
import gc
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward import launcher
from clawai.kernel.steward.cages import Cages
from clawai.kernel.steward.launching import Order
from clawai.kernel.steward.output import Outputs
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields


@dataclass(slots=True)
class Started:
    """One worker."""

    plugin: str
    pid: int = 0
    """Its process, once it is started, and a pidfd of that."""
    pidfd: int = -1
    family: bool = False
    """It may be several processes, which only its launcher can reach all."""
    boosted: bool = False
    """The daemon may raise it for a moment."""


@dataclass
class Group:
    """One lane."""

    lane: str
    loop: Loop
    daemon: Link
    outputs: Outputs
    gone: Callable[[int, str], None]
    """Is told when nothing of a worker lives any more, and why."""
    cages: Cages
    """Is told what runs, to watch it."""
    entry: tuple[bool, dict[str, Any]] | None = None
    """Whether the groups lead sessions of their own, and the means by which this one is entered."""
    workers: dict[int, Started] = field(default_factory=dict)
    pid: int = 0
    _link: Link | None = None

    def fork(self) -> None:
        """Start the launcher."""
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        assert threads == 1, f"{threads} threads; a fork would copy the locks of the others"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            gc.freeze()  # what lives here now owns descriptor numbers that mean others there
            launcher.become(theirs, self.lane, parent)
        theirs.close()
        self._link = Link(ours)
        self.loop.watch(ours.fileno(), self._ready)
        if self.entry:
            self.send("enter", *self.entry)

    def enter(self, apart: bool, means: dict[str, Any]) -> None:
        """Have this and every later launcher enter the weight group by these means."""
        self.entry = apart, means
        if self._link:
            self.send("enter", apart, means)

    def pids(self) -> tuple[int, dict[int, int]]:
        """The launcher, and of each worker its process, 0 until it is started."""
        return self.pid, {worker: each.pid for worker, each in self.workers.items()}

    def send(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        """Tell the launcher something."""
        assert self._link
        self._link.send(name, *arguments, fds=fds)
        self.loop.rewatch(self._link.fileno(), self._link.mask)

    def spawn(self, order: Order, bpf: bytes, fds: list[int]) -> None:
        """Have a worker started; ``fds`` (wire, control page, leases) are closed here.

        Raises:
            OSError: no descriptor could be had; ``fds`` are still open then.
        """
        if self._link is None:
            self.fork()
        names = ["wire", "control", "leases", "stdout", *order.fds]
        given = [*fds, self.outputs.pipe(order.worker, order.plugin), *order.fds.values()]
        family = bool(order.policy["programs"])
        # Bounds of processor time do not hold in the real-time class.
        boosted = self.lane == "main" and not order.policy["cpu"]
        self.workers[order.worker] = Started(order.plugin, family=family, boosted=boosted)
        self.send("spawn", order.worker, order.as_dict(), names, bpf, fds=tuple(given))

    def signal(self, worker: int, number: int) -> None:
        """Signal a worker; one that is not started yet, its launcher knows."""
        started = self.workers[worker]
        apart = started.family and number in (signal.SIGSTOP, signal.SIGCONT)
        if (pidfd := started.pidfd) < 0 or apart:
            self.send("signal", worker, int(number))
            return
        with contextlib.suppress(ProcessLookupError):  # the launcher is about to say so
            signal.pidfd_send_signal(pidfd, number)

    def _ready(self, mask: int) -> None:
        assert self._link
        if mask & select.EPOLLOUT:
            self._link.flush()
            self.loop.rewatch(self._link.fileno(), self._link.mask)
        if mask & ~select.EPOLLOUT:
            message = self._link.receive()
            if message is None:
                self._died()
                return
            name, arguments, fds = message
            handlers: dict[str, Callable[..., None]] = {
                "log": self._log,
                "started": self._started,
                "failed": self._failed,
                "denied": self._denied,
                "gone": self._gone,
            }
            handlers[name](*arguments, fds)

    def _log(self, level: str, text: str, _: list[int]) -> None:
        self.outputs.log.write(level, text)

    def _started(self, worker: int, pid: int, stage: int, fds: list[int]) -> None:
        self.outputs.log.write("debug", f"worker {worker} is process {pid}")
        started = self.workers[worker]
        started.pid, started.pidfd = pid, fds[0] if fds else -1
        self.cages.started(worker, pid, stage)
        if started.boosted:
            self.daemon.send("process", worker, pid)

    def _denied(
        self, worker: int, call: str, detail: str, error: str, count: int, _: list[int]
    ) -> None:
        """A system call that the sandbox denied, once for each distinct one."""
        text = denied_text(call, detail, error, count)
        self.outputs.log.write("warning", f"worker {worker} {self.workers[worker].plugin}: {text}")

    def _failed(self, worker: int, layer: str, said: str, _: list[int]) -> None:
        text = f"{self.workers[worker].plugin}: {layer}: {said}"
        self.outputs.log.write("error", f"worker {worker} {text}")
        code = "worker_failed" if layer in ("import", "spawn") else "sandbox_refused"
        error = ClawError(code, text[:2000], hint="`claw doctor` and `claw logs` tell more")
        self.daemon.send("failed", worker, error_fields(error))

    def _gone(self, worker: int, code: int, _: list[int]) -> None:
        self._forget(worker, exit_text(code))

    def _forget(self, worker: int, why: str) -> None:
        if (pidfd := self.workers.pop(worker).pidfd) >= 0:
            os.close(pidfd)
        cause = self.outputs.ended(worker)
        self.gone(worker, f"{why} ({cause})" if cause else why)

    def _died(self) -> None:
        """The launcher has; each of its workers dies with it, by two ways."""
        log = self.outputs.log
        log.write("error", f"the launcher of the {self.lane} workers died, and they with it")
        self._reap(signal.SIGKILL)
        for worker, started in list(self.workers.items()):
            if started.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
                select.select([started.pidfd], [], [], 5)
            self._forget(worker, "its launcher died")

    def _reap(self, number: int = 0) -> None:
        assert self._link
        self.loop.unwatch(self._link.fileno())
        self._link.close()
        self._link = None
        if number:
            os.kill(self.pid, number)  # not reaped yet, so that the number is still its own
        os.waitpid(self.pid, 0)
        self.pid = 0

    def end(self) -> None:
        """Have the launcher end its workers and itself, and wait for that."""
        if self._link:
            self._reap()


def denied_text(call: str, detail: str, error: str, count: int) -> str:
    """What a worker was denied, in words; ``detail`` is empty unless paths are explained."""
    if not call:
        return f"denied {count} further calls of other kinds"
    shown = f"{call}({detail})" if detail else call
    if count > 1:
        return f"denied {shown} {count} times in all"
    why = "" if error == "EPERM" else ": no path that its manifest asks for"
    return f"denied {shown} with {error}{why}"


def exit_text(code: int) -> str:
    """How a process ended, in words."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exited with code {code}"
