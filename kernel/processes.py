"""The workers' side of the shell: their wires and control pages, turned into events.

All sockets of a worker are pairs made for one incarnation: nothing has a name that another process
could connect to, and what a dead worker left unread can never reach its successor. The processes
themselves are started, reaped and listened to by the steward and its launchers.
"""

import os
import select
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits, mail
from clawai.kernel.boost import Boost
from clawai.kernel.child import Child
from clawai.kernel.control import ControlPage
from clawai.kernel.loop import Loop
from clawai.kernel.peers import Peer
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

ENDS = ("done", "error", "yielded")
"""After such an output a task is no longer the worker's."""
BROKE = {"bad_message": "what it sent is not a message of this protocol"}
"""What the core is told instead of what may quote the worker."""


@dataclass(slots=True)
class Process:
    """What the shell holds of one incarnation."""

    worker: int
    peer: Peer
    control: ControlPage

    def close(self) -> None:
        """Close everything of ours."""
        self.peer.close()
        self.control.close()


@dataclass
class Processes:
    """All worker processes."""

    loop: Loop
    steward: Child
    boost: Boost
    running: dict[int, Process] = field(default_factory=dict)

    # Start and end.

    def start(self, told: ev.Start) -> None:
        """Make a worker's wire and control page, and have the steward start it."""
        try:
            ours, theirs = socket.socketpair()
            control = ControlPage()
        except OSError as error:
            why = ev.Fault("launch_failed", because=str(error))
            self.loop.happen(ev.WorkerUnready(told.worker, why))
            self.loop.happen(ev.WorkerGone(told.worker, "it could not be started"))
            return
        process = Process(told.worker, Peer(ours), control)
        self.running[told.worker] = process
        fds = theirs.detach(), os.dup(control.fd)
        self.steward.send("launch", told.worker, told.spec, fds=fds)
        message, ended = partial(self._message, process), partial(self._ended, process)
        process.peer.attach(self.loop, message, ended)

    def failed(self, worker: int, said: list[Any]) -> None:
        """The steward says why a worker could not be started."""
        why = ev.Hidden(wire.error_message(ClawError(*said)))
        self.loop.happen(ev.WorkerUnready(worker, why))

    def gone(self, worker: int, why: str) -> None:
        """The steward says that nothing of a worker lives any more."""
        process = self.running[worker]
        for _ in range(4096):  # what it had still said before it died
            if process.peer.closed or not process.peer.read():
                break
        self.loop.end_round()
        del self.running[worker]
        self.boost.gone(worker, time.monotonic_ns())
        process.close()
        self.loop.happen(ev.WorkerGone(worker, why))

    def lost(self) -> None:
        """The steward has died: its launchers die with it, and their workers with them."""
        for worker, process in list(self.running.items()):
            end = select.poll()
            end.register(process.peer, 0)  # the system closes its wire after its memory is back
            end.poll(5000)
            self.gone(worker, "its launcher died")

    # Messages.

    def _ended(self, process: Process, error: ClawError | None) -> None:
        self.loop.unwatch(process.peer.fileno())
        if error:  # what it quotes of the worker is for the log only
            self.steward.log("error", f"worker {process.worker}: {error}")
            self.loop.happen(ev.WorkerBroke(process.worker, BROKE.get(error.code, error.message)))
        else:  # it has nothing more to say; mostly it is dead already
            self.steward.order(ev.Kill(process.worker, "it has closed its wire"))

    def _message(self, process: Process, frames: list[bytes]) -> None:
        event = mail.from_worker(process.worker, frames)
        if isinstance(event, ev.WorkerFilled):
            self.steward.send("seal_weights", process.worker)  # it says whether that was done
        elif type(event) is ev.Output:
            if event.kind in ENDS and event.worker in self.boost.lifts:
                self.boost.done(event.worker, time.monotonic_ns())
            self.loop.gather(event)
        else:
            self.loop.happen(event)

    def tell(self, told: ev.Tell) -> None:
        """Send to a worker; a dying one does not hear it."""
        self._send(told.worker, told.message, ())

    def dispatch(self, told: ev.Dispatch) -> None:
        """Have a worker run tasks."""
        if any(asked.priority == "critical" for _, asked, _ in told.tasks):
            self.boost.grant(told.worker, time.monotonic_ns())
        self._send(told.worker, *mail.to_worker(told))

    def _send(self, worker: int, message: wire.Message, frames: tuple[bytes, ...]) -> None:
        process = self.running.get(worker)
        if process is None or process.peer.closed:
            return
        if process.peer.waiting > limits.WORKER_OUTBOX:
            self._ended(process, ClawError("bad_worker", "it does not read"))
            return
        process.peer.send(message, frames)

    def control(self, told: ev.Control) -> None:
        """Write a control word."""
        if process := self.running.get(told.worker):
            process.control.set(told.slot, told.value)
