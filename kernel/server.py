"""The shell around the core: one poller over sockets, processes, signals and time.

Everything that happens becomes an event for ``Core.handle``; what it returns is carried out here.
Clients' side: ``clients``. Workers' side: ``processes``. This module holds the loop and the boot.
"""

import fcntl
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits, views
from clawai.kernel.clients import Clients
from clawai.kernel.core import Core
from clawai.kernel.log import LogFile
from clawai.kernel.loop import Loop
from clawai.kernel.processes import Processes
from clawai.kernel.registry import Registry
from clawai.kernel.segments import Segments
from clawai.sdk import paths
from clawai.sdk.config import Config, budget_bytes
from clawai.sdk.errors import ClawError


class Server:
    """The running kernel."""

    def __init__(self, config: Config, log: LogFile) -> None:
        self.log = log
        self.core = Core(budget_bytes(config), int(config.workers.idle_minutes * 60e9))
        self.segments = Segments()
        self.loop = Loop(self._carry_out)
        self.registry = Registry(tuple(Path(folder) for folder in config.plugin_dirs))
        self.processes = Processes(self.loop, log, self.registry, config, self.segments)
        self.clients = Clients(self.loop, log, self.registry, self._view, self.stop)
        self.loop.holders += [self.clients.holders, self.processes.holders]
        self._started = self._looked = time.monotonic_ns()
        self._carry: dict[type, Callable[[Any], None]] = {
            ev.Reply: self.clients.reply,
            ev.Start: self.processes.start,
            ev.Tell: self.processes.tell,
            ev.Control: self.processes.control,
            ev.Kill: self.processes.kill,
            ev.MakeSegment: self._make_segment,
            ev.FreeSegment: self._free_segment,
            ev.Log: lambda told: log.write(told.level, told.text),
        }

    def _carry_out(self, event: ev.Event) -> None:
        for instruction in self.core.handle(event, time.monotonic_ns()):
            self._carry[type(instruction)](instruction)

    def _view(self, what: str) -> dict[str, Any]:
        sources = views.Sources(
            self.core, self.registry, self.clients, self.processes, self.log, self._started
        )
        return views.view(sources, what)

    def _make_segment(self, made: ev.MakeSegment) -> None:
        client = self.clients.by_number.get(made.client)
        try:
            fd = self.segments.make(made.segment, made.size, client.pid if client else 0)
            # The client first: a worker that had it would keep it if the client's way is blocked.
            self.clients.give(made.client, made.segment, made.size, fd)
            self.processes.give(made.worker, made.segment, made.size, fd, made.rights)
        except OSError as error:
            self.log.write("error", f"segment {made.segment}: {error.strerror}")
            self.segments.drop(made.segment)
            failed = ClawError("no_memory", f"no segment could be made: {error.strerror}")
            self.loop.happen(ev.SegmentFailed(made.segment, str(error)), next_one=True)
            self.clients.fail(made.client, made.reply.message, failed)
            return
        self.clients.reply(made.reply)

    def _free_segment(self, told: ev.FreeSegment) -> None:
        self.segments.freeing[told.segment] = 0

    def _free_some(self) -> None:
        """A part of what is to be given back: a gigabyte at once would hold everybody up."""
        for number in self.segments.punch_some():
            worker = self.core.state.segments[number].worker
            if self.segments.retire(number, worker, worker in self.processes.running):
                self.loop.happen(ev.SegmentGone(number))
            else:
                self.loop.happen(ev.WorkerBroke(worker, "it wrote to memory that was taken back"))

    def _look(self, now: int) -> None:
        """Once a second while awake, whether a worker has taken memory back that it gave back."""
        if now < self._looked + limits.SECOND:
            return
        self._looked = now
        for worker in self.segments.violators():
            self.loop.happen(ev.WorkerBroke(worker, "it wrote to memory that was taken back"))

    def run(self) -> None:
        """Serve until the core stops and every worker is gone."""
        while not (self.core.state.stopping and not self.processes.running):
            look = self._looked + limits.SECOND if self.segments.fresh else None
            unmute = self.processes.unmute if self.processes.muted else None
            punch = 0 if self.segments.freeing else None
            planned = (self.core.next_timer(), self.clients.next_timer(), look, unmute, punch)
            due = min((when for when in planned if when is not None), default=None)
            self.loop.turn(None if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9))
            now = time.monotonic_ns()
            if (timer := self.core.next_timer()) is not None and timer <= now:
                self.loop.happen(ev.Timer())
            self.clients.expire(now)
            self.processes.expire(now)
            self._free_some()
            self._look(now)

    def stop(self) -> None:
        """Begin the end: tasks are told, workers are killed."""
        if not self.core.state.stopping:
            self.log.write("info", "the kernel stops")
            self.loop.happen(ev.ShutdownAsked())

    def close(self) -> None:
        """Let go of everything."""
        self.clients.close()
        self.processes.close()
        self.segments.close()
        self.loop.poller.close()


def _signals(server: Server) -> tuple[socket.socket, socket.socket]:
    """SIGTERM and SIGINT stop the kernel; SIGHUP too, as its terminal is gone."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    def arrived(_: int) -> None:
        reading.recv(64)
        server.stop()

    server.loop.watch(reading.fileno(), arrived)
    return reading, writing


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


def serve(config: Config, *, echo: bool, ready_fd: int | None) -> None:
    """Boot and serve until a signal or ``claw down``."""
    # Room for every client twice, workers and segments; select() reaches no higher.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    folder = paths.make_private(paths.runtime_dir())
    held = lock(folder)
    log = LogFile(paths.log_file(), config.log.level, config.log.max_mib * limits.MIB, echo)
    server = Server(config, log)
    try:
        wakeups = _signals(server)
        server.registry.scan()
        for where, why in server.registry.problems.items():
            log.write("warning", f"plugin {where}: {why}")
        server.clients.listen()
        server.processes.probe()
        log.write("info", f"kernel {os.getpid()} serves {paths.kernel_socket()}")
        if ready_fd is not None:
            line = {"ready": True, "pid": os.getpid(), "socket": str(paths.kernel_socket())}
            os.write(ready_fd, json.dumps(line).encode() + b"\n")
            os.close(ready_fd)
        server.run()
        signal.set_wakeup_fd(-1)
        for sock in wakeups:
            sock.close()
    finally:
        server.close()
        log.close()
        os.close(held)
