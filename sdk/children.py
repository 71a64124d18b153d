"""Child tasks: what an operation asks of other operations while it runs.

A worker that may do so is born with a connection to the kernel, past its handshake, over which it
is a client like any other, but for this: each request names the task that it is for. The kernel
takes priority, deadline and principal from that task, and ends the children with it.

Any thread of the worker may wait for its children. One of those that wait reads for all; between
two looks at the control word lie at most ``_LOOK`` seconds, and a cancel wakes all of them.
"""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clawai.sdk import wire
from clawai.sdk.client import Task
from clawai.sdk.errors import ClawError
from clawai.sdk.session import Event, Frames, Request, Session
from clawai.sdk.zmtp import Connection

if TYPE_CHECKING:
    from clawai.sdk.context import Context

_LOOK = 0.05
_READ = 256 * 1024


class Children:
    """The connection, which all tasks of the worker share."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        for each in (self._sock.fileno(), self._wake):
            self._poll.register(each, select.POLLIN)
        self._zmtp = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self.session = Session()
        self.turn = threading.Condition()
        """Guards the session, ``news`` and ``_reading``."""
        self.news = 0
        """Counts what has come."""
        self._reading = False
        self._sending = threading.Lock()
        self.lost: ClawError | None = None

    def send(self, frames: Frames) -> None:
        """Send a message.

        Raises:
            ClawError: connection_lost.
        """
        if self.lost:
            raise self.lost
        data = b"".join(map(bytes, self._zmtp.message(frames)))
        # The kernel's end is read by whoever waits; if it is gone, the reader will say so.
        with self._sending, contextlib.suppress(OSError):
            self._sock.sendall(data)

    def wake(self) -> None:
        """Have all who wait look at their control words."""
        os.eventfd_write(self._wake, 1)

    def wait(self, seen: int) -> int:
        """Wait for a moment, or until something has come since ``seen``; the new count."""
        with self.turn:
            if self.news != seen:
                return self.news
            if self._reading:
                self.turn.wait(_LOOK)
                return self.news
            self._reading = True
        try:
            ready = [fd for fd, _ in self._poll.poll(_LOOK * 1000)]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            if self._sock.fileno() in ready:
                self._read()
        finally:
            with self.turn:
                self._reading = False
                self.turn.notify_all()
        return self.news

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except OSError:
            data = b""
        with self.turn:
            self.news += 1
            try:
                if not data:
                    raise ClawError("connection_lost", "the kernel has closed the connection")
                for frames in self._zmtp.receive(data):
                    self.session.receive(frames)
            except ClawError as error:
                self.lost = error
                self._poll.unregister(self._sock)
                self.session.lost(error)


class Line:
    """The child tasks of one task: what ``client.Task`` needs of a client."""

    def __init__(self, children: Children, context: "Context") -> None:
        self._children = children
        self._context = context
        self._open: list[Request] = []
        self._seen = 0

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        model: str = "",
        priority: wire.Priority | None = None,
        deadline: float | None = None,
        frames: Sequence[bytes | memoryview] = (),
    ) -> Task:
        """Ask for an operation; see ``Context.submit``."""
        with self._children.turn:
            request, out = self._children.session.submit(
                op,
                params,
                model=model,
                priority=priority or self._context.priority,
                deadline=deadline,
                frames=frames,
                parent=self._context.task,
            )
            self._open = [each for each in self._open if each.end is None]
            self._open.append(request)
        self._send(out)
        return Task(self, request)

    def _send(self, frames: Frames) -> None:
        self._children.send(frames)

    def _cancel(self, request: Request) -> None:
        self._send(Session.cancel(request))

    def _next(self, request: Request) -> Event | None:
        event: Event | None = self._taking(lambda session: session.take(request))
        return event

    def _drop(self, request: Request) -> None:
        self._taking(lambda session: session.drop(request))

    def _taking(self, take: Callable[[Session], Any]) -> Any:
        """Take events, and say that they were."""
        with self._children.turn:
            taken = take(self._children.session)
            told, self._children.session.outbox = self._children.session.outbox, []
        for frames in told:
            self._send(frames)
        return taken

    def _pump(self) -> None:
        """Obey the control word, and wait for a moment."""
        self._context.checkpoint()
        self._seen = self._children.wait(self._seen)

    def close(self) -> None:
        """The task is over: nobody waits for its children."""
        with self._children.turn:
            left = [each for each in self._open if each.end is None]
            for request in left:
                self._children.session.forget(request)
        for request in left:
            with contextlib.suppress(ClawError):
                self._send(Session.cancel(request))
