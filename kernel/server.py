"""The daemon: one poller over sockets, the steward, signals and time.

Everything that happens becomes an event for ``Core.handle``; what it returns is carried out here.
Clients' side: ``clients``. Workers' side: ``processes``. This module holds the loop and the boot.
``python -m clawai.kernel`` prepares what the daemon stands on (settings, the lock of its folder,
listening sockets, the steward) and then becomes it.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.clients import Clients
from clawai.kernel.core import Core
from clawai.kernel.journal import Journal
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.memory import Memory
from clawai.kernel.news import News
from clawai.kernel.offers import Offers
from clawai.kernel.processes import Processes
from clawai.kernel.records import Records
from clawai.kernel.rows import rows
from clawai.kernel.stewardship import Steward


class Settings(msgspec.Struct, frozen=True):
    """What ``python -m clawai.kernel`` has prepared."""

    told: Any
    """What a steward that is started again has to be told."""
    listeners: list[int]
    sockets: list[str]
    """Where they listen; removed at the end."""
    ready_fd: int
    """Gets a line once the daemon serves; -1 for nobody."""
    lock_fd: int
    """Holds the lock of the folder while it is open."""
    budget: int
    idle_ns: int
    cores: int
    rungs: list[int]


class Server:
    """The running kernel."""

    def __init__(self, settings: Settings, link: Link, steward: int) -> None:
        self.settings = settings
        made_of = (settings.budget, settings.idle_ns, settings.cores, frozenset(settings.rungs))
        self.core = Core(*made_of)
        self.loop = Loop(self._carry_out)
        told, listeners = settings.told, settings.listeners
        self.steward = Steward(self.loop, link, steward, told, listeners)
        self.offers = Offers(self.steward)
        self.processes = Processes(self.loop, self.steward)
        self.memory = Memory(self.loop, self.steward, self.core)
        config = told["config"]
        self.records = Records(
            self.loop,
            self.core,
            self.steward.log,
            config,
            self._instruct,
            lambda: self.journal.lose(time.monotonic_ns()),
        )
        self.journal = Journal(self.core, made_of, self.records, config["journal"]["enabled"])
        self.clients = Clients(
            self.loop,
            self.steward,
            self.offers,
            self.records,
            self._view,
            self.stop,
            lambda: len(self.core.state.tasks),
        )
        self.news = News(self.core, self.steward, self.clients.reply)
        self._started = time.monotonic_ns()
        self._carry: dict[type, Callable[[Any], None]] = {
            ev.Reply: self.clients.reply,
            ev.Pass: self.clients.passed,
            ev.Dispatch: self.processes.dispatch,
            ev.Start: self.processes.start,
            ev.Tell: self.processes.tell,
            ev.Control: self.processes.control,
            ev.Suspend: self.processes.suspend,
            ev.Kill: self.processes.kill,
            ev.MakeMemory: self._make_memory,
            ev.GiveMemory: self.memory.give_weights,
            ev.FreeMemory: self.memory.free,
            ev.Log: lambda told: self.steward.log(told.level, told.text),
            ev.Record: self.records.record,
        }
        self.steward.handlers |= {
            "client": self.clients.connected,
            "clients": lambda: (self.clients.last, list(self.clients.by_number)),
            "started": self.processes.started,
            "changed": self.processes.changed,
            "failed": self.processes.failed,
            "gone": self.processes.gone,
            "broke": self.processes.broke,
            "freed": self.memory.freed,
            "lease_ended": self.clients.lease_ended,
            "lost": self._steward_lost,
            "forget": self.offers.forget,
            "pressure": lambda cores, memory: self.loop.happen(ev.Pressure(cores, memory)),
        }

    def _carry_out(self, event: ev.Event) -> None:
        now = time.monotonic_ns()
        try:
            told = self.core.handle(event, now)
        except BaseException as error:
            name = self.journal.crash(event, now)
            self.steward.log("error", f"{type(error).__name__}: {error}; see journal/{name}")
            raise
        for instruction in told:
            self._carry[type(instruction)](instruction)
        self.journal.note(event, now, told)

    def _make_memory(self, told: ev.MakeMemory) -> None:
        (self.clients.make_segment if told.client else self.memory.make_weights)(told)

    def _instruct(self, instruction: Any) -> None:
        self._carry[type(instruction)](instruction)

    def _view(self, what: str) -> dict[str, Any]:
        now = time.monotonic_ns()
        shell = {
            "pid": os.getpid(),
            "uptime_s": (now - self._started) // limits.SECOND,
            "clients": len(self.clients.by_number),
            "log_lines_lost": self.steward.lost,
        }
        return shell | rows(self.core, what, now)

    def _steward_lost(self) -> None:
        self.clients.lost()
        self.processes.lost()
        self.memory.lost()

    def run(self) -> None:
        """Serve until the core stops and every worker is gone."""
        while not self.core.state.stopping or self.processes.running or self.records.waiting:
            journal = self.journal.due if self.journal.buffer else None
            news = self.news.next_timer()
            planned = (self.core.next_timer(), self.clients.next_timer(), journal, news)
            due = min((when for when in planned if when is not None), default=None)
            self.loop.turn(None if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9))
            now = time.monotonic_ns()
            if (timer := self.core.next_timer()) is not None and timer <= now:
                self.loop.happen(ev.Timer())
            if news is not None and now >= news:
                self.news.ask(now)
            self.clients.expire(now)
            if journal is not None and now >= journal:
                self.journal.flush(now)

    def stop(self) -> None:
        """Begin the end: tasks are told, workers are killed."""
        if not self.core.state.stopping:
            self.steward.log("info", "the kernel stops")
            self.loop.happen(ev.ShutdownAsked())

    def close(self) -> None:
        """Let go of everything."""
        for path in self.settings.sockets:
            if os.path.exists(path):  # noqa: PTH110 - pathlib would only be loaded for this
                os.unlink(path)  # noqa: PTH108
        self.clients.close()
        self.processes.close()
        self.journal.flush(time.monotonic_ns())
        self.records.close()
        self.steward.close()
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


def serve(sock: socket.socket, steward: int) -> None:
    """Serve until a signal or ``claw down``.

    Args:
        sock: leads to the steward; the settings wait there.
        steward: its process.
    """
    sys.setrecursionlimit(limits.DEPTH)
    first = Link(sock, blocking=True).receive()
    assert first is not None
    settings = msgspec.convert(first[1][0], Settings)
    for fd in (sock.fileno(), settings.lock_fd, settings.ready_fd, *settings.listeners):
        if fd >= 0:
            os.set_inheritable(fd, False)  # they came through an exec, and go no further
    server = Server(settings, Link(sock), steward)
    try:
        wakeups = _signals(server)
        server.records.start()
        server.journal.begin(time.monotonic_ns())
        server.steward.log("info", f"kernel {os.getpid()} serves {settings.sockets[0]}")
        if settings.ready_fd >= 0:
            line = {"ready": True, "pid": os.getpid(), "socket": settings.sockets[0]}
            os.write(settings.ready_fd, msgspec.json.encode(line) + b"\n")
            os.close(settings.ready_fd)
        server.run()
        signal.set_wakeup_fd(-1)
        for each in wakeups:
            each.close()
    finally:
        server.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
