"""The daemon: one poller over sockets, its children, signals and time.

Everything that happens becomes an event for ``Core.handle``; what it returns is carried out here.
Clients' side: ``clients``. Workers' side: ``processes``. This module holds the loop and the boot.
``python -m clawai.kernel`` prepares what the daemon stands on (settings, the lock of its folder,
listening sockets, the steward) and then becomes it.

The steward is the process beside the daemon that reads files, accepts connections, holds shared
memory, makes listings, writes the log and starts workers (``clawai.kernel.steward``, which the
daemon never imports). If it dies, all workers die with it, whoever waits for an answer is told, and
a new one is started.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.boost import Boost
from clawai.kernel.child import Child
from clawai.kernel.clients import Clients
from clawai.kernel.core import Core
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.news import News
from clawai.kernel.processes import Processes
from clawai.kernel.records import Records
from clawai.kernel.rows import running


class Server:
    """The running kernel.

    Args:
        link, steward: lead to the steward that the boot has started, and its process.
        told: what one that is started again has to be told.
        made_of: the arguments of the core.
        listeners: the sockets that the steward accepts on.
    """

    def __init__(
        self, link: Link, steward: int, told: Any, made_of: tuple[Any, ...], listeners: list[int]
    ) -> None:
        self.told, self.listeners = told, listeners
        self.core = Core(*made_of)
        self.loop = Loop(self._carry_out)
        program = ["-P", "-m", "clawai.kernel.steward"]
        self.steward = Child(self.loop, "steward", program, self._steward_ended)
        self.steward.adopt(link, steward)
        log, config = self.steward.log, told["config"]
        wanted = config["preemption"]
        raising = 2 in wanted["rungs"] and wanted["means"] not in ("none", "realtime")
        boost_ns = wanted["boost_ms"] * limits.MS * raising
        self.boost = Boost(boost_ns, self._crowded, told["processors"])
        self.processes = Processes(self.loop, self.steward, self.boost)
        self.records = Records(self.loop, self.core, log, config, self._instruct, made_of)
        self.journal = self.records.journal
        self.loop.rest = self.journal.write
        self.clients = Clients(
            self.loop, self.steward, self.records, self.core, self.boost, self.stop
        )
        self.news = News(self.core, self.steward, self.clients.reply)
        self._carry: dict[type, Callable[[Any], None]] = {
            ev.Reply: self.clients.reply,
            ev.Pass: self.clients.passed,
            ev.Dispatch: self.processes.dispatch,
            ev.Start: self.processes.start,
            ev.Tell: self.processes.tell,
            ev.Control: self.processes.control,
            ev.Suspend: self.steward.order,
            ev.Kill: self.steward.order,
            ev.MakeMemory: self._make_memory,
            ev.GiveMemory: self.steward.order,
            ev.FreeMemory: self.steward.order,
            ev.Log: lambda told: log(told.level, told.text),
            ev.Record: self.records.record,
        }
        self.steward.handlers |= {
            "client": self.clients.connected,
            "family": self.clients.family,
            "forget": self.clients.offers.by_key.clear,
            "failed": self.processes.failed,
            "gone": self.processes.gone,
            "process": self.boost.started,
            "who": lambda worker: self.steward.send("runs", running(self.core, worker)),
        }
        self.timers: tuple[tuple[Callable[[], int | None], Callable[[int], object]], ...] = (
            (self.core.next_timer, lambda _: self.loop.happen(ev.Timer())),
            (self.news.next_timer, self.news.ask),
            (self.clients.next_timer, self.clients.expire),
            (self.boost.next_timer, self.boost.expire),
            (lambda: self.journal.due if self.journal.buffer else None, self.journal.flush),
        )
        """When something is due, and what is done then."""

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

    def _crowded(self) -> bool:
        """Whether bulk work computes, or others leave us less than the whole box."""
        state = self.core.state
        return state.share < 1 or any(
            worker.spec.lane == "bulk" for worker in state.computing.values()
        )

    def _make_memory(self, told: ev.MakeMemory) -> None:
        (self.clients.make_segment if told.client else self.steward.order)(told)

    def _instruct(self, instruction: Any) -> None:
        self._carry[type(instruction)](instruction)

    def _steward_ended(self) -> None:
        """The steward has died, and every descriptor with it; so have its launchers and workers."""
        if time.monotonic_ns() < self.steward.started + limits.SECOND:
            raise RuntimeError("the steward process dies as soon as it is started")
        self.steward.start()
        clients = [number for number, each in self.clients.by_number.items() if not each.left]
        told = self.told, self.clients.last, clients
        self.steward.send("serve", *told, fds=tuple(map(os.dup, self.listeners)))
        text = "the steward process died and is started again; so are its workers"
        self.steward.log("error", text)
        memory = self.core.state.memory
        gone = [held for held in memory.values() if held.state == "freeing"]
        self.processes.lost()
        # Weights that nobody maps any more, too; of a segment, one side is gone.
        gone += [held for held in memory.values() if held.idle]
        for held in gone:
            self.loop.happen(ev.MemoryGone(held.id))

    def run(self) -> None:
        """Serve until the core stops and every worker is gone."""
        while not self.core.state.stopping or self.processes.running or self.records.waiting:
            planned = [(due, act) for when, act in self.timers if (due := when()) is not None]
            first = min([due for due, _ in planned], default=None)
            self.loop.turn(None if first is None else max(0, first - time.monotonic_ns()) / 1e9)
            now = time.monotonic_ns()
            self.boost.attend(now)
            if self.boost.raised:
                self.loop.eager = 0  # we are woken at once, and would be in everybody's way
            for due, act in planned:
                if due <= now:
                    act(now)

    def stop(self) -> None:
        """Begin the end: tasks are told, workers are killed."""
        if not self.core.state.stopping:
            self.steward.log("info", "the kernel stops")
            self.loop.happen(ev.ShutdownAsked())

    def stop_at_signals(self) -> None:
        """SIGTERM and SIGINT stop the kernel; SIGHUP too, as its terminal is gone."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

        def arrived(_: int) -> None:
            self.loop.unwatch(reading)  # one is enough
            self.stop()

        self.loop.watch(reading, arrived)

    def close(self) -> None:
        """Have arrive what was said; the steward ends last, with the workers and the sockets."""
        self.boost.close()
        self.clients.close()
        self.journal.flush(time.monotonic_ns())
        self.records.child.close()
        if self.steward.link:
            self.steward.send("end")
        self.steward.close()


def serve(sock: socket.socket, steward: int) -> None:
    """Serve until a signal or ``claw down``.

    Args:
        sock: leads to the steward. The settings wait there, with the descriptors of the folder's
            lock, which is held while it is open, and of the listening sockets.
        steward: its process.
    """
    sys.setrecursionlimit(limits.DEPTH)
    sock.set_inheritable(False)  # it came through an exec, and goes no further
    first = Link(sock, blocking=True).receive()
    assert first is not None
    _, (told, (*sizes, rungs)), (_, *listeners) = first
    server = Server(Link(sock), steward, told, (*sizes, frozenset(rungs)), listeners)
    try:
        server.stop_at_signals()
        server.records.start()
        server.journal.begin(time.monotonic_ns())
        server.steward.send("ready")
        server.run()
    finally:
        server.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
