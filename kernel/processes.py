"""The workers' side of the shell: their wires and control pages, turned into events.

All sockets of a worker are pairs made for one incarnation: nothing has a name that another process
could connect to, and what a dead worker left unread can never reach its successor. The processes
themselves are started, reaped and listened to by the steward and its launchers.
"""

import os
import select
import signal
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits, mail
from clawai.kernel.child import Child
from clawai.kernel.control import ControlPage
from clawai.kernel.loop import Loop
from clawai.kernel.peers import Peer
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

BROKE = {"bad_message": "what it sent is not a message of this protocol"}
"""What the core is told instead of what may quote the worker."""


@dataclass(slots=True)
class Process:
    """What the shell holds of one incarnation."""

    worker: int
    peer: Peer
    control: ControlPage
    pidfd: int = -1
    """Of the worker itself, not of the outer stage of its sandbox; -1 until that is known."""

    def close(self) -> None:
        """Close everything of ours."""
        self.peer.close()
        self.control.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)


@dataclass
class Processes:
    """All worker processes."""

    loop: Loop
    steward: Child
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

    def started(self, worker: int, pidfd: int = -1) -> None:
        """The steward says that a worker's layers are all on."""
        self.running[worker].pidfd = pidfd

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
        process.close()
        self.loop.happen(ev.WorkerGone(worker, why))

    def lost(self) -> None:
        """The steward has died: its launchers die with it, and their workers with them."""
        pidfds = [process.pidfd for process in self.running.values() if process.pidfd >= 0]
        while pidfds:
            dead = select.select(pidfds, [], [], 5)[0]
            pidfds = [fd for fd in pidfds if dead and fd not in dead]
        for worker in list(self.running):
            self.gone(worker, "its launcher died")

    def _signal(self, worker: int, number: int) -> None:
        process = self.running.get(worker)
        if process is None or process.pidfd < 0:
            self.steward.send("signal", worker, number)
            return
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass  # the steward is about to say so

    def kill(self, told: ev.Kill) -> None:
        """End a worker's process."""
        self._signal(told.worker, signal.SIGKILL)

    def suspend(self, told: ev.Suspend) -> None:
        """Stop a worker, or let it go on.

        The worker is process 1 of a namespace in which its system call filter lets nobody fork, so
        it is every process in there.
        """
        self._signal(told.worker, signal.SIGSTOP if told.stopped else signal.SIGCONT)

    # Messages.

    def _ended(self, process: Process, error: ClawError | None) -> None:
        self.loop.unwatch(process.peer.fileno())
        if error:  # what it quotes of the worker is for the log only
            self.steward.log("error", f"worker {process.worker}: {error}")
            self.loop.happen(ev.WorkerBroke(process.worker, BROKE.get(error.code, error.message)))
        else:  # it has nothing more to say; mostly it is dead already
            self._signal(process.worker, signal.SIGKILL)

    def _message(self, process: Process, frames: list[bytes]) -> None:
        event = mail.from_worker(process.worker, frames)
        if isinstance(event, ev.WorkerFilled):
            self.steward.send("seal_weights", process.worker)  # it says whether that was done
        elif type(event) is ev.Output:
            self.loop.gather(event)
        else:
            self.loop.happen(event)

    def tell(self, told: ev.Tell) -> None:
        """Send to a worker; a dying one does not hear it."""
        self._send(told.worker, told.message, ())

    def dispatch(self, told: ev.Dispatch) -> None:
        """Have a worker run tasks."""
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
