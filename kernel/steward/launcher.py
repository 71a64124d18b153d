"""A launcher: leads the session of one weight group, and starts and reaps the workers in it.

Forked from the steward. A worker dies with it: by the lifeline, and by the death signal of its
stage. It never reads a file and never decides anything.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward import ladder
from clawai.kernel.steward.nursery import Nursery
from clawai.kernel.steward.spares import Spares
from clawai.sandbox import syscalls as sc
from clawai.sandbox.forking import ForkFailed, Zygote
from clawai.sandbox.launch import Spawned, Status, execute, spawn
from clawai.sandbox.policy import Policy, SandboxRefused

TARGET = "clawai.sdk.host:main"


def become(sock: socket.socket, lane: str, steward: int) -> NoReturn:
    """Be the launcher of ``lane`` until the steward or ``sock`` ends."""
    status = 1
    try:
        sc.close_all_but([0, 1, 2, sock.fileno()])
        sc.set_name(f"claw-{lane}")
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == steward:
            Launcher(Link(sock, blocking=True), lane).serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Launcher:
    """The workers of one group."""

    def __init__(self, link: Link, lane: str) -> None:
        self.link = link
        self.lane = lane
        self.loop = Loop(lambda _: None)
        self.spawned: dict[int, Spawned] = {}
        self.families: set[int] = set()
        """Workers that may start programs."""
        self.nursery = Nursery(self.loop, self._log)
        self.spares = Spares(self.loop, self.nursery)
        self._waiting: dict[int, list[int]] = {}
        """Workers whose zygote still loads, and their descriptors."""
        self._serving = True
        self._handlers: dict[str, Callable[..., None]] = {
            "enter": self._enter,
            "spawn": self._spawn,
            "signal": self._signal,
        }

    def serve(self) -> None:
        """Serve until the steward is gone; then end every worker, and wait for that."""
        self.loop.watch(self.link.fileno(), self._told)
        while self._serving:
            self.loop.turn(self.spares.patience())
            self.spares.make()
        self.spares.close()
        for spawned in self.spawned.values():
            _kill(spawned, signal.SIGKILL)
        for spawned in self.spawned.values():
            spawned.stage.wait()
        self.nursery.close()

    def _told(self, _: int) -> None:
        message = self.link.receive()
        if message is None:
            self._serving = False
            return
        name, arguments, fds = message
        self._handlers[name](*arguments, fds)

    def _enter(self, apart: bool, means: dict[str, Any], _: list[int]) -> None:
        """Become the weight group: what is started from now on inherits it."""
        if apart:
            os.setsid()
        try:
            ladder.enter(self.lane, ladder.Means(**means))
        except OSError as error:
            text = f"the {self.lane} workers cannot enter their group ({means['kind']}): {error}"
            self._log("error", text)

    def _log(self, level: str, text: str) -> None:
        self.link.send("log", level, text)

    def _spawn(
        self, worker: int, order: dict[str, Any], names: list[str], bpf: bytes, fds: list[int]
    ) -> None:
        if not order["forked"]:
            self._start(worker, order, names, bpf, fds, None)
            return
        self._waiting[worker] = fds

        def loaded(zygote: Zygote | None) -> None:
            if self._waiting.pop(worker, None):  # else it was killed meanwhile
                self._start(worker, order, names, bpf, fds, zygote)

        self.nursery.want(order["forked"], loaded)

    def _start(
        self,
        worker: int,
        order: dict[str, Any],
        names: list[str],
        bpf: bytes,
        fds: list[int],
        zygote: Zygote | None,
    ) -> None:
        inside = dict(zip(names, fds, strict=True))
        inside["stderr"] = inside["stdout"]
        if spare := self.spares.take(order, inside):
            for fd in fds:
                os.close(fd)
            self._log("debug", f"worker {worker} was waiting as a spare")
            self._run(worker, order, spare)
            self._started(worker, spare)
            self.spares.want(order, bpf)
            return
        start = partial(
            spawn,
            TARGET,
            Policy.from_dict(order["policy"]),
            inside,
            bpf=bpf,
            level=order["level"],
            args=order["args"],
            uid=order["uid"],
            import_paths=order["import_paths"],
        )
        try:
            try:
                spawned = start(start=zygote.start if zygote else execute)
            except ForkFailed as error:
                self.nursery.drop(f"worker {worker} was not forked: {error}")
                spawned = start()
        except (OSError, ValueError, SandboxRefused) as error:
            layer = "level" if isinstance(error, SandboxRefused) else "spawn"
            self.link.send("failed", worker, layer, str(error))
            self.link.send("gone", worker, 1)
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._run(worker, order, spawned)
        self.spares.want(order, bpf)

    def _run(self, worker: int, order: dict[str, Any], spawned: Spawned) -> None:
        """A stage is a worker's from now on."""
        self._bound(worker, spawned, order["groups"])
        if order["policy"]["programs"]:
            self.families.add(worker)
        self.spawned[worker] = spawned
        self.loop.watch(spawned.status_fd, lambda _: self._reported(worker, spawned))
        self.loop.watch(spawned.stage_pidfd, lambda _: self._stage_ended(worker, spawned))

    def _bound(self, worker: int, spawned: Spawned, groups: list[str]) -> None:
        """Put a worker's stage into its groups, long before it has forked the worker.

        One that was a spare has forked it, and both go.
        """
        both = [spawned.stage_pid, *([spawned.worker_pid] if spawned.worker_pid else [])]
        for path, pid in ((path, pid) for path in groups for pid in both):
            try:
                with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
                    file.write(str(pid))
            except ProcessLookupError:
                return  # it has ended already, which its pidfd tells
            except OSError as error:
                self.link.send("log", "error", f"worker {worker} is not bounded: {path}: {error}")

    def _reported(self, worker: int, spawned: Spawned) -> None:
        self._status(worker, spawned)

    def _status(self, worker: int, spawned: Spawned) -> bool:
        """Pass on what the stage reports; False when there is nothing more now."""
        reports = spawned.read_status()
        for report in reports:
            if report.event == "closed":
                self.loop.unwatch(spawned.status_fd)
                return False
            if report.event == "denied":
                self._denied(worker, report)
            elif report.event == "failed":
                self.link.send("failed", worker, report.layer, report.error)
            elif report.event == "started":
                self._started(worker, spawned)
        return bool(reports)

    def _started(self, worker: int, spawned: Spawned) -> None:
        pidfd = os.dup(spawned.worker_pidfd)
        self.link.send("started", worker, spawned.worker_pid, spawned.stage_pid, fds=(pidfd,))

    def _denied(self, worker: int, report: Status) -> None:
        """Pass on a denied call; a path that is not shown matters only if there is one."""
        if report.error in ("ENOENT", "EACCES"):
            quoted, _, writing = report.detail.rpartition('"')
            path = quoted.removeprefix('"').encode().decode("unicode_escape")
            if not os.path.lexists(os.path.dirname(path) if writing else path):  # noqa: PTH120
                return
        said = report.call, report.detail, report.error, report.count
        self.link.send("denied", worker, *said)

    def _stage_ended(self, worker: int, spawned: Spawned) -> None:
        """The outer process has ended; the worker inside it has too, or is made to."""
        code = spawned.exit_code()
        if code is None:
            return
        self.loop.unwatch(spawned.stage_pidfd)
        inner = spawned.worker_pidfd
        if inner >= 0 and not select.select([inner], [], [], 0)[0]:
            _kill(spawned, signal.SIGKILL)
            self.loop.watch(inner, lambda _: self._ended(worker, spawned, code))
        else:
            self._ended(worker, spawned, code)

    def _ended(self, worker: int, spawned: Spawned, code: int) -> None:
        while self._status(worker, spawned):  # reports may still be unread
            pass
        for fd in (spawned.worker_pidfd, spawned.status_fd):
            self.loop.unwatch(fd)
        spawned.close()
        del self.spawned[worker]
        self.families.discard(worker)
        self.link.send("gone", worker, code)

    def _signal(self, worker: int, number: int, _: list[int]) -> None:
        if number == signal.SIGKILL and (fds := self._waiting.pop(worker, None)):
            for fd in fds:
                os.close(fd)
            self.link.send("gone", worker, -signal.SIGKILL)
        if spawned := self.spawned.get(worker):
            if worker in self.families and number in (signal.SIGSTOP, signal.SIGCONT):
                # Its process group, which none of them can leave. The stage is not reaped yet, so
                # that the number is still its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(spawned.stage_pid, number)
            else:
                _kill(spawned, number)


def _kill(spawned: Spawned, number: int) -> None:
    """Signal the worker, or to end it before it is started, its stage."""
    pidfd = spawned.worker_pidfd
    if pidfd < 0 and number == signal.SIGKILL:
        pidfd = spawned.stage_pidfd
    if pidfd >= 0:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass
